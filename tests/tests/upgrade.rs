//! Replacement of programs and maps under load: by the same programs, over maps of another layout, and
//! over damaged maps. No connect is refused or left alone, and records of sockets and clients survive
//! where possible.

use std::fs;

use svclb_common::layout::LAYOUT_VERSION;
use svclb_tests::{Backend, ContinuousClient, HOOKS, StickyClients, Tcp, Udp, World, at_least};

const HELLO: &str = "10.96.0.10:80";

/// Creates a world with the Services of [`StickyClients`].
fn set_up(name: &str) -> (World, Vec<Backend>) {
    let world = World::new(name);
    let backends = StickyClients::prepare(&world);
    (world, backends)
}

/// Damage to the pins while no agent runs.
type Damage = fn(&World);

fn unpin(world: &World, map: &str) {
    world.unpin(&world.pinned("maps", map));
}

/// Replaces a pinned map by a new one with the same properties, except for those given here.
fn recreate_map(world: &World, name: &str, other: &[(&str, &str)]) {
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

/// The maps whose loss the log reports, one line each.
fn lost_maps(log: &str) -> Vec<&str> {
    let lines = log.lines().filter(|line| {
        line.contains("WARN")
            && line.contains("what it remembers of sockets or clients cannot be used")
    });
    let words = lines.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
    // Each line has the name of the crate too.
    words.filter(|word| word.starts_with("svclb_") && *word != "svclb_dataplane").collect()
}

#[test]
fn unusable_maps_are_replaced_without_interruption() {
    const OTHER: &str = "another type, key size, value size or flags";
    // A name, the damage, the words of the log, and the maps whose content is lost.
    let rows: [(&str, Damage, &[&str], &[&str]); 18] = [
        // The same size, but without the flag that allows mapping.
        (
            "other-flags",
            |world| recreate_map(world, "svclb_index", &[("flags", "0")]),
            &["svclb_index", OTHER],
            &[],
        ),
        (
            "other-value",
            |world| recreate_map(world, "svclb_slots", &[("value", "24")]),
            &["svclb_slots", OTHER],
            &[],
        ),
        (
            "other-key",
            |world| recreate_map(world, "svclb_frontends", &[("key", "20")]),
            &["svclb_frontends", OTHER],
            &[],
        ),
        (
            "other-size",
            |world| recreate_map(world, "svclb_index", &[("entries", "8192")]),
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
            |world| recreate_map(world, "svclb_origins", &[("value", "56")]),
            &["svclb_origins", OTHER],
            &["svclb_origins"],
        ),
        // Places are found by a mask.
        (
            "origins-size",
            |world| recreate_map(world, "svclb_origins", &[("entries", "100")]),
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
            |world| recreate_map(world, "svclb_affinity", &[("type", "lru_hash"), ("flags", "0")]),
            &["svclb_affinity", OTHER],
            &["svclb_affinity"],
        ),
        // Without the names of the services' ids, affinity rows belong to no known service.
        (
            "services",
            |world| world.relabel("svclb_services", None),
            &["svclb_services", "no label"],
            &["svclb_affinity"],
        ),
        (
            "services-type",
            |world| recreate_map(world, "svclb_services", &[("type", "lru_hash"), ("flags", "0")]),
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
    for (row, damage, words, lost) in rows {
        let (world, _backends) = set_up(&format!("upgrade-{row}"));
        let sticky = StickyClients::of(&world);
        let (rounds, ()) = world.assert_uninterrupted(Tcp, HELLO, &["a"], || {
            world.take_agent().stop();
            damage(&world);
            world.start_agent();
            world.settle();
        });
        assert!(rounds >= at_least(10), "{row}: expected at least 10 connects, got {rounds}");
        let log = world.agent_log();
        let is_logged = |line: &str| {
            line.contains("these maps cannot be used") && words.iter().all(|it| line.contains(it))
        };
        assert!(log.lines().any(is_logged), "{row}: expected {words:?} in {log}");
        assert_eq!(lost_maps(&log), *lost, "{row}: lost maps, in {log}");
        if !lost.contains(&"svclb_origins") {
            sticky.assert_sockets_keep_backend();
        }
        if !lost.contains(&"svclb_affinity") {
            sticky.assert_client_keeps_backend(&world);
        }
        assert_eq!(world.request(Tcp, HELLO).unwrap(), "a", "{row}");
        // The maps are complete: the next agent adopts them without a message.
        let before = log.len();
        world.take_agent().kill();
        world.start_agent();
        world.settle();
        let log = world.agent_log()[before..].to_owned();
        assert!(!log.contains("cannot be used"), "{row}: {log}");
        let (old, root) = (world.version_of(LAYOUT_VERSION - 1), world.pins());
        let left = world.inside(move || (old.exists(), fs::read_dir(root).unwrap().count()));
        assert_eq!(left, (false, 1), "{row}: only this version's pins may be left");
    }
}

#[test]
fn programs_are_replaced_100_times_under_load_without_interruption() {
    const REPLACEMENTS: u32 = 100;
    let (world, _backends) = set_up("replaced");
    let sticky = StickyClients::of(&world);
    assert_eq!(world.names_in(&world.version().join("links")).len(), HOOKS.len());
    let affinity_backend = world.request(Tcp, StickyClients::AFFINITY).unwrap();
    let dns: Vec<String> = (0..8).map(|number| format!("dns-{number}")).collect();
    let dns: Vec<&str> = dns.iter().map(String::as_str).collect();
    let (hello, affinity_backend) =
        (ContinuousClient::tcp(HELLO, &["a"]), [affinity_backend.as_str()]);
    let dns = ContinuousClient { protocol: Udp, ..ContinuousClient::tcp(StickyClients::DNS, &dns) };
    let clients =
        [hello, hello, ContinuousClient::tcp(StickyClients::AFFINITY, &affinity_backend), dns];
    let (rounds, ()) = world.assert_all_uninterrupted(clients, || {
        let first = world.programs();
        let mut before = first[0];
        for round in 0..REPLACEMENTS {
            world.take_agent().kill();
            world.start_agent();
            let now = world.programs()[0];
            assert_ne!(now, before, "round {round}: the program must have been replaced");
            before = now;
        }
        let last = world.programs();
        let same = first.iter().zip(&last).any(|(first, last)| first == last);
        assert!(!same, "{HOOKS:?}: {first:?}, and then {last:?}");
    });
    let connects: u32 = rounds.iter().sum();
    assert!(
        connects > 4 * REPLACEMENTS,
        "expected more than {} connects, got {rounds:?}",
        4 * REPLACEMENTS
    );
    sticky.assert_sockets_keep_backend();
    sticky.assert_client_keeps_backend(&world);
}

#[test]
fn adopted_origins_keep_their_size() {
    let (world, _backends) = set_up("upgrade-origins");
    let sticky = StickyClients::of(&world);
    world.take_agent().stop();
    world.relabel("svclb_index", None);
    let yaml = world.yaml();
    world.start_agent_with(&["--from", yaml.to_str().unwrap(), "--origins", "256"]);
    sticky.assert_sockets_keep_backend();
    assert_eq!(world.status()["origins"], 65_536);
    world.take_agent().stop();
    let log_start = world.agent_log().len();
    world.start_agent();
    let log = world.agent_log().split_off(log_start);
    assert!(!log.contains("cannot be used"), "{log}");
    sticky.assert_sockets_keep_backend();
    sticky.assert_client_keeps_backend(&world);
}
