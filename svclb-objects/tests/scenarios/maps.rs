//! The maps as text, with what the catalog reports beside them.

use std::fmt::Write as _;

use svclb_common::index::{self, Wanted};
use svclb_common::layout::{BackendKey, FrontendKey, Line, Policy, Protocol, Scope, Slot};
use svclb_core::catalog::{Catalog, Conflict};
use svclb_core::compile::Explanation;
use svclb_core::model::ObjectName;
use svclb_core::select::Verdict;
use svclb_core::table::{MemoryTable, Table as _};

use crate::cluster::Cluster;
use crate::steps::{frontend, key_of, member, service, set, socket, traits};

/// Prints everything that a scenario shows, a section of lines for each kind; empty ones are left out.
pub(crate) fn print(cluster: &mut Cluster) -> String {
    let conflicts = cluster.conflicts().to_vec();
    let dump = cluster.table.load().unwrap();
    let maps = &cluster.table.maps;
    let mut text = String::new();

    let lines = dump.lines.iter().filter(|(_, line)| line.protocol != 0);
    let mut frontends: Vec<(FrontendKey, u32, &Line)> =
        lines.map(|(number, line)| (key_of(line), *number, line)).collect();
    frontends.sort_by_key(|(key, ..)| *key);
    for (key, number, line) in &frontends {
        let _ = writeln!(text, "frontend {} -> {}", frontend(key), draws(maps, line));
        let traits = traits(line.flags, line.affinity_seconds);
        let set = set(line.set);
        let _ = writeln!(
            text,
            "  service {}, {traits}, {set}, generation {}",
            line.service, line.generation
        );
        if line.heir != 0 {
            let _ = writeln!(text, "  UNFINISHED: successor {}", line.heir);
        }
        if found(maps, key) != Some(*number) {
            let _ = writeln!(text, "  UNREACHABLE: a reader does not find this line");
        }
    }
    if dump.frontends.len() != frontends.len() {
        let _ = writeln!(text, "UNEQUAL: svclb_frontends has {} rows", dump.frontends.len());
    }

    let mut services = dump.services;
    services.sort_by_key(|(id, _)| *id);
    section(
        &mut text,
        "services",
        services.iter().map(|(id, row)| format!("{id} {}", service(row))),
    );

    let mut backends = dump.backends;
    backends.sort_by_key(|(key, _)| (key.service, *key));
    let backend = |(key, row): &(BackendKey, _)| {
        format!("{} {}: {}", key.service, socket(key.address, key.port), member(row))
    };
    section(&mut text, "backends", backends.iter().map(backend));

    section(&mut text, "unused endpoints", unused(&cluster.catalog).into_iter());

    let conflict = |it: &Conflict| {
        let more = if it.count > 1 { format!(" and {} more", it.count - 1) } else { String::new() };
        let frontend = frontend(&it.frontend);
        format!("{} claims {frontend}{more}, owned by {}", it.claimant, it.owner)
    };
    section(&mut text, "conflicts", conflicts.iter().map(conflict));
    section(&mut text, "rejected", cluster.notes().filter_map(|it| it.problem.clone()));
    section(&mut text, "ignored", cluster.notes().filter_map(|it| it.ignored.clone()));

    let counts = cluster.ledger.skipped().counts().into_iter().filter(|(_, count)| *count > 0);
    section(&mut text, "left out", counts.map(|(name, count)| format!("{name} {count}")));

    let refusals = cluster.catalog.refusals().iter();
    section(&mut text, "over budget", refusals.map(|(object, why)| format!("{object}: {why}")));
    let unplaced = cluster.last.unplaced.iter();
    section(&mut text, "unplaced", unplaced.map(|it| format!("{}: {}", it.service, it.why)));
    if cluster.has_quarantine() {
        text.push_str("quarantine\n  not empty\n");
    }
    if text.is_empty() {
        text.push_str("empty\n");
    }
    text
}

fn section(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        let _ = writeln!(text, "{title}");
    }
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
}

/// Each backend that a draw of this line may give, with its chance as the slots have it.
fn draws(maps: &MemoryTable, line: &Line) -> String {
    if line.set.count == 0 {
        return set(line.set);
    }
    let slots: Vec<_> = (line.set.first..line.set.first.saturating_add(line.set.count))
        .map_while(|number| maps.slot(number).map(|slot| slot.read()))
        .collect();
    // In units of 2^-32 of a slot.
    let mut shares = vec![0_u64; slots.len()];
    for (at, slot) in slots.iter().enumerate() {
        let own = u64::from(slot.threshold) + 1;
        shares[at] += own;
        if let Some(alias) = shares.get_mut(slot.alias as usize) {
            *alias += (1 << 32) - own;
        }
    }
    let whole = (slots.len() as u64) << 32;
    let draw = |(slot, share): (&Slot, &u64)| {
        let torn = if slot.owner == line.service { "" } else { " TORN" };
        // Rounded to a tenth of a percent.
        let tenths = (share * 1000 + whole / 2) / whole;
        format!("{}{torn} {}.{}%", socket(slot.address, slot.port), tenths / 10, tenths % 10)
    };
    slots.iter().zip(&shares).map(draw).collect::<Vec<_>>().join(", ")
}

/// The line in which a hook finds this frontend.
fn found(maps: &MemoryTable, key: &FrontendKey) -> Option<u32> {
    let protocol = Protocol::from_number(key.protocol.into())?;
    let scope = Scope::from_number(key.scope)?;
    let wanted = Wanted::new(key.address.words(), key.port, protocol, scope);
    let meta = maps.meta();
    let found = index::find(&wanted, meta.seed, meta.index_lines, |number| maps.line(number));
    found.ok().map(|(_, number)| number)
}

/// Each endpoint that clients of a service are not given, with the rule.
fn unused(catalog: &Catalog) -> Vec<String> {
    let mut objects: Vec<&ObjectName> = catalog.objects().collect();
    objects.sort();
    let mut lines = Vec::new();
    for explained in objects.into_iter().flat_map(|object| catalog.explain(object)) {
        let Explanation { key, policy, endpoints, .. } = explained;
        let policy = match policy {
            Policy::Internal => "internal",
            Policy::External => "external",
        };
        lines.extend(endpoints.iter().filter_map(|(address, port, verdict)| match verdict {
            Verdict::Used(_) => None,
            Verdict::Unused(reason) => {
                let endpoint = socket(*address, *port);
                Some(format!("{key} {policy} {endpoint}: {}", reason.words()))
            }
        }));
    }
    lines
}
