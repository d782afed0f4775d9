//! What comes of frames: those of a real API server, which says the same in JSON, and such as none sends.

use svclb_core::model::ObjectName;

use super::*;
use crate::api::{self, Wire};

/// What kube-apiserver 1.37.2 told of the same objects in both encodings: tests/tests/kube/protobuf.rs
/// makes these files, when SVCLB_RECORD names a folder.
macro_rules! recorded {
    ($name:literal) => {{
        let bytes: &[u8] = include_bytes!(concat!("../../tests/protobuf/", $name));
        bytes
    }};
}

/// A field that is a text, bytes or a message.
fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | 2), &mut field);
    prost::encoding::encode_varint(bytes.len() as u64, &mut field);
    [&field[..], bytes].concat()
}

/// A field that is a number.
fn number(number: u32, value: u64) -> Vec<u8> {
    let mut field = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3), &mut field);
    prost::encoding::encode_varint(value, &mut field);
    field
}

fn envelope(version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let types = [field(1, version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &types), field(2, object)].concat()
}

fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&length.to_be_bytes(), message].concat()
}

fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    frame(&[field(1, kind.as_bytes()), field(2, &field(1, object))].concat())
}

/// A Service that is read well.
fn service(name: &str) -> Vec<u8> {
    let metadata = [field(1, name.as_bytes()), field(3, b"n"), field(6, b"7")].concat();
    let spec = [field(1, &number(3, 80)), field(3, b"10.96.0.1")].concat();
    [field(1, &metadata), field(2, &spec)].concat()
}

fn added(name: &str) -> Vec<u8> {
    event("ADDED", &envelope("v1", "Service", &service(name)))
}

/// All lines of a body, and what is wrong with it.
fn read(body: &[u8]) -> (Vec<Value>, Result<(), Malformed>) {
    let mut frames = Frames::default();
    frames.take(body);
    let mut values = Vec::new();
    loop {
        match frames.lines() {
            Ok(Some(lines)) => values.extend(parsed(&lines)),
            Ok(None) => return (values, frames.end()),
            Err(malformed) => return (values, Err(malformed)),
        }
    }
}

fn parsed(lines: &[u8]) -> Vec<Value> {
    let lines = std::str::from_utf8(lines).unwrap();
    assert!(lines.ends_with('\n'));
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The object of the only line.
fn only(body: &[u8]) -> Value {
    let (mut values, end) = read(body);
    assert_eq!((values.len(), end), (1, Ok(())), "{values:#?}");
    values.remove(0)["object"].take()
}

/// The names of Services.
fn names(values: &[Value]) -> Vec<String> {
    let name = |value: &Value| api::read::<wire::Service>(&value["object"].to_string()).1.name;
    values.iter().map(|value| name(value).unwrap().name.to_string()).collect()
}

/// What the object of the only line says, in JSON.
fn says<T: Wire>(object: &[u8]) -> Value {
    let envelope = envelope(T::KIND.api_version(), T::KIND.name(), object);
    let found = only(&event("ADDED", &envelope));
    let said: T = super::object(found.as_str().unwrap()).unwrap();
    serde_json::to_value(said).unwrap()
}

fn is_of_kind<T: Wire>(object: &Value) {
    let expected = (&json!(T::KIND.name()), &json!(T::KIND.api_version()));
    assert_eq!((&object["kind"], &object["apiVersion"]), expected);
}

fn same<T: Wire>(frames: &[u8], json: &[u8]) {
    let ((mut found, end), mut expected) = (read(frames), parsed(json));
    assert_eq!((end, found.len()), (Ok(()), expected.len()));
    // The end of a list is said at a version of its own.
    for values in [&mut found, &mut expected] {
        let mut end = values.pop().unwrap();
        assert!(end["object"]["metadata"]["resourceVersion"].is_string(), "{end:#}");
        let annotations = json!({ "k8s.io/initial-events-end": "true" });
        assert_eq!(end["object"]["metadata"]["annotations"].take(), annotations);
        assert_eq!(end["type"], "BOOKMARK");
        is_of_kind::<T>(&end["object"]);
    }
    assert!(!found.is_empty());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found["type"], expected["type"]);
        let [found, expected] = [&found["object"], &expected["object"]];
        is_of_kind::<T>(expected);
        assert!(found.is_string(), "{found:#}");
        let (version, read) = api::read::<T>(&found.to_string());
        let (expected_version, of_json) = api::read::<T>(&expected.to_string());
        assert!(version.is_some() && version == expected_version, "{found:#}\n{expected:#}");
        assert_eq!((read.name, read.said), (of_json.name, of_json.said));
        assert!(read.hash == of_json.hash, "another object by its hash: {found:#}\n{expected:#}");
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

/// That the recorded objects have each field that is read, so that the test above sees each.
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
    let body = Bytes::from_static(recorded!("error.status"));
    let found: Value = serde_json::from_slice(&status(body).unwrap()).unwrap();
    assert_eq!((&found["kind"], &found["status"]), (&json!("Status"), &json!("Failure")));
    assert_eq!((&found["code"], &found["reason"]), (&json!(422), &json!("Invalid")));
    let message = found["message"].as_str().unwrap();
    assert!(message.contains("sendInitialEvents requires"), "{message}");
    for (row, body) in [
        ("an object", envelope("v1", "Service", &service("a"))),
        ("JSON", br#"{"kind":"Status"}"#.to_vec()),
        ("nothing", Vec::new()),
        ("no envelope", [MAGIC, b"\xff"].concat()),
    ] {
        let error = status(Bytes::from(body)).unwrap_err().to_string();
        assert!(error.starts_with("the API server's protobuf cannot be read: "), "{row}: {error}");
    }
}

#[test]
fn an_object_is_carried_as_it_came() {
    for (row, kind, object) in [
        ("a Service", "Service", service("a")),
        ("one byte more", "Service", service("ab")),
        ("two", "Service", service("abc")),
        ("another kind", "Pod", service("a")),
        ("rubbish", "Service", b"\xff\0".to_vec()),
        ("nothing", "", Vec::new()),
    ] {
        let envelope = envelope("v1", kind, &object);
        let mut frames = Frames::default();
        frames.take(&event("ADDED", &envelope));
        let carried = BASE64_STANDARD.encode(&envelope);
        let line = format!("{{\"type\":\"ADDED\",\"object\":\"{carried}\"}}\n");
        assert_eq!(frames.lines(), Ok(Some(line.into())), "{row}");
    }
}

#[test]
fn a_body_is_the_same_in_whatever_parts_it_comes() {
    let body = [added("a"), added("b"), added("c")].concat();
    let (whole, end) = read(&body);
    assert_eq!((&names(&whole)[..], end), (&["a", "b", "c"].map(str::to_owned)[..], Ok(())));
    for at in 0..=body.len() {
        let (mut frames, mut found) = (Frames::default(), Vec::new());
        for part in [&body[..at], &body[at..]] {
            frames.take(part);
            while let Some(lines) = frames.lines().unwrap() {
                found.extend(parsed(&lines));
            }
        }
        assert_eq!((&found, frames.end()), (&whole, Ok(())), "{at}");
    }
    let (mut frames, mut found) = (Frames::default(), Vec::new());
    for byte in &body {
        frames.take(&[*byte]);
        found.extend(frames.lines().unwrap().iter().flat_map(|lines| parsed(lines)));
    }
    assert_eq!(found, whole, "byte by byte");
}

#[test]
fn what_breaks_off_or_is_no_event_is_an_error_behind_all_that_came_before_it() {
    let unreadable = |words: &str| format!("the API server's protobuf cannot be read: {words}");
    let too_long = u32::try_from(LONGEST + 1).unwrap().to_be_bytes().to_vec();
    let rows = [
        ("one byte", vec![0], "after 1 bytes of it".to_owned()),
        ("a length", vec![0, 0, 0, 9], "after 4 bytes of it".to_owned()),
        ("half", added("b")[..20].to_vec(), "after 20 bytes of it".to_owned()),
        ("a length beyond all bounds", too_long, "expected at most 33554432".to_owned()),
        ("no message", frame(b"\xff\xff\xff"), unreadable("failed to decode")),
        ("JSON", br#"{"type":"ADDED","object":{}}"#.to_vec(), "expected at most".to_owned()),
        ("an empty frame", frame(b""), unreadable("an event without an object")),
        ("no object", frame(&field(1, b"ADDED")), unreadable("an event without an object")),
        ("no envelope", event("ADDED", b""), unreadable("an object that does not begin with")),
        ("JSON in it", event("ADDED", b"{}"), unreadable("an object that does not begin with")),
        ("a broken envelope", event("ADDED", b"k8s\0\xff"), unreadable("failed to decode")),
        (
            "a broken error",
            event("ERROR", &envelope("v1", "Status", b"\xff")),
            unreadable("failed to decode"),
        ),
        (
            "a bookmark without a version",
            event("BOOKMARK", &envelope("v1", "Service", &field(1, &field(1, b"a")))),
            unreadable("a bookmark without a version"),
        ),
        (
            "a broken bookmark",
            event("BOOKMARK", &envelope("v1", "Service", b"\xff")),
            unreadable("failed to decode"),
        ),
    ];
    for (row, bad, words) in rows {
        let (found, end) = read(&[added("a"), bad].concat());
        assert_eq!(names(&found), ["a"], "{row}");
        let error = end.unwrap_err().to_string();
        assert!(error.contains(&words), "{row}: {error}");
    }
    // The longest that may be is waited for.
    let longest = u32::try_from(LONGEST).unwrap().to_be_bytes();
    assert_eq!(read(&longest), (vec![], Err(Malformed::Cut { there: 4 })));
}

#[test]
fn nothing_behind_what_is_malformed_is_read() {
    let mut frames = Frames::default();
    frames.take(&frame(b"\xff"));
    let first = frames.lines().unwrap_err();
    frames.take(&added("a"));
    assert_eq!(frames.lines(), Err(first));
}

#[test]
fn an_object_that_cannot_be_read_is_one_that_is_wrong_and_keeps_its_name() {
    // Its spec is a number.
    let metadata = [field(1, b"a"), field(3, b"n"), field(6, b"7")].concat();
    let broken = [field(1, &metadata), number(2, 1)].concat();
    let body = [event("MODIFIED", &envelope("v1", "Service", &broken)), added("b")].concat();
    let (found, end) = read(&body);
    assert_eq!((&names(&found)[..], end), (&["a", "b"].map(str::to_owned)[..], Ok(())));
    let (version, read) = api::read::<wire::Service>(&found[0]["object"].to_string());
    assert_eq!((version.as_deref(), read.name), (Some("7"), Some(ObjectName::new("n", "a"))));
    let invalid = read.said.unwrap_err();
    assert_eq!(invalid.field, "spec");
    assert!(invalid.problem.contains("failed to decode"), "{invalid}");
    assert!(api::read::<wire::Service>(&found[1]["object"].to_string()).1.said.is_ok());

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
        let slice =
            only(&event("ADDED", &envelope("discovery.k8s.io/v1", "EndpointSlice", &slice)));
        let (version, read) = api::read::<wire::EndpointSlice>(&slice.to_string());
        assert_eq!((version.as_deref(), read.name), (Some("7"), Some(ObjectName::new("n", "a"))));
        let invalid = read.said.unwrap_err();
        let told = invalid.to_string();
        assert!(told.starts_with("EndpointSlice n/a: endpoints: "), "{row}: {told}");
        assert!(told.contains("failed to decode"), "{row}: {told}");
        assert_eq!(invalid.part_of(), Some(&ObjectName::new("n", "s")), "{row}");
    }
    let of_node = [field(1, &metadata), number(3, 1)].concat();
    let of_node = only(&event("ADDED", &envelope("v1", "Node", &of_node)));
    let invalid = api::read::<wire::Node>(&of_node.to_string()).1.said.unwrap_err();
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
        let found = only(&event("ADDED", &object));
        let (version, read) = api::read::<wire::Service>(&found.to_string());
        assert!(version.is_none() && read.name.is_none() && read.said.is_err(), "{row}: {read:?}");
        let told = read.said.unwrap_err().to_string();
        assert!(told.contains(words), "{row}: {told}");
    }
}

#[test]
fn the_type_of_an_event_is_handed_on_whatever_it_is() {
    for kind in ["ADDED", "MODIFIED", "DELETED", "ERROR", "RENAMED", "", "\"}\n\u{1b}"] {
        let (found, _) = read(&event(kind, &envelope("v1", "Service", &service("a"))));
        assert_eq!(found[0]["type"], kind);
        assert_eq!(names(&found), ["a"], "{kind}");
    }
}

#[test]
fn a_bookmark_says_whether_a_list_is_at_its_end() {
    let pair = |key: &[u8], value: &[u8]| field(12, &[field(1, key), field(2, value)].concat());
    let end = pair(b"k8s.io/initial-events-end", b"true");
    let ends = json!({ "k8s.io/initial-events-end": "true" });
    for (row, annotations, expected) in [
        ("it is", end.clone(), Some(&ends)),
        ("it is, and more is said", [pair(b"other", b"true"), end].concat(), Some(&ends)),
        ("it is not", Vec::new(), None),
        ("something else is said", pair(b"other", b"true"), None),
    ] {
        let metadata = [field(1, b"a"), field(6, b"9"), annotations].concat();
        // Nobody looks into the rest of it.
        let object = [field(1, &metadata), number(2, 1)].concat();
        let (found, wrong) = read(&event("BOOKMARK", &envelope("v1", "Node", &object)));
        let mut bookmark = json!({
            "kind": "Node", "apiVersion": "v1", "metadata": { "resourceVersion": "9" },
        });
        if let Some(ends) = expected {
            bookmark["metadata"]["annotations"] = ends.clone();
        }
        let expected = json!({ "type": "BOOKMARK", "object": bookmark });
        assert_eq!((found, wrong), (vec![expected], Ok(())), "{row}");
    }
}

#[test]
fn an_error_in_a_watch_is_a_status() {
    let status = [field(2, b"Failure"), field(3, b"too old"), field(4, b"Expired"), number(6, 410)];
    let found = only(&event("ERROR", &envelope("v1", "Status", &status.concat())));
    let expected = json!({
        "kind": "Status", "apiVersion": "v1",
        "status": "Failure", "message": "too old", "reason": "Expired", "code": 410,
    });
    assert_eq!(found, expected);
}

#[test]
fn a_pointer_is_there_or_not_and_what_is_empty_otherwise_is_not() {
    let slice = says::<wire::EndpointSlice>;
    let none = json!([{ "name": null, "protocol": null, "port": null }]);
    assert_eq!(slice(&field(3, b""))["ports"], none);
    let empty = [field(1, b""), field(2, b""), number(3, 0)].concat();
    let expected = json!([{ "name": "", "protocol": "", "port": 0 }]);
    assert_eq!(slice(&field(3, &empty))["ports"], expected);

    let conditions = field(2, &[number(1, 0), number(3, 1)].concat());
    let hints = field(8, &field(1, &field(1, b"z")));
    let full = [field(1, b"10.0.0.1"), field(1, b"10.0.0.2"), field(6, b"n"), hints].concat();
    // What one says, the next does not.
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
    assert_eq!(says::<wire::Service>(&field(2, &spec))["spec"], expected);
}

#[test]
fn a_time_is_written_as_in_json() {
    let of = |time: &[u8]| {
        let mut found = says::<wire::Service>(&field(1, &field(8, time)));
        found["metadata"]["creationTimestamp"].take()
    };
    assert_eq!(of(&[number(1, 86_401), number(2, 999)].concat()), "1970-01-02T00:00:01Z");
    assert_eq!(of(&number(1, 0)), "1970-01-01T00:00:00Z");
    assert_eq!(of(b""), Value::Null, "no time");
    assert_eq!(of(&number(1, i64::MAX as u64)), i64::MAX.to_string());
}

#[test]
fn a_text_may_be_anything() {
    let rows: [(&[u8], &str); 3] = [
        (b"a\xff\xfeb", "a\u{fffd}\u{fffd}b"),
        (b"\"}\n\\\x1b\0", "\"}\n\\\u{1b}\0"),
        ("\u{2028}é".as_bytes(), "\u{2028}é"),
    ];
    for (bytes, expected) in rows {
        let pair = |value| [field(1, b"kubernetes.io/service-name"), field(2, value)].concat();
        // The first of two is none.
        let labels = [field(11, &pair(b"first")), field(11, &pair(bytes))].concat();
        let found = says::<wire::Service>(&field(1, &[field(1, bytes), labels].concat()));
        let label = &found["metadata"]["labels"]["kubernetes.io/service-name"];
        assert_eq!((&found["metadata"]["name"], label), (&json!(expected), &json!(expected)));
        // What the watcher looks into is JSON whatever is in it.
        let error = only(&event("ERROR", &envelope("v1", "Status", &field(3, bytes))));
        assert_eq!(error["message"], expected);
        let bookmark = envelope("v1", "Service", &field(1, &field(6, bytes)));
        let bookmark = only(&event("BOOKMARK", &bookmark));
        assert_eq!(bookmark["metadata"]["resourceVersion"], expected);
    }
}
