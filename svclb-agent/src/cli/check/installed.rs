//! Checks of the pins, the maps behind them, and the agent that keeps them in step.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;
use svclb_common::layout::Meta;

use svclb_dataplane::node::environment;
use svclb_dataplane::pins::Pins;
use svclb_dataplane::pins::lock;
use svclb_dataplane::pins::own;

use super::super::list::is_running;
use super::super::sources::SourceView;
use super::Verdict;

/// An API server says something at least once a minute, if only how far it is: a source that was not heard
/// for so many seconds is in trouble.
const QUIET: u64 = 180;

/// Checks that the pins and everything below them are this user's, and closed to all others.
pub(super) fn folders(pins: &Pins) -> Verdict {
    let root = pins.root();
    if let Err(error) = environment::check_bpffs(root) {
        return Verdict::error(format!("{error:#}"));
    }
    let is_there = root.try_exists();
    if let Err(error) = &is_there {
        return Verdict::not_looked_at(format!("{} is closed: {error}", root.display()))
            .advice("run it as root (with sudo)");
    }
    if matches!(is_there, Ok(false)) {
        return Verdict::error(format!("nothing is installed in {}", root.display()))
            .advice("start `svclb agent`, or name its folder by --pins");
    }
    match first_not_ours(root, geteuid().as_raw()) {
        Ok(None) => Verdict::ok(format!("{} is on a bpffs, for its owner only", root.display())),
        Ok(Some((path, Fault::Open))) => {
            Verdict::error(format!("{} is open to others than its owner", path.display()))
                .advice("`chmod -R go= ` it, and find out who opened it")
        }
        Ok(Some((path, Fault::OfUser(owner)))) => {
            let text = format!("{} is user {owner}'s, who may change it", path.display());
            Verdict::error(text)
                .advice("find out who made it; run this command as the agent's user")
        }
        Err(error) => Verdict::not_looked_at(format!("{} cannot be read: {error}", root.display())),
    }
}

/// A fault of a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// It is another user's.
    OfUser(u32),
    /// Others than its owner may use it.
    Open,
}

/// The first folder at or below this one that is not this owner's alone.
fn first_not_ours(folder: &Path, owner: u32) -> io::Result<Option<(PathBuf, Fault)>> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let data = fs::metadata(&folder)?;
        if data.uid() != owner {
            return Ok(Some((folder, Fault::OfUser(data.uid()))));
        }
        if data.mode() & own::OTHERS != 0 {
            return Ok(Some((folder, Fault::Open)));
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(None)
}

/// Checks that the maps are of this program's layout.
pub(super) fn maps(pins: &Pins) -> Result<Verdict> {
    Ok(match pins.is_readable() {
        Ok(true) => Verdict::ok("every map is there, in the shape that this svclb uses"),
        Ok(false) => bail!("none is installed"),
        Err(error) => Verdict::error(format!("{error:#}")),
    })
}

/// Checks that an agent runs, and reports its work.
pub(super) fn agent(pins: &Pins) -> Result<Verdict> {
    let row = pins.meta();
    let is_held = match lock::is_held(pins) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        held => held.context("its lock is closed")?,
    };
    if !is_held {
        return Ok(match row.map_or(0, |row| row.agent) {
            0 => Verdict::error("no agent runs").advice("start `svclb agent`"),
            last => Verdict::error(format!("no agent runs (the last one was process {last})"))
                .advice(
                    "start `svclb agent`; what the last one wrote stays served, and grows stale",
                ),
        });
    }
    let who = match lock::seen_holder(pins).filter(|pid| is_running(*pid)) {
        Some(pid) => format!("process {pid}"),
        None => "a process that this pid namespace does not show".to_owned(),
    };
    Ok(match row {
        Ok(row) => done(&who, &row),
        Err(_) => Verdict::error(format!("{who} runs, and has written nothing yet"))
            .advice("its log says what it waits for"),
    })
}

/// Reports the work of a running agent.
fn done(who: &str, row: &Meta) -> Verdict {
    if row.proved == 0 {
        let text = format!("{who} runs, and has not yet seen a connection of its own translated");
        return Verdict::error(text).advice("its log says why");
    }
    if row.synced == 0 {
        let text = format!("{who} runs, and does not know yet what its sources say");
        return Verdict::warning(text)
            .advice("its log says what it waits for; what the maps held before is served");
    }
    if row.short > 0 {
        let text = format!("{who} runs, and {} services are not as they should be", row.short);
        return Verdict::warning(text)
            .advice("they keep their previous state; its log names them and says why");
    }
    if row.refused > 0 {
        let text =
            format!("{who} runs, and refuses {} Services: they exceed a budget", row.refused);
        return Verdict::warning(text).advice(
            "its log names them, the budget and the flag that sets it; their addresses are left to \
             whatever else serves them",
        );
    }
    let text = format!(
        "{who} runs, has written what its sources say, and saw a connection of its own translated when \
         it started"
    );
    Verdict::ok(text)
}

/// When each of the agent's sources was last heard, and from where.
pub(super) fn sources(pins: &Pins) -> Result<Vec<(&'static str, Verdict)>> {
    let views = SourceView::all(&pins.meta()?);
    Ok(views.iter().map(|view| (view.name, source(view))).collect())
}

fn source(view: &SourceView) -> Verdict {
    let is_late = match view.heard_seconds_ago {
        Some(seconds) => !view.way.is_empty() && seconds > QUIET,
        None => true,
    };
    if is_late {
        Verdict::warning(view.words())
            .advice("the agent's log says what it waits for; what the maps hold is served")
    } else if view.rejected > 0 {
        Verdict::warning(view.words())
            .advice("the agent's log names the rejected objects; correct or delete them")
    } else {
        Verdict::ok(view.words())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::CheckState;
    use super::*;

    #[test]
    fn an_agent_is_well_when_it_has_heard_and_proved() {
        let rows = [
            (1, 1, 0, CheckState::Ok),
            (1, 1, 2, CheckState::Warning),
            (0, 1, 0, CheckState::Warning),
            (1, 0, 0, CheckState::Error),
            (0, 0, 0, CheckState::Error),
        ];
        for (synced, proved, short, expected) in rows {
            let row = Meta { synced, proved, short, ..Meta::default() };
            let finding = done("process 7", &row);
            assert_eq!(finding.state, expected, "{finding:?}");
            assert!(finding.found.starts_with("process 7 runs"), "{finding:?}");
        }
    }

    #[test]
    fn a_source_that_is_silent_or_rejected_in_part_is_a_warning() {
        let view = |name, heard_seconds_ago, way| SourceView {
            name,
            heard_seconds_ago,
            way,
            address: String::new(),
            rejected: 0,
        };
        let rejected = SourceView { rejected: 1, ..view("services", Some(QUIET), "endpoint") };
        let rows = [
            (view("services", Some(QUIET), "endpoint"), CheckState::Ok),
            (view("services", Some(QUIET + 1), "endpoint"), CheckState::Warning),
            (view("services", None, ""), CheckState::Warning),
            (view("files", Some(QUIET + 1), ""), CheckState::Ok),
            (rejected, CheckState::Warning),
        ];
        for (view, expected) in rows {
            assert_eq!(source(&view).state, expected, "{view:?}");
        }
    }

    #[test]
    fn a_folder_that_others_may_use_or_have_is_found_however_deep_it_is() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        set(root.path(), 0o700);
        set(&root.path().join("a"), 0o700);
        let us = geteuid().as_raw();
        let open = Some((deep.clone(), Fault::Open));
        for (mode, expected) in [(0o700, None), (0o710, open.clone()), (0o704, open)] {
            set(&deep, mode);
            assert_eq!(first_not_ours(root.path(), us).unwrap(), expected, "{mode:o}");
        }
        let theirs = Some((root.path().to_owned(), Fault::OfUser(us)));
        assert_eq!(first_not_ours(root.path(), us + 1).unwrap(), theirs);
    }
}
