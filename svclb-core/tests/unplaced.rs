//! Several services, of which one does not fit, waits for capacity, or has a failing step: the effects on the
//! others.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::*;
use svclb_core::model::Update;
use svclb_core::number::ServiceId;
use svclb_core::plan::{Pass, Unplaced, pass};
use svclb_core::table::{Dump, Key, MapName, MemoryTable, Row, Table, TableError};

/// Runs a pass, and leaves what it freed in quarantine.
fn pass_without_release(agent: &mut Agent) -> Pass {
    pass(&mut agent.planner, &mut agent.table, &mut agent.catalog)
}

fn release(agent: &mut Agent) {
    let freed = agent.planner.take_freed();
    agent.planner.release(freed);
}

fn names(agent: &mut Agent) -> Vec<String> {
    let dump = agent.table.load().unwrap();
    let mut names: Vec<String> =
        dump.services.iter().map(|(_, row)| svclb_core::compile::name_of(&row.name)).collect();
    names.sort();
    names
}

/// The rows of services and members, without ids.
fn rows(agent: &mut Agent) -> Vec<String> {
    let dump = agent.table.load().unwrap();
    let name = |id: u32| {
        let row = dump.services.iter().find(|(it, _)| *it == id).map(|(_, row)| row);
        row.map(|row| svclb_core::compile::name_of(&row.name)).unwrap_or_default()
    };
    let services = dump.services.iter();
    let services = services.map(|(id, row)| {
        format!("{}: {} frontends, {} backends", name(*id), row.frontends, row.internal_backends)
    });
    let members = dump.backends.iter();
    let members =
        members.map(|(key, row)| format!("{} {} {row:?}", name(key.service), key.address));
    let mut rows: Vec<String> = services.chain(members).collect();
    rows.sort();
    rows
}

/// A Service with an external IP.
fn external(name: &str, own: &str, external: &str, created: i64) -> Update {
    match service(name, &[own], created) {
        Update::Service(name, Some(mut service)) => {
            service.external_ips = vec![ip(external)];
            Update::Service(name, Some(service))
        }
        other => other,
    }
}

/// `a` owns 10.96.0.1 and is deleted; `b` is next and waits for slots that `x` freed.
fn one_that_waits_for_the_frontend_of_the_dead() -> Agent {
    let mut agent = Agent::new(meta(64, 5));
    agent.ingest([
        service("a", &["10.96.0.1"], 1),
        slice("a", &["10.0.0.1"]),
        service("x", &["10.96.0.8"], 0),
        slice("x", &["10.0.0.4", "10.0.0.5", "10.0.0.6"]),
    ]);
    agent.pass();
    agent.ingest([gone("x"), external("b", "10.96.0.2", "10.96.0.1", 2)]);
    agent.ingest([slice("b", &["10.0.1.1", "10.0.1.2", "10.0.1.3"])]);
    pass_without_release(&mut agent);
    agent.ingest([gone("a"), slice("a", &[])]);
    let done = pass_without_release(&mut agent);
    assert!(done.unplaced.iter().all(|it| it.why == Unplaced::Quarantined), "{:?}", done.unplaced);
    assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.1"]), "until it is taken over");
    agent
}

#[test]
fn what_the_dead_keep_for_one_that_waits_goes_with_it() {
    for heir in [gone("b"), service("b", &["10.96.0.2"], 2)] {
        let mut agent = one_that_waits_for_the_frontend_of_the_dead();
        agent.ingest([heir]);
        agent.pass();
        release(&mut agent);
        agent.pass();
        assert_eq!(agent.backends("10.96.0.1"), None);
        assert!(!names(&mut agent).contains(&"a".to_owned()));
    }
}

#[test]
fn the_rows_of_the_dead_go_though_a_step_fails_after_their_frontend_was_taken_over() {
    let steps = {
        let mut agent = one_that_waits_for_the_frontend_of_the_dead();
        release(&mut agent);
        agent.pass().steps
    };
    for cut in 0..=steps {
        let mut agent = one_that_waits_for_the_frontend_of_the_dead();
        release(&mut agent);
        agent.cut(cut);
        for _ in 0..3 {
            agent.pass();
        }
        assert_eq!(names(&mut agent), ["b"], "cut after {cut} steps");
        assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.1.1", "10.0.1.2", "10.0.1.3"]));
    }
}

/// An external IP with several claimants.
const SHARED: &str = "192.0.2.1";
/// More backends than fit.
const MANY: [&str; 5] = ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4", "10.0.1.5"];

/// `a` has [`SHARED`]; `b` is older, and its [`MANY`] backends do not fit.
fn younger_owner_beside_an_unplaced_older_claimant() -> Agent {
    let mut agent = Agent::new(meta(64, 4));
    agent.ingest([external("a", "10.96.0.1", SHARED, 5), slice("a", &["10.0.0.1"])]);
    agent.pass();
    agent.ingest([external("b", "10.96.0.2", SHARED, 1), slice("b", &MANY)]);
    assert_eq!(agent.pass().unplaced[0].why, Unplaced::NoSlots);
    agent
}

#[test]
fn claimant_that_fits_again_and_fails_once_is_awaited() {
    let mut agent = younger_owner_beside_an_unplaced_older_claimant();
    // Its first step is refused, in the pass in which the owner of the frontend is deleted.
    agent.ingest([gone("a"), slice("a", &[]), slice("b", &MANY[..2])]);
    agent.table.fail(0, 1);
    assert_eq!(agent.pass().failed.len(), 1);
    assert_eq!(agent.backends(SHARED), set(&["10.0.0.1"]), "until it is taken over");
    assert!(agent.pass().failed.is_empty());
    assert_eq!(agent.backends(SHARED), set(&MANY[..2]));
    assert_eq!(names(&mut agent), ["b"]);
}

#[test]
fn a_service_that_does_not_fit_takes_nothing_from_one_that_does() {
    let mut agent = younger_owner_beside_an_unplaced_older_claimant();
    for restarts in [false, true] {
        if restarts {
            agent.restart();
            agent.pass();
        }
        assert_eq!(agent.backends(SHARED), set(&["10.0.0.1"]), "restarts {restarts}");
        assert_eq!(agent.backends("10.96.0.2"), None);
        // a owns it fully: changes of its endpoints reach it.
        agent.ingest([slice("a", &["10.0.0.2"])]);
        agent.pass();
        assert_eq!(agent.backends(SHARED), set(&["10.0.0.2"]), "restarts {restarts}");
        agent.mark_all();
        assert_eq!(agent.pass().steps, 0, "nothing is left to do");
        agent.ingest([slice("a", &["10.0.0.1"])]);
        agent.pass();
    }
    // Now it fits, and is the older; then it does not again, and keeps what it has.
    agent.ingest([slice("b", &MANY[..2])]);
    agent.pass();
    assert_eq!(agent.backends(SHARED), set(&MANY[..2]));
    assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.1"]));
    agent.ingest([slice("b", &MANY)]);
    assert_eq!(agent.pass().unplaced[0].why, Unplaced::NoSlots);
    assert_eq!(agent.backends(SHARED), set(&MANY[..2]));
    agent.mark_all();
    assert_eq!(agent.pass().steps, 0, "nothing is left to do");
}

#[test]
fn of_two_successors_the_one_that_fits_takes_over() {
    let mut agent = Agent::new(meta(64, 4));
    agent.ingest([external("a", "10.96.0.1", SHARED, 1), slice("a", &["10.0.0.1"])]);
    agent.ingest([external("b", "10.96.0.2", SHARED, 2), slice("b", &MANY)]);
    agent.ingest([external("c", "10.96.0.3", SHARED, 3), slice("c", &["10.0.2.1"])]);
    agent.pass();
    agent.ingest([gone("a")]);
    agent.pass();
    assert_eq!(agent.backends(SHARED), set(&["10.0.2.1"]));
    assert_eq!(names(&mut agent), ["c"]);
}

#[test]
fn service_that_fits_after_a_removal_waits_for_it() {
    let mut agent = Agent::new(meta(64, 4));
    agent.ingest([service("x", &["10.96.0.8"], 0), slice("x", &["10.0.0.4", "10.0.0.5"])]);
    agent.ingest([service("a", &["10.96.0.1"], 1), slice("a", &["10.0.0.1"])]);
    agent.pass();
    assert!(!agent.planner.waits_for_release());
    agent.ingest([gone("x"), gone("a"), service("b", &["10.96.0.1"], 2)]);
    agent.ingest([slice("b", &["10.0.1.1", "10.0.1.2"])]);
    assert_eq!(pass_without_release(&mut agent).unplaced[0].why, Unplaced::Quarantined);
    assert!(agent.planner.waits_for_release() && agent.planner.lacking().next().is_none());
    assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.1"]), "served meanwhile");
    assert!(agent.catalog.is_dirty());
    release(&mut agent);
    assert_eq!(agent.pass().unplaced, []);
    assert!(!agent.planner.waits_for_release());
    assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.1.1", "10.0.1.2"]));
    assert_eq!(names(&mut agent), ["b"]);
}

#[test]
fn removed_services_free_capacity_for_an_unplaced_one() {
    let mut agent = Agent::new(meta(64, 3));
    agent.ingest([service("a", &["10.96.0.1"], 1), slice("a", &["10.0.0.1", "10.0.0.2"])]);
    agent.pass();
    agent.ingest([gone("a"), service("b", &["10.96.0.1"], 2)]);
    agent.ingest([slice("b", &["10.0.1.1", "10.0.1.2"])]);
    pass_without_release(&mut agent);
    release(&mut agent);
    agent.catalog.mark([object("b")]);
    assert_eq!(agent.pass().unplaced, []);
    assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.1.1", "10.0.1.2"]));
}

/// A table that refuses some rows.
struct Stubborn<'a> {
    inner: &'a mut MemoryTable,
    refuse: fn(&Row) -> Option<TableError>,
}

impl Table for Stubborn<'_> {
    fn load(&mut self) -> Result<Dump, TableError> {
        self.inner.load()
    }
    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        (self.refuse)(row).map_or_else(|| self.inner.put(row), Err)
    }
    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        self.inner.remove(key)
    }
}

/// A pass over such a table.
fn refused(agent: &mut Agent, refuse: fn(&Row) -> Option<TableError>) -> Pass {
    let mut table = Stubborn { inner: &mut agent.table.inner, refuse };
    pass(&mut agent.planner, &mut table, &mut agent.catalog)
}

#[test]
fn failing_step_of_one_object_does_not_stop_others() {
    let mut agent = Agent::new(meta(64, 64));
    agent.ingest([service("gone", &["10.96.0.9"], 0), slice("gone", &["10.0.0.9"])]);
    agent.pass();
    agent.ingest([gone("gone")]);
    for (name, address, pod) in [
        ("a", "10.96.0.1", "10.0.0.1"),
        ("b", "10.96.0.2", "10.0.0.2"),
        ("c", "10.96.0.3", "10.0.0.3"),
    ] {
        agent.ingest([service(name, &[address], 1), slice(name, &[pod])]);
    }
    for round in 0..5 {
        let done = refused(&mut agent, |row| match row {
            Row::Backend(key, _) if key.address == ip("10.0.0.1").into() => {
                let what = "refused".to_owned();
                Some(TableError::Invalid { map: MapName::Backends, what })
            }
            _ => None,
        });
        let failed: Vec<_> = done.failed.iter().map(|it| it.object.clone()).collect();
        assert_eq!(failed, [Some(object("a"))], "round {round}");
        let marked = ["a", "b", "c"].map(|name| agent.catalog.is_marked(&object(name)));
        assert_eq!(marked, [true, false, false]);
        assert_eq!(agent.backends("10.96.0.1"), None);
        assert_eq!(agent.backends("10.96.0.2"), set(&["10.0.0.2"]));
        assert_eq!(agent.backends("10.96.0.3"), set(&["10.0.0.3"]));
        assert_eq!(agent.backends("10.96.0.9"), None, "removals are not held up");
    }
    assert!(agent.pass().failed.is_empty());
    assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.1"]));
}

#[test]
fn a_table_that_takes_nothing_fails_each_object_once_a_pass() {
    let mut agent = Agent::new(meta(64, 64));
    let pods = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
    let names_of_all: Vec<String> = (0..pods.len()).map(|number| format!("s{number}")).collect();
    for (number, (name, pod)) in names_of_all.iter().zip(pods).enumerate() {
        agent.ingest([service(name, &[&format!("10.96.0.{number}")], 1), slice(name, &[pod])]);
    }
    for round in 0..3 {
        let done = agent.cut(0);
        let failed: Vec<_> = done.failed.iter().filter_map(|it| it.object.clone()).collect();
        assert_eq!(failed, names_of_all.iter().map(|name| object(name)).collect::<Vec<_>>());
        assert!(done.failed.len() <= pods.len() + 1, "round {round}: {:?}", done.failed);
        assert_eq!(done.steps, 0, "round {round}");
    }
    assert!(agent.pass().failed.is_empty());
    assert_eq!(names(&mut agent), names_of_all);
}

#[test]
fn services_whose_rows_always_fail_do_not_starve_others() {
    const REFUSED: fn(&Row) -> Option<TableError> = |row| match row {
        Row::Service(..) => {
            let source = std::io::ErrorKind::OutOfMemory.into();
            Some(TableError::System { map: MapName::Services, source })
        }
        _ => None,
    };
    let names_of_all: Vec<String> = (0..5).map(|number| format!("s{number}")).collect();
    let all = || names_of_all.iter().enumerate().map(|(at, name)| (name, format!("10.96.0.{at}")));
    let mut agent = Agent::new(meta(64, 64));
    for (at, (name, address)) in all().enumerate() {
        agent.ingest([service(name, &[&address], at as i64), slice(name, &["10.0.0.1"])]);
    }
    agent.ingest([service("gone", &["10.96.0.9"], 9), slice("gone", &["10.0.0.9"])]);
    agent.pass();
    // One backend more: a service's row says how many it has.
    for (name, _) in all() {
        agent.ingest([slice(name, &["10.0.0.2", "10.0.0.3"])]);
    }
    agent.ingest([gone("gone"), slice("gone", &[])]);
    // And new ones: their rows are the first of their steps.
    for at in 5..9 {
        let name = format!("new-{at}");
        agent
            .ingest([service(&name, &[&format!("10.96.0.{at}")], 20), slice(&name, &["10.0.0.8"])]);
    }
    let mut ids = None;
    for round in 0..5 {
        let done = refused(&mut agent, REFUSED);
        let freed = agent.planner.take_freed();
        agent.planner.release(freed);
        assert_eq!(done.failed.len(), names_of_all.len() + 4, "round {round}: {:?}", done.failed);
        for (name, address) in all() {
            let expected = set(&["10.0.0.2", "10.0.0.3"]);
            assert_eq!(agent.backends(&address), expected, "round {round}: {name}");
        }
        assert_eq!(agent.backends("10.96.0.9"), None, "round {round}: the removed one");
        assert_eq!(agent.backends("10.96.0.5"), None, "round {round}: a new one");
        // Trying again uses up no ids.
        let next = agent.planner.meta().next_service;
        assert_eq!(*ids.get_or_insert(next), next, "round {round}");
    }
    let done = agent.pass();
    assert!(done.failed.is_empty() && done.unplaced.is_empty(), "{done:?}");
    let mut fresh = Agent::new(meta(64, 64));
    std::mem::swap(&mut fresh.catalog, &mut agent.catalog);
    fresh.mark_all();
    fresh.pass();
    let dialled =
        |agent: &Agent| (0..10).map(|at| agent.backends(&format!("10.96.0.{at}"))).collect();
    let (found, expected): (Vec<_>, Vec<_>) = (dialled(&agent), dialled(&fresh));
    assert_eq!(found, expected);
    assert_eq!(rows(&mut agent), rows(&mut fresh));
}

#[test]
fn nothing_has_changed_hands_when_a_map_is_full_in_the_middle() {
    let mut agent = Agent::new(meta(64, 64));
    agent.ingest([external("a", "10.96.0.3", "10.96.0.1", 1), slice("a", &["10.0.0.1"])]);
    agent.pass();
    let before = agent.find("10.96.0.1").unwrap();
    // The older b takes over a's frontend, and claims one more.
    agent.ingest([external("b", "10.96.0.2", "10.96.0.1", 0), slice("b", &["10.0.1.1"])]);
    let done = refused(&mut agent, |row| match row {
        Row::Frontend(key, _) if key.address == ip("10.96.0.2").into() => {
            Some(TableError::Full { map: MapName::Frontends, capacity: 1 })
        }
        _ => None,
    });
    assert_eq!(done.unplaced[0].why, Unplaced::MapFull(MapName::Frontends));
    assert_eq!(
        agent.find("10.96.0.1"),
        Some(before),
        "its owner and its generation are as they were"
    );
    agent.mark_all();
    assert!(agent.pass().unplaced.is_empty());
    let (_, now) = agent.find("10.96.0.1").unwrap();
    assert_eq!((now.heir, now.generation), (0, before.1.generation + 1));
    assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.1.1"]));
}

/// Maps whose line of 10.96.0.1 has lost its service, and that an agent has just loaded.
fn with_an_unrecognized_line(lines: u32) -> Agent {
    let mut agent = Agent::new(meta(lines, 4));
    agent.ingest([service("a", &["10.96.0.1"], 1), slice("a", &["10.0.0.1", "10.0.0.2"])]);
    agent.pass();
    let dump = agent.table.load().unwrap();
    agent.table.inner.remove(&Key::Service(ServiceId(dump.services[0].0))).unwrap();
    agent.catalog = Agent::new(meta(lines, 4)).catalog;
    agent.restart();
    assert_eq!(agent.backends("10.96.0.1"), None, "repaired");
    agent
}

#[test]
fn line_emptied_by_a_repair_is_quarantined() {
    // One line only, which the next service needs.
    let mut agent = with_an_unrecognized_line(1);
    agent.ingest([service("b", &["10.96.0.1"], 1), slice("b", &["10.0.1.1"])]);
    assert_eq!(pass_without_release(&mut agent).unplaced[0].why, Unplaced::Quarantined);
    release(&mut agent);
    assert_eq!(pass_without_release(&mut agent).unplaced, []);
    assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.1.1"]));
}

#[test]
fn slots_freed_by_a_repair_are_quarantined() {
    let mut agent = with_an_unrecognized_line(64);
    agent.ingest([
        service("b", &["10.96.0.2"], 1),
        slice("b", &["10.0.1.1", "10.0.1.2", "10.0.1.3"]),
    ]);
    assert_eq!(pass_without_release(&mut agent).unplaced[0].why, Unplaced::Quarantined);
    release(&mut agent);
    assert_eq!(pass_without_release(&mut agent).unplaced, []);
    assert_eq!(agent.backends("10.96.0.2"), set(&["10.0.1.1", "10.0.1.2", "10.0.1.3"]));
}

#[test]
fn unrecognized_line_that_cannot_be_emptied_is_not_used() {
    let mut agent = Agent::new(meta(2, 8));
    agent.ingest([service("a", &["10.96.0.1"], 1), slice("a", &["10.0.0.1"])]);
    agent.pass();
    let dump = agent.table.load().unwrap();
    agent.table.inner.remove(&Key::Service(ServiceId(dump.services[0].0))).unwrap();
    let dump = agent.table.load().unwrap();
    let repairs = agent.planner.reload(&dump);
    agent.table.fail(0, usize::MAX);
    assert!(agent.planner.repair(&mut agent.table, &repairs).is_err());
    agent.table.fail(0, 0);
    agent.mark_all();
    let done = agent.pass();
    assert!(done.failed.is_empty() && done.unplaced.is_empty(), "{done:?}");
    // The next load finds the remaining repairs, and the one after it none.
    for left in [true, false] {
        let dump = agent.table.load().unwrap();
        let repairs = agent.planner.reload(&dump);
        assert_eq!(!repairs.is_empty(), left, "{repairs:?}");
        agent.planner.repair(&mut agent.table, &repairs).unwrap();
        agent.mark_all();
        agent.pass();
        assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.1"]));
    }
}

#[test]
fn quarantine_lasts_when_the_maps_are_reloaded() {
    let mut agent = Agent::new(meta(1, 2));
    agent.ingest([service("a", &["10.96.0.1"], 1), slice("a", &["10.0.0.1", "10.0.0.2"])]);
    agent.pass();
    agent.ingest([gone("a"), service("b", &["10.96.0.2"], 1), slice("b", &["10.0.1.1"])]);
    pass_without_release(&mut agent);
    let freed = agent.planner.take_freed();
    let dump = agent.table.load().unwrap();
    assert_eq!(agent.planner.reload(&dump), []);
    assert_eq!(pass_without_release(&mut agent).unplaced[0].why, Unplaced::Quarantined);
    agent.planner.release(freed);
    assert_eq!(pass_without_release(&mut agent).unplaced, []);
    assert_eq!(agent.backends("10.96.0.2"), set(&["10.0.1.1"]));
}

#[test]
fn a_service_that_needs_more_slots_than_there_are_leaves_the_other_maps_to_others() {
    let mut agent = Agent::new(meta(64, 8));
    let many: Vec<String> = (1..=100).map(|last| format!("10.0.1.{last}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    agent.ingest([service("a", &["10.96.0.1"], 1), slice("a", &many)]);
    agent.ingest([service("b", &["10.96.0.2"], 2), slice("b", &["10.0.0.1"])]);
    let done = agent.pass();
    assert!(done.unplaced.iter().any(|it| it.why == Unplaced::NoSlots), "{:?}", done.unplaced);
    // A member of it would take a place of `svclb_backends`, which holds as many as there are slots.
    let members: Vec<String> =
        rows(&mut agent).into_iter().filter(|it| it.contains("10.0.")).collect();
    assert!(members.len() == 1 && members[0].contains("10.0.0.1"), "{members:?}");
    assert_eq!(agent.backends("10.96.0.2"), set(&["10.0.0.1"]));
}
