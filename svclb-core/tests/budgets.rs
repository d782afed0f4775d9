//! Budgets: the Services that are served when not all may be depend on the objects only.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::IpAddr;

use common::{Agent, meta};
use proptest::prelude::*;
use svclb_common::layout::Protocol;
use svclb_core::budget::memory::most;
use svclb_core::budget::{Amount, Budget, Resource};
use svclb_core::catalog::Catalog;
use svclb_core::model::{
    Endpoint, Node, ObjectName, Omission, Service, ServicePort, Slice, SlicePort, Update,
};
use svclb_core::table::Table as _;

const NO_LIMIT: usize = usize::MAX;

/// Budgets of frontends and backends for one Service, a namespace and all Services.
fn budget(service: usize, namespace: (usize, usize), cluster: (usize, usize)) -> Budget {
    let of = |(frontends, backends)| Amount::new(frontends, NO_LIMIT, NO_LIMIT, backends, NO_LIMIT);
    Budget { service: of((service, NO_LIMIT)), namespace: of(namespace), cluster: of(cluster) }
}

fn agent(budget: Budget) -> Agent {
    let mut agent = Agent::new(meta(1024, 4096));
    let node = Node { name: "here".into(), ..Node::default() };
    agent.catalog = Catalog::new(node).with_budget(budget);
    agent
}

fn name(namespace: &str, name: &str) -> ObjectName {
    ObjectName::new(namespace, name)
}

/// A Service with this number in its address.
fn service(object: &ObjectName, number: u8, ports: u16, created: i64) -> Update {
    let port = |port: u16| ServicePort {
        name: format!("p{port}").into(),
        protocol: Protocol::Tcp,
        port: 79 + port,
        node_port: None,
    };
    let service = Service {
        created: Some(created),
        cluster_ips: vec![IpAddr::from([10, 96, 0, number])],
        ports: (1..=ports).map(port).collect(),
        ..Service::default()
    };
    Update::Service(object.clone(), Some(service))
}

fn slice(object: &ObjectName, ports: u16, endpoints: u8) -> Update {
    let port = |port: u16| SlicePort {
        name: format!("p{port}").into(),
        protocol: Protocol::Tcp,
        port: 8080,
    };
    let slice = Slice {
        service: object.clone(),
        ports: (1..=ports).map(port).collect(),
        endpoints: (0..endpoints)
            .map(|number| (IpAddr::from([10, 244, 0, number]), Endpoint::default()))
            .collect(),
        triggered: None,
        omitted: None,
        notes: 0,
    };
    Update::Slice(object.clone(), Some(slice))
}

fn refused(agent: &mut Agent) -> Vec<String> {
    agent.pass();
    let all = agent.catalog.take_refusals().unwrap_or_default();
    all.into_iter().map(|(object, why)| format!("{object}: {why}")).collect()
}

fn is_served(agent: &Agent, number: u8) -> bool {
    agent.find(&format!("10.96.0.{number}")).is_some()
}

#[test]
fn a_service_that_is_too_large_is_left_to_others_as_a_whole_and_served_once_it_is_small_enough() {
    let mut agent = agent(budget(3, (NO_LIMIT, NO_LIMIT), (NO_LIMIT, NO_LIMIT)));
    let (large, other) = (name("shop", "large"), name("shop", "other"));
    agent.ingest([service(&large, 1, 3, 1), slice(&large, 3, 2), service(&other, 2, 1, 2)]);
    assert_eq!(refused(&mut agent), [""; 0]);
    assert!(is_served(&agent, 1) && is_served(&agent, 2));
    agent.ingest([service(&large, 1, 4, 1)]);
    let why = "shop/large: it has 4 frontends, and one Service may have 3 (--service-frontends)";
    assert_eq!(refused(&mut agent), [why]);
    assert!(!is_served(&agent, 1) && is_served(&agent, 2));
    assert_eq!(agent.table.load().unwrap().services.len(), 1, "nothing is left of it");
    // Its slices are still followed.
    agent.ingest([slice(&large, 3, 1)]);
    agent.ingest([service(&large, 1, 2, 1)]);
    assert_eq!(refused(&mut agent), [""; 0]);
    assert_eq!(agent.backends("10.96.0.1").unwrap().len(), 1);
}

#[test]
fn the_younger_of_a_namespace_give_way_and_others_do_not() {
    let mut agent = agent(budget(NO_LIMIT, (NO_LIMIT, 10), (NO_LIMIT, 15)));
    let (old, wide, small) = (name("a", "old"), name("a", "wide"), name("a", "small"));
    let (other, late) = (name("b", "other"), name("c", "late"));
    agent.ingest([service(&wide, 2, 2, 2), slice(&wide, 2, 4)]);
    agent.ingest([service(&small, 3, 1, 3), slice(&small, 1, 2), service(&other, 4, 1, 9)]);
    agent.ingest([slice(&other, 1, 5)]);
    assert_eq!(refused(&mut agent), [""; 0]);
    // An older one is added: the next one does not fit any more, the smaller one does.
    agent.ingest([service(&old, 1, 1, 1), slice(&old, 1, 5)]);
    let why = "a/wide: it needs 8 backends, older Services of its namespace use 5, and all of a \
               namespace may use 10 (--namespace-share)";
    assert_eq!(refused(&mut agent), [why]);
    assert_eq!([1, 2, 3, 4].map(|number| is_served(&agent, number)), [true, false, true, true]);
    // All Services together.
    agent.ingest([service(&late, 5, 1, 10), slice(&late, 1, 4)]);
    let late_why = "c/late: it needs 4 backends, older Services use 12, and all together may use 15 \
                    (--all-backends)";
    assert_eq!(refused(&mut agent), [why, late_why]);
    assert!(!is_served(&agent, 5));
    // Capacity becomes free.
    agent.ingest([Update::Service(old, None)]);
    assert_eq!(
        refused(&mut agent),
        ["c/late: it needs 4 backends, older Services use 15, and all \
               together may use 15 (--all-backends)"]
    );
    assert_eq!([1, 2, 3, 4].map(|number| is_served(&agent, number)), [false, true, true, true]);
    agent.ingest([Update::Service(other, None)]);
    assert_eq!(refused(&mut agent), [""; 0]);
    assert!(is_served(&agent, 5));
    agent.mark_all();
    assert_eq!(agent.pass().steps, 0);
}

#[test]
fn a_frontend_of_a_refused_service_goes_to_the_next_that_claims_it() {
    let mut agent = agent(budget(2, (NO_LIMIT, NO_LIMIT), (NO_LIMIT, NO_LIMIT)));
    let (first, next) = (name("a", "first"), name("b", "next"));
    agent.ingest([service(&first, 1, 2, 1), slice(&first, 2, 1)]);
    agent.ingest([service(&next, 1, 1, 2), slice(&next, 1, 3)]);
    agent.pass();
    assert_eq!(agent.backends("10.96.0.1").unwrap().len(), 1);
    agent.ingest([service(&first, 1, 3, 1)]);
    agent.pass();
    assert_eq!(agent.backends("10.96.0.1").unwrap().len(), 3);
    agent.ingest([service(&first, 1, 1, 1)]);
    agent.pass();
    assert_eq!(agent.backends("10.96.0.1").unwrap().len(), 1);
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    Service { number: u8, ports: u16, created: i64 },
    Slice { number: u8, ports: u16, endpoints: u8 },
    Gone(u8),
    SliceGone(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        3 => (0..9_u8, 1..5_u16, 0..4_i64)
            .prop_map(|(number, ports, created)| Deed::Service { number, ports, created }),
        3 => (0..9_u8, 1..4_u16, 0..5_u8)
            .prop_map(|(number, ports, endpoints)| Deed::Slice { number, ports, endpoints }),
        1 => (0..9_u8).prop_map(Deed::Gone),
        1 => (0..9_u8).prop_map(Deed::SliceGone),
    ]
}

/// Three namespaces.
fn of(number: u8) -> ObjectName {
    name(["a", "b", "c"][usize::from(number % 3)], &format!("s{number}"))
}

fn update(deed: Deed) -> Update {
    match deed {
        Deed::Service { number, ports, created } => service(&of(number), number, ports, created),
        Deed::Slice { number, ports, endpoints } => slice(&of(number), ports, endpoints),
        Deed::Gone(number) => Update::Service(of(number), None),
        Deed::SliceGone(number) => Update::Slice(of(number), None),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_refused_depends_on_the_objects_only_and_not_on_how_they_came(
        deeds in proptest::collection::vec(deed(), 1..40),
    ) {
        let budget = budget(4, (6, 14), (12, 25));
        let (mut followed, mut at_once) = (agent(budget), agent(budget));
        let mut last = std::collections::BTreeMap::new();
        for deed in deeds {
            followed.ingest([update(deed)]);
            followed.pass();
            let key = match deed {
                Deed::Service { number, .. } | Deed::Gone(number) => (false, number),
                Deed::Slice { number, .. } | Deed::SliceGone(number) => (true, number),
            };
            last.insert(key, deed);
        }
        at_once.ingest(last.into_values().map(update));
        at_once.pass();
        // A decision that is due considers all objects.
        prop_assert_eq!(followed.catalog.refusals(), at_once.catalog.refusals());
        let served = |agent: &Agent| (0..9).map(|it| is_served(agent, it)).collect::<Vec<_>>();
        prop_assert_eq!(served(&followed), served(&at_once));
        followed.mark_all();
        prop_assert_eq!(followed.pass().steps, 0);
        // Nothing exceeds its budget.
        let (frontends, backends) = followed.catalog.counts();
        prop_assert!(frontends <= 12 && backends <= 25, "{} {}", frontends, backends);
    }
}

#[test]
fn the_agents_own_service_takes_nothing_from_others() {
    // The agent's probe is served from the beginning.
    let mut agent = agent(budget(1, (2, NO_LIMIT), (3, NO_LIMIT)));
    let all = [("a", "old"), ("a", "young"), ("b", "other")];
    for ((namespace, object), number) in all.into_iter().zip(1..) {
        agent.ingest([service(&name(namespace, object), number, 1, i64::from(number))]);
    }
    assert_eq!(refused(&mut agent), [""; 0]);
    let probe = name("svclb.probe", "probe");
    agent.ingest([service(&probe, 9, 2, i64::MIN), slice(&probe, 2, 1)]);
    assert_eq!(refused(&mut agent), [""; 0]);
    assert!((1..=3).all(|number| is_served(&agent, number)) && is_served(&agent, 9));
    let Update::Service(_, Some(mut node_ports)) = service(&name("a", "old"), 1, 1, 1) else {
        unreachable!("it is a Service");
    };
    node_ports.ports[0].node_port = Some(30_080);
    // It has too many of its own, and the probe is still served.
    agent.ingest([Update::Service(name("a", "old"), Some(node_ports))]);
    assert_eq!(refused(&mut agent).len(), 1);
    assert!(is_served(&agent, 9));
}

#[test]
fn a_service_with_too_many_addresses_is_refused_by_its_default_budget() {
    let mut agent = agent(Budget::of_agent());
    let object = name("shop", "web");
    let with_addresses = |count: u16| {
        let Update::Service(object, Some(mut wide)) = service(&object, 1, 1, 1) else {
            unreachable!("it is a Service");
        };
        let external = |number: u16| {
            let [high, low] = number.to_be_bytes();
            IpAddr::from([10, 200, high, low])
        };
        wide.external_ips = (1..count).map(external).collect();
        Update::Service(object, Some(wide))
    };
    agent.ingest([with_addresses(1_000), slice(&object, 1, 1)]);
    assert_eq!(refused(&mut agent), [""; 0]);
    agent.ingest([with_addresses(1_001)]);
    let found = refused(&mut agent);
    assert!(found.len() == 1 && found[0].contains("--service-addresses"), "{found:?}");
}

#[test]
fn names_of_endpoints_count_for_the_memory_of_a_service() {
    let unlimited = Amount::unlimited();
    let service_budget = Amount::unlimited().with(Resource::Memory, 100_000);
    let budget = Budget { service: service_budget, namespace: unlimited, cluster: unlimited };
    let mut agent = agent(budget);
    let object = name("shop", "web");
    let with_node = |length: usize| {
        let Update::Slice(slice_name, Some(slice)) = slice(&object, 1, 100) else {
            unreachable!("it is a slice");
        };
        let node = |at: usize| Some(format!("{at:0length$}").into());
        let addresses = slice.endpoints.iter().map(|(address, _)| address).enumerate();
        let endpoints = addresses
            .map(|(at, address)| (address, Endpoint { node: node(at), ..Endpoint::default() }))
            .collect();
        Update::Slice(slice_name, Some(Slice { endpoints, ..slice }))
    };
    agent.ingest([service(&object, 1, 1, 1), with_node(63)]);
    assert_eq!(refused(&mut agent), [""; 0]);
    agent.ingest([with_node(2_000)]);
    let found = refused(&mut agent);
    assert!(found.len() == 1 && found[0].contains("--service-memory"), "{found:?}");
}

#[test]
fn the_memory_limit_of_the_manifest_is_what_the_budgets_allow() {
    const STEP: u64 = 256;
    let manifest = include_str!("../../manifests/base/daemonset.yaml");
    let limit = manifest.split_once("limits:\n").unwrap().1.lines().next().unwrap();
    let mebibytes = (most(&Budget::of_agent().cluster) >> 20).next_multiple_of(STEP);
    // In the largest unit that leaves no fraction, as the API server writes it.
    let quantity = match mebibytes % 1024 {
        0 => format!("{}Gi", mebibytes / 1024),
        _ => format!("{mebibytes}Mi"),
    };
    assert_eq!(limit.trim(), format!("memory: {quantity}"));
}

#[test]
fn service_of_which_an_object_has_no_contents_is_refused_until_they_come() {
    let mut agent = agent(budget(NO_LIMIT, (2, 4), (2, 4)));
    let (web, other) = (name("shop", "web"), name("shop", "other"));
    let whole = [service(&web, 1, 2, 1), slice(&web, 2, 2)];
    let why = Omission { needs: 7, used: 5, limit: 10 };
    let without = whole.clone().map(|update| match update {
        Update::Service(name, service) => {
            Update::Service(name, service.map(|service| service.omit(why)))
        }
        Update::Slice(name, slice) => Update::Slice(name, slice.map(|slice| slice.omit(why))),
        other => other,
    });
    let told = "shop/web: one of its objects needs 7 bytes of memory, the objects of its namespace take \
                5, and may take 10, their share of what is free (--all-memory)";
    for omitted in without {
        agent.ingest(whole.clone());
        assert_eq!(refused(&mut agent), [""; 0]);
        assert!(is_served(&agent, 1));
        // Another Service gets its budget.
        agent.ingest([omitted, service(&other, 2, 2, 2), slice(&other, 2, 2)]);
        assert_eq!(refused(&mut agent), [told]);
        assert!(!is_served(&agent, 1) && is_served(&agent, 2));
        assert_eq!(agent.table.load().unwrap().services.len(), 2, "nothing is left of it");
        agent.ingest([Update::Service(other.clone(), None), Update::Slice(other.clone(), None)]);
        agent.pass();
    }
    agent.ingest(whole);
    assert_eq!(refused(&mut agent), [""; 0]);
    assert_eq!(agent.backends("10.96.0.1").unwrap().len(), 2);
    agent.mark_all();
    assert_eq!(agent.pass().steps, 0);
}
