//! New maps that replace those in use.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::world::event;
use super::*;
use crate::model::ServiceKey;

impl Agent {
    /// Fills maps of these sizes and replaces those in use by them.
    fn move_to(&mut self, meta: Meta) {
        let state = self.planner.staging(meta);
        let mut table = Watched::new(MemoryTable::new(*state.meta()));
        // No program reads them before they are whole.
        table.fits_all = false;
        (self.planner, self.table) = (state, table);
        self.mark_all();
        let done = self.pass();
        assert!(done.failed.is_empty(), "{:?}", done.failed);
        self.planner.forget_inherited_ids();
        self.table.fits_all = true;
    }

    pub(super) fn ids(&self) -> BTreeMap<ServiceKey, u32> {
        let services = self.planner.mirror.services.iter();
        services.map(|(id, service)| (service.key().clone(), id.0)).collect()
    }
}

proptest! {
    #[test]
    fn larger_maps_hold_all_of_it_with_the_same_ids_and_generations_above_the_old_ones(
        before in proptest::collection::vec(event(), 1..30),
        after in proptest::collection::vec(event(), 1..10),
    ) {
        // Eight lines for up to 24 frontends, eight slots.
        let (mut world, mut agent) = (World::default(), Agent::new(meta(8, 8)));
        agent.table.fits_all = false;
        for event in &before {
            agent.ingest(&mut world, event);
            agent.pass_only();
            agent.settle();
        }
        let (ids, next) = (agent.ids(), agent.planner.meta().next_service);
        let highest = agent.planner.mirror.lines.highest_generation().0;
        agent.move_to(Meta { seed: 8, ..ample_maps() });
        let found = agent.ids();
        for (service, id) in &ids {
            prop_assert_eq!(found.get(service), Some(id), "{} keeps its id", service);
        }
        prop_assert!(agent.planner.meta().next_service >= next, "no id is given twice");
        let new = found.iter().filter(|(service, _)| !ids.contains_key(service));
        for (service, id) in new {
            prop_assert!(*id >= next, "{} has an id that another had", service);
        }
        let lowest = agent.planner.mirror.lines.lowest_generation(true);
        prop_assert!(lowest.is_none_or(|lowest| lowest > highest), "{lowest:?} after {highest}");
        prop_assert!(agent.planner.lacking().next().is_none());
        agent.assert_settled();

        // They work as any maps do, also for a new process; and generations of lines that are used later are
        // above the old ones, too.
        for event in &after {
            agent.ingest(&mut world, event);
            prop_assert!(agent.pass().failed.is_empty());
        }
        agent.assert_settled();
        let lowest = agent.planner.mirror.lines.lowest_generation(false);
        prop_assert!(lowest.is_none_or(|lowest| lowest > highest), "{lowest:?} after {highest}");
    }

    #[test]
    fn ids_are_inherited_from_maps_that_cannot_be_used(
        events in proptest::collection::vec(event(), 1..20),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
        for event in &events {
            agent.ingest(&mut world, event);
            agent.pass();
        }
        let (ids, rows) = (agent.ids(), agent.table.load().unwrap().services);
        let row = Meta { first_generation: 1000, next_service: 0, ..ample_maps() };
        let state = Planner::renewed(&rows, row);
        agent.table = Watched::new(MemoryTable::new(*state.meta()));
        agent.table.fits_all = false;
        agent.planner = state;
        agent.mark_all();
        prop_assert!(agent.pass().failed.is_empty());
        agent.planner.forget_inherited_ids();
        agent.table.fits_all = true;
        prop_assert_eq!(agent.ids(), ids);
        agent.assert_settled();
        prop_assert!(agent.planner.mirror.lines.lowest_generation(true).is_none_or(|it| it > 1000));
    }
}

#[test]
fn failures_are_counted_in_the_meta_row_once_it_can_be_written() {
    let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
    let service = Spec { name: 0, ips: vec![0], ports: vec![0], ..Spec::default() };
    agent.ingest(&mut world, &Event::Service(service));
    agent.ingest(&mut world, &Event::Endpoints { name: 0, states: vec![1; 3] });
    agent.table.table.fail(0, 5);
    let mut failed = 0;
    while agent.catalog.is_dirty() {
        failed += agent.pass().failed.len() as u64;
    }
    assert!(failed > 0);
    assert_eq!(agent.table.load().unwrap().meta.failures, failed);
    agent.assert_settled();
    assert_eq!(agent.table.load().unwrap().meta.failures, failed, "restarts included");
}

#[test]
fn no_pass_writes_synced_before_the_sources_are_known() {
    let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
    agent.planner.set_synced(false);
    let service = Spec { name: 0, ips: vec![0], ports: vec![0], ..Spec::default() };
    agent.ingest(&mut world, &Event::Service(service));
    agent.pass();
    assert_eq!(agent.planner.meta().synced, 0);
    agent.planner.set_synced(true);
    agent.pass();
    assert_eq!(agent.table.load().unwrap().meta.synced, 1);
}
