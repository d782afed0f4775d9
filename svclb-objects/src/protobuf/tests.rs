//! Objects of a real API server, which are the same in JSON, and malformed objects.

use svclb_core::model::ObjectName;

use super::*;
use crate::api::{self, Read, Wire};
use crate::events::{Decoder, Encoding, Event};

/// The same objects in both encodings, as kube-apiserver 1.37.2 sent them: tests/tests/kube/protobuf.rs writes
/// these files when SVCLB_RECORD names a folder.
macro_rules! recorded {
    ($name:literal) => {{
        let bytes: &[u8] = include_bytes!(concat!("../../tests/protobuf/", $name));
        bytes
    }};
}

/// A field that is a text, bytes or a message.
pub(crate) fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut field);
    prost::encoding::encode_varint(bytes.len() as u64, &mut field);
    [&field[..], bytes].concat()
}

/// A field that is a number.
pub(crate) fn number(number: u32, value: u64) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3), &mut field);
    prost::encoding::encode_varint(value, &mut field);
    field
}

pub(crate) fn envelope(version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let types = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &types), field(2, object)].concat()
}

pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&length.to_be_bytes(), message].concat()
}

pub(crate) fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    frame(&[field(1, kind.as_bytes()), field(2, &field(1, object))].concat())
}

/// A valid Service.
pub(crate) fn service(name: &str) -> Vec<u8> {
    let metadata = [field(1, name.as_bytes()), field(3, b"n"), field(6, b"7")].concat();
    let spec = [field(1, &number(3, 80)), field(3, b"10.96.0.1")].concat();
    [field(1, &metadata), field(2, &spec)].concat()
}

pub(crate) fn added(name: &str) -> Vec<u8> {
    event("ADDED", &envelope("v1", "Service", &service(name)))
}

/// Reads the object of an envelope.
fn read<T: Wire>(envelope: &[u8]) -> (Option<Text>, Read) {
    api::read_protobuf::<T>(Envelope::open(Bytes::copy_from_slice(envelope)).unwrap())
}

/// The JSON of an object.
fn as_json<T: Wire>(object: &[u8]) -> Value {
    let envelope = envelope(T::KIND.api_version(), T::KIND.name(), object);
    let object: T = Envelope::open(envelope.into()).unwrap().object().unwrap();
    serde_json::to_value(object).unwrap()
}

fn events(encoding: Encoding, kind: Kind, body: &[u8]) -> Vec<Event> {
    let mut decoder = Decoder::new(encoding);
    decoder.push(body);
    let events = std::iter::from_fn(|| decoder.next(kind).unwrap()).collect();
    assert_eq!(decoder.end(), Ok(()));
    events
}

fn same<T: Wire>(frames: &[u8], json: &[u8]) {
    let mut found = events(Encoding::Protobuf, T::KIND, frames);
    let mut expected = events(Encoding::Json, T::KIND, json);
    assert_eq!(found.len(), expected.len());
    // The bookmark at the end of a list has a version of its own.
    for events in [&mut found, &mut expected] {
        let end = events.pop().unwrap();
        assert!(matches!(end, Event::Bookmark { ends_list: true, .. }), "{end:?}");
    }
    assert!(!found.is_empty());
    for (found, expected) in found.into_iter().zip(expected) {
        let [(version, read), (expected_version, of_json)] =
            [&found, &expected].map(|event| match event {
                Event::Object { version, read, is_gone: false } => (version, read),
                _ => panic!("{event:?}"),
            });
        assert!(version.is_some() && version == expected_version, "{found:?}\n{expected:?}");
        assert_eq!((&read.name, &read.contents), (&of_json.name, &of_json.contents));
        assert!(read.hash == of_json.hash, "another object by its hash: {found:?}\n{expected:?}");
    }
}

#[test]
fn an_object_of_a_real_api_server_means_in_protobuf_what_it_means_in_json() {
    same::<wire::Service>(recorded!("services.frames"), recorded!("services.json"));
    same::<wire::EndpointSlice>(
        recorded!("endpointslices.frames"),
        recorded!("endpointslices.json"),
    );
    same::<wire::Node>(recorded!("nodes.frames"), recorded!("nodes.json"));
}

/// Checks that the recorded objects have each field that is read, so that the test above covers each.
#[test]
fn the_recorded_objects_use_every_field() {
    let all =
        [recorded!("services.json"), recorded!("endpointslices.json"), recorded!("nodes.json")]
            .map(|json| String::from_utf8(json.to_vec()).unwrap())
            .concat();
    let fields = [
        "name",
        "namespace",
        "creationTimestamp",
        "resourceVersion",
        "labels",
        "annotations",
        "type",
        "clusterIP",
        "clusterIPs",
        "externalIPs",
        "loadBalancerSourceRanges",
        "internalTrafficPolicy",
        "externalTrafficPolicy",
        "sessionAffinity",
        "timeoutSeconds",
        "protocol",
        "port",
        "nodePort",
        "ip",
        "ipMode",
        "addressType",
        "addresses",
        "ready",
        "serving",
        "terminating",
        "nodeName",
        "forZones",
        "forNodes",
        "taints",
        "key",
        "address",
        "kubernetes.io/service-name",
        "service.kubernetes.io/service-proxy-name",
        "service.kubernetes.io/headless",
        "topology.kubernetes.io/zone",
        "endpoints.kubernetes.io/last-change-trigger-time",
        "k8s.io/initial-events-end",
    ];
    for field in fields {
        assert!(all.contains(&format!("\"{field}\":")), "{field}");
    }
}

#[test]
fn an_error_of_a_real_api_server_is_a_status() {
    let of = |body: Vec<u8>| Encoding::Protobuf.status(422, body.into()).message;
    let message = of(recorded!("error.status").to_vec());
    assert!(message.contains("sendInitialEvents requires"), "{message}");
    for (row, body) in [
        ("an object", envelope("v1", "Service", &service("a"))),
        ("JSON", br#"{"kind":"Status"}"#.to_vec()),
        ("nothing", Vec::new()),
        ("no envelope", [MAGIC, b"\xff"].concat()),
    ] {
        let error = of(body);
        assert!(error.starts_with("the API server's protobuf cannot be read: "), "{row}: {error}");
    }
}

#[test]
fn unreadable_object_is_invalid_and_keeps_its_name() {
    // Its spec is a number.
    let metadata = [field(1, b"a"), field(3, b"n"), field(6, b"7")].concat();
    let broken = [field(1, &metadata), number(2, 1)].concat();
    let (version, read) = self::read::<wire::Service>(&envelope("v1", "Service", &broken));
    assert_eq!((version.as_deref(), read.name), (Some("7"), Some(ObjectName::new("n", "a"))));
    let invalid = read.contents.unwrap_err();
    assert_eq!(invalid.field, "spec");
    assert!(invalid.problem.contains("failed to decode"), "{invalid}");

    let pair = [field(1, b"kubernetes.io/service-name"), field(2, b"s")].concat();
    let of_service = [&metadata[..], &field(11, &pair)].concat();
    for (row, rest) in [
        ("the endpoints are a number", number(2, 1)),
        ("an endpoint is none", field(2, b"\xff")),
        ("one of many", [field(2, &field(1, b"10.0.0.1")), field(2, &number(2, 1))].concat()),
        ("one is cut off", field(2, &field(1, b"10.0.0.1")[..5])),
        ("the ports are a number", number(3, 1)),
    ] {
        let slice = [field(1, &of_service), rest].concat();
        let slice = envelope("discovery.k8s.io/v1", "EndpointSlice", &slice);
        let (version, read) = self::read::<wire::EndpointSlice>(&slice);
        assert_eq!((version.as_deref(), read.name), (Some("7"), Some(ObjectName::new("n", "a"))));
        let invalid = read.contents.unwrap_err();
        let text = invalid.to_string();
        assert!(text.starts_with("EndpointSlice n/a: endpoints: "), "{row}: {text}");
        assert!(text.contains("failed to decode"), "{row}: {text}");
        assert_eq!(invalid.part_of(), Some(&ObjectName::new("n", "s")), "{row}");
    }
    let of_node = [field(1, &metadata), number(3, 1)].concat();
    let of_node = envelope("v1", "Node", &of_node);
    let invalid = self::read::<wire::Node>(&of_node).1.contents.unwrap_err();
    assert!(invalid.to_string().starts_with("Node a: status: "), "{invalid}");

    for (row, object, words) in [
        (
            "its metadata cannot be read either",
            envelope("v1", "Service", &number(1, 1)),
            "failed to decode",
        ),
        ("it is cut off", envelope("v1", "Service", &service("a")[..20]), "failed to decode"),
        ("another kind", envelope("v1", "Pod", &service("a")), "v1 Pod"),
        ("another version", envelope("v2", "Service", &service("a")), "v2 Service"),
        ("no kind", [MAGIC.to_vec(), field(2, &service("a"))].concat(), "is not an object"),
        ("no object", envelope("v1", "Service", b""), "metadata.name: missing"),
    ] {
        let (version, read) = self::read::<wire::Service>(&object);
        assert!(
            version.is_none() && read.name.is_none() && read.contents.is_err(),
            "{row}: {read:?}"
        );
        let text = read.contents.unwrap_err().to_string();
        assert!(text.contains(words), "{row}: {text}");
    }
}

#[test]
fn optional_texts_may_be_empty_and_other_empty_texts_are_absent() {
    let slice = as_json::<wire::EndpointSlice>;
    let none = json!([{ "name": null, "protocol": null, "port": null }]);
    assert_eq!(slice(&field(3, b""))["ports"], none);
    let empty = [field(1, b""), field(2, b""), number(3, 0)].concat();
    let expected = json!([{ "name": "", "protocol": "", "port": 0 }]);
    assert_eq!(slice(&field(3, &empty))["ports"], expected);

    let conditions = field(2, &[number(1, 0), number(3, 1)].concat());
    let hints = field(8, &field(1, &field(1, b"z")));
    let full = [field(1, b"10.0.0.1"), field(1, b"10.0.0.2"), field(6, b"n"), hints].concat();
    // No field of one endpoint is left for the next.
    let endpoints = [conditions, full, field(6, b""), Vec::new()];
    let found = slice(&endpoints.map(|endpoint| field(2, &endpoint)).concat());
    let of = |address: &[&str], conditions: [Option<bool>; 3], node: Option<&str>, zones: Value| {
        let [ready, serving, terminating] = conditions;
        json!({
            "addresses": address,
            "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
            "nodeName": node,
            "hints": { "forZones": zones, "forNodes": [] },
        })
    };
    let expected = json!([
        of(&[], [Some(false), None, Some(true)], None, json!([])),
        of(&["10.0.0.1"], [None; 3], Some("n"), json!([{ "name": "z" }])),
        of(&[], [None; 3], Some(""), json!([])),
        of(&[], [None; 3], None, json!([])),
    ]);
    assert_eq!(found["endpoints"], expected);

    let port = [field(1, b""), field(2, b""), number(3, 0), number(5, 0)].concat();
    let spec = [field(1, &port), field(3, b""), field(4, b""), field(22, b"")].concat();
    let expected = json!({
        "type": null,
        "clusterIP": null,
        "clusterIPs": [],
        "externalIPs": [],
        "loadBalancerSourceRanges": [],
        "internalTrafficPolicy": "",
        "externalTrafficPolicy": null,
        "sessionAffinity": null,
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": null } },
        "ports": [{ "name": null, "protocol": null, "port": 0, "nodePort": null }],
    });
    assert_eq!(as_json::<wire::Service>(&field(2, &spec))["spec"], expected);
}

#[test]
fn a_time_is_written_as_in_json() {
    let of = |time: &[u8]| {
        let mut found = as_json::<wire::Service>(&field(1, &field(8, time)));
        found["metadata"]["creationTimestamp"].take()
    };
    assert_eq!(of(&[number(1, 86_401), number(2, 999)].concat()), "1970-01-02T00:00:01Z");
    assert_eq!(of(&number(1, 0)), "1970-01-01T00:00:00Z");
    assert_eq!(of(b""), Value::Null, "no time");
    assert_eq!(of(&number(1, i64::MAX as u64)), i64::MAX.to_string());
    let deleted = as_json::<wire::Node>(&field(1, &field(9, &number(1, 0))));
    assert_eq!(deleted["metadata"]["deletionTimestamp"], "1970-01-01T00:00:00Z");
}

#[test]
fn text_may_hold_any_bytes() {
    let rows: [(&[u8], &str); 3] = [
        (b"a\xff\xfeb", "a\u{fffd}\u{fffd}b"),
        (b"\"}\n\\\x1b\0", "\"}\n\\\u{1b}\0"),
        ("\u{2028}é".as_bytes(), "\u{2028}é"),
    ];
    for (bytes, expected) in rows {
        let pair = |value| [field(1, b"kubernetes.io/service-name"), field(2, value)].concat();
        // The first of two is none.
        let labels = [field(11, &pair(b"first")), field(11, &pair(bytes))].concat();
        let found = as_json::<wire::Service>(&field(1, &[field(1, bytes), labels].concat()));
        let label = &found["metadata"]["labels"]["kubernetes.io/service-name"];
        assert_eq!((&found["metadata"]["name"], label), (&json!(expected), &json!(expected)));
        let open = |kind: &str, object: &[u8]| {
            Envelope::open(envelope("v1", kind, object).into()).unwrap()
        };
        assert_eq!(open("Status", &field(3, bytes)).status().unwrap().message, expected);
        let bookmark = open("Service", &field(1, &field(6, bytes)));
        assert_eq!(bookmark.bookmark(), Ok((expected.into(), false)));
    }
}
