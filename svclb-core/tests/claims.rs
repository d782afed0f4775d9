//! The owner of a frontend with several claimants, in ample maps and in full ones: a ClusterIP is never another
//! Service's external IP.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use common::*;
use svclb_core::model::Update;

const SHARED: &str = "10.96.0.1";

/// A Service at its own ClusterIP that claims the shared address as an external IP, with one backend.
fn external(name: &str, own: &str, created: i64, backend: &str) -> [Update; 2] {
    let Update::Service(object, Some(mut it)) = service(name, &[own], created) else {
        panic!("a Service")
    };
    it.external_ips = vec![ip(SHARED)];
    [Update::Service(object, Some(it)), slice(name, &[backend])]
}

/// The Service whose ClusterIP that is, younger than all others.
fn owner(backends: &[&str]) -> [Update; 2] {
    [service("owner", &[SHARED], 9), slice("owner", backends)]
}

#[test]
fn a_cluster_ip_is_taken_over_in_place_from_an_older_external_ip() {
    let steps = {
        let mut agent = Agent::new(meta(64, 64));
        agent.ingest(external("older", "10.96.0.2", 1, "10.0.0.2")).pass();
        agent.ingest(owner(&["10.0.0.1"]));
        let before = agent.table.operations;
        agent.pass();
        agent.table.operations - before
    };
    for cut in 0..=steps {
        let mut agent = Agent::new(meta(64, 64));
        agent.ingest(external("older", "10.96.0.2", 1, "10.0.0.2")).pass();
        assert_eq!(agent.backends(SHARED), set(&["10.0.0.2"]));
        agent.ingest(owner(&["10.0.0.1"]));
        agent.cut(cut);
        let meanwhile = agent.backends(SHARED);
        let is_served = meanwhile == set(&["10.0.0.1"]) || meanwhile == set(&["10.0.0.2"]);
        assert!(is_served, "cut after {cut} steps: {meanwhile:?}");
        agent.restart();
        agent.pass();
        assert_eq!(agent.backends(SHARED), set(&["10.0.0.1"]), "cut after {cut} steps");
        assert_eq!(agent.backends("10.96.0.2"), set(&["10.0.0.2"]));
    }
}

#[test]
fn in_one_pass_the_cluster_ip_wins_whatever_its_age() {
    let mut agent = Agent::new(meta(64, 64));
    agent.ingest(external("older", "10.96.0.2", 1, "10.0.0.2")).ingest(owner(&["10.0.0.1"])).pass();
    assert_eq!(agent.backends(SHARED), set(&["10.0.0.1"]));
    // It is deleted, and the next claimant owns the address.
    agent.ingest([gone("owner")]).pass();
    assert_eq!(agent.backends(SHARED), set(&["10.0.0.2"]));
}

#[test]
fn cluster_ip_that_does_not_fit_goes_to_no_other_claimant() {
    // Two slots, both used: the owner does not fit.
    let mut agent = Agent::new(meta(64, 2));
    agent.ingest(external("older", "10.96.0.2", 1, "10.0.0.2")).pass();
    assert_eq!(agent.backends(SHARED), set(&["10.0.0.2"]));
    agent.ingest(owner(&["10.0.0.1", "10.0.0.3"]));
    assert_eq!(agent.pass().unplaced.len(), 1);
    assert_eq!(agent.backends(SHARED), None, "it is left alone");
    assert_eq!(agent.backends("10.96.0.2"), set(&["10.0.0.2"]));
    // The older Service does not fit any more either.
    let three = ["10.0.0.2", "10.0.0.4", "10.0.0.5"];
    agent.ingest([slice("older", &three)]);
    assert_eq!(agent.pass().unplaced.len(), 1);
    assert_eq!(agent.backends(SHARED), None);
    assert_eq!(agent.backends("10.96.0.2"), set(&["10.0.0.2"]), "it keeps what is its own");
    // Once it fits, the owner has its address.
    agent.ingest([gone("older")]).pass();
    agent.mark_all();
    agent.pass();
    assert_eq!(agent.backends(SHARED), set(&["10.0.0.1", "10.0.0.3"]));
}

#[test]
fn an_external_ip_that_does_not_fit_keeps_no_cluster_ip_of_another_service() {
    let mut agent = Agent::new(meta(64, 4));
    agent.ingest(external("older", "10.96.0.2", 1, "10.0.0.2")).pass();
    // In one pass it outgrows the maps and the owner is added, which does not fit with it either.
    agent.ingest([slice("older", &["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7"])]);
    agent.ingest(owner(&["10.0.0.1", "10.0.0.3", "10.0.0.8", "10.0.0.9"]));
    assert_eq!(agent.pass().unplaced.len(), 2);
    assert_eq!(agent.backends(SHARED), None);
    assert_eq!(agent.backends("10.96.0.2"), set(&["10.0.0.2"]));
}

#[test]
fn two_services_that_claim_each_others_cluster_ips_come_to_an_end_in_full_maps() {
    let each_other = |name: &str, own: &str, other: &str, backends: &[&str]| {
        let Update::Service(object, Some(mut it)) = service(name, &[own], 1) else {
            panic!("a Service")
        };
        it.external_ips = vec![ip(other)];
        [Update::Service(object, Some(it)), slice(name, backends)]
    };
    for slots in 1..6 {
        let mut agent = Agent::new(meta(64, slots));
        agent.ingest(each_other("a", "10.96.0.1", "10.96.0.2", &["10.0.0.1", "10.0.0.2"]));
        agent.ingest(each_other("b", "10.96.0.2", "10.96.0.1", &["10.0.1.1", "10.0.1.2"]));
        for _ in 0..4 {
            agent.pass();
            agent.mark_all();
        }
        let (a, b) = (agent.backends("10.96.0.1"), agent.backends("10.96.0.2"));
        assert!(a.is_none() || a == set(&["10.0.0.1", "10.0.0.2"]), "{slots}: {a:?}");
        assert!(b.is_none() || b == set(&["10.0.1.1", "10.0.1.2"]), "{slots}: {b:?}");
        assert_eq!([&a, &b].iter().filter(|it| it.is_some()).count(), (slots as usize / 2).min(2));
    }
}
