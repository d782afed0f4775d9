//! Rejected objects and their messages, and that no value panics.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{Converted, objects};
use super::{service_object, slice_object, with};

#[test]
fn a_wrong_field_is_named_with_its_object_and_what_was_expected() {
    let rows: [(Value, (&str, Value), &str); 31] = [
        (
            service_object(),
            ("/spec/ports/1/port", json!(70000)),
            "Service shop/web: spec.ports[1].port: 70000 is not a port (1 to 65535)",
        ),
        (
            service_object(),
            ("/spec/ports/1/port", json!(-1)),
            "Service shop/web: spec.ports[1].port: -1 is not a port (1 to 65535)",
        ),
        (
            service_object(),
            ("/spec/ports/0/port", json!("http")),
            "Service shop/web: spec.ports[0].port: invalid type: string \"http\", expected a whole number",
        ),
        (
            service_object(),
            ("/spec/ports/0/port", json!(80.5)),
            "Service shop/web: spec.ports[0].port: invalid type: floating point `80.5`, expected a whole number",
        ),
        (
            service_object(),
            ("/spec/ports/0/port", json!(u64::MAX)),
            "Service shop/web: spec.ports[0].port: invalid value: integer `18446744073709551615`, expected a whole number",
        ),
        (
            service_object(),
            ("/spec/ports/0/port", json!(null)),
            "Service shop/web: spec.ports[0].port: missing: expected a port (1 to 65535)",
        ),
        (
            service_object(),
            ("/spec/ports/0/nodePort", json!(65536)),
            "Service shop/web: spec.ports[0].nodePort: 65536 is not a port (1 to 65535)",
        ),
        (
            service_object(),
            ("/spec/ports/0/protocol", json!("ICMP")),
            "Service shop/web: spec.ports[0].protocol: \"ICMP\" is not a protocol (TCP, UDP, SCTP)",
        ),
        (
            service_object(),
            ("/spec/ports/0/name", json!("A b")),
            "Service shop/web: spec.ports[0].name: \"A b\" is not a name (lower-case letters, digits, dashes between them)",
        ),
        (
            service_object(),
            ("/spec/ports/1", json!({"name": "http", "port": 81})),
            "Service shop/web: spec.ports[1].name: \"http\" is the name of an earlier TCP port too: expected names that differ",
        ),
        (
            service_object(),
            ("/spec/ports/1", json!({"name": "x", "port": 80})),
            "Service shop/web: spec.ports[1].port: 80 is an earlier TCP port too: expected it once",
        ),
        (
            service_object(),
            ("/spec/ports", json!([])),
            "Service shop/web: spec.ports: missing: a Service with a ClusterIP needs at least one port",
        ),
        (
            service_object(),
            ("/spec/ports", json!({"port": 80})),
            "Service shop/web: spec.ports: invalid type: map, expected a sequence",
        ),
        (
            service_object(),
            ("/spec", json!("x")),
            "Service shop/web: spec: invalid type: string \"x\", expected a mapping",
        ),
        (
            service_object(),
            ("/spec/clusterIP", json!("10.96.0.999")),
            "Service shop/web: spec.clusterIP: \"10.96.0.999\" is not an IPv4 or IPv6 address",
        ),
        (
            service_object(),
            ("/spec/clusterIP", json!("10.96.0.11")),
            "Service shop/web: spec.clusterIPs[0]: 10.96.0.10 is not spec.clusterIP (10.96.0.11): expected the same address",
        ),
        (
            service_object(),
            ("/spec/clusterIPs/1", json!("10.96.0.11")),
            "Service shop/web: spec.clusterIPs[1]: 10.96.0.11: expected at most one address of each family",
        ),
        (
            service_object(),
            ("/spec/loadBalancerSourceRanges", json!(["10.0.0.0/33"])),
            "Service shop/web: spec.loadBalancerSourceRanges[0]: \"10.0.0.0/33\" is not a range of addresses, such as 10.0.0.0/8",
        ),
        (
            service_object(),
            ("/spec/internalTrafficPolicy", json!("local")),
            "Service shop/web: spec.internalTrafficPolicy: \"local\" is not a traffic policy (Cluster, Local)",
        ),
        (
            service_object(),
            ("/spec/sessionAffinity", json!("Cookie")),
            "Service shop/web: spec.sessionAffinity: \"Cookie\" is not a session affinity (None, ClientIP)",
        ),
        (
            service_object(),
            ("/metadata/creationTimestamp", json!("yesterday")),
            "Service shop/web: metadata.creationTimestamp: \"yesterday\" is not a time, such as 2026-01-31T12:00:00Z",
        ),
        (
            service_object(),
            ("/metadata/name", json!(null)),
            "metadata.name: missing: every object needs a name",
        ),
        (
            service_object(),
            ("/metadata/name", json!("x".repeat(64))),
            "metadata.name: \"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\" is 64 bytes long, at most 63 are a name",
        ),
        (
            service_object(),
            ("/metadata/namespace", json!("a\u{1b}[2J")),
            "metadata.namespace: \"a\\u{1b}[2J\" is not a name (lower-case letters, digits, dashes between them)",
        ),
        (
            service_object(),
            ("/apiVersion", json!("v2")),
            "apiVersion: \"v2\" is not read here: expected v1",
        ),
        (
            service_object(),
            ("/kind", json!(null)),
            "kind: missing: expected a text such as Service",
        ),
        (
            slice_object(),
            ("/apiVersion", json!("v1")),
            "apiVersion: \"v1\" is not read here: expected discovery.k8s.io/v1",
        ),
        (
            slice_object(),
            ("/apiVersion", json!("discovery.k8s.io/v1beta1")),
            "apiVersion: \"discovery.k8s.io/v1beta1\" is not read here: expected discovery.k8s.io/v1",
        ),
        (
            slice_object(),
            ("/addressType", json!(null)),
            "EndpointSlice default/web-1: addressType: missing: expected IPv4 or IPv6",
        ),
        (
            slice_object(),
            ("/endpoints/1/addresses", json!([])),
            "EndpointSlice default/web-1: endpoints[1].addresses: missing: an endpoint needs an address",
        ),
        (
            slice_object(),
            ("/endpoints/1/conditions/ready", json!("yes")),
            "EndpointSlice default/web-1: endpoints[1].conditions.ready: invalid type: string \"yes\", expected a boolean",
        ),
    ];
    for (object, change, expected) in rows {
        let Converted { accepted, rejects, .. } = objects(with(object, &[change]));
        assert_eq!(accepted, [], "{expected}");
        let words: Vec<String> = rejects.iter().map(ToString::to_string).collect();
        assert_eq!(words, [expected]);
    }
}

/// Any JSON, with words and numbers that objects hold among it.
fn any_value() -> impl Strategy<Value = Value> {
    let words = prop_oneof![
        Just("None"),
        Just("ClientIP"),
        Just("IPv4"),
        Just("10.0.0.1"),
        Just("::1"),
        Just(""),
        Just("TCP"),
        Just("SCTP"),
        Just("0.0.0.0/0"),
        Just("ExternalName"),
        Just("é\u{0}\u{1b}"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words.prop_map(Value::from),
        ".{0,90}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let key = prop_oneof![
            Just("name"),
            Just("port"),
            Just("ports"),
            Just("spec"),
            Just("items"),
            Just("kind"),
            Just("addresses"),
            Just("clusterIPs"),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..4).prop_map(|fields| {
                fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            }),
        ]
    })
}

/// Every place of a value, as pointers.
fn places(value: &Value, here: String, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(k, v)| (k.replace('~', "~0").replace('/', "~1"), v)).collect()
        }
        _ => Vec::new(),
    };
    for (name, child) in children {
        places(child, format!("{here}/{name}"), found);
    }
    found.push(here);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// With any values anywhere in an object, the result is an update, or a reject with the field and the
    /// expected value.
    #[test]
    fn no_value_panics_and_each_reject_has_a_reason(
        slice in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..4),
    ) {
        let mut object = if slice { slice_object() } else { service_object() };
        for (place, value) in changes {
            let mut found = Vec::new();
            places(&object, String::new(), &mut found);
            let place = place.get(&found).clone();
            *object.pointer_mut(&place).unwrap() = value;
        }
        let converted = objects(object);
        for invalid in &converted.rejects {
            prop_assert!(!invalid.problem.is_empty());
            prop_assert!(!invalid.to_string().chars().any(|c| c.is_control() && c != '\n'), "{invalid:?}");
        }
    }
}
