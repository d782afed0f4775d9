//! The reading commands: from the pins to rows that people and scripts read. They need no agent.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use svclb_common::layout::{
    BackendKey, BackendRow, BackendState, FrontendKey, FrontendRow, Line, LineFlags, Policy,
    Record, Scope, ServiceNotes, ServiceRow,
};
use svclb_core::compile::name_of;
use svclb_core::table::{Dump, Table as _};

use svclb_dataplane::hooks::{HOOKS, Hook};
use svclb_dataplane::maps::Maps;
use svclb_dataplane::maps::sockets::{Origins, SocketOrigin};
use svclb_dataplane::pins::Pins;
use svclb_dataplane::pins::places::Places;
use svclb_dataplane::programs::attach;

use super::output::{self, BackendView, HookView, OutputFormat, ServiceView, StatusView};
use super::sources::SourceView;

/// `svclb services`.
pub(super) fn services(pins: &Pins, format: OutputFormat) -> Result<()> {
    let dump = Maps::read(pins)?.load()?;
    let mut frontends: HashMap<u32, Vec<Frontend>> = HashMap::new();
    let mut keys: Vec<_> = dump.frontends.iter().collect();
    keys.sort_by_key(|(key, _)| *key);
    for (key, row) in keys {
        frontends.entry(row.service).or_default().push((key, dump.line(row.line)));
    }
    let mut backends: HashMap<u32, usize> = HashMap::new();
    for (key, _) in &dump.backends {
        *backends.entry(key.service).or_default() += 1;
    }
    let mut views: Vec<ServiceView> = dump
        .services
        .iter()
        .map(|(id, row)| {
            let found = frontends.remove(id).unwrap_or_default();
            let at_loopback = found.iter().filter(|(key, _)| key.scope == Scope::Host as u8);
            let node_ports: BTreeSet<u16> = at_loopback.map(|(key, _)| key.port).collect();
            let last_line = found.iter().rev().find_map(|(_, line)| *line);
            let is_external =
                |line: Option<&Line>| line.is_some_and(|it| it.flags & LineFlags::EXTERNAL != 0);
            let (mut external, internal): (Vec<Frontend>, Vec<Frontend>) =
                found.iter().copied().partition(|(_, line)| is_external(*line));
            external.retain(|(key, _)| !node_ports.contains(&key.port));
            ServiceView {
                namespace: name_of(&row.namespace),
                name: name_of(&row.name),
                port_name: name_of(&row.port_name),
                protocol: name_of(&row.protocol),
                frontends: addresses(&found),
                internal: addresses(&internal),
                external: addresses(&external),
                node_ports: node_ports.into_iter().collect(),
                affinity_seconds: last_line.map_or(0, |line| line.affinity_seconds),
                notes: notes(row),
                internal_policy: name_of(&row.internal_policy),
                external_policy: name_of(&row.external_policy),
                backends: backends.get(id).copied().unwrap_or(0),
                id: *id,
            }
        })
        .collect();
    views.sort();
    output::list(&views, format)
}

/// A frontend of a service, with its line if the index has it.
type Frontend<'a> = (&'a FrontendKey, Option<&'a Line>);

fn addresses(frontends: &[Frontend]) -> Vec<SocketAddr> {
    frontends.iter().map(|(key, _)| SocketAddr::new(key.address.ip(), key.port)).collect()
}

/// The notes on services, and their bits.
pub(crate) const NOTES: [(&str, u32); 7] = [
    ("conflict", ServiceNotes::CONFLICT),
    ("ports_without_number", ServiceNotes::PORTS_WITHOUT_NUMBER),
    ("retained", ServiceNotes::RETAINED),
    ("sctp", ServiceNotes::SCTP),
    ("source_ranges", ServiceNotes::SOURCE_RANGES),
    ("unusable_addresses", ServiceNotes::UNUSABLE_ADDRESSES),
    ("unusable_endpoints", ServiceNotes::UNUSABLE_ENDPOINTS),
];

/// The words for the notes of a service.
pub(super) fn notes(row: &ServiceRow) -> Vec<&'static str> {
    NOTES.into_iter().filter(|(_, bit)| row.notes & bit != 0).map(|(name, _)| name).collect()
}

/// `svclb backends`.
pub(super) fn backends(pins: &Pins, format: OutputFormat) -> Result<()> {
    let dump = Maps::read(pins)?.load()?;
    let owners = Owners::of(&dump);
    let mut connections: HashMap<BackendKey, usize> = HashMap::new();
    for origin in Origins::open(&Places::current(pins))?.read()? {
        if let Some(row) = owners.frontend(&origin) {
            *connections.entry(given(row.service, &origin.record)).or_default() += 1;
        }
    }
    let mut rows = dump.backends.clone();
    rows.sort_by_key(|(key, _)| (key.service, key.address, key.port));
    let views: Vec<BackendView> = rows
        .iter()
        .map(|(key, row)| {
            let named = |field: fn(&ServiceRow) -> String| {
                owners.services.get(&key.service).map(|row| field(row)).unwrap_or_default()
            };
            BackendView {
                namespace: named(|row| name_of(&row.namespace)),
                service: named(|row| name_of(&row.name)),
                port_name: named(|row| name_of(&row.port_name)),
                protocol: named(|row| name_of(&row.protocol)),
                address: key.address.ip(),
                port: key.port,
                state: state(row),
                sets: sets(row),
                weight: row.weight,
                connections: connections.get(key).copied().unwrap_or(0),
            }
        })
        .collect();
    output::list(&views, format)
}

/// The word for the state of a backend.
pub(super) fn state(row: &BackendRow) -> &'static str {
    BackendState::from_number(row.state).map_or("unknown", BackendState::name)
}

/// The sets that a backend is in.
pub(super) fn sets(row: &BackendRow) -> Vec<&'static str> {
    let is_in = |of: &Policy| row.sets & of.bit() != 0;
    [Policy::Internal, Policy::External].into_iter().filter(is_in).map(policy).collect()
}

/// The word for the frontends under a policy.
pub(super) const fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::Internal => "internal",
        Policy::External => "external",
    }
}

/// `svclb status`.
pub(super) fn status(pins: &Pins, format: OutputFormat) -> Result<()> {
    let mut maps = Maps::read(pins)?;
    let (dump, counters) = (maps.load()?, maps.counters()?);
    let origins = Origins::open(&Places::current(pins))?;
    let meta = dump.meta;
    let sockets: HashSet<u64> = origins.read()?.iter().map(|origin| origin.cookie.0).collect();
    let slots_used: usize = dump.ranges.iter().map(|range| range.count as usize).sum();
    let view = StatusView {
        pins: pins.root().display().to_string(),
        layout: meta.layout,
        synced: meta.synced != 0,
        passes: meta.passes,
        failures: meta.failures,
        short: meta.short,
        refused: meta.refused,
        agent_pid: meta.agent,
        agent_running: is_running(meta.agent),
        sources: SourceView::all(&meta),
        services: dump.services.len(),
        frontends: dump.frontends.len(),
        backends: dump.backends.len(),
        notes: NOTES
            .into_iter()
            .map(|(name, bit)| {
                let noted = dump.services.iter().filter(|(_, row)| row.notes & bit != 0);
                (name, noted.count())
            })
            .collect(),
        sockets: sockets.len(),
        overflow_entries: origins.overflow_entries()?,
        index_lines_used: dump.lines.iter().filter(|(_, line)| line.protocol != 0).count(),
        index_lines: meta.index_lines,
        slots_used,
        slots: meta.slots,
        origins: origins.places(),
        hooks: hooks(pins)?,
        counters: counters.named().into(),
    };
    output::one(&view, format)
}

/// Every hook, and whether its link is attached.
pub(super) fn hooks(pins: &Pins) -> Result<Vec<HookView>> {
    let view =
        |hook: &Hook| Ok(HookView { name: hook.name, attached: attach::is_attached(pins, hook)? });
    HOOKS.iter().map(view).collect()
}

/// Returns true if a process with this number runs an svclb, as far as this pid namespace shows.
pub(super) fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "svclb")
}

/// The backend that a socket was given, as a member of a service.
const fn given(service: u32, record: &Record) -> BackendKey {
    BackendKey { address: record.given, port: record.given_port, _pad: 0, service }
}

/// The services that sockets dialled.
pub(super) struct Owners<'a> {
    dump: &'a Dump,
    pub(super) services: HashMap<u32, &'a ServiceRow>,
    frontends: HashMap<FrontendKey, FrontendRow>,
    members: HashMap<BackendKey, u8>,
}

impl<'a> Owners<'a> {
    pub(super) fn of(dump: &'a Dump) -> Self {
        Self {
            dump,
            services: dump.services.iter().map(|(id, row)| (*id, row)).collect(),
            frontends: dump.frontends.iter().copied().collect(),
            members: dump.backends.iter().map(|(key, row)| (*key, row.sets)).collect(),
        }
    }

    /// The frontend that the socket dialled, as it is now.
    pub(super) fn frontend(&self, origin: &SocketOrigin) -> Option<&FrontendRow> {
        let record = &origin.record;
        // Loopback is looked up as the host's only, and all of 127.0.0.0/8 is one address.
        let (address, scope) = match record.dialled.ip() {
            IpAddr::V4(v4) if v4.is_loopback() => {
                (IpAddr::V4(Ipv4Addr::LOCALHOST).into(), Scope::Host)
            }
            ip if ip.is_loopback() => (record.dialled, Scope::Host),
            _ => (record.dialled, Scope::Any),
        };
        let key = FrontendKey {
            address,
            port: record.dialled_port,
            protocol: record.protocol,
            scope: scope as u8,
            _pad: 0,
        };
        self.frontends.get(&key)
    }

    /// The service that has this frontend now.
    pub(super) fn service(&self, origin: &SocketOrigin) -> Option<&'a ServiceRow> {
        self.services.get(&self.frontend(origin)?.service).copied()
    }

    /// Returns true if the socket's backend is still a member of the set that its frontend uses.
    pub(super) fn is_current(&self, origin: &SocketOrigin) -> bool {
        let Some(&FrontendRow { service, line }) = self.frontend(origin) else { return false };
        let flags = self.dump.line(line).map_or(0, |line| line.flags);
        let policy =
            if flags & LineFlags::EXTERNAL != 0 { Policy::External } else { Policy::Internal };
        self.members
            .get(&given(service, &origin.record))
            .is_some_and(|sets| sets & policy.bit() != 0)
    }
}
