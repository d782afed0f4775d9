//! Programs are replaced, over the same maps or over new ones. Obstacles are found before anything is
//! changed, or delay only what they concern.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use svclb_common::layout::LAYOUT_VERSION;
use svclb_tests::{
    Backend, Faults, Operation, Tcp, ThirdPartyProgram, World, at_least, eventually,
};

use super::{DIALLED, refused, run_elsewhere, second_agent, world};

/// Writes more Services than the small maps of [`small`] hold.
fn outgrow(world: &World, backend: &Backend) {
    for number in 0..100 {
        let service = world.service(&format!("default/more-{number}"));
        service.cluster_ip(&format!("10.96.1.{number}")).port(80, Tcp).backends([backend]).write();
    }
}

/// As [`world`], with small maps.
fn small(name: &str, faults: Option<&Faults>) -> (World, Backend) {
    let world = World::builder(name).agent_args(["--slots", "64"]).without_agent().start();
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).write();
    let agent = world.launch_agent(faults);
    agent.wait_until_ready();
    world.put_agent(agent);
    world.settle();
    (world, a)
}

fn slots(world: &World) -> u64 {
    world.status()["slots"].as_u64().unwrap()
}

#[test]
fn wrong_links_are_found_before_any_program_is_replaced() {
    let (world, _a) = world("strange-links");
    world.take_agent().stop();
    let (elsewhere, other) = (world.cgroup().join("other"), world.pins().with_file_name("other"));
    fs::create_dir(&elsewhere).unwrap();
    run_elsewhere(&world, &other, &elsewhere);
    let link = |hook: &str| world.pinned("links", hook);
    let aside = |hook: &str| world.version().with_file_name(format!("aside-{hook}"));
    let others = |hook: &str| other.join(format!("v{LAYOUT_VERSION}/links/{hook}"));
    world.relabel("svclb_index", None);
    // The hook with a wrong pin, where that link comes from, and the words of the message.
    let rows = [
        ("connect6", others("connect6"), "attached to another cgroup"),
        ("connect4", link("sendmsg4"), "sendmsg4 is the link of another hook"),
    ];
    for (hook, from, expected) in rows {
        world.move_pin(&link(hook), &aside(hook));
        world.move_pin(&from, &link(hook));
        if !from.starts_with(&other) {
            world.move_pin(&aside(hook), &from);
        }
        let before = world.programs();
        let stderr = refused(&world, second_agent(&world));
        assert!(stderr.contains(expected), "{hook}: {stderr}");
        assert_eq!(world.programs(), before, "{hook}");
        assert_eq!(world.names_in(&world.version()), ["layouts", "links", "maps"]);
        if !from.starts_with(&other) {
            world.move_pin(&from, &aside(hook));
        }
        world.move_pin(&link(hook), &from);
        world.move_pin(&aside(hook), &link(hook));
        assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a", "{hook}");
    }
    world.start_agent();
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn maps_grow_while_a_hook_cannot_be_attached() {
    let (world, a) = small("grows-unhooked", None);
    let (before, slots_before) = (world.programs(), slots(&world));
    let agent = world.take_agent();
    let pid = Pid::from_raw(agent.pid().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    world.detach("connect4");
    let third_party = ThirdPartyProgram::attach(world.cgroup(), true);
    outgrow(&world, &a);
    kill(pid, Signal::SIGCONT).unwrap();
    eventually("the maps have grown", || match slots(&world) {
        slots if slots > slots_before => Ok(()),
        _ => Err(world.agent_log()),
    });
    eventually("the agent logs the exclusive program", || match world.agent_log() {
        log if log.contains("an exclusive program is attached to connect4") => Ok(()),
        log => Err(log),
    });
    assert!(world.dial(Tcp, DIALLED).is_err());
    assert!(third_party.detach());
    for dialled in [DIALLED, "10.96.1.99:80"] {
        eventually("clients are translated again", || match world.request(Tcp, dialled) {
            Ok(name) if name == "a" => Ok(()),
            other => Err(format!("{other:?}; the log:\n{}", world.agent_log())),
        });
    }
    world.settle();
    let after = world.programs();
    assert!(after.iter().all(|id| !before.contains(id)), "{before:?} {after:?}");
    drop(agent);
}

#[test]
fn a_program_that_cannot_be_replaced_with_the_maps_is_replaced_later() {
    // The number of hooks that already have the new program, and the agent's message. Without any, the
    // old maps stay in use.
    let rows = [
        (0, "these stay, and it is tried again: cannot replace the program on sock_release"),
        (4, "not every hook runs the new programs yet; trying again"),
    ];
    for (skip, expected) in rows {
        let faults = Faults::new();
        let (world, a) = small(&format!("grows-later-{skip}"), Some(&faults));
        let (before, slots_before) = (world.programs(), slots(&world));
        let (rounds, ()) = world.assert_uninterrupted(Tcp, DIALLED, &["a"], || {
            faults.fail_after(skip, Operation::UpdateLink, "", libc::ENOMEM, 2);
            outgrow(&world, &a);
            world.settle();
            eventually("every hook runs another program", || {
                let after = world.programs();
                let is_done = after.iter().all(|id| !before.contains(id));
                if is_done { Ok(()) } else { Err(format!("{after:?} {}", world.agent_log())) }
            });
        });
        assert!(rounds >= at_least(10), "{skip}: expected at least 10 connects, got {rounds}");
        assert!(slots(&world) > slots_before, "{skip}");
        assert_eq!(faults.clear().len(), 2, "{skip}: {}", world.agent_log());
        assert!(world.agent_log().contains(expected), "{skip}: {}", world.agent_log());
        assert_eq!(world.names_in(&world.version()), ["layouts", "links", "maps"], "{skip}");
        world.take_agent().kill();
        assert_eq!(world.request(Tcp, "10.96.1.99:80").unwrap(), "a", "{skip}");
    }
}

#[test]
fn a_start_that_attaches_no_program_changes_nothing() {
    let faults = Faults::new();
    let world = World::builder("untouched").without_agent().start();
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).write();
    let fails = |operation, name: &str| {
        faults.fail(operation, name, libc::ENOMEM, 1);
        assert!(!world.launch_agent(Some(&faults)).wait().success());
        assert_eq!(faults.clear().len(), 1, "{}", world.agent_log());
    };
    // The first start, after half of its links are pinned.
    fails(Operation::Pin, "connect4");
    assert_eq!(world.names_in(&world.version()), ["layouts", "links", "maps"]);
    for folder in ["links", "maps"] {
        assert_eq!(world.names_in(&world.version().join(folder)), [""; 0], "{folder}");
    }
    world.start_agent();
    world.settle();
    // A later start over maps of another layout.
    world.take_agent().stop();
    world.relabel("svclb_index", None);
    let before = world.programs();
    fails(Operation::UpdateLink, "");
    assert_eq!(world.programs(), before);
    assert_eq!(world.names_in(&world.version()), ["layouts", "links", "maps"]);
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    world.start_agent();
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn leftovers_of_a_rolled_back_upgrade_are_removed_at_the_next_start() {
    let (world, _a) = world("rolled-back");
    let newer = world.version_of(LAYOUT_VERSION + 1);
    let (rounds, ()) = world.assert_uninterrupted(Tcp, DIALLED, &["a"], || {
        world.take_agent().stop();
        // The newer version had filled its maps, and had already moved one of the links.
        let filled = newer.join("commit/maps");
        world.inside(move || fs::create_dir_all(filled).unwrap());
        world.move_pin(&world.pinned("links", "connect4"), &newer.join("links/connect4"));
        world.start_agent();
        world.settle();
    });
    assert!(rounds >= at_least(10), "the client connected {rounds} times only");
    assert_eq!(world.names_in(&world.pins()), [format!("v{LAYOUT_VERSION}")]);
    assert_eq!(world.names_in(&world.version().join("links")).len(), 9);
    world.take_agent().kill();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}
