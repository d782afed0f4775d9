//! A cgroup for one test, and the removal of what earlier runs left behind.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};
use std::time::Duration;

use super::wait::within;

/// Prefix of the name of everything that a test creates; the process id, a number and the test's name
/// follow.
pub(crate) const PREFIX: &str = "svclb-test-";
const PATIENCE: Duration = Duration::from_secs(3);

/// A cgroup that is removed on drop.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a cgroup below the mounted cgroup2.
    pub(crate) fn make(name: &str) -> Self {
        let path = mount_point().join(name);
        fs::create_dir(&path).unwrap_or_else(|error| {
            panic!(
                "cannot make the cgroup {} ({error}): run the tests as root, with cgroup2 mounted \
                 read-write",
                path.display()
            )
        });
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Opens the file into which a process writes `0` to join the cgroup.
    pub(crate) fn procs_file(&self) -> File {
        let path = self.0.join("cgroup.procs");
        File::options().write(true).open(&path).unwrap_or_else(|error| {
            panic!("cannot open {} ({error}): run the tests as root", path.display())
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just exited may still be counted as a member.
        let removed = within(PATIENCE, || remove(&self.0).map_err(|error| error.to_string()));
        if let Err(error) = removed {
            eprintln!("cannot remove the cgroup {}: {error}", self.0.display());
        }
    }
}

/// Removes a cgroup and its descendants (an agent that was killed during its probe leaves one).
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// Returns the mount point of cgroup2.
fn mount_point() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        find(&mounts).expect(
            "no cgroup2 is mounted read-write: mkdir -p /mnt/cgroup2 && mount -t cgroup2 none \
             /mnt/cgroup2",
        )
    })
}

/// Finds the first writable cgroup2 in the text of a mountinfo file (proc(5)).
fn find(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(4);
        let (path, options) = (fields.next()?, fields.next()?);
        let is_one = system.split(' ').next() == Some("cgroup2");
        let is_writable = options.split(',').any(|option| option == "rw");
        (is_one && is_writable).then(|| PathBuf::from(path.replace("\\040", " ")))
    })
}

/// Removes cgroups and temporary folders that killed runs left, named after a process that no longer
/// exists. The kernel refuses to remove a cgroup that still has a live process.
pub(crate) fn remove_leftovers() {
    static DONE: Once = Once::new();
    DONE.call_once(remove_now);
}

fn remove_now() {
    // Errors are ignored: another process may remove the same path at the same time, or still use it.
    for path in leftovers(mount_point()) {
        let _ = remove(&path);
    }
    for path in leftovers(&std::env::temp_dir()) {
        let _ = fs::remove_dir_all(&path);
    }
}

fn leftovers(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| is_of_ended_process(name)).map(|name| folder.join(name)).collect()
}

/// Returns true if the name belongs to a test process that no longer exists.
fn is_of_ended_process(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
    pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ended_processes_are_leftovers() {
        let own = std::process::id();
        let rows = [
            ("of this process", format!("{PREFIX}{own}-0-name"), false),
            ("of an ended process", format!("{PREFIX}4194399-0-name"), true),
            ("without a number", format!("{PREFIX}name"), false),
            ("not made by a test", "user.slice".to_owned(), false),
        ];
        for (row, name, expected) in rows {
            assert_eq!(is_of_ended_process(&name), expected, "{row}");
        }
    }

    #[test]
    fn leftovers_of_a_killed_run_are_removed_by_the_next() {
        let name = format!("{PREFIX}4194399-0-killed");
        let cgroup = mount_point().join(&name).join("svclb-probe-1");
        let folder = std::env::temp_dir().join(&name).join("yaml");
        for path in [&cgroup, &folder] {
            fs::create_dir_all(path).unwrap();
        }
        remove_now();
        for path in [&cgroup, &folder] {
            assert!(!path.parent().unwrap().exists(), "{}", path.display());
        }
    }

    #[test]
    fn a_writable_cgroup2_is_found_by_its_type() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      40 31 0:38 / /ro ro,relatime - cgroup2 cgroup2 rw\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(find(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find("1 1 0:1 / / rw - ext4 x rw\n"), None);
    }
}
