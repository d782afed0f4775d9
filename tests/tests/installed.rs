//! What an agent has installed: it is one agent's, it is put back when somebody takes it away, and
//! `svclb uninstall` leaves nothing of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use svclb_common::layout::LAYOUT_VERSION;
use svclb_tests::{Tcp, World, at_least, eventually};

const DIALLED: &str = "10.96.0.10:80";

/// A world whose only Service is answered by `a`.
fn world(name: &str) -> (World, svclb_tests::Backend) {
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
    command.arg("20").arg(world.program()).arg("agent").arg("--from").arg(world.yaml());
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
    for hook in ["connect4", "sock_release"] {
        bpftool(&world, &["link", "detach"], &pinned(&world, "links", hook));
    }
    let error = world.dial(Tcp, DIALLED).map(drop).unwrap_err();
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
    let (rounds, ()) = world.without_a_gap(Tcp, DIALLED, || {
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
    let (rounds, ()) = world.without_a_gap(Tcp, DIALLED, || {
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
    let (rounds, ()) = world.without_a_gap(Tcp, DIALLED, || {
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
