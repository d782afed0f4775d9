//! What a Service and its slices compile to.

use super::*;
use crate::model::{Protocol, SlicePort};
use proptest::prelude::*;

fn service() -> Service {
    Service {
        created: None,
        cluster_ips: vec![IpAddr::from([10, 96, 0, 1])],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: false,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        affinity_seconds: None,
        ports: vec![port()],
    }
}

fn port() -> ServicePort {
    ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some("here".into()),
        node_hints: Vec::new(),
        zone_hints: Vec::new(),
    }
}

fn slice(port: u16, endpoints: Vec<Endpoint>) -> Slice {
    let port = SlicePort { name: "http".into(), protocol: Protocol::Tcp, port };
    Slice { service: ObjectName::new("default", "web"), ports: vec![port], endpoints }
}

fn compiled(service: &Service, slices: &[&Slice]) -> Desired {
    let node = Node { name: "here".into(), ..Node::default() };
    let object = ObjectName::new("default", "web");
    compile(&object, service, &service.ports[0], slices, &node, |_| true)
}

fn shown(desired: &Desired) -> Vec<String> {
    desired.members.iter().map(|(address, port, _)| format!("{address}:{port}")).collect()
}

#[test]
fn slices_are_merged_and_may_give_different_ports() {
    let (one, two) = (
        slice(8080, vec![endpoint("10.0.0.2"), endpoint("10.0.0.1")]),
        slice(9090, vec![endpoint("10.0.0.3")]),
    );
    let desired = compiled(&service(), &[&one, &two]);
    assert_eq!(shown(&desired), ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:9090"]);
    assert_eq!(desired.row.internal_backends, 3);
    assert_eq!(name_of(&desired.row.port_name), "http");
}

#[test]
fn a_slice_port_matches_by_name_and_protocol() {
    let mut other_name = slice(8080, vec![endpoint("10.0.0.1")]);
    other_name.ports[0].name = "https".into();
    let mut other_protocol = slice(8080, vec![endpoint("10.0.0.2")]);
    other_protocol.ports[0].protocol = Protocol::Udp;
    let desired = compiled(&service(), &[&other_name, &other_protocol]);
    assert!(desired.members.is_empty());
    assert_eq!(desired.sets, [Vec::<Slot>::new()]);
}

#[test]
fn one_that_is_not_terminating_wins_over_one_that_is_whichever_comes_first() {
    let mut going = endpoint("10.0.0.1");
    (going.ready, going.terminating) = (false, true);
    let (going, staying) = (slice(80, vec![going]), slice(80, vec![endpoint("10.0.0.1")]));
    for slices in [[&going, &staying], [&staying, &going]] {
        let desired = compiled(&service(), &slices);
        assert_eq!(desired.members.len(), 1);
        assert_eq!(desired.members[0].2.state, BackendState::Ready as u8);
    }
}

#[test]
fn each_family_is_served_by_its_own_backends() {
    let mut service = service();
    service.cluster_ips.push("fd00::1".parse().unwrap());
    let mixed = slice(80, vec![endpoint("10.0.0.1"), endpoint("fd00::a"), endpoint("fd00::b")]);
    let desired = compiled(&service, &[&mixed]);
    for frontend in &desired.frontends {
        let set = &desired.sets[frontend.set];
        assert!(!set.is_empty());
        assert!(set.iter().all(|slot| slot.address.is_v4() == frontend.key.address.is_v4()));
    }
    assert_eq!(desired.row.internal_backends, 3);
}

#[test]
fn an_external_frontend_uses_the_clusters_backends_also_when_internal_ones_are_local() {
    let mut service = service();
    service.external_ips = vec![IpAddr::from([192, 0, 2, 7])];
    service.internal_policy = TrafficPolicy::Local;
    let mut elsewhere = endpoint("10.0.0.2");
    elsewhere.node = Some("other".into());
    let slice = slice(80, vec![endpoint("10.0.0.1"), elsewhere]);
    let desired = compiled(&service, &[&slice]);
    let count = |policy: u16| {
        let found = desired.frontends.iter().find(|it| it.flags == policy).unwrap();
        desired.sets[found.set].len()
    };
    assert_eq!((count(0), count(LineFlags::EXTERNAL)), (1, 2));
    let sets: Vec<u8> = desired.members.iter().map(|(_, _, row)| row.sets).collect();
    assert_eq!(sets, [3, 2]);
}

#[test]
fn load_balancer_addresses_with_source_ranges_are_left_alone() {
    let mut service = service();
    service.load_balancer_ips = vec![IpAddr::from([192, 0, 2, 8])];
    assert_eq!(frontends(&service, &port()).len(), 2);
    service.source_ranges = true;
    assert_eq!(frontends(&service, &port()).len(), 1);
}

#[test]
fn an_address_that_is_named_twice_is_one_frontend() {
    let mut service = service();
    service.external_ips = service.cluster_ips.clone();
    let found = frontends(&service, &port());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].1, Policy::Internal);
}

#[test]
fn text_ends_at_its_first_zero() {
    assert_eq!(name_of(&[104, 105, 0, 106]), "hi");
    assert_eq!(name_of(&[104, 105]), "hi");
    assert_eq!(name_of(&[-1]), "\u{fffd}");
}

#[test]
fn even_weights_never_use_an_alias() {
    assert_eq!(alias(&[1, 1, 1]), [(u32::MAX, 0), (u32::MAX, 1), (u32::MAX, 2)]);
    assert_eq!(alias(&[]), []);
}

proptest! {
    #[test]
    fn draws_have_the_probabilities_that_the_weights_say(
        weights in proptest::collection::vec(1..100_000_u32, 1..40),
    ) {
        let drawn = alias(&weights);
        // In units of 2^-32 of a place: how much of all places falls to each backend.
        let mut share = vec![0_u128; weights.len()];
        for (at, (threshold, alias)) in drawn.iter().enumerate() {
            let own = u128::from(*threshold) + 1;
            share[at] += own;
            share[*alias as usize] += (1 << 32) - own;
        }
        let total: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
        let count = weights.len() as u128;
        for (weight, share) in weights.iter().zip(share) {
            let expected = ((u128::from(*weight) * count) << 32) / total;
            prop_assert!(share.abs_diff(expected) <= 2 * count, "{share} {expected}");
        }
    }
}
