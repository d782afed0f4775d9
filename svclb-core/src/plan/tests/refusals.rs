//! Each operation of each kind of change refused, with each answer, once and for a while.

use std::collections::BTreeSet;

use super::changes::{self, Change, Row, before, maps, operations};
use super::watched::KINDS;
use super::*;
use crate::table::Failure;

/// How many operations in a row are refused: one; those of several passes.
const COUNTS: [usize; 2] = [1, 20];

/// Passes as the reconciler makes them, again and again while something fails; every step is watched.
/// Gives the agent when nothing fails any more.
fn refused(change: &Change, meta: Meta, (skip, count, refusal): (usize, usize, Failure)) -> Agent {
    let (mut world, mut agent) = before(change, meta);
    let failures = agent.table.load().unwrap().meta.failures;
    change.after.iter().for_each(|deed| agent.ingest(&mut world, deed));
    agent.table.is_roomy = refusal != Failure::NoRoom;
    agent.table.table.refuse(skip, count, refusal);
    let mut failed = 0;
    for turn in 0.. {
        assert!(turn <= count, "it does not come to an end");
        let refused = agent.table.table.failures;
        let done = agent.pass();
        failed += done.failed.len();
        if agent.table.table.failures == refused {
            break;
        }
        // Nothing that was refused is taken for done, and what is known to be refused is tried again.
        let is_tried_again =
            done.failed.is_empty() || agent.catalog.is_dirty() || only_status_failed(&done);
        assert!(
            is_tried_again && !(done.failed.is_empty() && done.unplaced.is_empty()),
            "{done:?}"
        );
        if agent.table.is_roomy {
            agent.table.assert_old_or_new();
        } else {
            // As an audit does.
            agent.mark_all();
        }
    }
    let told = agent.table.load().unwrap().meta.failures - failures;
    assert_eq!(told, failed as u64, "each is counted in the maps");
    agent.table.table.fail(0, 0);
    agent.table.is_roomy = true;
    agent
}

/// All that failed was the row that tells of the pass: nothing is left to do but that.
fn only_status_failed(done: &Pass) -> bool {
    done.failed.iter().all(|failed| failed.object.is_none())
}

fn assert_whole(done: &Pass) {
    assert!(done.failed.is_empty() && done.unplaced.is_empty(), "{done:?}");
}

/// As the reconciler does each minute.
fn audit(agent: &mut Agent) {
    agent.table.looks = false;
    if !agent.planner.is_in(&mut agent.table).unwrap() {
        let dump = agent.table.load().unwrap();
        let repairs = agent.planner.reload(&dump);
        agent.planner.repair(&mut agent.table, &repairs).unwrap();
    }
    agent.mark_all();
    assert_whole(&agent.pass());
    agent.table.looks = true;
}

#[test]
fn any_refused_operation_keeps_services_served_and_the_end_is_the_same() {
    let mut kinds = BTreeSet::new();
    for ((name, meta), counts) in maps().into_iter().zip([&COUNTS[..], &COUNTS[..1]]) {
        for change in changes::all() {
            let (operations, these) = operations(&change, meta);
            kinds.extend(these);
            let all =
                (0..operations).flat_map(|skip| counts.iter().map(move |count| (skip, *count)));
            for (skip, count) in all {
                for refusal in Failure::ALL {
                    let _row = Row(format!(
                        "{}, in maps with {name}: {refusal:?} for {count} after {skip}",
                        change.name
                    ));
                    let mut agent = refused(&change, meta, (skip, count, refusal));
                    agent.mark_all();
                    assert_whole(&agent.pass());
                    // Nobody is misled any more; a line that was half removed waits for the audit.
                    assert_eq!(agent.table.routes(), world::routes(&agent.catalog));
                    audit(&mut agent);
                    agent.assert_settled();
                }
            }
        }
    }
    assert_eq!(kinds, KINDS.into(), "every kind of operation was refused");
}
