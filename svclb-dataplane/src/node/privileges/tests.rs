//! Privileges that are given up, on threads of a test's own: capabilities belong to a thread. Each needed
//! one is taken away to see that the kernel checks it.

use std::collections::BTreeSet;
use std::thread;

use caps::Capability::{
    CAP_BPF, CAP_DAC_READ_SEARCH, CAP_KILL, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN,
};
use serde_json::Value;
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
fn what_is_kept_is_what_is_needed_and_was_given() {
    let needed = [CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON];
    let with = |more: &[Capability]| [&needed[..], more].concat();
    let rows = [
        ("root", with(&[CAP_SYS_ADMIN, CAP_KILL, CAP_DAC_READ_SEARCH]), false, needed.to_vec()),
        (
            "root that reads a user's file",
            with(&[CAP_KILL, CAP_DAC_READ_SEARCH]),
            true,
            with(&[CAP_DAC_READ_SEARCH]),
        ),
        ("a container that reads another's file", needed.to_vec(), true, needed.to_vec()),
        (
            "a runtime that does not know the new ones",
            vec![CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_KILL],
            false,
            vec![CAP_SYS_ADMIN, CAP_NET_ADMIN],
        ),
        ("a user", vec![], false, vec![]),
    ];
    for (row, permitted, reads_others, expected) in rows {
        let kept = super::needed(&permitted.into_iter().collect(), reads_others);
        assert_eq!(kept, expected.into_iter().collect(), "{row}");
    }
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
        let said = missing(|capability| Ok(others.contains(&capability))).unwrap();
        assert_eq!(said, [lacking]);
    }
}

#[test]
fn manifests_and_manual_name_the_same_capabilities() {
    let expected: BTreeSet<String> =
        NEEDS.iter().map(|capability| capability.to_string().replacen("CAP_", "", 1)).collect();
    let daemon_set: Value =
        serde_saphyr::from_str(include_str!("../../../../manifests/base/daemonset.yaml")).unwrap();
    let context = &daemon_set["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&context["capabilities"]["add"]), expected);
    assert_eq!(names(&context["capabilities"]["drop"]), ["ALL".to_owned()].into());
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["privileged"], false);
    let manual = include_str!("../../../../docs/privileges.md");
    let (_, table) = manual.split_once("## The agent\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let named = table.lines().filter_map(|line| line.strip_prefix("| `CAP_")?.split('`').next());
    assert_eq!(named.map(str::to_owned).collect::<BTreeSet<_>>(), expected);
}
