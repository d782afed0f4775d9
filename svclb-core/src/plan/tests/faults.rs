//! Histories in which steps fail and the agent dies.

use proptest::prelude::*;

use super::world::deed;
use super::*;
use crate::number::{LineNumber, ServiceId};
use crate::table::Failure;

fn refusal() -> impl Strategy<Value = Failure> {
    proptest::sample::select(&Failure::ALL[..])
}

proptest! {
    #[test]
    fn whatever_is_refused_and_for_however_long_what_was_served_stays_and_the_end_is_the_same(
        deeds in proptest::collection::vec((deed(), 0..40_usize, 1..60_usize, refusal()), 1..12),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
        // There is room: who is told that there is none waits for it, and so does who gives way.
        agent.planner.set_growing(true);
        for (deed, skip, count, refusal) in &deeds {
            agent.ingest(&mut world, deed);
            agent.table.table.refuse(*skip, *count, *refusal);
            // Who is told that there is no room is passed over for whoever else asks (decisions/0010).
            agent.table.is_roomy = *refusal != Failure::NoRoom;
            let failures = agent.table.table.failures;
            // Each step of each try is looked at. A try that fails writes less than what fails.
            for _ in 0..=*count {
                let before = agent.table.table.failures;
                agent.pass();
                if agent.table.table.failures == before {
                    break;
                }
            }
            let failed = agent.table.table.failures - failures;
            agent.table.table.fail(0, 0);
            agent.table.is_roomy = true;
            prop_assert!(failed <= *count);
            // One that did not fit is looked at when there is room, or at an audit.
            agent.mark_all();
            let done = agent.pass();
            prop_assert!(done.failed.is_empty(), "{:?}", done.failed);
            prop_assert_eq!(&done.unplaced, &[]);
            agent.assert_settled();
        }
    }

    #[test]
    fn a_pass_that_fails_at_any_step_is_finished_by_the_next(
        deeds in proptest::collection::vec((deed(), 0..12_usize, 1..4_usize), 1..20),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
        for (deed, skip, count) in &deeds {
            agent.ingest(&mut world, deed);
            agent.table.table.fail(*skip, *count);
            let done = agent.pass();
            // What was served stays served: the table looked after every step.
            agent.table.table.fail(0, 0);
            prop_assert!(!done.failed.is_empty() || !agent.catalog.is_dirty());
            prop_assert!(agent.pass().failed.is_empty());
            agent.assert_settled();
        }
    }

    #[test]
    fn an_agent_that_dies_after_any_step_is_continued_by_a_new_one(
        deeds in proptest::collection::vec((deed(), 0..12_usize), 1..20),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
        for (deed, skip) in &deeds {
            agent.ingest(&mut world, deed);
            agent.table.table.fail(*skip, usize::MAX);
            agent.pass();
            agent.table.table.fail(0, 0);
            agent.table.expect(&agent.catalog);
            agent.restart();
            prop_assert!(agent.pass().failed.is_empty());
            agent.assert_settled();
        }
    }

    #[test]
    fn deeds_while_the_agent_is_dead_are_caught_up_with(
        deeds in proptest::collection::vec((deed(), 0..12_usize, any::<bool>()), 1..20),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
        for (deed, skip, dies) in &deeds {
            agent.ingest(&mut world, deed);
            if *dies {
                agent.table.table.fail(*skip, usize::MAX);
                agent.pass();
                agent.table.table.fail(0, 0);
                agent.table.died();
                continue;
            }
            agent.table.expect(&agent.catalog);
            agent.restart();
            prop_assert!(agent.pass().failed.is_empty());
            agent.table.caught_up();
            agent.assert_settled();
        }
    }
}

#[test]
fn rows_written_or_removed_by_another_program_are_repaired() {
    use crate::table::{Key, Row};
    use svclb_common::layout::{BackendKey, BackendRow, FrontendKey, FrontendRow};
    let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
    for name in 0..3 {
        let service = Like { name, ips: vec![name], ports: vec![0, 2], ..Like::default() };
        agent.ingest(&mut world, &Deed::Service(service));
        agent.ingest(&mut world, &Deed::Endpoints { name, states: vec![1; 6] });
    }
    agent.pass();
    agent.assert_settled();
    let dump = agent.table.load().unwrap();
    let memory = &mut agent.table.table.inner;
    let stranger = FrontendKey { port: 9, protocol: 6, ..dump.frontends[0].0 };
    memory.put(&Row::Frontend(stranger, FrontendRow { service: 99, line: 3 })).unwrap();
    memory.remove(&Key::Frontend(dump.frontends[1].0)).unwrap();
    memory.remove(&Key::Backend(dump.backends[0].0)).unwrap();
    let member = BackendKey { port: 9, ..dump.backends[1].0 };
    memory.put(&Row::Backend(member, BackendRow { sets: 1, ..dump.backends[1].1 })).unwrap();
    let filled = dump.lines.iter().filter(|(_, line)| line.protocol != 0);
    let held: Vec<LineNumber> = filled.map(|(number, _)| LineNumber(*number)).collect();
    memory.remove(&Key::Line(held[0])).unwrap();
    memory.put(&Row::Reach(held[1], 7)).unwrap();
    memory.put(&Row::Heir(held[1], ServiceId(77))).unwrap();
    agent.table.expect(&agent.catalog);
    agent.restart();
    assert!(agent.pass().failed.is_empty());
    agent.assert_settled();
}
