//! Guarantees when an agent is cut off between two steps, or when maps are short of capacity.
#![allow(clippy::unwrap_used, reason = "a tool of tests")]

mod common;
use common::*;
use svclb_core::plan::load;
use svclb_core::table::{Key, Table as _};

/// Maps with one service on 10.96.0.1 and two backends.
fn one() -> Agent {
    let mut agent = Agent::new(meta(64, 64));
    agent.ingest([service("a", &["10.96.0.1"], 1), slice("a", &["10.0.0.1", "10.0.0.2"])]);
    assert!(agent.pass().failed.is_empty());
    agent
}

fn generation(agent: &Agent) -> u32 {
    agent.find("10.96.0.1").unwrap().1.generation
}

/// The number of steps of the change that `change` makes.
fn steps(change: &dyn Fn(&mut Agent)) -> usize {
    let mut agent = one();
    change(&mut agent);
    let before = agent.table.operations;
    agent.pass();
    agent.table.operations - before
}

fn every_cut(change: &dyn Fn(&mut Agent), restarts: bool) {
    let mut wrong = Vec::new();
    for cut in 0..=steps(change) {
        let mut agent = one();
        let before = generation(&agent);
        change(&mut agent);
        agent.cut(cut);
        if restarts {
            agent.restart();
        }
        assert!(agent.pass().failed.is_empty());
        if generation(&agent) == before {
            wrong.push(cut);
        }
    }
    assert!(wrong.is_empty(), "cut after {wrong:?} steps: sockets keep the backend that left");
}

fn backend_leaves(agent: &mut Agent) {
    agent.ingest([slice("a", &["10.0.0.1"])]);
}

fn another_takes_over(agent: &mut Agent) {
    agent.ingest([service("b", &["10.96.0.1"], 0), slice("b", &["10.0.0.3"])]);
}

#[test]
fn the_generation_moves_though_the_agent_dies_while_a_backend_leaves() {
    every_cut(&backend_leaves, true);
}

#[test]
fn the_generation_moves_though_a_step_fails_while_a_backend_leaves() {
    every_cut(&backend_leaves, false);
}

#[test]
fn the_generation_moves_though_the_agent_dies_while_a_frontend_changes_hands() {
    every_cut(&another_takes_over, true);
}

#[test]
fn the_generation_moves_though_a_step_fails_while_a_frontend_changes_hands() {
    every_cut(&another_takes_over, false);
}

#[test]
fn a_third_service_takes_over_from_a_take_over_that_was_cut_off() {
    for restarts in [false, true] {
        for cut in 0..=steps(&another_takes_over) {
            let mut agent = one();
            another_takes_over(&mut agent);
            agent.cut(cut);
            agent.ingest([service("c", &["10.96.0.1"], -1), slice("c", &["10.0.0.4"])]);
            if restarts {
                agent.restart();
            }
            let done = agent.pass();
            assert!(done.failed.is_empty(), "restarts {restarts}, cut {cut}: {:?}", done.failed);
            assert_eq!(agent.backends("10.96.0.1"), set(&["10.0.0.4"]));
        }
    }
}

#[test]
fn frontend_of_an_unplaced_service_does_not_keep_stale_backends() {
    // Slots for three backends; the older b needs four.
    let mut agent = Agent::new(meta(64, 3));
    agent.ingest([service("a", &["10.96.0.1"], 1), slice("a", &["10.0.0.1"])]);
    agent.pass();
    agent.ingest([
        service("b", &["10.96.0.1"], 0),
        slice("b", &["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4"]),
    ]);
    assert_eq!(agent.pass().unplaced.len(), 1);
    agent.ingest([gone("a"), slice("a", &[])]);
    for _ in 0..3 {
        agent.pass();
        agent.mark_all();
    }
    let now = agent.backends("10.96.0.1").unwrap_or_default();
    assert!(!now.contains("10.0.0.1"), "a is gone and its pod too, b is asked for: {now:?}");
}

#[test]
fn two_sets_may_lie_apart() {
    // A range of 2, kept between two free ones of 3.
    let mut agent = Agent::new(meta(64, 8));
    agent.ingest([
        service("x", &["10.96.0.8"], 1),
        slice("x", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
    ]);
    agent.pass();
    agent.ingest([service("y", &["10.96.0.9"], 1), slice("y", &["10.0.0.4", "10.0.0.5"])]);
    agent.pass();
    agent.ingest([gone("x")]);
    agent.pass();
    let dual = ["10.0.1.1", "10.0.1.2", "10.0.1.3", "fd00::1", "fd00::2", "fd00::3"];
    agent.ingest([service("z", &["10.96.0.7", "fd00:96::7"], 1), slice("z", &dual)]);
    assert_eq!(agent.pass().unplaced, [], "3 and 3 of 6 free slots");
}

#[test]
fn row_removed_by_another_program_does_not_stop_a_pass() {
    let mut agent = one();
    agent.ingest([service("b", &["10.96.0.2"], 1), slice("b", &["10.0.0.9"])]);
    agent.pass();
    let dump = agent.table.load().unwrap();
    let (key, _) =
        dump.backends.iter().find(|(key, _)| key.address.to_string() == "10.0.0.2").unwrap();
    agent.table.inner.remove(&Key::Backend(*key)).unwrap();
    backend_leaves(&mut agent);
    agent.ingest([slice("b", &["10.0.0.8"])]);
    for _ in 0..5 {
        agent.pass();
    }
    assert_eq!(agent.backends("10.96.0.2"), set(&["10.0.0.8"]), "another service waits for ever");
}

#[test]
fn malformed_meta_row_does_not_panic() {
    let mut agent = one();
    let dump = agent.table.load().unwrap();
    // With u32::MAX lines, the mirror would allocate 16 GiB.
    for lines in [0, 3] {
        let meta = svclb_common::layout::Meta { index_lines: lines, ..dump.meta };
        let dump = svclb_core::table::Dump { meta, ..dump.clone() };
        assert!(std::panic::catch_unwind(|| load(&dump, meta)).is_ok(), "{lines} lines");
    }
}
