//! The position of a cgroup in this node's hierarchy, and the processes that are outside of it.
//!
//! Hooks serve the cgroup that they are attached to, and the cgroups below it. Only the root of the whole
//! cgroup2 hierarchy is above everything. In a container's cgroup namespace another cgroup looks like
//! the root: its folder's inode number, which is the cgroup's id, tells the two apart.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use procfs::process::{MountInfo, Process, Stat, StatFlags, all_processes};
use svclb_core::text;

use crate::node::mounts;

/// Id of the root of the cgroup2 hierarchy (the first number that kernfs gives).
pub const ROOT: u64 = 1;
/// Inode number of the machine's first pid namespace (PROC_PID_INIT_INO of include/linux/proc_ns.h).
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;
/// The same of its first cgroup namespace.
const FIRST_CGROUP_NAMESPACE: u64 = 0xefff_fffb;
/// The type of a cgroup2 file system.
pub(crate) const CGROUP2: &str = "cgroup2";
/// Number of processes that a message names.
const EXAMPLES: usize = 5;

/// A cgroup's place as /proc shows it, seen from the root of the reader's cgroup namespace: so many
/// steps up (`/..` each), and then down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    up: usize,
    down: Vec<String>,
}

impl Place {
    /// Reads `/a/b` and `/../../a`.
    pub fn parse(path: &str) -> Self {
        let mut place = Self { up: 0, down: Vec::new() };
        place.walk(path);
        place
    }

    fn walk(&mut self, path: &str) {
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if part != ".." {
                self.down.push(part.to_owned());
            } else if self.down.pop().is_none() {
                self.up += 1;
            }
        }
    }

    /// Returns true if the other one is this cgroup or below it. The kernel writes no more steps up than
    /// needed, so a path with more of them is an ancestor of the namespace's root.
    pub fn covers(&self, other: &Self) -> bool {
        match self.up.cmp(&other.up) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => other.down.starts_with(&self.down),
            std::cmp::Ordering::Greater => self.down.is_empty(),
        }
    }
}

/// Returns the position of a cgroup2 folder in the hierarchy.
fn place_of(folder: &Path, mounts: &[MountInfo]) -> Option<Place> {
    let below = mounts.iter().filter_map(|mount| {
        Some((mount, folder.strip_prefix(&mount.mount_point).ok()?.to_str()?.to_owned()))
    });
    let (mount, rest) = below.max_by_key(|(mount, _)| mount.mount_point.as_os_str().len())?;
    let mut place = Place::parse(&mount.root);
    place.walk(&rest);
    Some(place)
}

/// The folder of the cgroup with this id; none when no cgroup2 that is mounted here shows it.
///
/// # Errors
/// When mounts cannot be read.
pub fn find(id: u64) -> Result<Option<PathBuf>> {
    let is_it = |folder: &PathBuf| fs::metadata(folder).is_ok_and(|data| data.ino() == id);
    let points = mounts::of_type(CGROUP2)?.into_iter().map(|mount| mount.mount_point);
    Ok(points.flat_map(tree).find(is_it))
}

/// Id of this process's own cgroup2; 0 where that is the root, which every process may be in, and where no
/// cgroup2 that is mounted here shows it.
pub(crate) fn own_id() -> u64 {
    let id = own().and_then(|folder| Some(fs::metadata(folder).ok()?.ino()));
    id.filter(|id| *id != ROOT).unwrap_or(0)
}

/// The folder of this process's own cgroup. In a cgroup namespace, with mounts made outside of it, /proc and
/// the mounts do not show which it is: then each is looked into.
fn own() -> Option<PathBuf> {
    let us = std::process::id().to_string();
    let has_us = |folder: &PathBuf| {
        let processes = fs::read_to_string(folder.join("cgroup.procs"));
        processes.is_ok_and(|processes| processes.lines().any(|process| process == us))
    };
    let mounts = mounts::of_type(CGROUP2).ok()?;
    let path = cgroup2_in(&fs::read("/proc/self/cgroup").ok()?)?;
    let path = path.strip_prefix('/')?;
    let direct =
        mounts.iter().filter(|mount| mount.root == "/").map(|it| it.mount_point.join(path));
    let all = mounts.iter().flat_map(|mount| tree(mount.mount_point.clone()));
    direct.chain(all).find(has_us)
}

/// The cgroups right below one. What goes while it is looked at is not there.
fn below(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|it| it.path())
}

/// A cgroup and all below it, each before those below it.
fn tree(folder: PathBuf) -> impl Iterator<Item = PathBuf> {
    let mut next = vec![folder];
    std::iter::from_fn(move || {
        let folder = next.pop()?;
        next.extend(below(&folder));
        Some(folder)
    })
}

/// All cgroups below one, each before those below it.
pub fn descendants(folder: &Path) -> Vec<PathBuf> {
    tree(folder.to_owned()).skip(1).collect()
}

/// A process outside of a cgroup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outside {
    /// Its number, in this pid namespace.
    pub pid: i32,
    /// Its name.
    pub name: String,
    /// Its cgroup, as /proc shows it.
    pub cgroup: String,
}

/// The processes of the node that a cgroup covers.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Coverage {
    /// The cgroup is the root of the hierarchy: nothing is outside.
    pub is_root: bool,
    /// Number of processes that were looked at.
    pub processes: usize,
    /// Number of them that are outside.
    pub outside: usize,
    /// A few of those.
    pub examples: Vec<Outside>,
    /// This process shows itself in the cgroup.
    pub has_us: bool,
    /// The reason why not all processes of the machine were seen; none when all were.
    pub unseen: Option<&'static str>,
}

/// Looks which processes are in a cgroup and those below it.
///
/// # Errors
/// When /proc cannot be read, or the cgroup's position is unknown.
pub fn coverage(cgroup: &Path) -> Result<Coverage> {
    let cannot = || format!("cannot look at the cgroup {}", cgroup.display());
    let folder = cgroup.canonicalize().with_context(cannot)?;
    let is_root = fs::metadata(&folder).with_context(cannot)?.ino() == ROOT;
    let own = place_of(&folder, &mounts::of_type(CGROUP2)?).with_context(cannot)?;
    let mut coverage = Coverage { is_root, unseen: unseen(), ..Coverage::default() };
    let us = std::process::id().cast_signed();
    for process in all_processes().context("cannot read /proc: is it mounted?")? {
        // One may have ended meanwhile.
        let Some(process) = process.ok().and_then(|it| outside(&it)) else { continue };
        coverage.processes += 1;
        let is_inside = own.covers(&Place::parse(&process.cgroup));
        coverage.has_us |= is_inside && process.pid == us;
        if !is_inside {
            coverage.outside += 1;
            if coverage.examples.len() < EXAMPLES {
                coverage.examples.push(process);
            }
        }
    }
    Ok(coverage)
}

/// Returns the cgroup of a process, as /proc shows it, and whether it is `cgroup` or below that.
///
/// # Errors
/// When there is no such process, it is in no cgroup2, or a position is unknown.
pub fn is_inside(cgroup: &Path, pid: i32) -> Result<(String, bool)> {
    let cannot = || format!("cannot look at the cgroup {}", cgroup.display());
    let folder = cgroup.canonicalize().with_context(cannot)?;
    let own = place_of(&folder, &mounts::of_type(CGROUP2)?).with_context(cannot)?;
    let of_process = fs::read(format!("/proc/{pid}/cgroup"));
    let of_process =
        of_process.with_context(|| format!("cannot read the cgroup of process {pid}"))?;
    let found =
        cgroup2_in(&of_process).with_context(|| format!("process {pid} is in no cgroup2"))?;
    let is_inside = own.covers(&Place::parse(&found));
    Ok((found, is_inside))
}

/// Returns the lowest pid of the processes in the cgroups with a name that is meant, and below them; none where
/// no process is there, or none that this pid namespace shows.
///
/// # Errors
/// When mounts cannot be read.
pub fn process_in(is_meant: impl Fn(&str) -> bool) -> Result<Option<i32>> {
    let points = mounts::of_type(CGROUP2)?.into_iter().map(|mount| mount.mount_point);
    let named = points
        .flat_map(tree)
        .filter(|folder| folder.file_name().and_then(|name| name.to_str()).is_some_and(&is_meant));
    let processes = named.flat_map(tree).flat_map(|folder| {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        // 0 is a process that this pid namespace does not show.
        text.lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| *pid != 0)
            .collect::<Vec<_>>()
    });
    Ok(processes.min())
}

/// Returns a process with its cgroup; none for threads of the kernel and for processes that have ended: they
/// make no socket.
fn outside(of: &Process) -> Option<Outside> {
    let stat = of.stat().ok().filter(has_sockets)?;
    let mut cgroups = Vec::new();
    of.open_relative("cgroup").ok()?.read_to_end(&mut cgroups).ok()?;
    Some(Outside { pid: of.pid, name: stat.comm, cgroup: cgroup2_in(&cgroups)? })
}

/// Returns the cgroup2 of a `/proc/PID/cgroup`. Its name need not be text.
fn cgroup2_in(cgroups: &[u8]) -> Option<String> {
    let cgroups = String::from_utf8_lossy(cgroups);
    cgroups.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Returns true unless this is a thread of the kernel, or a process that has ended. Other threads may live on
/// after the first has ended.
fn has_sockets(stat: &Stat) -> bool {
    let has_ended = matches!(stat.state, 'Z' | 'X') && stat.num_threads < 2;
    stat.flags & StatFlags::PF_KTHREAD.bits() == 0 && !has_ended
}

/// Returns the reason why /proc does not show every process of the machine.
pub(crate) fn unseen() -> Option<&'static str> {
    let hides = |mount: &MountInfo| {
        let option = mount.super_options.get("hidepid").and_then(Option::as_deref);
        mount.mount_point == Path::new("/proc") && option.is_some_and(|option| option != "0")
    };
    if namespace("pid") != Some(FIRST_PID_NAMESPACE) {
        Some("this pid namespace does not show the machine's other processes")
    } else if mounts::of_type("proc").is_ok_and(|mounts| mounts.iter().any(hides)) {
        Some("/proc is mounted with hidepid, and shows only some processes")
    } else {
        None
    }
}

/// Returns true if cgroup v1 is mounted too.
pub fn is_hybrid() -> bool {
    mounts::of_type("cgroup").is_ok_and(|mounts| !mounts.is_empty())
}

/// Returns true if this process is in a cgroup namespace of its own, which shows another cgroup as the root.
pub fn in_namespace() -> bool {
    namespace("cgroup") != Some(FIRST_CGROUP_NAMESPACE)
}

fn namespace(kind: &str) -> Option<u64> {
    Some(fs::metadata(format!("/proc/self/ns/{kind}")).ok()?.ino())
}

/// Returns the warning about processes that the agent's cgroup does not serve; none if it serves all.
///
/// # Errors
/// As [`coverage`].
pub fn warning(cgroup: &Path) -> Result<Option<String>> {
    let found = coverage(cgroup)?;
    if found.is_root {
        return Ok(None);
    }
    Ok(match (found.outside, found.unseen) {
        (0, None) => None,
        (0, Some(why)) => Some(format!("it is not the root of cgroup2, and {why}")),
        (count, _) => Some(format!("{count} processes are outside, such as {}", found.examples())),
    })
}

impl Coverage {
    /// The examples, for people: names that processes and cgroups chose for themselves are shown, not
    /// obeyed.
    pub fn examples(&self) -> String {
        let of = |it: &Outside| format!("{} {} in {}", it.pid, it.name, it.cgroup);
        text::line(&self.examples.iter().map(of).collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;
    use std::time::{Duration, Instant};

    use procfs::FromRead as _;

    use super::*;

    #[test]
    fn a_cgroup_covers_itself_and_what_is_below_it() {
        let rows = [
            ("/", "/", true),
            ("/", "/a/b", true),
            ("/a", "/a/b", true),
            ("/a", "/ab", false),
            ("/a/b", "/a", false),
            // The reader is in a namespace: others are outside of its root.
            ("/", "/../other", false),
            ("/", "/..", false),
            ("/..", "/", true),
            ("/..", "/../other", true),
            ("/../..", "/../other/x", true),
            ("/../other", "/", false),
            ("/../other", "/../other/x", true),
            ("/../../other", "/../x", false),
        ];
        for (cgroup, process, expected) in rows {
            let found = Place::parse(cgroup).covers(&Place::parse(process));
            assert_eq!(found, expected, "{cgroup} covers {process}");
        }
    }

    #[test]
    fn a_folders_place_is_told_by_the_mount_that_it_is_on() {
        let mounts = mounts::parse(
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n\
             42 31 0:38 /../.. /host/cgroup\\040two ro - cgroup2 cgroup2 rw\n\
             43 31 0:38 /pod /sys/fs/cgroup/unified/deep rw - cgroup2 cgroup2 rw\n",
            CGROUP2,
        );
        let rows = [
            ("/sys/fs/cgroup/unified", Some("/")),
            ("/sys/fs/cgroup/unified/a/b", Some("/a/b")),
            ("/host/cgroup two", Some("/../..")),
            ("/host/cgroup two/a", Some("/../../a")),
            ("/sys/fs/cgroup/unified/deep/x", Some("/pod/x")),
            ("/sys/fs/cgroup", None),
        ];
        for (folder, expected) in rows {
            let found = place_of(Path::new(folder), &mounts);
            assert_eq!(found, expected.map(Place::parse), "{folder}");
        }
    }

    #[test]
    fn a_name_that_a_process_chose_cannot_write_to_a_terminal() {
        let example = Outside { pid: 7, name: "a\u{1b}[2J\nb".into(), cgroup: "/x".into() };
        let coverage = Coverage {
            is_root: false,
            processes: 1,
            outside: 1,
            examples: vec![example],
            has_us: false,
            unseen: None,
        };
        let said = coverage.examples();
        assert!(!said.contains(char::is_control) && said.starts_with("7 a"), "{said:?}");
    }

    fn is_named(seen: &Option<Outside>) -> bool {
        seen.as_ref().is_some_and(|it| it.name.starts_with("cut-"))
    }

    #[test]
    fn a_process_is_seen_whatever_bytes_its_name_has() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(std::ffi::OsStr::from_bytes(b"cut-\xf0\x9f"));
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("100").spawn().unwrap();
        // The kernel names it a moment after it let the parent go on.
        let until = Instant::now() + Duration::from_secs(10);
        let process = Process::new(child.id().cast_signed()).unwrap();
        let mut seen = outside(&process);
        while Instant::now() < until && !is_named(&seen) {
            std::thread::sleep(Duration::from_millis(10));
            seen = outside(&process);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_named(&seen), "{seen:?}");
    }

    #[test]
    fn threads_of_the_kernel_and_the_dead_are_no_processes() {
        let rows = [
            ("1 (init) S 0 1 1 0 -1 4194560", 1, true),
            ("2 (kthreadd) S 0 0 0 0 -1 2129984", 1, false),
            ("3 (a) b) Z 1 3 3 0 -1 4227084", 1, false),
            ("4 (its first thread ended) Z 1 3 3 0 -1 4227084", 2, true),
            ("5 (name ) S 2) R 1 3 3 0 -1 4194560", 1, true),
        ];
        for (begin, threads, expected) in rows {
            let stat = format!("{begin} {} {threads}{}", ["0"; 10].join(" "), " 0".repeat(17));
            let stat = Stat::from_read(stat.as_bytes()).unwrap();
            assert_eq!(has_sockets(&stat), expected, "{begin}");
        }
    }

    #[test]
    fn this_process_is_seen_in_the_root_that_it_sees() {
        let root =
            mounts::of_type(CGROUP2).unwrap().into_iter().next().expect("a cgroup2 is mounted");
        let seen = coverage(&root.mount_point).unwrap();
        assert!(seen.processes > 0 && seen.has_us, "{seen:?}");
        let id = fs::metadata(&root.mount_point).unwrap().ino();
        assert_eq!(find(id).unwrap(), Some(root.mount_point));
        assert_eq!(find(u64::MAX).unwrap(), None);
    }
}
