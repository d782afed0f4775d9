//! An agent starts on a cgroup whose hooks run programs of svclb that belong to other pins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use svclb_tests::{Backend, Tcp, ThirdPartyProgram, World, at_least, eventually};

use super::{DIALLED, refused, run_elsewhere, run_with, world};

/// The command of an agent on the world's cgroup with other pins.
fn agent_with(world: &World, pins: &Path, more: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg("120").arg(world.program()).arg("agent").arg("--from").arg(world.yaml());
    command.args(["--node", "other"]).arg("--pins").arg(pins);
    command.arg("--cgroup").arg(world.cgroup()).args(more);
    command
}

fn other_pins(world: &World) -> PathBuf {
    world.pins().with_file_name("other")
}

/// The number of programs on connect4 of the cgroup itself.
fn on_connect4(cgroup: &Path) -> usize {
    let third_party = ThirdPartyProgram::attach(cgroup, false);
    let all = third_party.all().len() - 1;
    assert!(third_party.detach());
    all
}

/// Moves the Service to another backend; no agent runs that would write it.
fn move_to_b(world: &World) -> Backend {
    let b = world.backend("b", Tcp, "10.244.0.2:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&b]).write();
    b
}

/// The finding of `svclb check` about other programs: state and text.
fn others(world: &World, pins: &Path) -> (String, String) {
    let mut check = Command::new(world.program());
    check.args(["check", "-o", "json", "--pins"]).arg(pins);
    let output = world.output(check);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = found.as_array().unwrap().iter().find(|it| it["check"] == "others").unwrap();
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (text("state"), text("found"))
}

#[test]
fn an_agent_is_refused_if_an_ended_agent_left_programs_with_other_pins() {
    let (world, _a) = world("foreign-dead");
    world.take_agent().kill();
    let (before, other) = (world.programs(), other_pins(&world));
    let stderr = refused(&world, agent_with(&world, &other, &[]));
    for word in [&format!("with the pins {} are", world.pins().display()), "--replace", "uninstall"]
    {
        assert!(stderr.contains(word), "expected {word:?} in {stderr}");
    }
    assert_eq!((world.programs(), on_connect4(world.cgroup())), (before, 1));
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    // With the same pins an agent starts as usual.
    world.start_agent();
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn with_replace_an_agent_replaces_programs_of_an_ended_one_without_interruption() {
    let (world, _a) = world("foreign-replace");
    world.take_agent().kill();
    let (other, _b) = (other_pins(&world), move_to_b(&world));
    let ours = world.objects_in(&world.version());
    let (rounds, ()) = world.assert_uninterrupted(Tcp, DIALLED, &["a", "b"], || {
        let log = run_with(&world, &other, world.cgroup(), &["--replace"]);
        assert!(log.contains("replaced the programs"), "{log}");
    });
    assert!(rounds >= at_least(10), "expected at least 10 connects, got {rounds}");
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "b");
    assert_eq!(on_connect4(world.cgroup()), 1);
    world.wait_until_freed(&ours);
    let root = world.pins();
    assert!(!world.inside(move || root.exists()), "the old pins must be removed");
    // With nothing to replace, the flag has no effect.
    run_with(&world, &other, world.cgroup(), &["--replace"]);
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "b");
}

#[test]
fn an_agent_is_refused_if_another_runs_with_other_pins_even_with_replace() {
    let (world, _a) = world("foreign-living");
    let first = world.take_agent();
    let holder = format!("{} (process {})", world.pins().display(), first.pid());
    for more in [&[][..], &["--replace"]] {
        let stderr = refused(&world, agent_with(&world, &other_pins(&world), more));
        assert!(stderr.contains("another agent runs") && stderr.contains(&holder), "{stderr}");
    }
    assert_eq!(on_connect4(world.cgroup()), 1);
    world.put_agent(first);
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn programs_of_svclb_on_a_cgroup_above_are_reported_and_prevent_no_start() {
    let (world, _a) = world("foreign-above");
    let (below, other) = (world.cgroup().join("below"), other_pins(&world));
    fs::create_dir(&below).unwrap();
    let log = run_elsewhere(&world, &other, &below);
    assert!(log.contains("attached to a cgroup above"), "{log}");
    let (state, found) = others(&world, &other);
    assert_eq!(state, "warning", "{found}");
    assert!(found.contains("cgroup above") && found.contains("svclb_connect4"), "{found}");
    // For the agent above, the other one is on a cgroup below, which is no error either.
    let (state, found) = others(&world, &world.pins());
    assert!(state == "warning" && found.contains(below.to_str().unwrap()), "{state}: {found}");
    world.settle();
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
}

#[test]
fn a_third_party_program_with_svclbs_name_prevents_no_start() {
    let (world, _a) = world("foreign-name");
    world.take_agent().kill();
    let third_party = ThirdPartyProgram::attach_by_name(world.cgroup(), "svclb_connect4");
    let output = world.svclb(&["uninstall"]);
    assert!(output.status.success(), "{output:?}");
    run_elsewhere(&world, &other_pins(&world), world.cgroup());
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    assert_eq!(third_party.all().len(), 2);
    let (state, found) = others(&world, &other_pins(&world));
    assert!(state == "warning" && found.contains("(svclb_connect4)"), "{state}: {found}");
}

#[test]
fn programs_without_visible_pins_are_refused_while_a_process_holds_them() {
    let (world, _a) = world("foreign-unpinned");
    let root = world.pins().parent().unwrap().to_owned();
    let first = world.take_agent();
    let pid = Pid::from_raw(first.pid().cast_signed());
    // The agent is stopped, because it would pin them again.
    kill(pid, Signal::SIGSTOP).unwrap();
    world.inside(move || {
        umount2(&root, MntFlags::MNT_DETACH).unwrap();
        mount(Some("bpf"), &root, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
    });
    assert_eq!(
        world.request(Tcp, DIALLED).unwrap(),
        "a",
        "the links must stay while a process holds them"
    );
    for (pins, more) in [(world.pins(), &[][..]), (other_pins(&world), &["--replace"])] {
        let stderr = refused(&world, agent_with(&world, &pins, more));
        assert!(stderr.contains("no bpffs that is mounted here has their pins"), "{stderr}");
    }
    assert_eq!(on_connect4(world.cgroup()), 1);
    // The programs go with the process; a later start waits a moment for that.
    first.kill();
    run_elsewhere(&world, &other_pins(&world), world.cgroup());
    assert_eq!(world.request(Tcp, DIALLED).unwrap(), "a");
    eventually("only the new program is left", || match on_connect4(world.cgroup()) {
        1 => Ok(()),
        number => Err(format!("{number} programs on connect4")),
    });
}
