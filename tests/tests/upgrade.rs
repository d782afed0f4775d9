//! Programs and maps are replaced under load: by the same programs, over maps of another layout, over
//! what somebody broke. No connect is refused or left alone, and what sockets and clients remember
//! survives where it can.
#![expect(clippy::unwrap_used, reason = "the set-up of a test: what fails in it fails the test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use svclb_common::layout::LAYOUT_VERSION;
use svclb_tests::{Backend, Remembered, Tcp, Udp, World, at_least};

const HELLO: &str = "10.96.0.10:80";

/// A world with a Service of each kind that remembers something.
fn stage(name: &str) -> (World, Vec<Backend>) {
    let world = World::new(name);
    let backends = Remembered::prepare(&world);
    (world, backends)
}

/// The folder of the pins in use, or of another version.
fn version(world: &World, number: u32) -> PathBuf {
    world.pins().join(format!("v{number}"))
}

/// What somebody did to the pins while no agent ran.
type Breaks = fn(&World);

fn unpin(world: &World, name: &'static str) {
    let pin = version(world, LAYOUT_VERSION).join("maps").join(name);
    world.inside(move || fs::remove_file(pin).unwrap());
}

fn relabel(world: &World, name: &'static str, text: Option<&'static str>) {
    let label = version(world, LAYOUT_VERSION).join("layouts").join(name);
    world.inside(move || {
        fs::remove_file(&label).unwrap();
        if let Some(text) = text {
            symlink(text, &label).unwrap();
        }
    });
}

fn other_flags(world: &World) {
    unpin(world, "svclb_index");
    // As large as ours, but it cannot be mapped.
    let mut command = Command::new("bpftool");
    command.args(["map", "create"]);
    command.arg(version(world, LAYOUT_VERSION).join("maps").join("svclb_index"));
    command.args(["type", "array", "key", "4", "value", "64", "entries", "4096"]);
    command.args(["name", "svclb_index"]);
    let output = world.output(command);
    assert!(output.status.success(), "{output:?}");
}

fn older_version(world: &World) {
    let (ours, other) = (version(world, LAYOUT_VERSION), version(world, LAYOUT_VERSION - 1));
    world.inside(move || fs::rename(ours, other).unwrap());
}

#[test]
fn maps_that_cannot_be_used_are_replaced_and_no_connect_notices() {
    // What was done, whether sockets and clients are still known, and what the log says.
    let rows: [(&str, Breaks, bool, bool, &str); 9] = [
        ("other-flags", other_flags, true, true, "another type, key size, value size or flags"),
        ("gone", |world| unpin(world, "svclb_slots"), true, true, "svclb_slots is missing"),
        ("label", |world| relabel(world, "svclb_index", Some("Line 8: a 0")), true, true, "layout"),
        ("no-label", |world| relabel(world, "svclb_meta", None), true, true, "no label"),
        ("version", older_version, true, true, "of another version"),
        (
            "origins",
            |world| relabel(world, "svclb_origins", Some("-")),
            false,
            true,
            "svclb_origins",
        ),
        ("no-origins", |world| unpin(world, "svclb_origins"), false, true, "svclb_origins"),
        ("affinity", |world| relabel(world, "svclb_affinity", None), true, false, "svclb_affinity"),
        // Without the names that belong to ids nobody knows whose affinity it is.
        ("services", |world| relabel(world, "svclb_services", None), true, false, "svclb_affinity"),
    ];
    for (row, breaks, sockets, clients, said) in rows {
        let (world, _backends) = stage(&format!("upgrade-{row}"));
        let remembered = Remembered::of(&world);
        let (rounds, ()) = world.without_a_gap(Tcp, HELLO, || {
            world.take_agent().stop();
            breaks(&world);
            world.start_agent();
            world.settle();
        });
        assert!(rounds >= at_least(10), "{row}: the client connected {rounds} times only");
        let log = world.agent_log();
        assert!(log.lines().any(|line| line.contains(said)), "{row}: no {said:?} in {log}");
        if sockets {
            remembered.sockets_do();
        }
        if clients {
            remembered.clients_do(&world);
        }
        assert_eq!(world.ask(Tcp, HELLO).unwrap(), "a", "{row}");
        // It is a whole set: the next agent takes it over without a word.
        let before = log.len();
        world.take_agent().kill();
        world.start_agent();
        world.settle();
        let said = world.agent_log()[before..].to_owned();
        assert!(!said.contains("cannot be used"), "{row}: {said}");
        let (old, root) = (version(&world, LAYOUT_VERSION - 1), world.pins());
        let left = world.inside(move || (old.exists(), fs::read_dir(root).unwrap().count()));
        assert_eq!(left, (false, 1), "{row}: only this version's pins are left");
    }
}

#[test]
fn programs_are_replaced_100_times_under_load_and_every_connect_is_translated() {
    const REPLACEMENTS: u32 = 100;
    let (world, _backends) = stage("replaced");
    let remembered = Remembered::of(&world);
    let done = AtomicBool::new(false);
    let connects: u32 = thread::scope(|scope| {
        let client = |to: &'static str, protocol| {
            let (world, done) = (&world, &done);
            move || {
                let mut connects = 0_u32;
                while !done.load(Ordering::Relaxed) {
                    world.ask(protocol, to).unwrap_or_else(|error| {
                        panic!("{to} after {connects} connects: {error}");
                    });
                    connects += 1;
                }
                connects
            }
        };
        let clients = [(HELLO, Tcp), (HELLO, Tcp), (Remembered::KEPT, Tcp), (Remembered::DNS, Udp)];
        let clients = clients.map(|(to, protocol)| scope.spawn(client(to, protocol)));
        let replaced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..REPLACEMENTS {
                world.take_agent().kill();
                world.start_agent();
            }
        }));
        done.store(true, Ordering::Relaxed);
        let connects = clients.map(|client| client.join().unwrap()).iter().sum();
        replaced.unwrap();
        connects
    });
    assert!(connects > 4 * REPLACEMENTS, "the clients connected {connects} times only");
    remembered.sockets_do();
    remembered.clients_do(&world);
}

#[test]
fn origins_that_are_taken_over_keep_their_size_whatever_new_ones_would_have() {
    let (world, _backends) = stage("upgrade-origins");
    let remembered = Remembered::of(&world);
    world.take_agent().stop();
    relabel(&world, "svclb_index", None);
    let yaml = world.yaml();
    world.start_agent_with(&["--from", yaml.to_str().unwrap(), "--origins", "256"]);
    remembered.sockets_do();
    assert_eq!(world.status()["origins"], 65_536);
    world.take_agent().stop();
    let told = world.agent_log().len();
    world.start_agent();
    let log = world.agent_log().split_off(told);
    assert!(!log.contains("cannot be used"), "{log}");
    remembered.sockets_do();
    remembered.clients_do(&world);
}
