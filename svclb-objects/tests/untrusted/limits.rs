//! Objects that fit into a file, and would take more than the memory or very long.

use std::fmt::Write as _;

use serde_json::{Value, json};
use svclb_core::model::Update;
use svclb_objects::convert::objects;
use svclb_objects::file::{MOST_REPORTED, contents};

fn service(addresses: usize, ports: usize) -> Value {
    let address =
        |number: usize| format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"},
        "spec": {
            "clusterIP": "192.0.2.1",
            "externalIPs": (1..addresses).map(address).collect::<Vec<_>>(),
            "ports": (1..=ports).map(|port| json!({"name": format!("p{port}"), "port": port})).collect::<Vec<_>>(),
        },
    })
}

#[test]
fn a_service_names_no_more_frontends_than_a_node_can_hold() {
    let rows = [
        ("one port of many addresses", 65_536, 1, true),
        ("many ports of one address", 1, 65_535, true),
        ("some of both", 256, 256, true),
        ("one too many", 65_537, 1, false),
        ("many ports of many addresses", 20_000, 20_000, false),
    ];
    for (row, addresses, ports, fits) in rows {
        let converted = objects(service(addresses, ports));
        assert_eq!(converted.rejects.is_empty(), fits, "{row}");
        if !fits {
            let text = converted.rejects[0].to_string();
            let words = "expected at most 65536 pairs of both";
            assert!(
                text.starts_with("Service default/a: spec.ports: ") && text.ends_with(words),
                "{text}"
            );
        }
    }
}

#[test]
fn a_slice_names_no_more_backends_than_the_api_has_room_for() {
    let slice = |ports: usize, endpoints: usize| {
        let port = |number: usize| json!({"name": format!("p{number}"), "port": number});
        let address = |number: usize| json!({"addresses": [format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255)]});
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "a", "labels": {"kubernetes.io/service-name": "a"}},
            "ports": (1..=ports).map(port).collect::<Vec<_>>(),
            "endpoints": (0..endpoints).map(address).collect::<Vec<_>>(),
        })
    };
    let rows = [
        ("one port of many endpoints", 1, 100_000, true),
        ("the most that the API documents", 100, 1_000, true),
        ("one too many", 1, 100_001, false),
        ("the most that the API server takes", 20_000, 1_000, false),
    ];
    for (row, ports, endpoints, fits) in rows {
        let converted = objects(slice(ports, endpoints));
        assert_eq!(converted.rejects.is_empty(), fits, "{row}");
        if !fits {
            let expected = format!(
                "EndpointSlice default/a: ports: {ports} ports of {endpoints} endpoints are too many: \
                 expected at most 100000 pairs of both"
            );
            assert_eq!(converted.rejects[0].to_string(), expected, "{row}");
        }
    }
}

#[test]
fn a_slice_names_a_port_once() {
    let slice = |ports: Value| {
        objects(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "a", "labels": {"kubernetes.io/service-name": "a"}},
            "ports": ports, "endpoints": [{"addresses": ["10.0.0.1"]}],
        }))
    };
    let twice = slice(json!([{"name": "a", "port": 1}, {"name": "a", "port": 2}]));
    let expected = "EndpointSlice default/a: ports[1].name: \"a\" is the name of an earlier TCP port too: \
        expected names that differ";
    assert_eq!(twice.rejects[0].to_string(), expected);
    let apart =
        slice(json!([{"name": "a", "port": 1}, {"name": "a", "port": 1, "protocol": "UDP"}]));
    assert!(apart.rejects.is_empty());
}

#[test]
fn a_file_of_nothing_but_rejects_is_read_in_one_go() {
    // Each has its line, in a document as long as is searched for lines.
    let mut text = "apiVersion: v1\nkind: List\nitems:\n".to_owned();
    for number in 0..5_000 {
        let _ = writeln!(
            text,
            "- {{kind: Service, apiVersion: v1, metadata: {{name: a{number}}}, spec: {{clusterIP: x}}}}"
        );
    }
    let read = contents("a.yaml".as_ref(), Ok(text.into_bytes()), "");
    assert_eq!((read.standing, read.rejected.len(), read.objects.len()), (5_000, 5_000, 0));
    assert_eq!(read.rejects[MOST_REPORTED - 1].line, Some(103));
}

#[test]
fn reports_about_a_file_are_bounded_and_the_others_counted() {
    let list = |items: &str, count: usize| {
        format!(r#"{{"kind":"List","apiVersion":"v1","items":[{}0]}}"#, items.repeat(count - 1))
    };
    let named = |number: usize| {
        format!(
            r#"{{"kind":"Service","apiVersion":"v1","metadata":{{"name":"a{number}"}},"spec":{{"clusterIP":"x"}}}} "#
        )
    };
    let twice = service(1, 1).to_string();
    // The number of rejects, the number of named ones among them, and whether one may be any object.
    let rows = [
        ("as many as are reported", "a.json", "0 ".repeat(100), (100, 0, true)),
        ("values", "a.json", "0 ".repeat(100_000), (100_000, 0, true)),
        ("items of a list", "a.json", list("0,", 100_000), (100_000, 0, true)),
        ("items of many lists", "a.json", list("0,", 90).repeat(100), (9_000, 0, true)),
        ("documents", "a.yaml", "--- 0\n".repeat(10_000), (10_000, 0, true)),
        ("broken documents", "a.yaml", "--- [\n".repeat(10_000), (10_000, 0, true)),
        ("objects", "a.json", (0..10_000).map(named).collect(), (10_000, 10_000, false)),
        ("the same object", "a.json", twice.repeat(1_001), (1_000, 0, false)),
        ("values, then an object", "a.json", "0 ".repeat(500) + &named(0), (501, 1, true)),
        ("an object, then values", "a.json", named(0) + &"0 ".repeat(500), (501, 1, true)),
        ("an object, then items", "a.json", named(0) + &list("0,", 500), (501, 1, true)),
        (
            "objects, then a value",
            "a.json",
            (0..500).map(named).collect::<String>() + "0",
            (501, 500, true),
        ),
    ];
    for (row, path, text, expected) in rows {
        let read = contents(path.as_ref(), Ok(text.into_bytes()), "");
        assert_eq!((read.standing, read.rejected.len(), read.unknown), expected, "{row}");
        let more = read.standing - MOST_REPORTED;
        assert_eq!(read.rejects.len(), MOST_REPORTED + usize::from(more > 0), "{row}");
        let last = read.rejects.last().unwrap().to_string();
        let text =
            format!("{path}: {more} more are rejected than the 100 that are reported one by one: ");
        assert_eq!(last.starts_with(&text), more > 0, "{row}: {last}");
    }
}

#[test]
fn document_nested_too_deeply_is_rejected() {
    let rows = [
        ("lists in YAML", "a.yaml", "[".repeat(200_000)),
        ("maps in YAML", "a.yaml", "{a: ".repeat(200_000)),
        ("blocks in YAML", "a.yaml", "- ".repeat(200_000)),
        ("lists in JSON", "a.json", "[".repeat(200_000)),
        ("maps in JSON", "a.json", "{\"a\":".repeat(200_000)),
        ("Lists in JSON", "a.json", r#"{"kind":"List","apiVersion":"v1","items":["#.repeat(50_000)),
        ("Lists in YAML", "a.yaml", "{kind: List, apiVersion: v1, items: [".repeat(50_000)),
    ];
    on_a_stack(move || {
        for (row, path, text) in rows {
            let read = contents(path.as_ref(), Ok(text.into_bytes()), "");
            assert!(read.unknown && read.rejects.len() == 1, "{row}: {:?}", read.rejects);
        }
    });
}

#[test]
fn lists_in_lists_are_read_as_deep_as_the_parser_goes() {
    let deep = |levels: usize| {
        let (open, close) = ("{kind: List, apiVersion: v1, items: [", "]}");
        let service = "{kind: Service, apiVersion: v1, metadata: {name: a}, spec: {clusterIP: 10.0.0.1, ports: [{port: 1}]}}";
        open.repeat(levels) + service + &close.repeat(levels)
    };
    on_a_stack(move || {
        for levels in [1, 10, 50, 100, 500, 1000, 5000] {
            let read = contents("a.yaml".as_ref(), Ok(deep(levels).into_bytes()), "");
            let taken = read
                .objects
                .values()
                .any(|object| matches!(object.update, Update::Service(_, Some(_))));
            assert!(taken != read.unknown, "{levels}: either or");
            assert!(levels > 10 || taken, "{levels}");
        }
    });
}

/// Runs this with the stack of a main thread, where the agent reads objects.
fn on_a_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(8 << 20);
    thread.spawn(test).unwrap().join().unwrap();
}
