//! The conversion of objects to the model.

mod names;
mod parts;
mod rejects;

use std::net::IpAddr;

use serde_json::{Value, json};

use svclb_core::model::{
    Families, ObjectName, Protocol, Service, ServiceNotes, Slice, TrafficPolicy, Update,
};

use super::{Accepted, Converted, Skipped, objects};

fn service_object() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "1970-01-02T00:00:01Z"},
        "spec": {
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10", "fd00::10"],
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080},
                {"name": "dns", "port": 53, "protocol": "UDP"},
            ],
        },
    })
}

fn slice_object() -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [
            {"addresses": ["10.0.0.1", "10.0.0.9"]},
            {"addresses": ["10.0.0.2"], "nodeName": "n1",
             "conditions": {"ready": false, "serving": true, "terminating": true},
             "hints": {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n1"}]}},
        ],
    })
}

/// Replaces fields of an object, such as `/spec/ports/0/port`, by a value each. Null removes one.
fn with(mut object: Value, changes: &[(&str, Value)]) -> Value {
    for (path, value) in changes {
        let (parent, field) = path.rsplit_once('/').unwrap();
        match object.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}")) {
            Value::Array(items) => items[field.parse::<usize>().unwrap()] = value.clone(),
            Value::Object(fields) => {
                // Labels have slashes in their names.
                fields.insert(field.replace('~', "/"), value.clone());
            }
            other => panic!("{parent} is {other}"),
        }
    }
    object
}

fn one(object: Value) -> (Update, Skipped) {
    let Converted { mut accepted, rejects, .. } = objects(object);
    assert_eq!(rejects, []);
    assert_eq!(accepted.len(), 1);
    let Accepted { update, left_out, .. } = accepted.remove(0);
    (update, left_out.counts)
}

fn service(changes: &[(&str, Value)]) -> Option<Service> {
    match one(with(service_object(), changes)).0 {
        Update::Service(name, service) => {
            assert_eq!(name, ObjectName::new("shop", "web"));
            service
        }
        other => panic!("{other:?}"),
    }
}

fn slice(changes: &[(&str, Value)]) -> (Option<Slice>, Skipped) {
    match one(with(slice_object(), changes)) {
        (Update::Slice(name, slice), skipped) => {
            assert_eq!(name, ObjectName::new("default", "web-1"));
            (slice, skipped)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn service_is_converted_with_all_fields() {
    let service = service(&[]).unwrap();
    assert_eq!(service.created, Some(86_401));
    let ips: Vec<String> = service.cluster_ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.96.0.10", "fd00::10"]);
    let ports: Vec<_> =
        service.ports.iter().map(|p| (&*p.name, p.protocol, p.port, p.node_port)).collect();
    let expected = [("http", Protocol::Tcp, 80, Some(30080)), ("dns", Protocol::Udp, 53, None)];
    assert_eq!(ports, expected);
    assert_eq!(service.internal_policy, TrafficPolicy::Cluster);
    assert_eq!(service.affinity_seconds, None);
    assert_eq!(service.source_ranges, Families::default());
    assert_eq!(service.notes, 0);
}

#[test]
fn services_without_frontends_here_are_none() {
    let rows: [(&str, &[(&str, Value)]); 8] = [
        (
            "clusterIP None",
            &[("/spec/clusterIP", json!("None")), ("/spec/clusterIPs", json!(["None"]))],
        ),
        ("clusterIP empty", &[("/spec/clusterIP", json!("")), ("/spec/clusterIPs", json!(null))]),
        ("clusterIP absent", &[("/spec/clusterIP", json!(null)), ("/spec/clusterIPs", json!([]))]),
        (
            "only clusterIPs None",
            &[("/spec/clusterIP", json!(null)), ("/spec/clusterIPs", json!(["None"]))],
        ),
        ("ExternalName", &[("/spec/type", json!("ExternalName"))]),
        (
            "another proxy's",
            &[("/metadata/labels", json!({"service.kubernetes.io/service-proxy-name": "x"}))],
        ),
        (
            "another proxy's, empty",
            &[("/metadata/labels", json!({"service.kubernetes.io/service-proxy-name": ""}))],
        ),
        (
            "labelled headless",
            &[("/metadata/labels", json!({"service.kubernetes.io/headless": ""}))],
        ),
    ];
    for (name, changes) in rows {
        assert_eq!(service(changes), None, "{name}");
    }
}

#[test]
fn cluster_ips_come_from_either_field() {
    type Row<'a> = (&'a str, &'a [(&'a str, Value)], &'a [&'a str]);
    let rows: [Row<'_>; 4] = [
        ("both", &[], &["10.96.0.10", "fd00::10"]),
        ("clusterIP alone", &[("/spec/clusterIPs", json!(null))], &["10.96.0.10"]),
        ("clusterIPs alone", &[("/spec/clusterIP", json!(null))], &["10.96.0.10", "fd00::10"]),
        (
            "v4-mapped",
            &[("/spec/clusterIP", json!("::ffff:10.96.0.10"))],
            &["10.96.0.10", "fd00::10"],
        ),
    ];
    for (name, changes, expected) in rows {
        let ips: Vec<String> =
            service(changes).unwrap().cluster_ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, expected, "{name}");
    }
}

#[test]
fn load_balancer_ips_count_in_vip_mode_only() {
    let ingress = json!([
        {"ip": "1.1.1.1"}, {"ip": "1.1.1.2", "ipMode": "VIP"}, {"ip": "1.1.1.3", "ipMode": "Proxy"},
        {"hostname": "lb.example"}, {"ip": "1.1.1.1"}, {"ip": ""},
    ]);
    let service = service(&[("/status", json!({"loadBalancer": {"ingress": ingress}}))]).unwrap();
    let ips: Vec<String> = service.load_balancer_ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["1.1.1.1", "1.1.1.2"]);
}

#[test]
fn source_ranges_restrict_unless_one_holds_all_addresses() {
    let (neither, v4) = (Families::default(), Families { v4: true, v6: false });
    let both = Families { v4: true, v6: true };
    let rows = [
        ("none", json!([]), neither),
        ("one", json!(["10.0.0.0/8"]), v4),
        ("with blanks", json!([" 10.0.0.0/8 "]), v4),
        ("leading zeros", json!(["010.0.0.0/8"]), v4),
        ("an empty one", json!([" "]), neither),
        ("of both families", json!(["10.0.0.0/8", "fd00::/8"]), both),
        ("all addresses", json!(["0.0.0.0/0"]), neither),
        ("all addresses among others, with blanks", json!(["10.0.0.0/8", " 0.0.0.0/0 "]), neither),
        ("all addresses of the other family", json!(["10.0.0.0/8", " ::/0 "]), v4),
    ];
    for (name, ranges, expected) in rows {
        let service = service(&[("/spec/loadBalancerSourceRanges", ranges)]).unwrap();
        assert_eq!(service.source_ranges, expected, "{name}");
    }
}

#[test]
fn external_addresses_on_loopback_or_empty_are_left_out() {
    let ingress = json!([{"ip": "127.0.0.9"}, {"ip": "1.1.1.1"}]);
    let changes = [
        ("/spec/externalIPs", json!(["127.1.2.3", "", "::1", "192.0.2.1", "192.000.002.001"])),
        ("/status", json!({"loadBalancer": {"ingress": ingress}})),
    ];
    let (update, skipped) = one(with(service_object(), &changes));
    let Update::Service(_, Some(service)) = update else { panic!("{update:?}") };
    let shown = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&service.external_ips), ["192.0.2.1"]);
    assert_eq!(shown(&service.load_balancer_ips), ["1.1.1.1"]);
    assert_eq!(skipped, Skipped { unusable_addresses: 3, ..Skipped::default() });
}

#[test]
fn session_affinity_has_its_default_timeout() {
    let rows = [
        ("none", json!("None"), json!(null), None),
        ("default", json!("ClientIP"), json!(null), Some(10_800)),
        ("given", json!("ClientIP"), json!({"clientIP": {"timeoutSeconds": 60}}), Some(60)),
        ("not used", json!("None"), json!({"clientIP": {"timeoutSeconds": 60}}), None),
    ];
    for (name, affinity, config, expected) in rows {
        let changes =
            [("/spec/sessionAffinity", affinity), ("/spec/sessionAffinityConfig", config)];
        assert_eq!(service(&changes).unwrap().affinity_seconds, expected, "{name}");
    }
}

#[test]
fn sctp_ports_are_left_out_and_counted() {
    let (update, skipped) =
        one(with(service_object(), &[("/spec/ports/0/protocol", json!("SCTP"))]));
    let Update::Service(_, Some(service)) = update else { panic!("{update:?}") };
    assert_eq!((service.ports.len(), service.notes), (1, ServiceNotes::SCTP));
    assert_eq!(skipped, Skipped { sctp_ports: 1, ..Skipped::default() });
}

#[test]
fn a_service_of_sctp_ports_only_is_counted() {
    let ports = json!([{"name": "a", "port": 80, "protocol": "SCTP"}]);
    let (update, skipped) = one(with(service_object(), &[("/spec/ports", ports)]));
    let Update::Service(_, Some(service)) = update else { panic!("{update:?}") };
    assert_eq!((service.ports.len(), service.notes), (0, ServiceNotes::SCTP));
    let expected = Skipped { sctp_ports: 1, services_of_sctp: 1, ..Skipped::default() };
    assert_eq!(skipped, expected);
}

#[test]
fn a_slices_trigger_time_is_read_and_a_malformed_one_is_ignored() {
    let rows = [
        ("whole seconds", json!("1970-01-01T00:00:02Z"), Some(2_000_000_000)),
        ("nanoseconds", json!("1970-01-01T00:00:00.000000007Z"), Some(7)),
        ("another zone", json!("1970-01-01T01:00:01+01:00"), Some(1_000_000_000)),
        ("no time", json!("yesterday"), None),
        ("empty", json!(""), None),
        ("no text", json!(7), None),
        ("absent", json!(null), None),
        ("beyond what the model holds", json!("9999-01-01T00:00:00Z"), None),
    ];
    for (name, value, expected) in rows {
        let annotations = json!({
            "endpoints.kubernetes.io/last-change-trigger-time": value, "other": "x",
        });
        let (slice, _) = slice(&[("/metadata/annotations", annotations)]);
        assert_eq!(slice.unwrap().triggered, expected, "{name}");
    }
}

#[test]
fn slice_is_converted_with_all_fields() {
    let (slice, skipped) = slice(&[]);
    let slice = slice.unwrap();
    assert_eq!(skipped, Skipped::default());
    assert_eq!(slice.service, ObjectName::new("default", "web"));
    assert_eq!(slice.endpoints.len(), 2, "only the first address of an endpoint");
    let found: Vec<_> = slice.endpoints.iter().collect();
    let [(address, a), (_, b)] = &found[..] else { panic!() };
    assert_eq!((a.ready, a.serving, a.terminating), (true, true, false), "absent conditions");
    assert_eq!((b.ready, b.serving, b.terminating), (false, true, true));
    assert_eq!(address.to_string(), "10.0.0.1");
    assert_eq!((a.node.as_deref(), b.node.as_deref()), (None, Some("n1")));
    assert_eq!((&*b.node_hints[0], &*b.zone_hints[0]), ("n1", "z1"));
}

#[test]
fn slices_that_mean_nothing_here_are_none_and_counted() {
    let none = Skipped::default();
    let rows = [
        (
            "no label",
            ("/metadata/labels", json!(null)),
            Skipped { slices_without_service: 1, ..none },
        ),
        (
            "a label that no Service has for a name",
            ("/metadata/labels", json!({"kubernetes.io/service-name": "web.1"})),
            Skipped { slices_without_service: 1, ..none },
        ),
        (
            "empty label",
            ("/metadata/labels", json!({"kubernetes.io/service-name": ""})),
            Skipped { slices_without_service: 1, ..none },
        ),
        (
            "headless",
            (
                "/metadata/labels",
                json!({"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": "x"}),
            ),
            Skipped { slices_headless: 1, ..none },
        ),
        ("FQDN", ("/addressType", json!("FQDN")), Skipped { slices_of_other_addresses: 1, ..none }),
    ];
    for (name, change, expected) in rows {
        assert_eq!(slice(&[change]), (None, expected), "{name}");
    }
}

#[test]
fn slice_ports_need_a_number_and_one_without_a_name_has_the_empty_one() {
    let ports = json!([
        {"port": 1}, {"name": null, "port": 2, "protocol": "UDP"}, {"name": "a"},
        {"name": "b", "port": 0}, {"name": "c", "port": 3, "protocol": "SCTP"},
        {"name": "d", "port": 4, "protocol": "UDP"}, {"name": "e", "port": 70000},
    ]);
    let (slice, skipped) = slice(&[("/ports", ports)]);
    let found: Vec<_> =
        slice.unwrap().ports.iter().map(|p| (p.name.to_string(), p.protocol, p.port)).collect();
    let none = String::new;
    let expected = [
        (none(), Protocol::Tcp, 1),
        (none(), Protocol::Udp, 2),
        ("d".to_owned(), Protocol::Udp, 4),
    ];
    assert_eq!(found, expected);
    let expected = Skipped { ports_without_number: 3, sctp_ports: 1, ..Skipped::default() };
    assert_eq!(skipped, expected);
}

#[test]
fn a_node_has_zone_and_addresses() {
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "n1.example", "labels": {"topology.kubernetes.io/zone": "z1"}},
        "status": {"addresses": [
            {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"},
            {"type": "ExternalIP", "address": "2001:db8::1"},
        ]},
    });
    let (Update::Node(Some(node)), _) = one(node) else { panic!() };
    assert_eq!((&*node.name, node.zone.as_deref()), ("n1.example", Some("z1")));
    assert_eq!((node.addresses.len(), node.is_leaving), (2, false));
}

#[test]
fn a_node_is_leaving_when_it_is_being_deleted_or_the_autoscaler_is_about_to_remove_it() {
    let taints = |keys: &[&str]| {
        let taints: Vec<_> =
            keys.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
        json!({"spec": {"taints": taints}})
    };
    let rows = [
        ("nothing is said", json!({}), false),
        ("null is absent", json!({"spec": {"taints": null}}), false),
        ("other taints", taints(&["node.kubernetes.io/not-ready", ""]), false),
        ("a taint without a key", json!({"spec": {"taints": [{}]}}), false),
        (
            "the autoscaler's taint",
            taints(&["node.kubernetes.io/not-ready", "ToBeDeletedByClusterAutoscaler"]),
            true,
        ),
        (
            "it is being deleted",
            json!({"metadata": {"name": "n1", "deletionTimestamp": "2026-01-31T12:00:00Z"}}),
            true,
        ),
        (
            "no time of deletion",
            json!({"metadata": {"name": "n1", "deletionTimestamp": null}}),
            false,
        ),
    ];
    for (row, fields, expected) in rows {
        let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}});
        for (name, value) in fields.as_object().unwrap() {
            node[name] = value.clone();
        }
        let (Update::Node(Some(node)), _) = one(node) else { panic!("{row}") };
        assert_eq!(node.is_leaving, expected, "{row}");
    }
}

#[test]
fn lists_are_taken_apart_and_each_item_counts_by_itself() {
    let bad = with(
        service_object(),
        &[("/spec/ports/1/port", json!(0)), ("/metadata/name", json!("bad"))],
    );
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        service_object(), bad, {"apiVersion": "apps/v1", "kind": "Deployment", "spec": 1}, 5, slice_object(),
    ]});
    let converted = objects(list);
    assert_eq!(converted.accepted.len(), 2);
    let words: Vec<String> = converted.rejects.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "Service shop/bad: spec.ports[1].port: 0 is not a port (1 to 65535)",
            "items[3]: a number is not a Kubernetes object: expected kind, apiVersion, ...",
        ]
    );
}

#[test]
fn items_of_typed_lists_need_not_say_their_kind() {
    for (kind, version, mut item) in [
        ("ServiceList", "v1", service_object()),
        ("EndpointSliceList", "discovery.k8s.io/v1", slice_object()),
        ("NodeList", "v1", json!({"metadata": {"name": "n1"}})),
    ] {
        let fields = item.as_object_mut().unwrap();
        fields.remove("kind");
        fields.remove("apiVersion");
        let converted = objects(json!({"apiVersion": version, "kind": kind, "items": [item]}));
        assert_eq!(converted.rejects, [], "{kind}");
        assert_eq!(converted.accepted.len(), 1, "{kind}");
    }
}

#[test]
fn other_kinds_are_passed_over() {
    for (kind, version) in [
        ("Deployment", "apps/v1"),
        ("Service", "serving.knative.dev/v1"),
        ("ConfigMap", "v1"),
        ("EndpointSlice", "example.com/v1"),
        ("PodList", "v1"),
        ("Endpoints", "v1"),
    ] {
        let converted =
            objects(json!({"apiVersion": version, "kind": kind, "spec": "x", "metadata": 7}));
        assert_eq!((converted.accepted, converted.rejects), (vec![], vec![]), "{kind} {version}");
    }
}

#[test]
fn a_link_local_external_ip_is_left_to_the_node() {
    let ips = json!(["169.254.169.254", "fe80::1", "192.0.2.1"]);
    let (update, skipped) = one(with(service_object(), &[("/spec/externalIPs", ips)]));
    let Update::Service(_, Some(service)) = update else { panic!("{update:?}") };
    assert_eq!(service.external_ips, [IpAddr::from([192, 0, 2, 1])]);
    assert_eq!(skipped, Skipped { unusable_addresses: 2, ..Skipped::default() });
}
