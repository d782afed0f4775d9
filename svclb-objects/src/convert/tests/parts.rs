//! Unusable values of each field that is checked: those that an API server accepts are ignored by themselves,
//! others reject their object (docs/decisions/0019 has this table, too). And the API server's defaults for
//! objects that never passed one.

use serde_json::{Value, json};

use svclb_core::model::{Protocol, ServiceNotes, TrafficPolicy, Update};

use super::super::{Converted, Uid, objects};
use super::{service, service_object, slice, slice_object, with};

fn node_object() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "ExternalIP", "address": "192.0.2.2"},
        ]},
    })
}

/// The parts of an object that are served: addresses of all kinds, ports, endpoints.
fn served(update: &Update) -> String {
    let shown: Vec<String> = match update {
        Update::Service(_, Some(service)) => {
            let addresses =
                [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips];
            let addresses = addresses.into_iter().flatten().map(ToString::to_string);
            addresses.chain(service.ports.iter().map(|port| format!(":{}", port.port))).collect()
        }
        Update::Slice(_, Some(slice)) => {
            let ports = slice.ports.iter().map(|port| format!(":{}", port.port));
            slice.endpoints.iter().map(|(address, _)| address.to_string()).chain(ports).collect()
        }
        Update::Node(Some(node)) => node.addresses.iter().map(ToString::to_string).collect(),
        other => panic!("{other:?}"),
    };
    shown.join(" ")
}

#[test]
fn a_part_that_cannot_be_used_is_ignored_by_itself_and_named() {
    let ingress = |ips: &[&str]| {
        let ingress: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        json!({"loadBalancer": {"ingress": ingress}})
    };
    let endpoints = |addresses: &[&str]| {
        let endpoints = addresses.iter().map(|address| json!({"addresses": [address]}));
        Value::from(endpoints.collect::<Vec<_>>())
    };
    let addresses = |addresses: &[&str]| {
        let addresses = addresses.iter().map(|it| json!({"type": "InternalIP", "address": it}));
        Value::from(addresses.collect::<Vec<_>>())
    };
    let all = "10.96.0.10 fd00::10 :80 :53";
    type Row = (Value, (&'static str, Value), &'static str, &'static str);
    let rows: Vec<Row> = vec![
        (
            service_object(),
            ("/spec/clusterIPs/1", json!("::1")),
            "10.96.0.10 :80 :53",
            "spec.clusterIPs[1]: ::1 is a loopback address; address ignored",
        ),
        (
            with(service_object(), &[("/spec/clusterIPs", json!(null))]),
            ("/spec/clusterIP", json!("169.254.0.1")),
            ":80 :53",
            "spec.clusterIP: 169.254.0.1 is a link-local address; address ignored",
        ),
        (
            service_object(),
            ("/spec/externalIPs", json!(["239.1.1.1", "192.0.2.1"])),
            "10.96.0.10 fd00::10 192.0.2.1 :80 :53",
            "spec.externalIPs[0]: 239.1.1.1 is a multicast address; address ignored",
        ),
        (
            service_object(),
            ("/spec/externalIPs", json!(["fe80::1", "0.0.0.0", "255.255.255.255"])),
            all,
            "spec.externalIPs[0]: fe80::1 is a link-local address; address ignored, and 2 more like it",
        ),
        (
            service_object(),
            ("/status", ingress(&["0.0.0.0", "::", "255.255.255.255", "224.0.0.1", "192.0.2.1"])),
            "10.96.0.10 fd00::10 192.0.2.1 :80 :53",
            "status.loadBalancer.ingress[0].ip: 0.0.0.0 is the unspecified address; address ignored, and 3 more like it",
        ),
        (
            service_object(),
            ("/status", ingress(&["169.254.169.254", "fe80::1"])),
            all,
            "status.loadBalancer.ingress[0].ip: 169.254.169.254 is a link-local address; address ignored, and 1 more like it",
        ),
        (
            slice_object(),
            ("/endpoints", endpoints(&["239.1.1.1", "10.0.0.1"])),
            "10.0.0.1 :8080",
            "endpoints[0].addresses[0]: 239.1.1.1 is a multicast address, which no pod has; endpoint ignored",
        ),
        (
            slice_object(),
            ("/endpoints", endpoints(&["10.0.0.1", "fd00::1"])),
            "10.0.0.1 :8080",
            "endpoints[1].addresses[0]: fd00::1 is not an IPv4 address, as addressType says; endpoint ignored",
        ),
        (
            slice_object(),
            ("/endpoints", endpoints(&["127.000.000.001", "::ffff:127.0.0.1", "169.254.169.254"])),
            ":8080",
            "endpoints[0].addresses[0]: 127.0.0.1 is a loopback address, which no pod has; endpoint ignored, and 2 more like it",
        ),
        (
            slice_object(),
            ("/ports", json!([{"name": "a"}, {"name": "b", "port": 1}])),
            "10.0.0.1 10.0.0.2 :1",
            "ports[0].port: missing; port ignored",
        ),
        (
            slice_object(),
            ("/ports", json!([{"name": "a", "port": 70000}, {"name": "b", "port": -1}])),
            "10.0.0.1 10.0.0.2",
            "ports[0].port: 70000 is not a port (1 to 65535); port ignored, and 1 more like it",
        ),
        (
            node_object(),
            ("/status/addresses", addresses(&["node.example", "192.0.2.1", "fe80::1"])),
            "192.0.2.1",
            "status.addresses[0].address: \"node.example\" is not an IPv4 or IPv6 address; address ignored, and 1 more like it",
        ),
    ];
    for (object, change, expected, message) in rows {
        let Converted { accepted, rejects, .. } = objects(with(object, &[change]));
        assert_eq!((accepted.len(), rejects), (1, vec![]), "{message}");
        assert_eq!(served(&accepted[0].update), expected, "{message}");
        let ignored = accepted[0].left_out.ignored.as_deref();
        assert_eq!(ignored.map(ToString::to_string).as_deref(), Some(message));
        let counts = accepted[0].left_out.counts.counts();
        let counted: u32 = counts.iter().map(|(_, count)| count).sum();
        assert_eq!(counted, 1 + ignored.map_or(0, |ignored| ignored.more), "{message}");
        let notes = match &accepted[0].update {
            Update::Service(_, Some(service)) => service.notes,
            Update::Slice(_, Some(slice)) => slice.notes,
            _ => continue,
        };
        let expected = match message.split(' ').next() {
            Some(field) if field.starts_with("endpoints") => ServiceNotes::UNUSABLE_ENDPOINTS,
            Some(field) if field.starts_with("ports") => ServiceNotes::PORTS_WITHOUT_NUMBER,
            _ => ServiceNotes::UNUSABLE_ADDRESSES,
        };
        assert_eq!(notes, expected, "{message}");
    }
}

#[test]
fn an_address_next_to_an_unusable_range_is_served() {
    let rows =
        [("IPv4", "128.0.0.1"), ("IPv4", "169.253.255.255"), ("IPv6", "fec0::1"), ("IPv6", "::2")];
    for (family, address) in rows {
        let endpoints = json!([{"addresses": [address]}]);
        let (slice, skipped) = slice(&[("/addressType", json!(family)), ("/endpoints", endpoints)]);
        assert_eq!(
            (slice.unwrap().endpoints.len(), skipped.unusable_endpoints),
            (1, 0),
            "{address}"
        );
    }
}

#[test]
fn a_node_has_so_many_addresses_at_most_and_the_others_are_ignored() {
    let address = |number: u32| {
        let [_, _, high, low] = number.to_be_bytes();
        json!({"type": "InternalIP", "address": format!("10.9.{high}.{low}")})
    };
    let all: Vec<Value> = (0..1_010).map(address).collect();
    let object = with(node_object(), &[("/status/addresses", json!(all))]);
    let Converted { accepted, rejects, .. } = objects(object);
    assert_eq!(rejects, []);
    let Update::Node(Some(node)) = &accepted[0].update else { panic!("a Node") };
    assert_eq!(node.addresses.len(), 1_000);
    let message = accepted[0].left_out.ignored.as_deref().map(ToString::to_string);
    let expected = "status.addresses[1000].address: a Node has at most 1000 addresses; address ignored, and 9 more like it";
    assert_eq!(message.as_deref(), Some(expected));
}

#[test]
fn hint_without_a_name_is_ignored() {
    let hints = json!({"forZones": [{}, {"name": null}, {"name": "z"}], "forNodes": [{}]});
    let (slice, skipped) = slice(&[("/endpoints/0/hints", hints)]);
    let slice = slice.unwrap();
    let (_, first) = slice.endpoints.iter().next().unwrap();
    assert_eq!(first.zone_hints.iter().map(|it| &**it).collect::<Vec<_>>(), ["", "", "z"]);
    assert_eq!(skipped.unusable_endpoints, 0);
}

/// The defaults are those of pkg/apis/core/v1/defaults.go (`SetDefaults_Service`),
/// pkg/apis/discovery/v1/defaults.go (`SetDefaults_EndpointPort`) and `NormalizeClusterIPs` of
/// pkg/api/service in Kubernetes 1.37, for the fields that are read here.
#[test]
fn an_object_that_never_passed_an_api_server_gets_its_defaults() {
    let least = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    });
    let Converted { accepted, rejects, .. } = objects(least);
    assert_eq!(rejects, []);
    let Update::Service(name, Some(it)) = &accepted[0].update else { panic!("a Service") };
    assert_eq!(name.to_string(), "default/web", "metadata.namespace");
    assert_eq!(it.cluster_ips, [std::net::IpAddr::from([10, 96, 0, 1])], "clusterIPs");
    assert_eq!((&*it.ports[0].name, it.ports[0].protocol), ("", Protocol::Tcp), "name, protocol");
    assert_eq!(it.ports[0].node_port, None, "nodePort is for an API server to give out");
    assert_eq!(it.internal_policy, TrafficPolicy::Cluster, "internalTrafficPolicy");
    assert_eq!(it.external_policy, TrafficPolicy::Cluster, "externalTrafficPolicy");
    assert_eq!(it.affinity_seconds, None, "sessionAffinity");

    let of = |changes: &[(&str, Value)]| service(changes).unwrap();
    let affinity = |config: Value| {
        let changes =
            [("/spec/sessionAffinity", json!("ClientIP")), ("/spec/sessionAffinityConfig", config)];
        of(&changes).affinity_seconds
    };
    for config in [json!(null), json!({}), json!({"clientIP": null}), json!({"clientIP": {}})] {
        assert_eq!(affinity(config.clone()), Some(10_800), "{config}");
    }
    let ingress = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
    assert_eq!(of(&[("/status", ingress)]).load_balancer_ips.len(), 1, "ipMode");

    let least = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": 8080}], "endpoints": [{"addresses": ["10.0.0.1"]}],
    });
    let Converted { accepted, rejects, .. } = objects(least);
    assert_eq!(rejects, []);
    let Update::Slice(_, Some(slice)) = &accepted[0].update else { panic!("a slice") };
    let port = &slice.ports[0];
    assert_eq!((&*port.name, port.protocol, port.port), ("", Protocol::Tcp, 8080));
    let (_, endpoint) = slice.endpoints.iter().next().unwrap();
    assert_eq!((endpoint.ready, endpoint.serving, endpoint.terminating), (true, true, false));
}

#[test]
fn object_has_its_uid_also_when_it_is_rejected() {
    let uid = |object: Value| {
        let Converted { accepted, rejects, .. } = objects(object);
        let accepted = accepted.first().map(|it| it.uid);
        accepted.or_else(|| rejects.first().map(|it| it.uid)).unwrap()
    };
    let bad = ("/spec/ports/0/port", json!(70_000));
    let wrong = ("/spec/ports", json!("x"));
    let is = |uid: &str| ("/metadata/uid", json!(uid));
    assert_eq!(uid(service_object()), None);
    let a = uid(with(service_object(), &[is("a")]));
    assert_eq!(a, Some(Uid::of("a")));
    for reject in [bad, wrong] {
        assert_eq!(uid(with(service_object(), &[is("a"), reject.clone()])), a);
        assert_ne!(uid(with(service_object(), &[is("b"), reject])), a);
    }
    assert!(Uid::differ(a, Some(Uid::of("b"))));
    assert!(!Uid::differ(a, a) && !Uid::differ(a, None) && !Uid::differ(None, a));
}
