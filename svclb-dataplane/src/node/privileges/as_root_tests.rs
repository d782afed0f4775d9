//! Privileges that are given up, on threads of a test's own: capabilities belong to a thread. Each needed
//! one is taken away to see that the kernel checks it. Only root has them all.

use std::thread;

use caps::Capability::{CAP_KILL, CAP_SYS_ADMIN};
use svclb_core::size::sizes;

use super::*;
use crate::pins::Pins;
use crate::pins::bpffs;
use crate::pins::places::Places;
use crate::programs::object::{self, Features, Settings};

/// Runs something on a thread of its own, which may change what it may do.
fn apart<R: Send>(task: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| scope.spawn(task).join().unwrap())
}

/// A line of this thread's status.
fn status(name: &str) -> String {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

#[test]
fn everything_else_is_given_up_for_good() {
    apart(|| {
        let before = caps::read(None, CapSet::Permitted).unwrap();
        assert!(before.contains(&CAP_KILL), "run the tests as root, with its capabilities");
        lower([]).unwrap();
        let kept: u64 = NEEDS.iter().map(|capability| capability.bitmask()).sum();
        for (set, expected) in [("CapPrm", kept), ("CapEff", kept), ("CapBnd", 0)] {
            assert_eq!(u64::from_str_radix(&status(set), 16), Ok(expected), "{set}");
        }
        for (set, expected) in [("CapInh", 0), ("CapAmb", 0)] {
            assert_eq!(u64::from_str_radix(&status(set), 16), Ok(expected), "{set}");
        }
        assert_eq!(status("NoNewPrivs"), "1");
        // A program of root's, such as a credential plugin, gets nothing by that.
        let mut child = std::process::Command::new("grep");
        let said = child.args(["CapPrm", "/proc/self/status"]).output().unwrap().stdout;
        assert_eq!(String::from_utf8(said).unwrap().trim(), "CapPrm:\t0000000000000000");
        caps::raise(None, CapSet::Effective, CAP_KILL).unwrap_err();
        // Once more changes nothing.
        lower([]).unwrap();
        assert_eq!(u64::from_str_radix(&status("CapEff"), 16), Ok(kept));
    });
}

#[test]
fn a_users_file_can_be_read_and_a_file_of_roots_needs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, owner: u32| {
        let path = folder.path().join(name);
        fs::write(&path, "text").unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
        path
    };
    let (roots, users) = (file("roots", 0), file("users", 1000));
    for (row, told, expected) in [("told of it", &users, true), ("not told", &roots, false)] {
        let (readable, writable) = apart(|| {
            lower([told.as_path()]).unwrap();
            assert_eq!(fs::read_to_string(&roots).unwrap(), "text");
            (fs::read(&users).is_ok(), fs::write(&users, "mine").is_ok())
        });
        assert_eq!((readable, writable), (expected, false), "{row}");
    }
}

/// Makes maps and loads the programs with these capabilities and no other.
fn load(capabilities: &[Capability]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    apart(|| {
        bpffs::mount_apart(folder.path())?;
        let pins = Pins::new(&folder.path().join("svclb"));
        pins.make()?;
        // As the kernel is, whatever this thread may ask it later.
        let features = Features::of_kernel()?;
        let settings = Settings { sizes: sizes(1, 1), seed: 1, features, cgroup: 1, log: false };
        // As `lower` does, before what it takes is given up.
        raise_locked_memory();
        caps::set(None, CapSet::Effective, &capabilities.iter().copied().collect())?;
        object::load(&Places::current(&pins), &settings)?.finish().map(drop)
    })
}

#[test]
fn the_kernel_asks_for_each_of_them() {
    let all = NEEDS;
    load(&all).unwrap();
    load(&[CAP_SYS_ADMIN]).unwrap();
    for lacking in all {
        let others: Vec<_> = all.into_iter().filter(|capability| *capability != lacking).collect();
        assert!(load(&others).is_err(), "programs load without {lacking}");
        let said = missing(&others.iter().copied().collect());
        assert_eq!(said, [lacking]);
    }
}
