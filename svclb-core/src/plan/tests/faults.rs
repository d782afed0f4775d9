//! Histories in which steps fail and the agent dies.

use proptest::prelude::*;

use super::world::deed;
use super::*;

proptest! {
    #[test]
    fn a_pass_that_fails_at_any_step_is_finished_by_the_next(
        deeds in proptest::collection::vec((deed(), 0..12_usize, 1..4_usize), 1..20),
    ) {
        let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
        for (deed, skip, count) in &deeds {
            agent.hear(&mut world, deed);
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
            agent.hear(&mut world, deed);
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
            agent.hear(&mut world, deed);
            if *dies {
                agent.table.table.fail(*skip, usize::MAX);
                agent.pass();
                agent.table.table.fail(0, 0);
                continue;
            }
            agent.table.expect(&agent.catalog);
            agent.restart();
            prop_assert!(agent.pass().failed.is_empty());
            agent.assert_settled();
        }
    }
}

#[test]
fn rows_that_somebody_made_or_removed_by_hand_are_put_right() {
    use crate::table::{Key, Row};
    use svclb_common::layout::{BackendKey, BackendRow, FrontendKey, FrontendRow};
    let (mut world, mut agent) = (World::default(), Agent::new(roomy()));
    for name in 0..3 {
        let service = Like { name, ips: vec![name], ports: vec![0, 2], ..Like::default() };
        agent.hear(&mut world, &Deed::Service(service));
        agent.hear(&mut world, &Deed::Endpoints { name, states: vec![1; 6] });
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
    let held: Vec<u32> =
        dump.lines.iter().filter(|(_, line)| line.protocol != 0).map(|(at, _)| *at).collect();
    memory.remove(&Key::Line(held[0])).unwrap();
    memory.put(&Row::Reach(held[1], 7)).unwrap();
    memory.put(&Row::Spilled(held[1], 7)).unwrap();
    memory.put(&Row::Heir(held[1], 77)).unwrap();
    agent.table.expect(&agent.catalog);
    agent.restart();
    assert!(agent.pass().failed.is_empty());
    agent.assert_settled();
}
