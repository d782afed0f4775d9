//! Histories without faults.

use proptest::prelude::*;

use super::world::{Report, deed};
use super::*;
use crate::model::{ObjectName, Slice, Update};
use crate::number::ServiceId;
use crate::plan::change;
use crate::table::{Key, Row, Step};

proptest! {
    #[test]
    fn every_pass_ends_where_the_catalog_says_and_every_step_on_the_way_is_right(
        deeds in proptest::collection::vec(proptest::collection::vec(deed(), 1..4), 1..20),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
        for burst in &deeds {
            for deed in burst {
                agent.ingest(&mut world, deed);
            }
            let done = agent.pass();
            prop_assert!(done.failed.is_empty(), "{:?}", done.failed);
            prop_assert_eq!(&done.unplaced, &[]);
            agent.assert_settled();
        }
    }

    #[test]
    fn a_history_ends_where_its_last_state_from_scratch_does(
        deeds in proptest::collection::vec(deed(), 1..30),
    ) {
        let (mut world, mut agent, mut late) = (World::default(), Agent::new(roomy()), Agent::new(roomy()));
        for deed in &deeds {
            agent.ingest(&mut world, deed);
            agent.pass();
            late.ingest(&mut world, deed);
        }
        late.pass();
        // And one that knows only what there is in the end.
        let mut fresh = Agent::new(roomy());
        world.tell(&mut fresh.catalog);
        fresh.pass();
        for other in [&mut late, &mut fresh] {
            prop_assert_eq!(agent.table.routes(), other.table.routes());
            prop_assert_eq!(agent.table.rows(), other.table.rows());
        }
    }

    #[test]
    fn unplaced_services_keep_their_state_in_maps_that_are_too_small(
        deeds in proptest::collection::vec((deed(), any::<bool>()), 1..40),
    ) {
        // Eight lines for up to 24 frontends, eight slots.
        let (mut world, mut agent) = (World::default(), Agent::new(meta(8, 8)));
        agent.table.is_roomy = false;
        for (deed, rests) in &deeds {
            agent.ingest(&mut world, deed);
            let done = agent.pass_only();
            prop_assert!(done.failed.is_empty(), "{:?}", done.failed);
            if *rests {
                agent.settle();
                agent.assert_fair();
            }
        }
        // All of it goes: nothing is left, and nothing of the maps is lost.
        for name in 0..4 {
            agent.ingest(&mut world, &Deed::Gone(name));
        }
        agent.settle();
        prop_assert_eq!(agent.table.routes().len(), 0);
        prop_assert_eq!(agent.table.rows().len(), 0);
        prop_assert_eq!(agent.planner.mirror.slots.free().free_slots(), 8);
    }
}

#[test]
fn a_change_of_one_service_takes_steps_for_that_service_only() {
    let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
    for name in 0..4 {
        let service = Like { name, ips: vec![name], ports: vec![0], ..Like::default() };
        agent.ingest(&mut world, &Deed::Service(service));
        agent.ingest(&mut world, &Deed::Endpoints { name, states: vec![1; 6] });
    }
    agent.pass();
    agent.ingest(&mut world, &Deed::Endpoints { name: 2, states: vec![1, 1, 1, 1, 0, 1] });
    let done = agent.pass();
    assert_eq!(done.objects, 1);
    // Slots, flip, heir, member out, generation, heir, service row.
    assert_eq!(done.steps, 7);
}

#[test]
fn freed_slots_are_not_used_before_the_end_of_their_quarantine() {
    let maps = meta(64, 4);
    let (mut world, mut catalog) = (World::default(), catalog());
    let (mut state, mut table) = (Planner::new(maps), MemoryTable::new(maps));
    let mut ingest = |catalog: &mut Catalog, deed: Deed| {
        world.change(&deed).tell(catalog);
    };
    let service =
        |name, ip| Deed::Service(Like { name, ips: vec![ip], ports: vec![0], ..Like::default() });
    ingest(&mut catalog, service(0, 0));
    ingest(&mut catalog, Deed::Endpoints { name: 0, states: vec![1, 0, 1, 0, 1] });
    assert_eq!(pass(&mut state, &mut table, &mut catalog).unplaced, []);
    // Three of four slots are used; two others do not fit, and would not after a rest either.
    ingest(&mut catalog, service(1, 2));
    ingest(&mut catalog, Deed::Endpoints { name: 1, states: vec![1, 0, 1] });
    let done = pass(&mut state, &mut table, &mut catalog);
    assert_eq!(done.unplaced[0].why, Unplaced::NoSlots);
    assert!(!catalog.is_dirty());
    // The first goes: there is room, but not yet.
    ingest(&mut catalog, Deed::Gone(0));
    ingest(&mut catalog, Deed::Endpoints { name: 1, states: vec![1, 0, 1, 0, 1] });
    assert_eq!(pass(&mut state, &mut table, &mut catalog).unplaced[0].why, Unplaced::Quarantined);
    assert!(catalog.is_dirty(), "it is tried again without being asked for");
    let freed = state.take_freed();
    state.release(freed);
    assert_eq!(pass(&mut state, &mut table, &mut catalog).unplaced, []);
}

#[test]
fn a_pass_tells_when_what_it_wrote_was_triggered_once_it_is_written() {
    let triggered = |world: &mut World, states: Vec<u8>, time: i64| {
        let deed = Deed::Endpoints { name: 0, states };
        let Report::Change(Update::Slice(name, Some(slice))) = world.change(&deed) else {
            panic!("{deed:?} is a slice");
        };
        Update::Slice(name, Some(Slice { triggered: Some(time), ..slice }))
    };
    let object = ObjectName::new("default", "s0");
    let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
    let update = triggered(&mut world, vec![1], 1);
    agent.catalog.apply(update);
    assert_eq!(agent.pass().triggered, [], "of no Service");
    let service = Like { name: 0, ips: vec![0], ports: vec![0], ..Like::default() };
    agent.ingest(&mut world, &Deed::Service(service));
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
    assert_eq!(agent.pass().triggered, [], "told once");
}

#[test]
fn a_change_of_affinity_is_one_step_and_moves_no_set() {
    let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
    let service = Like { name: 0, ips: vec![0], ports: vec![0], ..Like::default() };
    agent.ingest(&mut world, &Deed::Endpoints { name: 0, states: vec![1; 6] });
    agent.ingest(&mut world, &Deed::Service(service.clone()));
    agent.pass();
    for affinity in [5, 7, 0] {
        agent.ingest(&mut world, &Deed::Service(Like { affinity, ..service.clone() }));
        // The traits of its one line.
        assert_eq!(agent.pass().steps, 1);
        agent.assert_settled();
    }
}

/// A step in short.
fn short(step: &Step) -> String {
    match step {
        Step::Put(Row::Backend(key, row)) => format!("{} in {}", key.address, row.sets),
        Step::Remove(Key::Backend(key)) => format!("{} out", key.address),
        Step::Put(Row::Slots(_, slots)) => format!("{} slots", slots.len()),
        Step::Put(Row::Set(..)) => "flip".to_owned(),
        Step::Put(Row::Heir(_, ServiceId::NONE)) => "announced no more".to_owned(),
        Step::Put(Row::Heir(..)) => "announced".to_owned(),
        Step::Put(Row::Generation(..)) => "generation".to_owned(),
        Step::Put(Row::Service(..)) => "row".to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_backend_joins_a_set_before_its_slots_and_leaves_it_after_them() {
    let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
    let like = Like { ips: vec![0], external: Some(2), ports: vec![0], ..Like::default() };
    agent.ingest(&mut world, &Deed::Endpoints { name: 0, states: vec![1, 0, 1, 0, 1] });
    agent.ingest(&mut world, &Deed::Service(like.clone()));
    agent.pass();
    // 10.244.0.4 runs elsewhere: it leaves the internal set and stays in the external one; then it
    // comes back; then 10.244.0.2 leaves both. Affinity and sockets ask for this membership.
    let moved = ["generation", "announced no more", "generation", "announced no more", "row"];
    let leaves = |first: &[&'static str], backend: &'static str| {
        let announced = ["announced", "announced", backend];
        [first, &announced[..], &moved[..]].concat()
    };
    let gone = Deed::Endpoints { name: 0, states: vec![1, 0, 0, 0, 1] };
    let rows = [
        (
            Deed::Service(Like { local: true, ..like.clone() }),
            leaves(&["2 slots", "flip"], "10.244.0.4 in 2"),
        ),
        (Deed::Service(like), vec!["10.244.0.4 in 3", "flip", "row"]),
        (gone, leaves(&["2 slots", "flip", "flip"], "10.244.0.2 out")),
    ];
    for (deed, expected) in rows {
        agent.ingest(&mut world, &deed);
        let desired = agent.catalog.desired(&ObjectName::new("default", "s0"));
        let steps = change::install(&agent.planner.mirror, &desired[0], usize::MAX).unwrap().steps;
        assert_eq!(steps.iter().map(short).collect::<Vec<_>>(), expected, "{deed:?}");
        agent.pass();
        agent.assert_settled();
    }
}
