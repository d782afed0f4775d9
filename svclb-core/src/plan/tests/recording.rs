//! Dry runs: a pass over a recording table records its steps and changes no map.

use super::changes::{self, Row, before, maps};
use super::*;
use crate::table::{RecordingTable, Step};

#[test]
fn a_dry_run_records_the_steps_of_a_pass_and_touches_no_map() {
    for (name, meta) in maps() {
        for change in changes::all() {
            let _row = Row(format!("{}, in maps with {name}", change.name));
            let (mut world, mut agent) = before(&change, meta);
            change.after.iter().for_each(|event| agent.ingest(&mut world, event));
            let dump = agent.table.load().unwrap();
            let mut recording = RecordingTable::new(dump.clone());
            let (mut planner, repairs) = load(&recording.load().unwrap(), dump.meta);
            planner.repair(&mut recording, &repairs).unwrap();
            agent.mark_all();
            let done = pass(&mut planner, &mut recording, &mut agent.catalog);
            assert!(done.failed.is_empty() && done.unplaced.is_empty(), "{done:?}");
            assert_eq!(agent.table.load().unwrap(), dump, "no map is touched");
            // Applied to the maps, each of the steps is sound, and they end in the state of a pass.
            agent.table.expect(&agent.catalog);
            for step in recording.steps() {
                match step {
                    Step::Put(row) => agent.table.put(row).unwrap(),
                    Step::Remove(key) => agent.table.remove(key).unwrap(),
                }
            }
            agent.restart();
            agent.assert_settled();
        }
    }
}
