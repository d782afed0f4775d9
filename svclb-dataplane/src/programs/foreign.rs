//! Programs of svclb on the hooks of a cgroup that belong to other pins than the agent's: left there by
//! an agent that has ended, or in use by one that runs. The kernel runs them before programs that are
//! attached later, so that their maps would go on deciding (decisions/0022).
//!
//! Those of an ancestor cgroup run later, and see only what this agent's programs leave alone.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use svclb_core::table::MapName;

use crate::bpf::inspect::{self, Whose};
use crate::hooks::HOOKS;
use crate::node::mounts;
use crate::pins::Pins;
use crate::pins::folder;
use crate::pins::lock::{self, Lock};
use crate::programs::attach;
use crate::programs::loaded::{self, Program};

/// Begin of the name of each of svclb's programs.
const PREFIX: &str = "svclb_";
/// The map that each of them uses.
const MAP: &str = MapName::Origins.as_str();
/// The most time that links of a process that has ended stay attached: until the kernel has closed all of its
/// descriptors, which on 5.10 takes some 50 ms.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most folders of a bpffs that are searched for pins.
const MOST_FOLDERS: usize = 10_000;

/// Returns true if a program is svclb's. Its name alone is not enough: other programs may have the same.
pub fn is_svclb(program: &Program) -> bool {
    program.name.starts_with(PREFIX) && program.maps.iter().any(|(_, name)| name == MAP)
}

/// Programs of svclb that are not behind links of these pins, by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// On the hooks of the cgroup itself.
    pub here: Vec<u32>,
    /// On those of its ancestors.
    pub above: Vec<u32>,
}

/// Looks for programs of svclb on the hooks of a cgroup. Their names are read only where there are any
/// programs beside those of these pins.
///
/// # Errors
/// When the kernel does not show the programs.
pub fn find(cgroup: &Path, pins: &Pins) -> Result<Foreign> {
    let ours: Vec<u32> = pins.links()?.into_iter().map(|link| link.program).collect();
    let mut found = Foreign::default();
    for hook in &HOOKS {
        let ask = |whose| {
            let asked = inspect::programs(cgroup, hook, whose);
            asked.with_context(|| format!("cannot ask for the programs on {}", hook.name))
        };
        let own = ask(Whose::Own)?;
        let above = ask(Whose::Effective)?.into_iter().filter(|id| !own.contains(id));
        found.above.extend(above);
        found.here.extend(own.into_iter().filter(|id| !ours.contains(id)));
    }
    if found == Foreign::default() {
        return Ok(found);
    }
    let all = loaded::all()?;
    let is_ours = |id: &u32| all.get(id).is_some_and(is_svclb);
    found.here.retain(is_ours);
    found.above.retain(is_ours);
    Ok(found)
}

/// Pins on any bpffs of this mount namespace that hold links of these programs to this cgroup.
fn owners(cgroup: u64, programs: &[u32], besides: &Pins) -> Vec<(Pins, Vec<u32>)> {
    let number = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
    let mut seen: HashSet<_> = number(besides.root()).into_iter().collect();
    let mounts = mounts::of_type("bpf").unwrap_or_default();
    let mut folders: Vec<PathBuf> = mounts.into_iter().map(|mount| mount.mount_point).collect();
    let mut owners = Vec::new();
    while let Some(folder) = folders.pop() {
        if seen.len() > MOST_FOLDERS || !number(&folder).is_some_and(|it| seen.insert(it)) {
            continue;
        }
        let pins = Pins::new(&folder);
        let links = pins.links().unwrap_or_default().into_iter();
        let of_them = |it: &inspect::Link| it.cgroup == cgroup && programs.contains(&it.program);
        let held: Vec<u32> = links.filter(of_them).map(|link| link.program).collect();
        if !held.is_empty() {
            owners.push((pins, held));
        }
        let below = folder::entries(&folder).unwrap_or_default();
        folders.extend(below.into_iter().filter(|it| folder::is_folder(it)));
    }
    owners
}

/// Pins of agents that have ended, which are to be removed once this agent's programs are attached; their
/// locks are held.
#[derive(Debug, Default)]
pub struct Replaced(Vec<(Pins, Lock)>);

/// Looks whether programs of svclb that belong to other pins are on the hooks of this cgroup, before
/// anything is changed there. With `replaces` they may be, where [`Replaced::remove`] can take them away.
///
/// # Errors
/// When they are, with whose they are and what to do.
pub fn check(cgroup: &Path, pins: &Pins, replaces: bool) -> Result<Replaced> {
    // Links of these pins to another cgroup are named first.
    attach::find(cgroup, pins)?;
    let id = fs::metadata(cgroup).context("cannot look at the cgroup")?.ino();
    let start = Instant::now();
    loop {
        let foreign = match find(cgroup, pins) {
            Ok(foreign) => foreign,
            Err(error) => {
                tracing::warn!(
                    "cannot tell whether other programs on the hooks are svclb's; if they are, they \
                     go on serving what their own maps hold: {error:#}"
                );
                return Ok(Replaced::default());
            }
        };
        if foreign.here.is_empty() {
            if !foreign.above.is_empty() {
                tracing::info!(
                    programs = ?foreign.above,
                    "svclb is attached to a cgroup above this one too: its programs run after these, \
                     and serve what these leave alone",
                );
            }
            return Ok(Replaced::default());
        }
        let owners = owners(id, &foreign.here, pins);
        let is_pinned = |program: &u32| owners.iter().any(|(_, held)| held.contains(program));
        let unpinned: Vec<u32> = foreign.here.into_iter().filter(|it| !is_pinned(it)).collect();
        if unpinned.is_empty() || start.elapsed() > PATIENCE {
            let owners = owners.into_iter().map(|(pins, _)| pins).collect();
            return judge(cgroup, owners, &unpinned, replaces);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn judge(cgroup: &Path, owners: Vec<Pins>, unpinned: &[u32], replaces: bool) -> Result<Replaced> {
    let (cgroup, with) = (cgroup.display(), "the hooks of the cgroup");
    for owner in &owners {
        let root = owner.root().display();
        // An error here matters to `--replace` only, which takes the lock itself.
        if lock::is_held(owner).unwrap_or(false) {
            let who = lock::seen_holder(owner);
            let who = who.map_or(String::new(), |pid| format!(" (process {pid})"));
            bail!(
                "another agent runs on {with} {cgroup}, with the pins {root}{who}: one cgroup has one \
                 agent; end that one first, or give this one another cgroup by --cgroup"
            );
        }
    }
    ensure!(
        unpinned.is_empty(),
        "programs of another svclb ({unpinned:?}) are on {with} {cgroup} and would go on deciding, and \
         no bpffs that is mounted here has their pins: find what holds them, which may be a process or \
         a bpffs of another mount namespace (`bpftool link list` on the node), and end it, or run \
         `svclb uninstall --pins FOLDER` there"
    );
    if !replaces {
        let roots: Vec<_> = owners.iter().map(|it| it.root().display().to_string()).collect();
        let roots = roots.join(", ");
        bail!(
            "programs that an earlier agent left with the pins {roots} are on {with} {cgroup} and would \
             go on deciding: use those --pins to go on with them, or start with --replace to have this \
             agent's programs take their place, or run `svclb uninstall --pins {roots}` first"
        );
    }
    let lock = |pins: Pins| match Lock::of(&pins)? {
        Some(lock) => Ok((pins, lock)),
        None => bail!("the pins {} were removed meanwhile: start again", pins.root().display()),
    };
    Ok(Replaced(owners.into_iter().map(lock).collect::<Result<_>>()?))
}

impl Replaced {
    /// Detaches the other programs and removes their pins. This agent's are attached to every hook by now,
    /// so that no connect is without one.
    ///
    /// # Errors
    /// When a link cannot be detached or a pin not be removed.
    pub fn remove(self) -> Result<()> {
        for (pins, _lock) in self.0 {
            let root = pins.root().display();
            pins.uninstall().with_context(|| format!("cannot remove the replaced pins {root}"))?;
            tracing::info!(
                pins = %root,
                "replaced the programs that an earlier agent left; their sockets show their pods as \
                 peers from now on",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_svclbs_by_its_name_and_its_map() {
        let program = |name: &str, maps: &[&str]| Program {
            name: name.to_owned(),
            maps: maps.iter().map(|map| (1, (*map).to_owned())).collect(),
        };
        let rows = [
            ("svclb_connect4", &["svclb_index", "svclb_origins"][..], true),
            ("svclb_connect4", &["svclb_index"], false),
            ("svclb_connect4", &[], false),
            ("cil_sock4_connect", &["svclb_origins"], false),
        ];
        for (name, maps, expected) in rows {
            assert_eq!(is_svclb(&program(name, maps)), expected, "{name} {maps:?}");
        }
    }
}
