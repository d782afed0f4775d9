//! Histories without faults.

use proptest::prelude::*;

use super::world::{Report, event};
use super::*;
use crate::model::{ObjectName, Slice, Update};
use crate::number::ServiceId;
use crate::plan::change;
use crate::table::{Key, Row, Step};

proptest! {
    #[test]
    fn every_pass_ends_in_the_desired_state_and_each_step_is_sound(
        events in proptest::collection::vec(proptest::collection::vec(event(), 1..4), 1..20),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
        for burst in &events {
            for event in burst {
                agent.ingest(&mut world, event);
            }
            let done = agent.pass();
            prop_assert!(done.failed.is_empty(), "{:?}", done.failed);
            prop_assert_eq!(&done.unplaced, &[]);
            agent.assert_settled();
        }
    }

    #[test]
    fn incremental_passes_end_in_the_same_state_as_one_from_scratch(
        events in proptest::collection::vec(event(), 1..30),
    ) {
        let (mut world, mut agent, mut late) = (World::default(), Agent::new(ample_maps()), Agent::new(ample_maps()));
        for event in &events {
            agent.ingest(&mut world, event);
            agent.pass();
            late.ingest(&mut world, event);
        }
        late.pass();
        // And one that knows only the final state.
        let mut fresh = Agent::new(ample_maps());
        world.apply_to(&mut fresh.catalog);
        fresh.pass();
        for other in [&mut late, &mut fresh] {
            prop_assert_eq!(agent.table.routes(), other.table.routes());
            prop_assert_eq!(agent.table.rows(), other.table.rows());
        }
    }

    #[test]
    fn unplaced_services_keep_their_state_in_maps_that_are_too_small(
        events in proptest::collection::vec((event(), any::<bool>()), 1..40),
    ) {
        // Eight lines for up to 24 frontends, eight slots.
        let (mut world, mut agent) = (World::default(), Agent::new(meta(8, 8)));
        agent.table.fits_all = false;
        for (event, rests) in &events {
            agent.ingest(&mut world, event);
            let done = agent.pass_only();
            prop_assert!(done.failed.is_empty(), "{:?}", done.failed);
            if *rests {
                agent.settle();
                agent.assert_fair();
            }
        }
        // Without Services nothing is left, and all of the maps is free again.
        for name in 0..4 {
            agent.ingest(&mut world, &Event::Gone(name));
        }
        agent.settle();
        prop_assert_eq!(agent.table.routes().len(), 0);
        prop_assert_eq!(agent.table.rows().len(), 0);
        prop_assert_eq!(agent.planner.mirror.slots.free().free_slots(), 8);
    }
}

#[test]
fn a_change_of_one_service_takes_steps_for_that_service_only() {
    let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
    for name in 0..4 {
        let service = Spec { name, ips: vec![name], ports: vec![0], ..Spec::default() };
        agent.ingest(&mut world, &Event::Service(service));
        agent.ingest(&mut world, &Event::Endpoints { name, states: vec![1; 6] });
    }
    agent.pass();
    agent.ingest(&mut world, &Event::Endpoints { name: 2, states: vec![1, 1, 1, 1, 0, 1] });
    let done = agent.pass();
    assert_eq!(done.objects, 1);
    // Slots, flip, successor, member removed, generation, successor cleared, service row.
    assert_eq!(done.steps, 7);
}

#[test]
fn freed_slots_are_not_used_before_the_end_of_their_quarantine() {
    let maps = meta(64, 4);
    let (mut world, mut catalog) = (World::default(), catalog());
    let (mut state, mut table) = (Planner::new(maps), MemoryTable::new(maps));
    let mut ingest = |catalog: &mut Catalog, event: Event| {
        world.change(&event).apply_to(catalog);
    };
    let service =
        |name, ip| Event::Service(Spec { name, ips: vec![ip], ports: vec![0], ..Spec::default() });
    ingest(&mut catalog, service(0, 0));
    ingest(&mut catalog, Event::Endpoints { name: 0, states: vec![1, 0, 1, 0, 1] });
    assert_eq!(pass(&mut state, &mut table, &mut catalog).unplaced, []);
    // Three of four slots are used; two others do not fit, and would not after a quarantine either.
    ingest(&mut catalog, service(1, 2));
    ingest(&mut catalog, Event::Endpoints { name: 1, states: vec![1, 0, 1] });
    let done = pass(&mut state, &mut table, &mut catalog);
    assert_eq!(done.unplaced[0].why, Unplaced::NoSlots);
    assert!(!catalog.is_dirty());
    // The first is deleted: its slots are free after the quarantine.
    ingest(&mut catalog, Event::Gone(0));
    ingest(&mut catalog, Event::Endpoints { name: 1, states: vec![1, 0, 1, 0, 1] });
    assert_eq!(pass(&mut state, &mut table, &mut catalog).unplaced[0].why, Unplaced::Quarantined);
    assert!(catalog.is_dirty(), "it is tried again without another change");
    let freed = state.take_freed();
    state.release(freed);
    assert_eq!(pass(&mut state, &mut table, &mut catalog).unplaced, []);
}

#[test]
fn pass_reports_trigger_times_once_their_changes_are_written() {
    let triggered = |world: &mut World, states: Vec<u8>, time: i64| {
        let event = Event::Endpoints { name: 0, states };
        let Report::Change(Update::Slice(name, Some(slice))) = world.change(&event) else {
            panic!("{event:?} is a slice");
        };
        Update::Slice(name, Some(Slice { triggered: Some(time), ..slice }))
    };
    let object = ObjectName::new("default", "s0");
    let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
    let update = triggered(&mut world, vec![1], 1);
    agent.catalog.apply(update);
    assert_eq!(agent.pass().triggered, [], "of no Service");
    let service = Spec { name: 0, ips: vec![0], ports: vec![0], ..Spec::default() };
    agent.ingest(&mut world, &Event::Service(service));
    assert_eq!(agent.pass().triggered, [], "a Service is not measured");
    for time in [2, 3] {
        let states = if time == 2 { vec![1, 0, 1] } else { vec![0, 0, 1] };
        let update = triggered(&mut world, states, time);
        agent.catalog.apply(update);
    }
    agent.table.table.fail(1, 1);
    let done = agent.pass();
    assert!(!done.failed.is_empty());
    assert_eq!(done.triggered, [], "not written yet");
    agent.table.table.fail(0, 0);
    assert_eq!(agent.pass().triggered, [(object, vec![2, 3])]);
    assert_eq!(agent.pass().triggered, [], "reported once");
}

#[test]
fn a_change_of_affinity_is_one_step_and_moves_no_set() {
    let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
    let service = Spec { name: 0, ips: vec![0], ports: vec![0], ..Spec::default() };
    agent.ingest(&mut world, &Event::Endpoints { name: 0, states: vec![1; 6] });
    agent.ingest(&mut world, &Event::Service(service.clone()));
    agent.pass();
    for affinity in [5, 7, 0] {
        agent.ingest(&mut world, &Event::Service(Spec { affinity, ..service.clone() }));
        // The traits of its one line.
        assert_eq!(agent.pass().steps, 1);
        agent.assert_settled();
    }
}

/// A step as a short text.
fn short(step: &Step) -> String {
    match step {
        Step::Put(Row::Backend(key, row)) => format!("{} in {}", key.address, row.sets),
        Step::Remove(Key::Backend(key)) => format!("{} out", key.address),
        Step::Put(Row::Slots(_, slots)) => format!("{} slots", slots.len()),
        Step::Put(Row::Set(..)) => "flip".to_owned(),
        Step::Put(Row::Heir(_, ServiceId::NONE)) => "successor cleared".to_owned(),
        Step::Put(Row::Heir(..)) => "successor".to_owned(),
        Step::Put(Row::Generation(..)) => "generation".to_owned(),
        Step::Put(Row::Service(..)) => "row".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_backend_joins_a_set_before_its_slots_and_leaves_it_after_them() {
    let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
    let spec = Spec { ips: vec![0], external: Some(2), ports: vec![0], ..Spec::default() };
    agent.ingest(&mut world, &Event::Endpoints { name: 0, states: vec![1, 0, 1, 0, 1] });
    agent.ingest(&mut world, &Event::Service(spec.clone()));
    agent.pass();
    // 10.244.0.4 is on another node: it leaves the internal set and stays in the external one; then it
    // returns; then 10.244.0.2 leaves both. Affinity and sockets depend on this membership.
    let moved = ["generation", "successor cleared", "generation", "successor cleared", "row"];
    let leaves = |first: &[&'static str], backend: &'static str| {
        let announced = ["successor", "successor", backend];
        [first, &announced[..], &moved[..]].concat()
    };
    let gone = Event::Endpoints { name: 0, states: vec![1, 0, 0, 0, 1] };
    let rows = [
        (
            Event::Service(Spec { local: true, ..spec.clone() }),
            leaves(&["2 slots", "flip"], "10.244.0.4 in 2"),
        ),
        (Event::Service(spec), vec!["10.244.0.4 in 3", "flip", "row"]),
        (gone, leaves(&["2 slots", "flip", "flip"], "10.244.0.2 out")),
    ];
    for (event, expected) in rows {
        agent.ingest(&mut world, &event);
        let desired = agent.catalog.desired(&ObjectName::new("default", "s0"));
        let steps = change::install(&agent.planner.mirror, &desired[0], usize::MAX).unwrap().steps;
        assert_eq!(steps.iter().map(short).collect::<Vec<_>>(), expected, "{event:?}");
        agent.pass();
        agent.assert_settled();
    }
}
