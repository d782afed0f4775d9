//! The shrinker finds a planted failure.

use super::super::generate::world;
use super::super::world::{HostRef, Place};
use super::*;

/// The planted failure: a Service with internalTrafficPolicy Local has a slice with a remote host.
fn is_planted(world: &World) -> bool {
    world.services.iter().any(|service| {
        let is_remote = |host_ref: &HostRef| {
            !host_ref.is_dying && service.hosts[host_ref.host].alive.node == Some(Place::There)
        };
        let host_refs = service.slices.iter().flat_map(|slice| &slice.endpoints);
        service.is_internal_local && host_refs.into_iter().any(is_remote)
    })
}

fn all(worlds: &[World]) -> Vec<bool> {
    worlds.iter().map(is_planted).collect()
}

#[test]
fn shrinking_leaves_only_what_makes_a_world_fail() {
    let mut found = 0;
    for seed in (0..200).filter(|seed| is_planted(&world(*seed))) {
        found += 1;
        let smallest = shrink(&world(seed), all);
        assert!(is_planted(&smallest), "seed {seed}");
        let [service] = &smallest.services[..] else { panic!("seed {seed}: {smallest:#?}") };
        let [slice] = &service.slices[..] else { panic!("seed {seed}: {smallest:#?}") };
        let [host_ref] = &slice.endpoints[..] else { panic!("seed {seed}: {smallest:#?}") };
        assert!(slice.ports.is_empty() && service.external.is_empty() && service.ranges.is_empty());
        assert_eq!((service.ports.len(), service.families.len()), (1, 1), "seed {seed}");
        assert_eq!((service.affinity, service.label), (None, None), "seed {seed}");
        let remote = Endpoint { node: Some(Place::There), ..Endpoint::default() };
        assert_eq!(service.hosts[host_ref.host].alive, remote, "seed {seed}");
    }
    assert!(found > 20, "expected more than 20 failing worlds, found {found}");
}

#[test]
fn shrinking_keeps_two_services_if_both_are_needed() {
    let needs = |world: &World| {
        world.services.iter().filter(|it| it.external.iter().any(|ip| ip.is_shared)).count() > 1
    };
    let seed = (0..).find(|seed| needs(&world(*seed))).unwrap();
    let smallest = shrink(&world(seed), |worlds| worlds.iter().map(needs).collect());
    assert_eq!(smallest.services.len(), 2);
    assert!(smallest.services.iter().all(|service| service.external.len() == 1));
    assert!(smallest.services.iter().all(|service| service.slices.is_empty()));
}

#[test]
fn a_world_that_cannot_be_reduced_stays_as_it_is() {
    let whole = world(1);
    assert_eq!(shrink(&whole, |worlds| vec![false; worlds.len()]), whole);
}

#[test]
fn each_step_changes_the_world() {
    for seed in 0..50 {
        let whole = world(seed);
        let steps = smaller(&whole);
        assert!(!steps.is_empty());
        assert!(steps.iter().all(|step| *step != whole), "seed {seed}");
    }
}
