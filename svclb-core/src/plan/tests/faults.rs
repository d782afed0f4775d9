//! Histories in which steps fail and the agent dies.

use proptest::prelude::*;

use super::world::event;
use super::*;
use crate::number::{LineNumber, ServiceId};
use crate::table::Failure;

fn refusal() -> impl Strategy<Value = Failure> {
    proptest::sample::select(&Failure::ALL[..])
}

proptest! {
    #[test]
    fn refused_steps_keep_services_served_and_the_end_is_the_same(
        events in proptest::collection::vec((event(), 0..40_usize, 1..60_usize, refusal()), 1..12),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
        // The maps are ample: a service for which the table reports no capacity waits for it, and owners keep
        // their frontends meanwhile.
        agent.planner.set_growing(true);
        for (event, skip, count, refusal) in &events {
            agent.ingest(&mut world, event);
            agent.table.table.refuse(*skip, *count, *refusal);
            // A service without capacity is passed over for other claimants (decisions/0010).
            agent.table.fits_all = *refusal != Failure::NoRoom;
            let failures = agent.table.table.failures;
            // Each step of each try is checked. A try that fails writes less than all.
            for _ in 0..=*count {
                let before = agent.table.table.failures;
                agent.pass();
                if agent.table.table.failures == before {
                    break;
                }
            }
            let failed = agent.table.table.failures - failures;
            agent.table.table.fail(0, 0);
            agent.table.fits_all = true;
            prop_assert!(failed <= *count);
            // A service that did not fit is planned again when there is capacity, or at an audit.
            agent.mark_all();
            let done = agent.pass();
            prop_assert!(done.failed.is_empty(), "{:?}", done.failed);
            prop_assert_eq!(&done.unplaced, &[]);
            agent.assert_settled();
        }
    }

    #[test]
    fn a_pass_that_fails_at_any_step_is_finished_by_the_next(
        events in proptest::collection::vec((event(), 0..12_usize, 1..4_usize), 1..20),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
        for (event, skip, count) in &events {
            agent.ingest(&mut world, event);
            agent.table.table.fail(*skip, *count);
            let done = agent.pass();
            // The table has checked after every step that served frontends stay served.
            agent.table.table.fail(0, 0);
            prop_assert!(!done.failed.is_empty() || !agent.catalog.is_dirty());
            prop_assert!(agent.pass().failed.is_empty());
            agent.assert_settled();
        }
    }

    #[test]
    fn new_agent_continues_after_a_crash_at_any_step(
        events in proptest::collection::vec((event(), 0..12_usize), 1..20),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
        for (event, skip) in &events {
            agent.ingest(&mut world, event);
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
    fn changes_while_no_agent_runs_are_applied_by_the_next(
        events in proptest::collection::vec((event(), 0..12_usize, any::<bool>()), 1..20),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
        for (event, skip, dies) in &events {
            agent.ingest(&mut world, event);
            if *dies {
                agent.table.table.fail(*skip, usize::MAX);
                agent.pass();
                agent.table.table.fail(0, 0);
                agent.table.record_crash();
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
    let (mut world, mut agent) = (World::default(), Agent::new(ample_maps()));
    for name in 0..3 {
        let service = Spec { name, ips: vec![name], ports: vec![0, 2], ..Spec::default() };
        agent.ingest(&mut world, &Event::Service(service));
        agent.ingest(&mut world, &Event::Endpoints { name, states: vec![1; 6] });
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
