//! The installation of an agent: it belongs to one agent, it is restored when another program removes a
//! part of it, and `svclb uninstall` removes all of it.
#![expect(clippy::unwrap_used, reason = "a failure in the set-up fails the test")]

#[path = "installed/foreign.rs"]
mod foreign;
#[path = "installed/switch.rs"]
mod switch;

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use svclb_common::layout::LAYOUT_VERSION;
use svclb_tests::{Backend, Tcp, ThirdPartyProgram, World, at_least, eventually, holds_for};

const DIALLED: &str = "10.96.0.10:80";

/// Creates a world with one Service and its backend `a`.
fn world(name: &str) -> (World, Backend) {
    let world = World::new(name);
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    (world, a)
}

/// Runs a command that must fail, and returns its standard error.
fn refused(world: &World, command: Command) -> String {
    let output = world.output(command);
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn second_agent(world: &World) -> Command {
    let mut command = Command::new("timeout");
    command.arg("120").arg(world.program()).arg("agent").arg("--from").arg(world.yaml());
    command.args(["--node", "other"]).arg("--pins").arg(world.pins());
    command.arg("--cgroup").arg(world.cgroup());
    command
}

#[test]
fn a_second_agent_is_refused_and_names_the_first() {
    let (world, _a) = world("second");
    let first = world.take_agent();
    let holder = format!("(process {})", first.pid());
    for _ in 0..3 {
        let stderr = refused(&world, second_agent(&world));
        assert!(stderr.contains("an agent runs") && stderr.contains(&holder), "{stderr}");
    }
    // uninstall is refused too, because the agent would restore what it removes.
    let mut uninstall = Command::new(world.program());
    uninstall.arg("uninstall").arg("--pins").arg(world.pins());
    let stderr = refused(&world, uninstall);
    assert!(stderr.contains("an agent runs") && stderr.contains(&holder), "{stderr}");
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    // The lock is released when its holder exits.
    first.kill();
    world.start_agent();
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn a_detached_hook_is_attached_again() {
    let (world, _a) = world("detached");
    let agent = world.take_agent();
    let pid = Pid::from_raw(i32::try_from(agent.pid()).unwrap());
    world.put_agent(agent);
    // The agent is stopped, because it would attach the hook again before the test could look.
    kill(pid, Signal::SIGSTOP).unwrap();
    for hook in ["connect4", "sock_release"] {
        world.detach(hook);
    }
    let dialled = world.dial(Tcp, DIALLED).map(drop);
    kill(pid, Signal::SIGCONT).unwrap();
    let error = dialled.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    eventually("clients are translated again", || match world.request(Tcp, DIALLED) {
        Ok(name) if name == "a" => Ok(()),
        other => Err(format!("{other:?}; the log:\n{}", world.agent_log())),
    });
    let all = || {
        let status = world.svclb(&["status", "--ready"]);
        let stderr = String::from_utf8_lossy(&status.stderr).into_owned();
        if status.status.success() { Ok(()) } else { Err(stderr) }
    };
    eventually("every hook is attached", all);
    for hook in ["connect4", "sock_release"] {
        let lines = world.agent_log().lines().filter(|line| line.contains(hook)).count();
        assert_eq!(lines, 1, "{hook}: {}", world.agent_log());
    }
}

#[test]
fn a_program_that_replaced_the_agents_own_on_its_link_is_replaced_again() {
    let (world, _a) = world("replaced");
    let ours = world.programs();
    let agent = world.take_agent();
    let pid = Pid::from_raw(agent.pid().cast_signed());
    world.put_agent(agent);
    let below = world.cgroup().join("below");
    fs::create_dir(&below).unwrap();
    let third_party = ThirdPartyProgram::attach(&below, false);
    // The agent is stopped, because it would replace the program again before the test could look.
    kill(pid, Signal::SIGSTOP).unwrap();
    third_party.replace(&world, "connect4");
    let (dialled, theirs) = (world.dial(Tcp, DIALLED).map(drop), world.programs());
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(
        dialled.unwrap_err().raw_os_error(),
        Some(libc::EACCES),
        "a connect must not be translated meanwhile"
    );
    assert!(theirs[0] != ours[0] && theirs[1..] == ours[1..], "{ours:?} {theirs:?}");
    eventually("the agent's program is restored", || match world.programs() {
        programs if programs == ours => Ok(()),
        programs => Err(format!("{programs:?}, expected {ours:?}: {}", world.agent_log())),
    });
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    eventually("the repair is logged once", || {
        let log = world.agent_log();
        match log.matches("the program on connect4 was another").count() {
            1 => Ok(()),
            _ => Err(log),
        }
    });
}

#[test]
fn a_removed_pin_is_restored_without_interruption() {
    let (world, _a) = world("unpinned");
    let pins = [
        world.pinned("links", "connect4"),
        world.pinned("links", "getpeername4"),
        world.pinned("maps", "svclb_slots"),
    ];
    let (rounds, ()) = world.assert_uninterrupted(Tcp, DIALLED, &["a"], || {
        let removed = pins.clone();
        world.inside(move || removed.iter().for_each(|pin| fs::remove_file(pin).unwrap()));
        eventually("the pins are restored", || {
            let looked = pins.clone();
            match world.inside(move || looked.iter().all(|pin| pin.exists())) {
                true => Ok(()),
                false => Err(world.agent_log()),
            }
        });
    });
    assert!(rounds >= at_least(10), "expected at least 10 connects, got {rounds}");
    // The restored pins work: the next agent adopts them.
    world.take_agent().kill();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    world.start_agent();
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn a_removed_pins_folder_is_restored_with_its_lock() {
    let (world, _a) = world("folder");
    let links = world.version().join("links");
    let (rounds, ()) = world.assert_uninterrupted(Tcp, DIALLED, &["a"], || {
        let root = world.pins();
        world.inside(move || fs::remove_dir_all(root).unwrap());
        eventually("the pins are restored", || {
            let links = links.clone();
            match world.inside(move || fs::read_dir(links).map_or(0, Iterator::count)) {
                9 => Ok(()),
                _ => Err(world.agent_log()),
            }
        });
        let stderr = refused(&world, second_agent(&world));
        assert!(stderr.contains("an agent runs"), "{stderr}");
    });
    assert!(rounds >= at_least(10), "expected at least 10 connects, got {rounds}");
    world.take_agent().kill();
    world.start_agent();
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn an_agent_exits_if_another_agent_has_its_pins_folder() {
    let (world, _a) = world("ousted");
    let first = world.take_agent();
    let pid = Pid::from_raw(first.pid().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    let root = world.pins();
    world.inside(move || fs::remove_dir_all(root).unwrap());
    // The programs of the first agent are still on the hooks of its cgroup, where another agent is
    // refused.
    let stderr = refused(&world, second_agent(&world));
    assert!(stderr.contains("no bpffs that is mounted here has their pins"), "{stderr}");
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    let elsewhere = world.cgroup().join("other");
    fs::create_dir(&elsewhere).unwrap();
    let mut other = Command::new(world.program());
    other.args(["agent", "--node", "other", "--from"]).arg(world.yaml());
    other.arg("--pins").arg(world.pins()).arg("--cgroup").arg(&elsewhere);
    let mut other = world.spawn(other);
    let links = || match world.names_in(&world.version().join("links")).len() {
        9 => Ok(()),
        number => Err(format!("{number} links")),
    };
    eventually("the other agent has the folder", links);
    kill(pid, Signal::SIGCONT).unwrap();
    assert!(!first.wait().success(), "{}", world.agent_log());
    assert!(world.agent_log().contains("an agent runs with the pins"), "{}", world.agent_log());
    assert!(other.try_wait().unwrap().is_none(), "the other agent must go on");
    other.kill().unwrap();
    other.wait().unwrap();
    links().unwrap();
}

#[test]
fn uninstall_leaves_no_link_no_map_and_no_program() {
    let (world, _a) = world("nothing-left");
    let ours = world.objects_in(&world.version());
    assert_eq!(ours.len(), 11 + 9 + 9, "{ours:?}");
    world.take_agent().stop();
    let output = world.svclb(&["uninstall"]);
    assert!(output.status.success(), "{output:?}");
    world.wait_until_freed(&ours);
}

#[test]
fn uninstall_removes_unfinished_maps_and_other_versions_too() {
    let (world, _a) = world("half-left");
    world.take_agent().kill();
    let (ours, older) = (world.version(), world.version_of(LAYOUT_VERSION - 1));
    let newer = world.version_of(LAYOUT_VERSION + 1);
    // Maps that are being filled, filled maps before the switch, and maps of another version.
    let others = [ours.join("next"), ours.join("commit"), older];
    for folder in &others {
        let folders = ["maps", "layouts", "links"].map(|it| folder.join(it));
        world.inside(move || folders.iter().for_each(|it| fs::create_dir_all(it).unwrap()));
        let name = "svclb_slots";
        let words = ["type", "array", "key", "4", "value", "8", "entries", "1", "name", name];
        let pin = folder.join("maps").join(name).into_os_string();
        world.bpftool(["map", "create"], [pin].into_iter().chain(words.map(OsString::from)));
    }
    // A later version has moved a link to its own pins, and does not run any more.
    world.move_pin(&world.pinned("links", "connect4"), &newer.join("links/connect4"));
    let folders = [ours, newer].into_iter().chain(others);
    let all: Vec<_> = folders.flat_map(|folder| world.objects_in(&folder)).collect();
    assert_eq!(all.len(), 11 + 9 + 9 + 3, "{all:?}");
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    let output = world.svclb(&["uninstall"]);
    assert!(output.status.success(), "{output:?}");
    let root = world.pins().parent().unwrap().to_owned();
    assert!(
        !world.names_in(&root).contains(&"svclb".to_owned()),
        "the folder of the pins must be removed"
    );
    assert!(world.request(Tcp, DIALLED).is_err(), "clients must not be translated any more");
    world.wait_until_freed(&all);
}

/// Runs an agent with other pins on another cgroup until it is ready, and returns its log.
fn run_elsewhere(world: &World, pins: &Path, cgroup: &Path) -> String {
    run_with(world, pins, cgroup, &[])
}

/// As [`run_elsewhere`], with more arguments.
fn run_with(world: &World, pins: &Path, cgroup: &Path, more: &[&str]) -> String {
    let mut command = Command::new("bash");
    // The agent ends cleanly, so its pins stay.
    command.args(["-c", "coproc timeout 120 \"$@\"; read -r said <&\"${COPROC[0]}\"; echo \"$said\"; kill $COPROC_PID; wait", "-"]);
    command.arg(world.program()).args(["agent", "--node", "other", "--from"]).arg(world.yaml());
    command.arg("--pins").arg(pins).arg("--cgroup").arg(cgroup).args(more);
    let output = world.output(command);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(stdout.starts_with("ready"), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn pins_of_others_in_the_same_folder_are_left_alone() {
    let (world, _a) = world("shared-folder");
    // The whole bpffs becomes the folder of other pins; the content that is already there belongs to
    // others.
    let root = world.pins().parent().unwrap().to_owned();
    world.take_agent().stop();
    let other_link = root.join("tc/links/connect4");
    world.move_pin(&world.pinned("links", "connect4"), &other_link);
    let elsewhere = world.cgroup().join("other");
    fs::create_dir(&elsewhere).unwrap();
    // The kernel has an entry of its own there too.
    let before = world.names_in(&root);
    assert!(["svclb", "tc"].iter().all(|name| before.contains(&(*name).to_owned())), "{before:?}");
    let with = |name: &str| {
        let mut names = before.clone();
        names.push(name.to_owned());
        names.sort();
        names
    };
    let (rounds, ()) = world.assert_uninterrupted(Tcp, DIALLED, &["a"], || {
        run_elsewhere(&world, &root, &elsewhere);
        assert_eq!(world.names_in(&root), with(&format!("v{LAYOUT_VERSION}")));
        let mut uninstall = Command::new(world.program());
        uninstall.arg("uninstall").arg("--pins").arg(&root);
        let output = world.output(uninstall);
        assert!(output.status.success(), "{output:?}");
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(stdout.contains(&format!("left {} alone", root.join("tc").display())), "{stdout}");
        assert_eq!(world.names_in(&root), before);
    });
    assert!(rounds >= at_least(10), "expected at least 10 connects, got {rounds}");
    assert_eq!(world.names_in(&world.version().join("maps")).len(), 11);
    world.move_pin(&other_link, &world.pinned("links", "connect4"));
    world.start_agent();
    world.settle();
    // A folder that is not on a bpffs is refused.
    let mut uninstall = Command::new(world.program());
    uninstall.arg("uninstall").arg("--pins").arg(world.yaml());
    let stderr = refused(&world, uninstall);
    assert!(stderr.contains("is not on a bpffs"), "{stderr}");
}

#[test]
fn clients_are_served_while_the_bpffs_is_unmounted() {
    let (world, _a) = world("unmounted");
    let root = world.pins().parent().unwrap().to_owned();
    let mount_at = |what: &'static str, flags| {
        let root = root.clone();
        world.inside(move || mount(Some(what), &root, Some(what), flags, None::<&str>).unwrap());
    };
    let unmount = || {
        let root = root.clone();
        world.inside(move || umount2(&root, MntFlags::MNT_DETACH).unwrap());
    };
    let (rounds, ()) =
        world.assert_uninterrupted(Tcp, DIALLED, &["a"], || {
            // The folder below the mount is writable, or not.
            for is_read_only in [false, true] {
                let log_start = world.agent_log().len();
                unmount();
                if is_read_only {
                    mount_at("tmpfs", MsFlags::MS_RDONLY);
                }
                eventually("the agent logs that it cannot restore its pins", || {
                    match world.agent_log().split_off(log_start) {
                        log if log.contains("cannot restore") && log.contains("bpffs") => Ok(()),
                        log => Err(log),
                    }
                });
                // The agent checks its pins every 2 s.
                holds_for(Duration::from_secs(5), "nothing is created below the mount", || {
                    match &world.names_in(&root)[..] {
                        [] => Ok(()),
                        names => Err(format!("{names:?}")),
                    }
                });
                let log = world.agent_log().split_off(log_start);
                assert_eq!(log.matches("cannot restore").count(), 1, "{log}");
                if is_read_only {
                    unmount();
                }
                mount_at("bpf", MsFlags::empty());
                eventually("the pins are restored", || {
                    let there = ["links", "maps", "layouts"]
                        .map(|folder| world.names_in(&world.version().join(folder)).len());
                    if there == [9, 11, 11] { Ok(()) } else { Err(format!("{there:?}")) }
                });
            }
            let stderr = refused(&world, second_agent(&world));
            assert!(stderr.contains("an agent runs"), "{stderr}");
        });
    assert!(rounds >= at_least(10), "expected at least 10 connects, got {rounds}");
    world.take_agent().kill();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    world.start_agent();
    world.settle();
}
