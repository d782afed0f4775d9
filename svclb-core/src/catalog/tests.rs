//! The effects of updates on a catalog: dirty objects, and owners of frontends.

use std::collections::BTreeSet;

use svclb_common::layout::Scope;

use super::*;
use crate::frontends::FrontendKind;
use crate::model::{Endpoint, Protocol, ServicePort, SlicePort};

fn object(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port() -> ServicePort {
    ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None }
}

fn with_ip(address: &str, created: i64) -> Service {
    Service {
        created: Some(created),
        cluster_ips: vec![ip(address)],
        ports: vec![port()],
        ..Service::default()
    }
}

fn with_node_port(address: &str, number: u16) -> Service {
    let port = ServicePort { node_port: Some(number), ..port() };
    Service { ports: vec![port], ..with_ip(address, 0) }
}

fn service(name: &str, service: Service) -> Update {
    Update::Service(object(name), Some(service))
}

fn slice_at(name: &str, of: &str, address: &str, triggered: Option<i64>) -> Update {
    let slice = Slice {
        service: object(of),
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: [(ip(address), Endpoint::default())].into_iter().collect(),
        triggered,
        omitted: None,
        notes: 0,
    };
    Update::Slice(object(name), Some(slice))
}

fn slice(name: &str, of: &str, address: &str) -> Update {
    slice_at(name, of, address, None)
}

fn node(zone: Option<&str>, addresses: &[&str]) -> Node {
    Node {
        name: "here".into(),
        zone: zone.map(Into::into),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        is_leaving: false,
    }
}

fn catalog(updates: impl IntoIterator<Item = Update>) -> Catalog {
    let mut catalog = Catalog::new(node(None, &["192.0.2.5"]));
    updates.into_iter().for_each(|update| catalog.apply(update));
    take_dirty(&mut catalog);
    catalog
}

/// Takes the dirty objects, with those that wait.
fn take_dirty(catalog: &mut Catalog) -> BTreeSet<ObjectName> {
    catalog.recall();
    catalog.take_changed()
}

fn dirty(catalog: &mut Catalog) -> Vec<String> {
    take_dirty(catalog).into_iter().map(|object| object.name.to_string()).collect()
}

/// The frontends of an object's services, by address and port; those on loopback with `host`.
fn owned(catalog: &Catalog, name: &str) -> Vec<String> {
    let desired = catalog.desired(&object(name));
    let shown = |key: &FrontendKey| {
        let host = if key.scope == Scope::Host as u8 { " host" } else { "" };
        format!("{} {}{host}", key.address, key.port)
    };
    desired.iter().flat_map(|it| &it.frontends).map(|it| shown(&it.key)).collect()
}

fn backends(catalog: &Catalog, name: &str) -> Vec<String> {
    let desired = catalog.desired(&object(name));
    desired.iter().flat_map(|it| &it.members).map(|(address, ..)| address.to_string()).collect()
}

#[test]
fn a_node_that_is_not_listed_any_more_keeps_its_name_only() {
    let mut catalog = catalog([service("a", with_node_port("10.96.0.1", 30080))]);
    catalog.apply(Update::Node(Some(node(Some("z"), &["192.0.2.5"]))));
    take_dirty(&mut catalog);
    catalog.apply(Update::Node(Some(node(Some("z"), &["192.0.2.5"]))));
    assert!(!catalog.is_dirty(), "as it was");
    catalog.apply(Update::Node(None));
    assert_eq!(dirty(&mut catalog), ["a"]);
    assert_eq!(catalog.node, node(None, &[]));
    assert_eq!(owned(&catalog, "a"), ["10.96.0.1 80", "127.0.0.1 30080 host"]);
}

#[test]
fn node_addresses_move_node_ports_and_mark_no_other_object() {
    let mut catalog = catalog([
        service("a", with_node_port("10.96.0.1", 30080)),
        service("b", with_ip("10.96.0.2", 0)),
    ]);
    assert_eq!(owned(&catalog, "a"), ["10.96.0.1 80", "127.0.0.1 30080 host", "192.0.2.5 30080"]);
    catalog.apply(Update::Node(Some(node(None, &["192.0.2.6"]))));
    assert_eq!(dirty(&mut catalog), ["a"]);
    assert_eq!(owned(&catalog, "a"), ["10.96.0.1 80", "127.0.0.1 30080 host", "192.0.2.6 30080"]);
    catalog.apply(Update::Node(Some(node(Some("z"), &["192.0.2.6"]))));
    assert_eq!(dirty(&mut catalog), ["a", "b"], "its zone concerns all Services");
    catalog.apply(Update::Node(Some(node(Some("z"), &["192.0.2.6"]))));
    assert!(!catalog.is_dirty());
}

#[test]
fn chosen_interfaces_count_instead_of_the_nodes_own_addresses_while_there_are_some() {
    let mut catalog = catalog([service("a", with_node_port("10.96.0.1", 30080))]);
    let (own, loopback) = ("10.96.0.1 80", "127.0.0.1 30080 host");
    catalog.apply(Update::Interfaces(Some(vec![ip("198.51.100.1"), ip("fd00::5")])));
    assert_eq!(dirty(&mut catalog), ["a"]);
    assert_eq!(owned(&catalog, "a"), [own, loopback, "198.51.100.1 30080"]);
    catalog.apply(Update::Node(Some(node(None, &["192.0.2.6"]))));
    assert!(!catalog.is_dirty(), "the node's own do not count now");
    catalog.apply(Update::Interfaces(Some(Vec::new())));
    assert_eq!(owned(&catalog, "a"), [own, loopback]);
    catalog.apply(Update::Node(Some(node(None, &["192.0.2.6"]))));
    catalog.apply(Update::Interfaces(None));
    assert_eq!(owned(&catalog, "a"), [own, loopback, "192.0.2.6 30080"]);
}

#[test]
fn oldest_claimant_owns_a_frontend_and_the_next_one_takes_it_over() {
    let external = |created, own: &str| Service {
        external_ips: vec![ip("192.0.2.1")],
        ..with_ip(own, created)
    };
    let mut catalog = catalog([
        service("b", external(5, "10.96.0.2")),
        service("c", external(5, "10.96.0.3")),
        service("a", external(9, "10.96.0.1")),
    ]);
    let conflicts = |catalog: &mut Catalog| -> Vec<String> {
        let conflicts = catalog.take_conflicts().expect("conflicts changed");
        assert!(catalog.take_conflicts().is_none(), "reported once");
        let shown = conflicts.iter().map(|it| {
            let Conflict { owner, claimant, frontend, count } = it;
            format!("{owner} {claimant} {count} {}:{}", frontend.address, frontend.port)
        });
        shown.collect()
    };
    let pair =
        |owner: &str, claimant: &str| format!("default/{owner} default/{claimant} 1 192.0.2.1:80");
    assert_eq!(conflicts(&mut catalog), [pair("b", "a"), pair("b", "c")], "as old: by name");
    assert_eq!(owned(&catalog, "b"), ["10.96.0.2 80", "192.0.2.1 80"]);
    let notes = |catalog: &Catalog, name| catalog.desired(&object(name))[0].row.notes;
    assert_eq!((notes(&catalog, "b"), notes(&catalog, "c")), (0, 4));
    catalog.apply(Update::Service(object("b"), None));
    assert_eq!(dirty(&mut catalog), ["b", "c"], "the next owner, and not the other claimant");
    assert_eq!(conflicts(&mut catalog), [pair("c", "a")]);
    assert_eq!(owned(&catalog, "c"), ["10.96.0.3 80", "192.0.2.1 80"]);
    // A claimant gives its claim up: no other Service is concerned.
    catalog.apply(service("a", with_ip("10.96.0.1", 9)));
    assert_eq!(dirty(&mut catalog), ["a"]);
    assert!(conflicts(&mut catalog).is_empty());
    // An older claimant is added.
    catalog.apply(service("d", external(1, "10.96.0.4")));
    assert_eq!(dirty(&mut catalog), ["c", "d"]);
    assert_eq!(conflicts(&mut catalog), [pair("d", "c")]);
    for name in ["c", "d"] {
        catalog.apply(Update::Service(object(name), None));
    }
    assert_eq!(catalog.counts().0, 1, "the last claim of an address goes with it");
}

#[test]
fn a_slice_that_moves_to_another_service_leaves_the_first() {
    let mut catalog = catalog([
        service("a", with_ip("10.96.0.1", 0)),
        service("b", with_ip("10.96.0.2", 0)),
        slice("s", "a", "10.0.0.1"),
        slice("t", "a", "10.0.0.2"),
    ]);
    catalog.apply(slice("s", "b", "10.0.0.1"));
    assert_eq!(dirty(&mut catalog), ["a", "b"]);
    assert_eq!(backends(&catalog, "a"), ["10.0.0.2"]);
    assert_eq!(backends(&catalog, "b"), ["10.0.0.1"]);
    catalog.apply(Update::Slice(object("t"), None));
    assert!(backends(&catalog, "a").is_empty());
    assert!(!catalog.slices_of.contains_key(&object("a")), "nothing is left of it");
}

#[test]
fn trigger_times_are_of_slices_that_changed_and_stayed() {
    let mut catalog = catalog([service("a", with_ip("10.96.0.1", 0))]);
    catalog.apply(slice_at("s", "a", "10.0.0.1", Some(1)));
    catalog.apply(slice_at("t", "a", "10.0.0.2", None));
    catalog.apply(slice_at("s", "a", "10.0.0.3", Some(2)));
    take_dirty(&mut catalog);
    // The same with another time is no change.
    catalog.apply(slice_at("s", "a", "10.0.0.3", Some(3)));
    assert!(!catalog.is_dirty());
    let times = |catalog: &mut Catalog| catalog.take_triggered(&object("a"));
    assert_eq!(times(&mut catalog), Some(vec![1, 2]));
    assert_eq!(times(&mut catalog), None, "reported once");
    catalog.apply(slice_at("s", "a", "10.0.0.4", Some(4)));
    catalog.apply(Update::Slice(object("t"), None));
    assert_eq!(times(&mut catalog), None, "a deletion is not measured, nor what it hides");
}

#[test]
fn endpoints_without_a_service_port_are_no_backends() {
    let mut catalog = catalog([service("a", with_ip("10.96.0.1", 1))]);
    let of = |of: &str, port: &str| Slice {
        service: object(of),
        ports: [SlicePort { name: port.into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: (1..=50)
            .map(|number| (IpAddr::from([10, 244, 0, number]), Endpoint::default()))
            .collect(),
        triggered: None,
        omitted: None,
        notes: 0,
    };
    for (name, slice) in [("a-1", of("a", "")), ("a-2", of("a", "other")), ("b-1", of("b", ""))] {
        catalog.apply(Update::Slice(object(name), Some(slice)));
    }
    assert_eq!(catalog.counts(), (1, 50));
    catalog.apply(service("b", with_ip("10.96.0.2", 1)));
    assert_eq!(catalog.counts(), (2, 100));
}

#[test]
fn a_frontend_belongs_to_its_first_claimant_by_kind_then_age() {
    let at = "192.0.2.5";
    let claim = |kind: FrontendKind, created| match kind {
        FrontendKind::ClusterIp => with_ip(at, created),
        FrontendKind::NodePort => {
            Service { created: Some(created), ..with_node_port("10.96.0.9", 80) }
        }
        FrontendKind::LoadBalancerIp => {
            Service { load_balancer_ips: vec![ip(at)], ..with_ip("10.96.0.8", created) }
        }
        FrontendKind::ExternalIp => {
            Service { external_ips: vec![ip(at)], ..with_ip("10.96.0.7", created) }
        }
    };
    let kinds = [
        FrontendKind::ClusterIp,
        FrontendKind::NodePort,
        FrontendKind::LoadBalancerIp,
        FrontendKind::ExternalIp,
    ];
    let key = FrontendKey {
        address: ip(at).into(),
        port: 80,
        protocol: Protocol::Tcp as u8,
        ..FrontendKey::default()
    };
    for (rank, first) in kinds.into_iter().enumerate() {
        for second in &kinds[rank..] {
            // The first claimant by kind is the youngest; where both are of one kind it is the older.
            let (of_first, of_second) = if first == *second { (1, 2) } else { (9, 1) };
            let pair =
                [service("a", claim(*second, of_second)), service("b", claim(first, of_first))];
            for updates in [pair.clone(), [pair[1].clone(), pair[0].clone()]] {
                let catalog = catalog(updates);
                let owner = catalog.owner(&key).map(|owner| &*owner.object.name);
                assert_eq!(owner, Some("b"), "{first:?} and {second:?}");
            }
        }
    }
}

#[test]
fn a_claimant_that_is_passed_over_leaves_its_frontend_to_claims_of_the_same_kind_only() {
    let external =
        |own, created| Service { external_ips: vec![ip("10.96.0.1")], ..with_ip(own, created) };
    let mut catalog = catalog([
        service("a", external("10.96.0.2", 1)),
        service("b", external("10.96.0.3", 2)),
        service("c", with_ip("10.96.0.1", 9)),
    ]);
    let owned_without = |catalog: &Catalog, name: &str, passed: &str| {
        let desired =
            catalog.desired_without(&object(name), |claimant, _| *claimant.object.name == *passed);
        desired[0].frontends.iter().map(|it| it.key.address.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(owned_without(&catalog, "c", ""), ["10.96.0.1"]);
    assert_eq!(
        owned_without(&catalog, "a", "c"),
        ["10.96.0.2"],
        "an external IP does not take over a ClusterIP"
    );
    catalog.apply(Update::Service(object("c"), None));
    assert_eq!(owned_without(&catalog, "b", ""), ["10.96.0.3"]);
    assert_eq!(owned_without(&catalog, "b", "a"), ["10.96.0.1", "10.96.0.3"]);
}
