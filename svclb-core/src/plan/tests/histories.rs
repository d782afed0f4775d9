//! Histories without faults.

use proptest::prelude::*;

use super::world::deed;
use super::*;

proptest! {
    #[test]
    fn every_pass_ends_where_the_catalog_says_and_every_step_on_the_way_is_right(
        deeds in proptest::collection::vec(proptest::collection::vec(deed(), 1..4), 1..20),
    ) {
        let (mut world, mut agent) = (World, Agent::new(roomy()));
        for burst in &deeds {
            for deed in burst {
                agent.hear(&mut world, deed);
            }
            let done = agent.pass();
            prop_assert!(done.failed.is_none(), "{:?}", done.failed);
            prop_assert_eq!(&done.rejected, &[]);
            agent.assert_settled();
        }
    }

    #[test]
    fn a_history_ends_where_its_last_state_from_scratch_does(
        deeds in proptest::collection::vec(deed(), 1..30),
    ) {
        let (mut world, mut agent, mut late) = (World, Agent::new(roomy()), Agent::new(roomy()));
        for deed in &deeds {
            agent.hear(&mut world, deed);
            agent.pass();
            late.hear(&mut world, deed);
        }
        late.pass();
        prop_assert_eq!(agent.table.routes(), late.table.routes());
        prop_assert_eq!(agent.table.rows(), late.table.rows());
    }

    #[test]
    fn in_maps_that_are_too_small_what_does_not_fit_keeps_what_it_has(
        deeds in proptest::collection::vec(deed(), 1..40),
    ) {
        // Eight lines and two behind them for up to 24 frontends, eight slots.
        let (mut world, mut agent) = (World, Agent::new(meta(8, 2, 8)));
        agent.table.is_roomy = false;
        for deed in &deeds {
            agent.hear(&mut world, deed);
            let done = agent.pass();
            prop_assert!(done.failed.is_none(), "{:?}", done.failed);
            if done.rejected.is_empty() && !agent.catalog.is_dirty() {
                agent.mark_all();
            }
        }
        // All of it goes: nothing is left, and nothing of the maps is lost.
        for name in 0..4 {
            agent.hear(&mut world, &Deed::Gone(name));
        }
        agent.mark_all();
        let done = agent.pass();
        prop_assert!(done.failed.is_none(), "{:?}", done.failed);
        prop_assert_eq!(agent.table.routes().len(), 0);
        prop_assert_eq!(agent.table.rows().len(), 0);
        prop_assert_eq!(agent.state.free.free_slots(), 8);
        prop_assert_eq!(agent.state.index.spilled(0), 0);
    }
}

#[test]
fn a_change_of_one_service_takes_steps_for_that_service_only() {
    let (mut world, mut agent) = (World, Agent::new(roomy()));
    for name in 0..4 {
        let ips = vec![name];
        let service =
            Deed::Service { name, ips, external: None, ports: vec![0], age: 0, local: false };
        agent.hear(&mut world, &service);
        agent.hear(&mut world, &Deed::Endpoints { name, states: vec![1; 6] });
    }
    agent.pass();
    agent.hear(&mut world, &Deed::Endpoints { name: 2, states: vec![1, 1, 1, 1, 0, 1] });
    let done = agent.pass();
    assert_eq!(done.objects, 1);
    // Slots, flip, heir, member out, generation, heir, service row.
    assert_eq!(done.steps, 7);
}

#[test]
fn what_was_freed_is_not_used_before_it_has_rested() {
    let maps = meta(64, 4, 4);
    let (mut world, mut catalog) = (World, catalog());
    let (mut state, mut table) = (State::new(maps), Memory::new(maps));
    let mut hear = |catalog: &mut Catalog, deed: Deed| {
        world.change(&deed).into_iter().for_each(|update| catalog.apply(update));
    };
    let service = |name, ip| Deed::Service {
        name,
        ips: vec![ip],
        external: None,
        ports: vec![0],
        age: 0,
        local: false,
    };
    hear(&mut catalog, service(0, 0));
    hear(&mut catalog, Deed::Endpoints { name: 0, states: vec![1, 0, 1, 0, 1] });
    assert_eq!(pass(&mut state, &mut table, &mut catalog).rejected, []);
    // Three of four slots are used; two others do not fit, and would not after a rest either.
    hear(&mut catalog, service(1, 2));
    hear(&mut catalog, Deed::Endpoints { name: 1, states: vec![1, 0, 1] });
    let done = pass(&mut state, &mut table, &mut catalog);
    assert_eq!(done.rejected[0].why, Why::NoSlots);
    assert!(!catalog.is_dirty());
    // The first goes: there is room, but not yet.
    hear(&mut catalog, Deed::Gone(0));
    hear(&mut catalog, Deed::Endpoints { name: 1, states: vec![1, 0, 1, 0, 1] });
    assert_eq!(pass(&mut state, &mut table, &mut catalog).rejected[0].why, Why::NoSlots);
    catalog.mark([crate::model::ObjectName::new("default", "s1")]);
    assert_eq!(pass(&mut state, &mut table, &mut catalog).rejected[0].why, Why::WaitsForRest);
    assert!(catalog.is_dirty(), "it is tried again without being asked for");
    let resting = state.take_resting();
    state.rested(resting);
    assert_eq!(pass(&mut state, &mut table, &mut catalog).rejected, []);
}
