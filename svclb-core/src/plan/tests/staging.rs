//! Staging maps that are filled part by part while those in use go on changing.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::world::event;
use super::*;
use crate::model::ServiceKey;

/// Maps of other sizes that are being filled for an agent.
struct Filling {
    staging: Staging,
    table: Watched,
    /// The ids of the services at the beginning.
    ids: BTreeMap<ServiceKey, u32>,
}

impl Filling {
    fn begin(agent: &mut Agent) -> Self {
        let meta = Meta { seed: 8, ..ample_maps() };
        let staging = Staging::begin(&mut agent.planner, &agent.catalog, meta);
        let mut table = Watched::new(MemoryTable::new(*staging.meta()));
        // No program reads them before they are whole.
        table.checks_steps = false;
        Self { staging, table, ids: agent.ids() }
    }

    /// Begins to fill maps after some events, with a part of so much effort after each further one.
    fn between(
        agent: &mut Agent,
        world: &mut World,
        before: &[Event],
        during: &[(Event, usize)],
    ) -> Self {
        for event in before {
            agent.ingest(world, event);
            agent.pass();
        }
        let mut filling = Self::begin(agent);
        for (event, effort) in during {
            agent.ingest(world, event);
            filling.part(agent, *effort);
        }
        filling
    }

    /// Runs a part on the maps in use and one on the staging maps.
    fn part(&mut self, agent: &mut Agent, effort: usize) {
        self.parts(agent, effort, effort);
    }

    /// The same with an effort of `current` for the maps in use.
    fn parts(&mut self, agent: &mut Agent, current: usize, effort: usize) {
        agent.table.expect(&agent.catalog);
        let done = part(&mut agent.planner, &mut agent.table, &mut agent.catalog, current);
        assert!(done.failed.is_empty(), "{:?}", done.failed);
        let freed = agent.planner.take_freed();
        agent.planner.release(freed);
        let Self { staging, table, .. } = self;
        let done = staging.part(table, &mut agent.planner, &agent.catalog, effort);
        assert!(done.failed.is_empty(), "{:?}", done.failed);
    }

    /// Runs parts until the staging maps are filled, and replaces those in use by them.
    fn end(mut self, agent: &mut Agent, effort: usize) {
        for round in 0.. {
            assert!(round < 10_000, "it does not end");
            if self.staging.is_complete(&agent.planner) {
                break;
            }
            self.part(agent, effort);
        }
        let before = agent.table.routes();
        let Self { staging, mut table, ids } = self;
        let done = staging.finish(&mut table, &agent.planner, &mut agent.catalog);
        let (current, highest) = (agent.ids(), agent.planner.mirror.lines.highest_generation().0);
        let (state, rejected) = done.unwrap();
        assert_eq!(rejected, []);
        table.checks_steps = true;
        (agent.planner, agent.table) = (state, table);
        let found = agent.ids();
        for (service, id) in ids {
            if current.get(&service) == Some(&id) {
                assert!(found.get(&service).is_none_or(|it| *it == id), "{service} has another id");
            }
        }
        let lowest = agent.planner.mirror.lines.lowest_generation(false);
        assert!(lowest.is_none_or(|lowest| lowest > highest), "{lowest:?} after {highest}");
        // Each served frontend still is, unless the catalog does not have it any more.
        let after = agent.table.routes();
        let wanted = super::world::routes(&agent.catalog);
        for frontend in before.keys().filter(|frontend| wanted.contains_key(frontend)) {
            assert!(after.contains_key(frontend), "{frontend:?} is lost");
        }
    }
}

/// Brings all that waits or was held to its end.
fn settle(agent: &mut Agent) {
    agent.catalog.recall();
    agent.pass();
    agent.settle();
    agent.assert_settled();
}

proptest! {
    #[test]
    fn staging_maps_filled_between_changes_hold_the_same_as_those_in_use(
        before in proptest::collection::vec(event(), 1..25),
        during in proptest::collection::vec((event(), 1..40_usize), 0..15),
        after in proptest::collection::vec(event(), 0..5),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
        let filling = Filling::between(&mut agent, &mut world, &before, &during);
        filling.end(&mut agent, 20);
        settle(&mut agent);
        for event in &after {
            agent.ingest(&mut world, event);
            prop_assert!(agent.pass().failed.is_empty());
        }
        settle(&mut agent);
    }

    #[test]
    fn abandoned_staging_maps_leave_nothing_undone(
        before in proptest::collection::vec(event(), 1..25),
        during in proptest::collection::vec((event(), 1..40_usize), 1..15),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
        let filling = Filling::between(&mut agent, &mut world, &before, &during);
        drop(filling);
        agent.planner.abandon_staging();
        settle(&mut agent);
    }

    #[test]
    fn larger_maps_replace_too_small_ones_while_those_change(
        before in proptest::collection::vec(event(), 1..25),
        during in proptest::collection::vec((event(), 1..40_usize), 0..15),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(meta(8, 8)));
        agent.table.fits_all = false;
        let filling = Filling::between(&mut agent, &mut world, &before, &during);
        filling.end(&mut agent, 20);
        settle(&mut agent);
    }
}

#[test]
fn staging_maps_are_filled_while_a_large_object_changes_all_the_time() {
    let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
    let service = |name| Spec { name, ips: vec![name], ports: vec![0, 1, 2], ..Spec::default() };
    for name in 0..3 {
        agent.ingest(&mut world, &Event::Service(service(name)));
        agent.ingest(&mut world, &Event::Endpoints { name, states: vec![1; 3] });
    }
    agent.pass();
    // Three ports cost more than such a part, and there is a change before each part.
    let effort = 6;
    agent.ingest(&mut world, &Event::Endpoints { name: 0, states: vec![1; 2] });
    agent.table.expect(&agent.catalog);
    part(&mut agent.planner, &mut agent.table, &mut agent.catalog, effort);
    assert!(agent.planner.is_under_way(), "it is in the middle of a change when it begins");
    let mut filling = Filling::begin(&mut agent);
    let mut rounds = 0;
    while !filling.staging.is_complete(&agent.planner) {
        let states = vec![1; 1 + rounds % 3];
        agent.ingest(&mut world, &Event::Endpoints { name: 0, states });
        filling.part(&mut agent, effort);
        rounds += 1;
        assert!(rounds < 1_000, "it does not end");
    }
    filling.end(&mut agent, effort);
    settle(&mut agent);
}

#[test]
fn staging_maps_are_filled_while_all_objects_change_all_the_time() {
    let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
    let names = 0..6;
    for name in names.clone() {
        let ips = vec![name];
        agent.ingest(&mut world, &Event::Service(Spec { name, ips, ..Spec::default() }));
        agent.ingest(&mut world, &Event::Endpoints { name, states: vec![1; 3] });
    }
    agent.pass();
    let mut filling = Filling::begin(&mut agent);
    // A part of the maps in use is less than all that changes before it, and a quarter of the others'.
    let (current, effort) = (8, 32);
    let mut rounds = 0;
    while !filling.staging.is_complete(&agent.planner) {
        for name in names.clone() {
            agent.ingest(&mut world, &Event::Endpoints { name, states: vec![1; 1 + rounds % 3] });
        }
        filling.parts(&mut agent, current, effort);
        rounds += 1;
        assert!(rounds < 1_000, "it does not end");
    }
    filling.end(&mut agent, effort);
    settle(&mut agent);
}
