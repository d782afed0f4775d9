//! The desired state that a Service and its slices compile to.

use super::*;
use crate::frontends::frontends as claimed;
use crate::model::{Endpoint, Protocol, SlicePort, TrafficPolicy};
use proptest::prelude::*;

mod frontends;

fn service() -> Service {
    Service {
        cluster_ips: vec![IpAddr::from([10, 96, 0, 1])],
        ports: vec![port()],
        ..Service::default()
    }
}

fn port() -> ServicePort {
    ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: None }
}

fn endpoint(address: &str) -> (IpAddr, Endpoint) {
    (address.parse().unwrap(), Endpoint { node: Some("here".into()), ..Endpoint::default() })
}

fn slice(port: u16, endpoints: Vec<(IpAddr, Endpoint)>) -> Slice {
    let port = SlicePort { name: "http".into(), protocol: Protocol::Tcp, port };
    Slice {
        service: ObjectName::new("default", "web"),
        ports: [port].into(),
        endpoints: endpoints.into_iter().collect(),
        triggered: None,
        omitted: None,
        notes: 0,
    }
}

fn node() -> Node {
    Node { name: "here".into(), ..Node::default() }
}

fn offers<'a>(slices: &[&'a Slice]) -> Offers<'a> {
    Offers::of(slices.iter().copied())
}

fn compiled(service: &Service, slices: &[&Slice]) -> Desired {
    of_port(service, &service.ports[0], slices, &node(), true)
}

fn of_port(
    service: &Service,
    port: &ServicePort,
    slices: &[&Slice],
    node: &Node,
    holds: bool,
) -> Desired {
    let (object, frontends) = (ObjectName::new("default", "web"), claimed(service, port, node));
    compile(&object, service, port, frontends, &offers(slices), node, |_| holds)
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
fn endpoint_that_is_not_terminating_wins_over_a_terminating_one_of_its_address() {
    let of = |flags: &str| {
        let (address, mut endpoint) = endpoint("10.0.0.1");
        [endpoint.ready, endpoint.serving, endpoint.terminating] =
            ['r', 's', 't'].map(|letter| flags.contains(letter));
        (address, endpoint)
    };
    let (ready, terminating) = (Some(BackendState::Ready), Some(BackendState::Terminating));
    // The flags in the first and in the second slice, the resulting state, and the state where the slices are
    // swapped. Of two that are not terminating the first counts; kube-proxy leaves that open
    // (endpointslicecache.go).
    let rows = [
        ("one goes", "st", "rs", ready, ready),
        ("one goes and does not serve", "t", "rs", ready, ready),
        ("one goes, and the other is not ready", "st", "s", None, None),
        ("both stay, one is not ready", "rs", "s", ready, None),
        ("both stay and are not ready", "s", "", None, None),
        ("both go, one does not serve", "st", "t", terminating, None),
        ("both go and serve", "st", "st", terminating, terminating),
        ("twice the same", "rs", "rs", ready, ready),
    ];
    for (name, first, second, expected, turned) in rows {
        for (one, other, expected) in [(first, second, expected), (second, first, turned)] {
            let apart = [slice(80, vec![of(one)]), slice(80, vec![of(other)])];
            let together = [slice(80, vec![of(one), of(other)])];
            for slices in [&apart[..], &together[..]] {
                let desired = compiled(&service(), &slices.iter().collect::<Vec<_>>());
                let states: Vec<u8> = desired.members.iter().map(|(.., row)| row.state).collect();
                let expected: Vec<u8> = expected.into_iter().map(|state| state as u8).collect();
                assert_eq!(
                    states,
                    expected,
                    "{name}: {one} and {other} in {} slices",
                    slices.len()
                );
                assert_eq!(desired.sets[0].len(), expected.len(), "{name}: {one} and {other}");
            }
        }
    }
}

#[test]
fn first_slice_decides_node_and_hints_of_an_address_in_two_slices() {
    let of = |node: &str, zone: Option<&str>| {
        let (address, endpoint) = endpoint("10.0.0.1");
        let zone_hints = zone.into_iter().map(Into::into).collect();
        let endpoint = Endpoint { node: Some(node.into()), zone_hints, ..endpoint };
        slice(80, vec![(address, endpoint)])
    };
    let elsewhere = |zone: &str| {
        let (address, endpoint) = endpoint("10.0.0.2");
        let endpoint =
            Endpoint { node: Some("there".into()), zone_hints: [zone.into()].into(), ..endpoint };
        slice(80, vec![(address, endpoint)])
    };
    let local = Service { internal_policy: TrafficPolicy::Local, ..service() };
    let rows = [
        (
            "another node's name later",
            local.clone(),
            [of("here", None), of("there", None)],
            "10.0.0.1:80",
        ),
        ("this node's name later", local, [of("there", None), of("here", None)], ""),
        (
            "another zone later",
            service(),
            [of("here", Some("z")), of("here", Some("y"))],
            "10.0.0.1:80",
        ),
        (
            "this zone later",
            service(),
            [of("here", Some("y")), of("here", Some("z"))],
            "10.0.0.2:80",
        ),
        ("no zone later", service(), [of("here", Some("y")), of("here", None)], "10.0.0.2:80"),
        (
            "no zone at first",
            service(),
            [of("here", None), of("here", Some("z"))],
            "10.0.0.1:80 10.0.0.2:80",
        ),
    ];
    let node = Node { zone: Some("z".into()), ..node() };
    for (name, service, [first, second], expected) in rows {
        let other = elsewhere("z");
        let slices: &[&Slice] = match service.internal_policy {
            TrafficPolicy::Local => &[&first, &second],
            // An endpoint of another zone where only the first slice has this zone; else one of this zone.
            TrafficPolicy::Cluster if name == "another zone later" => {
                &[&first, &second, &elsewhere("y")]
            }
            TrafficPolicy::Cluster => &[&first, &second, &other],
        };
        let desired = of_port(&service, &service.ports[0], slices, &node, true);
        assert_eq!(shown(&desired).join(" "), expected, "{name}");
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
    elsewhere.1.node = Some("other".into());
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

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn only_the_families_of_external_frontends_have_external_backends() {
    let service = Service {
        cluster_ips: vec![ip("10.96.0.1"), ip("fd00::1")],
        external_ips: vec![ip("192.0.2.7")],
        ..service()
    };
    let v4 = slice(80, vec![endpoint("10.0.0.1")]);
    let v6 = slice(80, vec![endpoint("fd00::a")]);
    let desired = compiled(&service, &[&v4, &v6]);
    let (internal, external) = (Policy::Internal.bit(), Policy::External.bit());
    let sets: Vec<u8> = desired.members.iter().map(|(_, _, row)| row.sets).collect();
    assert_eq!(shown(&desired), ["10.0.0.1:80", "fd00::a:80"]);
    assert_eq!(sets, [internal | external, internal]);
    assert_eq!((desired.row.internal_backends, desired.row.external_backends), (2, 1));
}

#[test]
fn ports_of_one_name_are_distinguished_by_protocol_and_may_differ_in_number() {
    let udp = ServicePort { protocol: Protocol::Udp, ..port() };
    let service = Service { ports: vec![port(), udp], ..service() };
    let mut slice = slice(8080, vec![endpoint("10.0.0.1")]);
    let more = SlicePort { name: "http".into(), protocol: Protocol::Udp, port: 5353 };
    slice.ports = [slice.ports[0].clone(), more].into();
    let found: Vec<Vec<String>> = service
        .ports
        .iter()
        .map(|port| shown(&of_port(&service, port, &[&slice], &node(), true)))
        .collect();
    assert_eq!(found, [["10.0.0.1:8080"], ["10.0.0.1:5353"]]);
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
    fn draws_have_the_probabilities_of_the_weights(
        weights in proptest::collection::vec(1..100_000_u32, 1..40),
    ) {
        let drawn = alias(&weights);
        // The share of each backend in all slots, in units of 2^-32 of a slot.
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
