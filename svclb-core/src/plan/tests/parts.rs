//! Passes in parts of any size: each step is sound, objects take turns, and the end is the same.

use proptest::prelude::*;

use super::changes::{self, Row, before, maps};
use super::world::event;
use super::*;

impl Agent {
    /// Runs parts of so much effort, each step checked, until no object is under way.
    fn in_parts(&mut self, effort: usize) {
        self.catalog.recall();
        for _ in 0..10_000 {
            self.table.expect(&self.catalog);
            let done = part(&mut self.planner, &mut self.table, &mut self.catalog, effort);
            self.assert_quarantine();
            assert!(done.failed.is_empty(), "{:?}", done.failed);
            if !self.planner.is_under_way() {
                return;
            }
        }
        panic!("it does not end");
    }

    /// Runs parts, and ends quarantines, until nothing is left to do.
    fn settle_in_parts(&mut self, effort: usize) {
        for _ in 0..1_000 {
            self.in_parts(effort);
            let freed = self.planner.take_freed();
            if !freed.is_empty() {
                self.planner.release(freed);
                self.catalog
                    .mark(self.planner.unplaced.services().map(|short| short.object.clone()));
            }
            if !self.catalog.is_dirty() {
                return;
            }
        }
        panic!("it does not end");
    }
}

#[test]
fn change_in_parts_of_any_size_ends_in_the_same_state_as_in_one_piece() {
    for (name, meta) in maps() {
        for change in changes::all() {
            for effort in [1, 2, 3, 7] {
                let _row = Row(format!("{}, in maps with {name}, {effort} a part", change.name));
                let (mut world, mut agent) = before(&change, meta);
                change.after.iter().for_each(|event| agent.ingest(&mut world, event));
                agent.settle_in_parts(effort);
                agent.assert_settled();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn changes_that_come_between_the_parts_join_them(
        events in proptest::collection::vec(event(), 1..25),
        effort in 1..12_usize,
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
        for event in &events {
            agent.ingest(&mut world, event);
            agent.table.expect(&agent.catalog);
            let done = part(&mut agent.planner, &mut agent.table, &mut agent.catalog, effort);
            prop_assert!(done.failed.is_empty(), "{:?}", done.failed);
        }
        agent.settle_in_parts(effort);
        agent.assert_settled();
    }
}
