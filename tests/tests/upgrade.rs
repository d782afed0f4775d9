//! Programs and maps are replaced under load: by the same programs, over maps of another layout, over
//! what somebody broke. No connect is refused or left alone, and what sockets and clients remember
//! survives where it can.

use std::fs;

use svclb_common::layout::LAYOUT_VERSION;
use svclb_tests::{Backend, ContinuousClient, HOOKS, StickyClients, Tcp, Udp, World, at_least};

const HELLO: &str = "10.96.0.10:80";

/// A world with a Service of each kind that remembers something.
fn stage(name: &str) -> (World, Vec<Backend>) {
    let world = World::new(name);
    let backends = StickyClients::prepare(&world);
    (world, backends)
}

/// What somebody did to the pins while no agent ran.
type Breaks = fn(&World);

fn unpin(world: &World, map: &str) {
    world.unpin(&world.pinned("maps", map));
}

/// Puts a new map in the place of a pinned one: as that is, but for what is said here.
fn remake(world: &World, name: &str, other: &[(&str, &str)]) {
    let pin = world.pinned("maps", name);
    let shown = world.bpftool_show("map", &pin);
    world.unpin(&pin);
    let mut words = vec![pin.into_os_string(), "name".into(), name.into()];
    let traits = ["type", "key", "value", "entries", "flags"];
    for (word, field) in
        traits.iter().zip(["type", "bytes_key", "bytes_value", "max_entries", "flags"])
    {
        let ours = shown[field].as_str().map_or_else(|| shown[field].to_string(), str::to_owned);
        let other = other.iter().find(|(it, _)| it == word).map(|(_, other)| (*other).to_owned());
        words.extend([(*word).into(), other.unwrap_or(ours).into()]);
    }
    world.bpftool(["map", "create"], words);
}

fn older_version(world: &World) {
    world.move_pin(&world.version(), &world.version_of(LAYOUT_VERSION - 1));
}

/// The maps whose loss the log tells of, one line each.
fn told_lost(log: &str) -> Vec<&str> {
    let lines = log.lines().filter(|line| {
        line.contains("WARN")
            && line.contains("what it remembers of sockets or clients cannot be used")
    });
    let words = lines.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
    // The name of the crate is in each line, too.
    words.filter(|word| word.starts_with("svclb_") && *word != "svclb_dataplane").collect()
}

#[test]
fn maps_that_cannot_be_used_are_replaced_and_no_connect_notices() {
    const OTHER: &str = "another type, key size, value size or flags";
    // What was done, what the log says of it, and the maps whose content is lost.
    let rows: [(&str, Breaks, &[&str], &[&str]); 18] = [
        // As large as ours, but it cannot be mapped.
        (
            "other-flags",
            |world| remake(world, "svclb_index", &[("flags", "0")]),
            &["svclb_index", OTHER],
            &[],
        ),
        (
            "other-value",
            |world| remake(world, "svclb_slots", &[("value", "24")]),
            &["svclb_slots", OTHER],
            &[],
        ),
        (
            "other-key",
            |world| remake(world, "svclb_frontends", &[("key", "20")]),
            &["svclb_frontends", OTHER],
            &[],
        ),
        (
            "other-size",
            |world| remake(world, "svclb_index", &[("entries", "8192")]),
            &["describes other maps"],
            &[],
        ),
        ("gone", |world| unpin(world, "svclb_slots"), &["svclb_slots is missing"], &[]),
        (
            "label",
            |world| world.relabel("svclb_index", Some("Line 8: a 0")),
            &["svclb_index", "another layout"],
            &[],
        ),
        ("no-label", |world| world.relabel("svclb_meta", None), &["svclb_meta", "no label"], &[]),
        ("version", older_version, &["of another version"], &[]),
        (
            "origins",
            |world| world.relabel("svclb_origins", Some("-")),
            &["svclb_origins", "another layout"],
            &["svclb_origins"],
        ),
        (
            "no-origins",
            |world| unpin(world, "svclb_origins"),
            &["svclb_origins is missing"],
            &["svclb_origins"],
        ),
        (
            "origins-value",
            |world| remake(world, "svclb_origins", &[("value", "56")]),
            &["svclb_origins", OTHER],
            &["svclb_origins"],
        ),
        // Places are found by a mask.
        (
            "origins-size",
            |world| remake(world, "svclb_origins", &[("entries", "100")]),
            &["svclb_origins", "expected a power of two"],
            &["svclb_origins"],
        ),
        (
            "overflow",
            |world| world.relabel("svclb_overflow", None),
            &["svclb_overflow", "no label"],
            &["svclb_overflow"],
        ),
        (
            "affinity",
            |world| world.relabel("svclb_affinity", None),
            &["svclb_affinity", "no label"],
            &["svclb_affinity"],
        ),
        (
            "affinity-type",
            |world| remake(world, "svclb_affinity", &[("type", "lru_hash"), ("flags", "0")]),
            &["svclb_affinity", OTHER],
            &["svclb_affinity"],
        ),
        // Without the names that belong to ids nobody knows whose affinity it is.
        (
            "services",
            |world| world.relabel("svclb_services", None),
            &["svclb_services", "no label"],
            &["svclb_affinity"],
        ),
        (
            "services-type",
            |world| remake(world, "svclb_services", &[("type", "lru_hash"), ("flags", "0")]),
            &["svclb_services", OTHER],
            &["svclb_affinity"],
        ),
        (
            "counters",
            |world| world.relabel("svclb_counters", None),
            &["svclb_counters", "no label"],
            &["svclb_counters"],
        ),
    ];
    for (row, breaks, said, lost) in rows {
        let (world, _backends) = stage(&format!("upgrade-{row}"));
        let remembered = StickyClients::of(&world);
        let (rounds, ()) = world.assert_uninterrupted(Tcp, HELLO, &["a"], || {
            world.take_agent().stop();
            breaks(&world);
            world.start_agent();
            world.settle();
        });
        assert!(rounds >= at_least(10), "{row}: the client connected {rounds} times only");
        let log = world.agent_log();
        let is_said = |line: &str| {
            line.contains("these maps cannot be used") && said.iter().all(|it| line.contains(it))
        };
        assert!(log.lines().any(is_said), "{row}: no {said:?} in {log}");
        assert_eq!(told_lost(&log), *lost, "{row}: what is lost, in {log}");
        if !lost.contains(&"svclb_origins") {
            remembered.assert_sockets_keep_backend();
        }
        if !lost.contains(&"svclb_affinity") {
            remembered.assert_client_keeps_backend(&world);
        }
        assert_eq!(world.request(Tcp, HELLO).unwrap(), "a", "{row}");
        // It is a whole set: the next agent takes it over without a word.
        let before = log.len();
        world.take_agent().kill();
        world.start_agent();
        world.settle();
        let said = world.agent_log()[before..].to_owned();
        assert!(!said.contains("cannot be used"), "{row}: {said}");
        let (old, root) = (world.version_of(LAYOUT_VERSION - 1), world.pins());
        let left = world.inside(move || (old.exists(), fs::read_dir(root).unwrap().count()));
        assert_eq!(left, (false, 1), "{row}: only this version's pins are left");
    }
}

#[test]
fn programs_are_replaced_100_times_under_load_and_every_connect_is_translated() {
    const REPLACEMENTS: u32 = 100;
    let (world, _backends) = stage("replaced");
    let remembered = StickyClients::of(&world);
    assert_eq!(world.names_in(&world.version().join("links")).len(), HOOKS.len());
    let kept = world.request(Tcp, StickyClients::AFFINITY).unwrap();
    let dns: Vec<String> = (0..8).map(|number| format!("dns-{number}")).collect();
    let dns: Vec<&str> = dns.iter().map(String::as_str).collect();
    let (hello, kept) = (ContinuousClient::tcp(HELLO, &["a"]), [kept.as_str()]);
    let dns = ContinuousClient { protocol: Udp, ..ContinuousClient::tcp(StickyClients::DNS, &dns) };
    let clients = [hello, hello, ContinuousClient::tcp(StickyClients::AFFINITY, &kept), dns];
    let (rounds, ()) = world.assert_all_uninterrupted(clients, || {
        let first = world.programs();
        let mut before = first[0];
        for round in 0..REPLACEMENTS {
            world.take_agent().kill();
            world.start_agent();
            let now = world.programs()[0];
            assert_ne!(now, before, "round {round}: the program is the one before");
            before = now;
        }
        let last = world.programs();
        let same = first.iter().zip(&last).any(|(first, last)| first == last);
        assert!(!same, "{HOOKS:?}: {first:?}, and then {last:?}");
    });
    let connects: u32 = rounds.iter().sum();
    assert!(connects > 4 * REPLACEMENTS, "the clients connected {rounds:?} times only");
    remembered.assert_sockets_keep_backend();
    remembered.assert_client_keeps_backend(&world);
}

#[test]
fn origins_that_are_taken_over_keep_their_size_whatever_new_ones_would_have() {
    let (world, _backends) = stage("upgrade-origins");
    let remembered = StickyClients::of(&world);
    world.take_agent().stop();
    world.relabel("svclb_index", None);
    let yaml = world.yaml();
    world.start_agent_with(&["--from", yaml.to_str().unwrap(), "--origins", "256"]);
    remembered.assert_sockets_keep_backend();
    assert_eq!(world.status()["origins"], 65_536);
    world.take_agent().stop();
    let told = world.agent_log().len();
    world.start_agent();
    let log = world.agent_log().split_off(told);
    assert!(!log.contains("cannot be used"), "{log}");
    remembered.assert_sockets_keep_backend();
    remembered.assert_client_keeps_backend(&world);
}
