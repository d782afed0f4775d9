//! The hooks: attached, to which cgroup, by whose program, and beside whom.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use svclb_core::table::MapName;

use svclb_dataplane::bpf::inspect::{self, Link, Whose};
use svclb_dataplane::hooks::{HOOKS, Hook};
use svclb_dataplane::node::cgroups;
use svclb_dataplane::pins::Pins;
use svclb_dataplane::programs::foreign;
use svclb_dataplane::programs::loaded::{self, Program};

use super::{Finding, Verdict};

/// Advice about a hook that is not attached.
const RESTART: &str =
    "a running agent attaches it again within seconds; otherwise start `svclb agent`";
/// Cgroups with programs of others that a finding names.
const EXAMPLES: usize = 3;

/// Every program in the kernel by its id, or why they cannot be read.
type Programs = Result<BTreeMap<u32, Program>>;

/// Adds the findings, and returns the folder of the cgroup that all hooks are attached to.
pub(super) fn findings(pins: &Pins, findings: &mut Vec<Finding>) -> Option<PathBuf> {
    if matches!(pins.root().try_exists(), Ok(false)) {
        let nothing = "nothing is installed";
        let verdict = Verdict::error(format!("none is attached: {nothing}"));
        findings.push(Finding::of("hook", Ok(verdict)));
        findings.extend(["programs", "others"].map(|it| Finding::of(it, Err(anyhow!(nothing)))));
        return None;
    }
    let links: Vec<_> = HOOKS.iter().map(|hook| (hook, pins.pinned_link(hook.name))).collect();
    let attached = links.iter().filter_map(|(_, link)| link.as_ref().ok()?.as_ref());
    let cgroups: Vec<u64> = attached.map(|link| link.cgroup).filter(|id| *id != 0).collect();
    let ids: BTreeSet<u64> = cgroups.iter().copied().collect();
    let folders: BTreeMap<u64, PathBuf> =
        ids.iter().filter_map(|id| Some((*id, cgroups::find(*id).ok().flatten()?))).collect();
    let hooks = links.iter().map(|(hook, link)| (hook.name, hooked(pins, hook, link, &folders)));
    findings.extend(Finding::each("hook", Ok(hooks)));
    let is_one = cgroups.len() == links.len() && ids.len() == 1;
    let one = folders.values().next().filter(|_| is_one).cloned();
    if ids.len() > 1 {
        let text = format!("the hooks are attached to {} cgroups: {}", ids.len(), list(&ids));
        let verdict =
            Verdict::error(text).advice("`svclb uninstall`, then start one `svclb agent`");
        findings.push(Finding::of("hook", Ok(verdict)));
    }
    let known = loaded::all();
    findings.push(Finding::of("programs", Ok(behind(pins, &links, &known))));
    let folder = one.as_deref().context("no cgroup is known that all hooks are attached to");
    findings.push(Finding::of("others", folder.map(|folder| others(folder, &links, &known))));
    one
}

fn list<'a, T: ToString + 'a>(numbers: impl IntoIterator<Item = &'a T>) -> String {
    numbers.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One hook.
fn hooked(
    pins: &Pins,
    hook: &Hook,
    link: &io::Result<Option<Link>>,
    folders: &BTreeMap<u64, PathBuf>,
) -> Verdict {
    let pin = pins.link(hook.name);
    let link = match link {
        Ok(Some(link)) => link,
        Ok(None) => {
            let text = format!("not attached: {} is not there", pin.display());
            return Verdict::error(text).advice(RESTART);
        }
        Err(error) => {
            return Verdict::not_looked_at(format!("{} cannot be read: {error}", pin.display()))
                .advice("run it as root (with sudo)");
        }
    };
    if link.cgroup == 0 {
        return Verdict::error("detached: its cgroup is gone, or another program detached it")
            .advice(RESTART);
    }
    if link.hook != hook.number {
        let text = format!("{} is the link of another hook (number {})", pin.display(), link.hook);
        return Verdict::error(text).advice("`svclb uninstall`, then start `svclb agent`");
    }
    let Link { cgroup, program, .. } = *link;
    let Some(folder) = folders.get(&cgroup) else {
        let text = format!(
            "it is attached to the cgroup {cgroup}, which no cgroup2 that is mounted here shows"
        );
        return Verdict::not_looked_at(text).advice("run it on the node itself");
    };
    let mut text = format!("program {program} on {} (id {cgroup})", folder.display());
    match inspect::programs(folder, hook, Whose::Own) {
        Ok(there) if there.contains(&program) => text += ", which the kernel runs there",
        Ok(there) => {
            text += &format!(", but the kernel has there {}", list(&there));
            return Verdict::error(text).advice(RESTART);
        }
        // The link alone says that it is attached.
        Err(_) => {}
    }
    Verdict::ok(text)
}

/// Checks that the programs behind the links are svclb's, over the pinned maps.
fn behind(pins: &Pins, links: &[(&Hook, io::Result<Option<Link>>)], known: &Programs) -> Verdict {
    let (mut strange, mut seen) = (Vec::new(), 0);
    let unseen = |error: &dyn std::fmt::Display| {
        Verdict::not_looked_at(format!("the kernel does not show them: {error}"))
            .advice("run it with CAP_BPF and CAP_PERFMON, as root on the node has")
    };
    let known = match known {
        Ok(known) => known,
        Err(error) => return unseen(&format!("{error:#}")),
    };
    for (hook, link) in links {
        let Ok(Some(Link { program, cgroup: 1.., .. })) = link else { continue };
        match ours(pins, hook, known.get(program)) {
            Ok(true) => seen += 1,
            Ok(false) => strange.push(format!("{program} on {}", hook.name)),
            Err(error) => return unseen(&error),
        }
    }
    if !strange.is_empty() {
        let text = format!("not svclb's over these maps: {}", strange.join(", "));
        return Verdict::error(text).advice("an agent puts its own there when it starts");
    }
    if seen < links.len() {
        return Verdict::not_looked_at("not every hook has one");
    }
    Verdict::ok(format!("all {seen} behind the links are svclb's, over these maps"))
}

/// Returns true if a program is the hook's and works with the pinned maps.
fn ours(pins: &Pins, hook: &Hook, program: Option<&Program>) -> io::Result<bool> {
    // Every hook reads or writes what sockets dialled.
    let origins = inspect::map_id(&pins.map(MapName::Origins))?;
    let is_over = |program: &Program| program.maps.iter().any(|(id, _)| *id == origins);
    Ok(program.is_some_and(|program| program.name == hook.program && is_over(program)))
}

/// Programs of others that run with ours: on the same cgroup, above it, and below it.
fn others(cgroup: &Path, links: &[(&Hook, io::Result<Option<Link>>)], known: &Programs) -> Verdict {
    let below = cgroups::descendants(cgroup);
    let named = |ids: &[u32]| named(ids, known);
    let is_svclb =
        |id: &u32| known.as_ref().is_ok_and(|known| known.get(id).is_some_and(foreign::is_svclb));
    let (mut found, mut shadowed) = (Vec::new(), Vec::new());
    let (mut foreign, mut above) = (Vec::new(), Vec::new());
    for (hook, link) in links {
        let Ok(Some(Link { program: ours, .. })) = link else { continue };
        let ask = |whose| inspect::programs(cgroup, hook, whose);
        let (here, own) = match ask(Whose::Effective).and_then(|here| Ok((here, ask(Whose::Own)?)))
        {
            Ok(both) => both,
            Err(error) => {
                return Verdict::not_looked_at(format!("the kernel does not say: {error}"))
                    .advice("run it with CAP_NET_ADMIN");
            }
        };
        let others = here.into_iter().filter(|id| id != ours);
        let (svclbs, strangers): (Vec<u32>, Vec<u32>) = others.partition(is_svclb);
        let (same, higher): (Vec<u32>, Vec<u32>) =
            svclbs.into_iter().partition(|id| own.contains(id));
        foreign.extend(same);
        above.extend(higher);
        if !strangers.is_empty() {
            found.push(format!("{} has {}", hook.name, named(&strangers)));
        }
        for folder in &below {
            // A cgroup that goes meanwhile has none.
            let own = inspect::programs(folder, hook, Whose::Own).unwrap_or_default();
            if own.is_empty() {
                continue;
            }
            found.push(format!("{} of {} has {}", hook.name, folder.display(), named(&own)));
            let effective = inspect::programs(folder, hook, Whose::Effective);
            if effective.is_ok_and(|effective| !effective.contains(ours)) {
                shadowed.push(format!("{} of {}", hook.name, folder.display()));
            }
        }
    }
    if !foreign.is_empty() {
        let text = format!(
            "programs of another svclb are attached to this cgroup too, and decide with what their own \
             maps hold: {}",
            named(&foreign)
        );
        return Verdict::error(text).advice(
            "one cgroup has one agent: start it with --replace, or `svclb uninstall` the other",
        );
    }
    if !above.is_empty() {
        found.push(format!(
            "svclb is attached to a cgroup above too, and runs after this one: {}",
            named(&above)
        ));
    }
    if let Some(first) = shadowed.first() {
        let text = format!("at {} places ours does not run, such as {first}", shadowed.len());
        return Verdict::error(text)
            .advice("`bpftool cgroup tree` shows whose program forbids others there");
    }
    let text = match found.split_at_checked(EXAMPLES) {
        None if found.is_empty() => {
            return Verdict::ok("no program of others is on these hooks, here or below");
        }
        None | Some((_, [])) => found.join("; "),
        Some((first, more)) => format!("{}; and {} more", first.join("; "), more.len()),
    };
    Verdict::warning(text)
        .advice("they may undo what ours does; `bpftool prog show id N` tells more")
}

/// Programs by id, and by name where that is known.
fn named(ids: &[u32], known: &Programs) -> String {
    let of = |id: &u32| match known.as_ref().ok().and_then(|known| known.get(id)) {
        Some(program) if !program.name.is_empty() => format!("{id} ({})", program.name),
        _ => id.to_string(),
    };
    ids.iter().map(of).collect::<Vec<_>>().join(", ")
}
