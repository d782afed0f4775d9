//! Agents that die after each step of each kind of change, and their successors.
//!
//! The table refuses all operations after the crash, so the dead agent leaves the result of the steps before.
//! The next agent is a new process that knows only the present state of the cluster.

use std::collections::BTreeSet;

use super::changes::{self, Change, Row, before, maps, operations};
use super::watched::{KINDS, Remembered};
use super::*;

/// Runs a pass of a new process that knows all of this world, with only so many operations allowed. Returns the
/// number of operations that it tried.
fn restarts_over(agent: &mut Agent, world: &World, operations: usize) -> usize {
    agent.catalog = catalog();
    world.apply_to(&mut agent.catalog);
    agent.table.expect(&agent.catalog);
    let first = agent.table.table.operations;
    agent.table.table.fail(operations, usize::MAX);
    let dump = agent.table.load().unwrap();
    let (state, repairs) = load(&dump, dump.meta);
    agent.planner = state;
    let repaired = agent.planner.repair(&mut agent.table, &repairs);
    agent.mark_all();
    let done = pass(&mut agent.planner, &mut agent.table, &mut agent.catalog);
    agent.table.table.fail(0, 0);
    let taken = agent.table.table.operations - first;
    let is_whole = repaired.is_ok() && done.failed.is_empty();
    assert_eq!(is_whole, taken <= operations, "{done:?}");
    assert_eq!(done.unplaced, []);
    agent.table.assert_old_or_new();
    taken
}

/// Asserts that a new process ends in the same state as one that begins with empty maps, and has nothing left
/// to do.
fn converges(agent: &mut Agent, world: &World, remembered: &[Remembered]) {
    restarts_over(agent, world, usize::MAX);
    let mut fresh = Agent::new(*agent.planner.meta());
    fresh.table.checks_steps = false;
    world.apply_to(&mut fresh.catalog);
    fresh.pass();
    assert_eq!(agent.table.routes(), fresh.table.routes());
    assert_eq!(agent.table.rows(), fresh.table.rows());
    agent.table.assert_no_client_stays(remembered);
    let first = agent.table.table.operations;
    agent.mark_all();
    agent.pass();
    assert_eq!(agent.table.table.operations, first, "one more pass writes nothing");
    assert_eq!(restarts_over(agent, world, usize::MAX), 0, "one more start writes nothing");
}

/// Lets the agent die after so many operations of this change.
fn dies(change: &Change, meta: Meta, operations: usize) -> (World, Agent, Vec<Remembered>) {
    let (mut world, mut agent) = before(change, meta);
    let mut remembered = agent.table.remembered();
    change.after.iter().for_each(|event| agent.ingest(&mut world, event));
    agent.table.table.fail(operations, usize::MAX);
    agent.pass();
    agent.table.table.fail(0, 0);
    agent.table.assert_old_or_new();
    agent.table.record_crash();
    remembered.extend(agent.table.remembered());
    (world, agent, remembered)
}

#[test]
fn agent_that_dies_after_any_step_misleads_no_client_and_the_next_one_converges() {
    let mut kinds = BTreeSet::new();
    for (name, meta) in maps() {
        for change in changes::all() {
            let (operations, these) = operations(&change, meta);
            kinds.extend(these);
            for at in 0..=operations {
                let _row = Row(format!("{}, in maps with {name}: dies after {at}", change.name));
                let (world, mut agent, remembered) = dies(&change, meta, at);
                converges(&mut agent, &world, &remembered);
            }
        }
    }
    assert_eq!(kinds, KINDS.into(), "every kind of operation was the last one");
}

#[test]
fn agent_that_dies_during_recovery_is_recovered_from_too() {
    let meta = meta(32, 64);
    for change in changes::all() {
        for at in 0..=operations(&change, meta).0 {
            let (world, mut agent, _) = dies(&change, meta, at);
            let more = restarts_over(&mut agent, &world, usize::MAX);
            // Every third second crash, from another one for each first crash.
            for second in (at % 3..more).step_by(3) {
                let _row = Row(format!("{}: dies after {at} and {second}", change.name));
                let (world, mut agent, mut remembered) = dies(&change, meta, at);
                restarts_over(&mut agent, &world, second);
                remembered.extend(agent.table.remembered());
                converges(&mut agent, &world, &remembered);
            }
        }
    }
}

#[test]
fn change_reverted_while_no_agent_runs_leaves_no_row() {
    for change in changes::all() {
        for at in 0..=operations(&change, meta(64, 64)).0 {
            let _row = Row(format!("{}: dies after {at}", change.name));
            let (_, mut agent, remembered) = dies(&change, meta(64, 64), at);
            let (world, _) = before(&change, meta(64, 64));
            converges(&mut agent, &world, &remembered);
        }
    }
}

#[test]
fn no_client_keeps_a_backend_removed_before_a_crash_even_while_sources_are_unknown() {
    let (_, meta) = maps()[0];
    for change in changes::all() {
        let (operations, _) = operations(&change, meta);
        for at in 0..=operations {
            let _row = Row(format!("{}: dies after {at}", change.name));
            let (_, mut agent, remembered) = dies(&change, meta, at);
            agent.restart();
            agent.table.assert_no_client_keeps_a_stale_backend(&remembered);
            for failing in 0..4 {
                let _row = Row(format!("{}: dies after {at}, {failing} fails", change.name));
                let (_, mut agent, remembered) = dies(&change, meta, at);
                let dump = agent.table.load().unwrap();
                let (state, repairs) = load(&dump, dump.meta);
                agent.planner = state;
                agent.table.table.fail(failing, 1);
                let repaired = agent.planner.repair(&mut agent.table, &repairs);
                agent.table.table.fail(0, 0);
                assert_eq!(repaired.is_err(), failing < repairs.len());
                agent.restart();
                agent.table.assert_no_client_keeps_a_stale_backend(&remembered);
            }
        }
    }
}
