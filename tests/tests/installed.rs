//! What an agent has installed: it is one agent's, it is put back when somebody takes it away, and
//! `svclb uninstall` leaves nothing of it.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the set-up of a test: what fails in it fails the test"
)]

#[path = "installed/switch.rs"]
mod switch;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use svclb_common::layout::LAYOUT_VERSION;
use svclb_tests::{Backend, Tcp, World, at_least, eventually, holds_for};

const DIALLED: &str = "10.96.0.10:80";

/// A world whose only Service is answered by `a`.
fn world(name: &str) -> (World, Backend) {
    let world = World::new(name);
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    (world, a)
}

/// What a command that must fail says.
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

fn pinned(world: &World, kind: &str, name: &str) -> std::path::PathBuf {
    world.pins().join(format!("v{LAYOUT_VERSION}")).join(kind).join(name)
}

fn bpftool(world: &World, arguments: &[&str], pin: &Path) {
    let mut command = Command::new("bpftool");
    command.args(arguments).arg("pinned").arg(pin);
    let output = world.output(command);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_second_agent_is_refused_and_says_who_the_first_is() {
    let (world, _a) = world("second");
    let first = world.take_agent();
    let who = format!("(process {})", first.pid());
    for _ in 0..3 {
        let said = refused(&world, second_agent(&world));
        assert!(said.contains("an agent runs") && said.contains(&who), "{said}");
    }
    // Nobody can take away below it what it would put back.
    let mut uninstall = Command::new(world.program());
    uninstall.arg("uninstall").arg("--pins").arg(world.pins());
    let said = refused(&world, uninstall);
    assert!(said.contains("an agent runs") && said.contains(&who), "{said}");
    assert_eq!(world.ask(Tcp, DIALLED).unwrap(), "a");
    // The lock dies with its holder.
    first.kill();
    world.start_agent();
    world.settle();
    assert_eq!(world.ask(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn a_hook_that_somebody_detached_is_attached_again() {
    let (world, _a) = world("detached");
    let agent = world.take_agent();
    let pid = Pid::from_raw(i32::try_from(agent.pid()).unwrap());
    world.put_agent(agent);
    // It would be there again before anybody has looked.
    kill(pid, Signal::SIGSTOP).unwrap();
    for hook in ["connect4", "sock_release"] {
        bpftool(&world, &["link", "detach"], &pinned(&world, "links", hook));
    }
    let dialled = world.dial(Tcp, DIALLED).map(drop);
    kill(pid, Signal::SIGCONT).unwrap();
    let error = dialled.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    eventually("clients are translated again", || match world.ask(Tcp, DIALLED) {
        Ok(name) if name == "a" => Ok(()),
        other => Err(format!("{other:?}; the log:\n{}", world.agent_log())),
    });
    let all = || {
        let status = world.svclb(&["status", "--ready"]);
        let said = String::from_utf8_lossy(&status.stderr).into_owned();
        if status.status.success() { Ok(()) } else { Err(said) }
    };
    eventually("every hook is attached", all);
    for hook in ["connect4", "sock_release"] {
        let told = world.agent_log().lines().filter(|line| line.contains(hook)).count();
        assert_eq!(told, 1, "{hook}: {}", world.agent_log());
    }
}

#[test]
fn a_pin_that_somebody_removed_is_there_again_and_no_connect_misses_it() {
    let (world, _a) = world("unpinned");
    let pins = [
        pinned(&world, "links", "connect4"),
        pinned(&world, "links", "getpeername4"),
        pinned(&world, "maps", "svclb_slots"),
    ];
    let (rounds, ()) = world.without_a_gap(Tcp, DIALLED, &["a"], || {
        let removed = pins.clone();
        world.inside(move || removed.iter().for_each(|pin| fs::remove_file(pin).unwrap()));
        eventually("the pins are there again", || {
            let looked = pins.clone();
            match world.inside(move || looked.iter().all(|pin| pin.exists())) {
                true => Ok(()),
                false => Err(world.agent_log()),
            }
        });
    });
    assert!(rounds >= at_least(10), "the client connected {rounds} times only");
    // They are good pins: the next agent takes everything over.
    world.take_agent().kill();
    assert_eq!(world.ask(Tcp, DIALLED).unwrap(), "a");
    world.start_agent();
    world.settle();
    assert_eq!(world.ask(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn the_folder_of_the_pins_is_there_again_with_its_lock() {
    let (world, _a) = world("folder");
    let links = world.pins().join(format!("v{LAYOUT_VERSION}")).join("links");
    let (rounds, ()) = world.without_a_gap(Tcp, DIALLED, &["a"], || {
        let root = world.pins();
        world.inside(move || fs::remove_dir_all(root).unwrap());
        eventually("the pins are there again", || {
            let links = links.clone();
            match world.inside(move || fs::read_dir(links).map_or(0, Iterator::count)) {
                9 => Ok(()),
                _ => Err(world.agent_log()),
            }
        });
        let said = refused(&world, second_agent(&world));
        assert!(said.contains("an agent runs"), "{said}");
    });
    assert!(rounds >= at_least(10), "the client connected {rounds} times only");
    world.take_agent().kill();
    world.start_agent();
    world.settle();
    assert_eq!(world.ask(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn an_agent_whose_folder_another_has_meanwhile_ends_and_leaves_that_one_alone() {
    let (world, _a) = world("ousted");
    let first = world.take_agent();
    let pid = Pid::from_raw(first.pid().cast_signed());
    let (rounds, ()) = world.without_a_gap(Tcp, DIALLED, &["a"], || {
        kill(pid, Signal::SIGSTOP).unwrap();
        let root = world.pins();
        world.inside(move || fs::remove_dir_all(root).unwrap());
        world.start_agent();
        kill(pid, Signal::SIGCONT).unwrap();
        assert!(!first.wait().success(), "{}", world.agent_log());
    });
    assert!(rounds >= at_least(10), "the client connected {rounds} times only");
    assert!(world.agent_log().contains("an agent runs with the pins"), "{}", world.agent_log());
    world.settle();
    assert_eq!(world.ask(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn uninstall_leaves_no_link_no_map_and_no_program() {
    let (world, _a) = world("nothing-left");
    let objects = |kind: &str| -> Vec<u64> {
        let mut command = Command::new("bpftool");
        command.args(["-j", kind, "show"]);
        let output = world.output(command);
        assert!(output.status.success(), "{output:?}");
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        shown.as_array().unwrap().iter().map(|it| it["id"].as_u64().unwrap()).collect()
    };
    // Those of this agent, by their pins: others on this machine have such names too.
    let id = |kind: &str, pin: &Path| -> u64 {
        let mut command = Command::new("bpftool");
        command.args(["-j", kind, "show", "pinned"]).arg(pin);
        let output = world.output(command);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        shown["id"].as_u64().unwrap_or_else(|| panic!("{shown}"))
    };
    let mut ours: Vec<(&str, u64)> = Vec::new();
    for (folder, kind) in [("maps", "map"), ("links", "link")] {
        let path = world.pins().join(format!("v{LAYOUT_VERSION}")).join(folder);
        let names: Vec<_> = world.inside(move || {
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect()
        });
        for pin in names {
            ours.push((kind, id(kind, &pin)));
            if kind == "link" {
                let mut command = Command::new("bpftool");
                command.args(["-j", "link", "show", "pinned"]).arg(&pin);
                let shown: Value = serde_json::from_slice(&world.output(command).stdout).unwrap();
                ours.push(("prog", shown["prog_id"].as_u64().unwrap()));
            }
        }
    }
    assert_eq!(ours.len(), 10 + 9 + 9, "{ours:?}");
    world.take_agent().stop();
    let output = world.svclb(&["uninstall"]);
    assert!(output.status.success(), "{output:?}");
    eventually("the kernel has forgotten all of it", || {
        let left: Vec<_> =
            ours.iter().filter(|(kind, id)| objects(kind).contains(id)).copied().collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// Runs an agent over other pins, on another cgroup, until it is ready.
fn run_elsewhere(world: &World, pins: &Path, cgroup: &Path) {
    let mut command = Command::new("bash");
    // The end of the agent is clean: its pins stay.
    command.args(["-c", "coproc timeout 120 \"$@\"; read -r said <&\"${COPROC[0]}\"; echo \"$said\"; kill $COPROC_PID; wait", "-"]);
    command.arg(world.program()).args(["agent", "--node", "other", "--from"]).arg(world.yaml());
    command.arg("--pins").arg(pins).arg("--cgroup").arg(cgroup);
    let output = world.output(command);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("ready"), "{output:?}");
}

/// What lies in a folder of the pins, by name.
fn names_in(world: &World, folder: &Path) -> Vec<String> {
    let folder = folder.to_owned();
    world.inside(move || {
        let entries = fs::read_dir(&folder).into_iter().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    })
}

fn version(world: &World) -> PathBuf {
    world.pins().join(format!("v{LAYOUT_VERSION}"))
}

fn move_pin(world: &World, from: &Path, to: &Path) {
    let (from, to) = (from.to_owned(), to.to_owned());
    world.inside(move || {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(from, to).unwrap();
    });
}

#[test]
fn what_is_pinned_in_the_same_folder_by_others_is_left_alone() {
    let (world, _a) = world("shared-folder");
    // The whole bpffs is the folder of other pins, and what is in it somebody else's.
    let root = world.pins().parent().unwrap().to_owned();
    world.take_agent().stop();
    let strange = root.join("tc/links/connect4");
    move_pin(&world, &pinned(&world, "links", "connect4"), &strange);
    let elsewhere = world.cgroup().join("other");
    fs::create_dir(&elsewhere).unwrap();
    // The kernel has something of its own there, too.
    let before = names_in(&world, &root);
    assert!(["svclb", "tc"].iter().all(|name| before.contains(&(*name).to_owned())), "{before:?}");
    let with = |name: &str| {
        let mut names = before.clone();
        names.push(name.to_owned());
        names.sort();
        names
    };
    let (rounds, ()) = world.without_a_gap(Tcp, DIALLED, &["a"], || {
        run_elsewhere(&world, &root, &elsewhere);
        assert_eq!(names_in(&world, &root), with(&format!("v{LAYOUT_VERSION}")));
        let mut uninstall = Command::new(world.program());
        uninstall.arg("uninstall").arg("--pins").arg(&root);
        let output = world.output(uninstall);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(&format!("left {} alone", root.join("tc").display())), "{said}");
        assert_eq!(names_in(&world, &root), before);
    });
    assert!(rounds >= at_least(10), "the client connected {rounds} times only");
    assert_eq!(names_in(&world, &version(&world).join("maps")).len(), 10);
    move_pin(&world, &strange, &pinned(&world, "links", "connect4"));
    world.start_agent();
    world.settle();
    // A folder that is on no bpffs is nobody's to empty.
    let mut uninstall = Command::new(world.program());
    uninstall.arg("uninstall").arg("--pins").arg(world.yaml());
    let said = refused(&world, uninstall);
    assert!(said.contains("is not on a bpffs"), "{said}");
}

#[test]
fn a_bpffs_that_somebody_unmounted_is_waited_for_while_clients_are_served() {
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
    let (rounds, ()) = world.without_a_gap(Tcp, DIALLED, &["a"], || {
        // What is beneath can be written to, or cannot.
        for beneath in [false, true] {
            let told = world.agent_log().len();
            unmount();
            if beneath {
                mount_at("tmpfs", MsFlags::MS_RDONLY);
            }
            eventually("the agent says so", || match world.agent_log().split_off(told) {
                said if said.contains("cannot put back") && said.contains("bpffs") => Ok(()),
                said => Err(said),
            });
            // It looks every 2 s.
            holds_for(Duration::from_secs(5), "nothing is made beneath", || {
                match &names_in(&world, &root)[..] {
                    [] => Ok(()),
                    names => Err(format!("{names:?}")),
                }
            });
            let said = world.agent_log().split_off(told);
            assert_eq!(said.matches("cannot put back").count(), 1, "{said}");
            if beneath {
                unmount();
            }
            mount_at("bpf", MsFlags::empty());
            eventually("the pins are there again", || {
                let there = ["links", "maps", "layouts"]
                    .map(|folder| names_in(&world, &version(&world).join(folder)).len());
                if there == [9, 10, 10] { Ok(()) } else { Err(format!("{there:?}")) }
            });
        }
        let said = refused(&world, second_agent(&world));
        assert!(said.contains("an agent runs"), "{said}");
    });
    assert!(rounds >= at_least(10), "the client connected {rounds} times only");
    world.take_agent().kill();
    assert_eq!(world.ask(Tcp, DIALLED).unwrap(), "a");
    world.start_agent();
    world.settle();
}
