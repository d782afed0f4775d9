//! Each operation of each kind of change refused, with each error, once and for a while.

use std::collections::BTreeSet;

use super::changes::{self, Change, Row, before, maps, operations};
use super::watched::KINDS;
use super::*;
use crate::table::Failure;

/// The numbers of operations in a row that are refused: one, and those of several passes.
const COUNTS: [usize; 2] = [1, 20];

/// Runs passes, as the reconciler does, while operations fail, with each step checked. Returns the agent when
/// none fails any more.
fn refused(change: &Change, meta: Meta, (skip, count, refusal): (usize, usize, Failure)) -> Agent {
    let (mut world, mut agent) = before(change, meta);
    let failures = agent.table.load().unwrap().meta.failures;
    change.after.iter().for_each(|event| agent.ingest(&mut world, event));
    agent.table.fits_all = refusal != Failure::NoRoom;
    agent.table.table.refuse(skip, count, refusal);
    let mut failed = 0;
    for turn in 0.. {
        assert!(turn <= count, "it does not end");
        let refused = agent.table.table.failures;
        let done = agent.pass();
        failed += done.failed.len();
        if agent.table.table.failures == refused {
            break;
        }
        // No refused operation counts as done, and each is tried again.
        let is_tried_again =
            done.failed.is_empty() || agent.catalog.is_dirty() || only_status_failed(&done);
        assert!(
            is_tried_again && !(done.failed.is_empty() && done.unplaced.is_empty()),
            "{done:?}"
        );
        if agent.table.fits_all {
            agent.table.assert_old_or_new();
        } else {
            // An audit does this, too.
            agent.mark_all();
        }
    }
    let counted = agent.table.load().unwrap().meta.failures - failures;
    assert_eq!(counted, failed as u64, "each is counted in the maps");
    agent.table.table.fail(0, 0);
    agent.table.fits_all = true;
    agent
}

/// Returns true when only the meta row failed, which counts the failures: nothing else is left to do.
fn only_status_failed(done: &Pass) -> bool {
    done.failed.iter().all(|failed| failed.object.is_none())
}

fn assert_whole(done: &Pass) {
    assert!(done.failed.is_empty() && done.unplaced.is_empty(), "{done:?}");
}

/// Runs an audit, as the reconciler does each minute.
fn audit(agent: &mut Agent) {
    agent.table.checks_steps = false;
    if !agent.planner.is_in(&mut agent.table).unwrap() {
        let dump = agent.table.load().unwrap();
        let repairs = agent.planner.reload(&dump);
        agent.planner.repair(&mut agent.table, &repairs).unwrap();
    }
    agent.mark_all();
    assert_whole(&agent.pass());
    agent.table.checks_steps = true;
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
                    // Each frontend is right again; a line that was half removed waits for the audit.
                    assert_eq!(agent.table.routes(), world::routes(&agent.catalog));
                    audit(&mut agent);
                    agent.assert_settled();
                }
            }
        }
    }
    assert_eq!(kinds, KINDS.into(), "every kind of operation was refused");
}
