//! The worlds of continuous integration have every feature, and a seed always gives the same world.

use std::collections::BTreeMap;

use super::super::settings::Settings;
use super::super::world::SERVICES;
use super::*;

/// The features that a Service may have, and whether it has them. A name can occur more than once.
fn features(world: &World, service: &Service) -> Vec<(&'static str, bool)> {
    let mut found = Vec::new();
    let mut note = |name: &'static str, holds: bool| found.push((name, holds));
    note("ClusterIP", service.kind == Type::Cluster);
    note("NodePort", service.kind == Type::NodePort);
    note("LoadBalancer", service.kind == Type::LoadBalancer);
    note("ExternalName", service.kind == Type::ExternalName);
    note("Headless", service.kind == Type::Headless);
    note("IPv4 alone", service.families == [Family::V4]);
    note("IPv6 alone", service.families == [Family::V6]);
    note("IPv4 first", service.families == [Family::V4, Family::V6]);
    note("IPv6 first", service.families == [Family::V6, Family::V4]);
    note("label service-proxy-name", service.label == Some(Label::ProxyName));
    note("label headless", service.label == Some(Label::Headless));
    note("internal Local", service.is_internal_local && service.has_cluster_ip());
    note("external Local", service.is_external_local && service.has_external_policy());
    note("affinity", service.affinity.is_some() && service.has_cluster_ip());
    note("publishNotReadyAddresses", service.publishes_not_ready);
    note("no node ports", service.kind == Type::LoadBalancer && !service.has_node_ports);
    note("own external IP", service.external.iter().any(|it| !it.is_shared));
    note("shared external IP", service.external.iter().any(|it| it.is_shared));
    let foreign = |family| !service.families.contains(family);
    note("external IP of another family", service.external.iter().any(|it| foreign(&it.family)));
    for (name, mode) in [
        ("ingress without ipMode", None),
        ("ingress VIP", Some(Mode::Vip)),
        ("ingress Proxy", Some(Mode::Proxy)),
    ] {
        let has = |it: &Ingress| matches!(it, Ingress::Address(_, its) if *its == mode);
        note(name, service.ingress.iter().any(has));
    }
    note("ingress with a name", service.ingress.contains(&Ingress::Name));
    note("source ranges", !service.ranges.is_empty() && !service.ingress.is_empty());
    note("source range of all", service.ranges.iter().any(|it| it.ends_with("/0")));
    let pairs = |a: &Port, b: &Port| a.number == b.number && a.protocol != b.protocol;
    let has_pair = service.ports.iter().any(|a| service.ports.iter().any(|b| pairs(a, b)));
    note("two protocols on one port", has_pair);
    note("several ports", service.ports.len() > 1);
    note("UDP", service.ports.iter().any(|port| port.protocol == Transport::Of(Udp)));
    note("SCTP", service.ports.iter().any(|port| port.protocol == Transport::Sctp));
    note("no slices", service.slices.is_empty());
    note("no hosts", service.hosts.is_empty());
    note("node without zone", !world.has_zone && has_zone_hints(service));
    note("node with zone", world.has_zone && has_zone_hints(service));
    for endpoint in service.hosts.iter().flat_map(|host| [&host.alive, &host.dying]) {
        note("ready unset", endpoint.ready.is_none());
        note("serving unset", endpoint.serving.is_none());
        note("terminating unset", endpoint.terminating.is_none());
        note(
            "ready and terminating",
            endpoint.ready == Some(true) && endpoint.terminating == Some(true),
        );
        note("serving, not ready", endpoint.ready == Some(false) && endpoint.serving == Some(true));
        note("no node", endpoint.node.is_none());
        note("local", endpoint.node == Some(Place::Here));
        note("remote", endpoint.node == Some(Place::There));
        note("node hint here", endpoint.node_hints.contains(&Place::Here));
        note("node hint elsewhere", endpoint.node_hints == [Place::There]);
        note("zone hint here", endpoint.zone_hints.contains(&Place::Here));
        note("zone hint elsewhere", endpoint.zone_hints == [Place::There]);
    }
    for slice in &service.slices {
        note("FQDN slice", slice.addresses == Addresses::Names);
        note("slice without owner label", !slice.is_owned);
        note("headless slice", slice.is_headless);
        note(
            "slice of another family",
            matches!(slice.addresses, Addresses::Of(it) if foreign(&it)),
        );
        note("slice without ports", slice.ports.is_empty());
        note("slice port without name", slice.ports.iter().any(|port| port.name.is_none()));
        note("slice port without number", slice.ports.iter().any(|port| port.number.is_none()));
        note("slice port 0", slice.ports.iter().any(|port| port.number == Some(0)));
        note("unknown slice port", slice.ports.iter().any(|port| port.name == Some("unknown")));
        note("second address", slice.endpoints.iter().any(|it| it.has_second));
        note("dying", slice.endpoints.iter().any(|it| it.is_dying));
    }
    note("other number in another slice", has_other_number(service));
    note("host twice, terminating and not", is_twice(service, false, true));
    note("host twice, the same", is_twice(service, false, false));
    note("new", service.past == Past::Absent);
    if let Past::Other(before) = &service.past {
        let (was, is) = (before.kind, service.kind);
        note("was an ExternalName", was == Type::ExternalName && is != Type::ExternalName);
        note("becomes an ExternalName", was != Type::ExternalName && is == Type::ExternalName);
        note("type changes", was != is && was != Type::ExternalName);
        note("label comes", before.label.is_none() && service.label.is_some());
        note("label goes", before.label.is_some() && service.label.is_none());
        note("port comes", before.ports.len() < service.ports.len());
        note("port goes", before.ports.len() > service.ports.len());
        note("family comes", before.families.len() < service.families.len());
        note("family goes", before.families.len() > service.families.len());
        note("slice comes", before.slices.len() < service.slices.len());
        note("slice goes", before.slices.len() > service.slices.len());
        note("hosts change", before.hosts != service.hosts);
    }
    found
}

fn has_zone_hints(service: &Service) -> bool {
    service.hosts.iter().any(|host| !host.alive.zone_hints.is_empty())
}

fn has_other_number(service: &Service) -> bool {
    let ports = || service.slices.iter().flat_map(|slice| &slice.ports);
    ports().any(|a| ports().any(|b| a.name == b.name && a.number != b.number))
}

/// Returns true if one host occurs in two endpoints of the slices, in these ways.
fn is_twice(service: &Service, first: bool, second: bool) -> bool {
    let all: Vec<_> = service.slices.iter().flat_map(|slice| &slice.endpoints).collect();
    all.iter().enumerate().any(|(at, a)| {
        let rest = all.iter().enumerate().filter(|(other, _)| *other != at);
        let mut same_host = rest.filter(|(_, b)| b.host == a.host);
        a.is_dying == first && same_host.any(|(_, b)| b.is_dying == second)
    })
}

#[test]
fn the_worlds_of_continuous_integration_have_every_feature() {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in Settings::default().seeds() {
        let world = world(seed);
        for service in &world.services {
            for (feature, holds) in features(&world, service) {
                *counts.entry(feature).or_default() += usize::from(holds);
            }
        }
    }
    for (feature, count) in &counts {
        assert!(*count >= 2, "{feature}: expected at least 2 Services with it, found {count}");
    }
}

#[test]
fn a_seed_always_gives_the_same_world() {
    for seed in 0..50 {
        assert_eq!(world(seed), world(seed));
    }
    assert_ne!(world(1), world(2));
    // A change of the generator or of its library changes the worlds of all seeds.
    let services: Vec<usize> = (1..=8).map(|seed| world(seed).services.len()).collect();
    assert_eq!(services, [4, 6, 5, 5, 3, 4, 3, 3]);
}

#[test]
fn a_world_keeps_its_bounds() {
    for seed in 0..1000 {
        let world = world(seed);
        assert!(world.services.len() <= SERVICES);
        for service in &world.services {
            assert!(!service.ports.is_empty());
            assert!(service.ports.len() == 1 || service.ports.iter().all(|it| !it.name.is_empty()));
            assert!(service.hosts.len() <= super::super::world::HOSTS);
            if let Some(before) = service.before() {
                assert!(before.can_become(service), "seed {seed}");
            }
            let host_refs = service.slices.iter().flat_map(|slice| &slice.endpoints);
            assert!(host_refs.into_iter().all(|host_ref| host_ref.host < service.hosts.len()));
        }
    }
}
