//! Objects that a real API server encodes in protobuf equal those that it encodes in JSON. This protects
//! the field numbers, which svclb-objects has written by hand.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use http::Request;
use kube::client::Body;
use serde_json::{Value, json};
use svclb_tests::cluster::{Client, Reference};
use svclb_tests::{World, eventually};

use super::stage::{NODE, Stage, content, service, slice};

/// Query for a streamed list and its end.
const LIST: &str = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
    &allowWatchBookmarks=true&timeoutSeconds=2";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Services and EndpointSlices that use each field that svclb reads.
fn objects() -> Vec<Value> {
    let port = |name: &str, protocol: &str, port: u16, node_port: Option<u16>| {
        let mut it = json!({ "name": name, "protocol": protocol, "port": port });
        if let Some(node_port) = node_port {
            it["nodePort"] = json!(node_port);
        }
        it
    };
    let mut full = service("full", "10.96.0.20");
    full["spec"] = json!({
        "type": "LoadBalancer",
        "clusterIP": "10.96.0.20",
        "clusterIPs": ["10.96.0.20", "fd00:96::20"],
        "ipFamilyPolicy": "RequireDualStack",
        "externalIPs": ["192.0.2.20", "2001:db8::20"],
        "loadBalancerSourceRanges": ["198.51.100.0/24"],
        "internalTrafficPolicy": "Local",
        "externalTrafficPolicy": "Local",
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 600 } },
        "ports": [
            port("http", "TCP", 80, Some(30080)),
            port("dns", "UDP", 53, Some(30053)),
            port("signal", "SCTP", 5000, None),
        ],
    });
    // Younger than the first Service, which has one of the same addresses and a name that sorts later.
    let mut early = service("early", "10.96.0.21");
    early["spec"]["externalIPs"] = json!(["192.0.2.20", "192.0.2.21"]);
    let mut proxied = service("proxied", "10.96.0.22");
    proxied["metadata"]["labels"] = json!({ "service.kubernetes.io/service-proxy-name": "other" });
    let mut headless = service("headless", "10.96.0.23");
    headless["metadata"]["labels"] = json!({ "service.kubernetes.io/headless": "" });
    let mut elsewhere = service("elsewhere", "");
    elsewhere["spec"] = json!({ "type": "ExternalName", "externalName": "example.net" });
    let mut none = service("none", "None");
    none["metadata"]["annotations"] = json!({ "note": "\u{1b}[31m \"é\" \\ \n" });
    let ranges = |status: &str, name: &str| {
        let mut it = service(name, "");
        it["spec"]["type"] = json!("LoadBalancer");
        it["spec"]["loadBalancerSourceRanges"] = json!([status]);
        it
    };

    let ports = json!([
        { "name": "http", "protocol": "TCP", "port": 8080 },
        { "name": "dns", "protocol": "UDP", "port": 5353 },
        { "name": "signal", "protocol": "SCTP", "port": 5000 },
        { "name": "any", "protocol": "TCP" },
    ]);
    let mut four = slice("full", &[]);
    four["metadata"]["annotations"] =
        json!({ "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-31T12:00:00.5Z" });
    four["ports"] = ports.clone();
    let zone = |zone: &str| json!({ "forZones": [{ "name": zone }] });
    four["endpoints"] = json!([
        { "addresses": ["10.244.0.1"], "nodeName": NODE, "zone": "zone-a", "hints": zone("zone-a"),
          "conditions": { "ready": true, "serving": true, "terminating": false } },
        { "addresses": ["10.244.0.2"], "nodeName": NODE, "zone": "zone-a", "hints": zone("zone-b"),
          "conditions": { "ready": false, "serving": true, "terminating": true } },
        { "addresses": ["10.244.0.3"], "nodeName": "node-b", "zone": "zone-b",
          "hints": { "forZones": [{ "name": "zone-a" }], "forNodes": [{ "name": NODE }] } },
        { "addresses": ["10.244.0.4"], "nodeName": NODE, "hints": zone("zone-a"),
          "conditions": { "ready": false, "serving": false } },
    ]);
    let mut six = slice("full", &[]);
    six["metadata"]["name"] = json!("full-6");
    six["addressType"] = json!("IPv6");
    six["ports"] = ports;
    six["endpoints"] = json!([
        { "addresses": ["fd00:244::1"], "nodeName": NODE,
          "conditions": { "ready": false, "serving": true, "terminating": true } },
    ]);
    // All endpoints terminate, and there are no hints.
    let mut ends = slice("early", &["10.244.1.1", "10.244.1.2"]);
    ends["endpoints"][0]["conditions"] =
        json!({ "ready": false, "serving": true, "terminating": true });
    ends["endpoints"][1]["conditions"] =
        json!({ "ready": false, "serving": false, "terminating": true });
    let mut names = slice("early", &["example.net"]);
    names["metadata"]["name"] = json!("early-names");
    names["addressType"] = json!("FQDN");
    let mut unused = slice("early", &["10.244.1.9"]);
    unused["metadata"]["name"] = json!("early-headless");
    unused["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
    let four_only = ranges("198.51.100.0/24", "ranges-four");
    let six_only = ranges("2001:db8::/64", "ranges-six");
    vec![
        full,
        early,
        proxied,
        headless,
        elsewhere,
        none,
        four_only,
        six_only,
        four,
        six,
        ends,
        names,
        unused,
        slice("ranges-four", &["10.244.2.1"]),
        slice("ranges-six", &["10.244.2.2"]),
    ]
}

/// The encoding of a protobuf field that is a text or a message.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    assert!(length < 128, "a length of one byte");
    [&[number << 3 | 2, length][..], bytes].concat()
}

/// A slice in protobuf with an annotation that is not UTF-8, which JSON cannot express.
fn slice_with_bytes() -> Vec<u8> {
    let pair = |key: &str, value: &[u8]| [field(1, key.as_bytes()), field(2, value)].concat();
    let metadata = [
        field(1, b"bytes-1"),
        field(3, b"default"),
        field(11, &pair("kubernetes.io/service-name", b"bytes")),
        field(12, &pair("endpoints.kubernetes.io/last-change-trigger-time", b"\xff\xfe")),
    ];
    // The port's number is field 3, of type int32.
    let port = [field(1, b""), field(2, b"TCP"), vec![3 << 3, 80]].concat();
    let slice = [
        field(1, &metadata.concat()),
        field(2, &field(1, b"10.244.3.1")),
        field(3, &port),
        field(4, b"IPv4"),
    ];
    let types = [field(1, b"discovery.k8s.io/v1"), field(2, b"EndpointSlice")].concat();
    let raw = slice.concat();
    let length = u8::try_from(raw.len()).unwrap();
    let raw = [&[2 << 3 | 2, length | 0x80, length >> 7][..], &raw].concat();
    [b"k8s\0".to_vec(), field(1, &types), raw].concat()
}

/// Sends a request and returns the status and the body.
fn send(api: &Client, request: http::request::Builder, body: Vec<u8>) -> (u16, Vec<u8>) {
    let request = request.body(Body::from(body)).unwrap();
    let client = api.client();
    api.wait(async move {
        let answer = client.send(request).await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.into_body().collect_bytes().await.unwrap().to_vec())
    })
}

#[test]
fn protobuf_objects_of_a_real_api_server_equal_its_json_objects() {
    let stage = Stage::new("kube-protobuf");
    let api = stage.api();
    let node = Reference::node(NODE);
    let addresses = json!([
        { "type": "InternalIP", "address": "192.0.2.1" },
        { "type": "InternalIP", "address": "2001:db8::1" },
        { "type": "ExternalIP", "address": "203.0.113.1" },
        { "type": "Hostname", "address": NODE },
    ]);
    api.patch_status(&node, &json!({ "status": { "addresses": addresses } })).unwrap();
    let objects = objects();
    api.apply_all(&objects[..1]);
    // Creation times have a resolution of one second.
    thread::sleep(Duration::from_millis(1100));
    api.apply_all(&objects[1..]);
    api.apply_all(&[service("bytes", "10.96.0.30")]);
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let create = Request::post(slices).header("Content-Type", PROTOBUF);
    let (status, body) = send(api, create, slice_with_bytes());
    assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
    for (name, at) in [
        (
            "full",
            json!([{ "ip": "203.0.113.20", "ipMode": "VIP" }, { "ip": "203.0.113.21", "ipMode": "Proxy" },
            { "ip": "2001:db8::21", "ipMode": "VIP" }, { "hostname": "full.example.net" }]),
        ),
        ("ranges-four", json!([{ "ip": "203.0.113.22" }, { "ip": "2001:db8::22" }])),
        ("ranges-six", json!([{ "ip": "203.0.113.23" }, { "ip": "2001:db8::23" }])),
    ] {
        let status = json!({ "status": { "loadBalancer": { "ingress": at } } });
        api.patch_status(&Reference::service(&format!("default/{name}")), &status).unwrap();
    }
    if let Some(folder) = std::env::var_os("SVCLB_RECORD") {
        record(api, Path::new(&folder));
    }

    stage.start_agent();
    for resource in ["services", "endpointslices", "nodes"] {
        stage.wait_for_log(&["listed", resource, "encoding=\"protobuf\""]);
    }
    let other = World::builder("kube-protobuf-json").without_agent().start();
    let kinds = [("v1", "Service"), ("discovery.k8s.io/v1", "EndpointSlice"), ("v1", "Node")];
    let assert_same_content = |what: &str| {
        let lists = kinds.map(|(version, kind)| api.list(version, kind, "", "").unwrap());
        let items = lists.concat();
        let list = json!({ "kind": "List", "apiVersion": "v1", "items": items });
        other.write_file("all.json", &list.to_string());
        if what == "listed" {
            let yaml = other.yaml();
            other.start_agent_with(&["--from", yaml.to_str().unwrap(), "--node", NODE]);
        }
        eventually(&format!("{what}: both agents have written the same"), || {
            let (found, expected) = (content(&stage.world), content(&other));
            if found == expected && found.iter().any(|row| row.contains("10.244.3.1")) {
                return Ok(found);
            }
            let log = stage.world.agent_log();
            Err(format!("{:#?}; log:\n{log}", found.symmetric_difference(&expected)))
        })
    };
    let listed = assert_same_content("listed");
    // The effect of each field is visible in the maps.
    for words in [
        "fd00:96::20",
        "192.0.2.20",
        "203.0.113.1:30080",
        "2001:db8::1]:30053",
        "\"affinity_seconds\":600",
        "\"internal_policy\":\"Local\"",
        "\"external_policy\":\"Local\"",
        "sctp",
        "conflict",
        "source_ranges",
        "terminating",
        "fd00:244::1",
        "203.0.113.23",
    ] {
        assert!(listed.iter().any(|row| row.contains(words)), "{words}: {listed:#?}");
    }
    assert!(!listed.iter().any(|row| row.contains("203.0.113.21")), "{listed:#?}");

    // The same for watch events.
    api.delete(&Reference::service("default/ranges-six"), None).unwrap();
    let policy =
        json!({ "spec": { "internalTrafficPolicy": "Cluster", "sessionAffinity": "None" } });
    api.patch(&Reference::service("default/full"), &policy).unwrap();
    let zone = json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": "zone-b" } } });
    api.patch(&node, &zone).unwrap();
    let watched = assert_same_content("watched");
    assert_ne!(listed, watched);
    assert!(!stage.world.agent_log().contains("cannot watch"), "{}", stage.world.agent_log());
}

/// Records the answers of the API server for each kind in both encodings, for the tests in
/// svclb-objects/tests/protobuf.
fn record(api: &Client, folder: &Path) {
    for (name, path) in [
        ("services", "/api/v1/services"),
        ("endpointslices", "/apis/discovery.k8s.io/v1/endpointslices"),
        ("nodes", "/api/v1/nodes"),
    ] {
        for (ending, accept) in [("frames", PROTOBUF), ("json", "application/json")] {
            let request = Request::get(format!("{path}?{LIST}")).header("Accept", accept);
            let (status, body) = send(api, request, Vec::new());
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
            fs::write(folder.join(format!("{name}.{ending}")), body).unwrap();
        }
    }
    let request = Request::get("/api/v1/services?watch=true&sendInitialEvents=true")
        .header("Accept", PROTOBUF);
    let (status, body) = send(api, request, Vec::new());
    assert_eq!(status, 422, "{}", String::from_utf8_lossy(&body));
    fs::write(folder.join("error.status"), body).unwrap();
}
