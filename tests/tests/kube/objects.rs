//! Objects of the API server, and the resulting content of the maps.

use std::thread;
use std::time::Duration;

use serde_json::json;
use svclb_tests::cluster::Reference;
use svclb_tests::{Tcp, World, eventually, holds_for};

use super::stage::{
    DIALLED, NODE, Stage, backends, content, frontends, hello, service, slice, start,
};

#[test]
fn services_of_the_api_server_are_served_and_updated() {
    let stage = Stage::new("kube-served");
    let _a = stage.world.backend("a", Tcp, "10.244.0.1:8080");
    let _b = stage.world.backend("b", Tcp, "10.244.0.2:8080");
    let api = stage.api();
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    assert_eq!(stage.world.request(Tcp, DIALLED).unwrap(), "a");
    api.apply_all(&[slice("hello", &["10.244.0.2"])]);
    stage.wait_for(&["10.244.0.2"]);
    assert_eq!(stage.world.request(Tcp, DIALLED).unwrap(), "b");
    api.delete(&Reference::slice("default/hello-1"), None).unwrap();
    stage.wait_for(&[]);
    let refused = stage.world.dial(Tcp, DIALLED).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED), "{refused}");
    api.delete(&hello(), None).unwrap();
    eventually("the Service is removed", || match stage.world.dial(Tcp, DIALLED) {
        // The Service is gone, and the namespace's route prohibits the address.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn labels_withdraw_a_service_or_a_slice_until_they_are_removed() {
    let stage = Stage::new("kube-label");
    let api = stage.api();
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    stage.wait_for(&["10.244.0.1"]);
    for label in ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"] {
        let labels = |value| json!({ "metadata": { "labels": { label: value } } });
        api.patch(&hello(), &labels(json!("other"))).unwrap();
        eventually(&format!("{label} withdraws the Service"), || {
            match &content(&stage.world).into_iter().find(|row| row.contains("hello")) {
                None => Ok(()),
                Some(row) => Err(row.clone()),
            }
        });
        api.patch(&hello(), &labels(json!(null))).unwrap();
        stage.wait_for(&["10.244.0.1"]);
    }
    // The same for a slice.
    let slice = Reference::slice("default/hello-1");
    let labels =
        |value| json!({ "metadata": { "labels": { "service.kubernetes.io/headless": value } } });
    api.patch(&slice, &labels(json!(""))).unwrap();
    stage.wait_for(&[]);
    api.patch(&slice, &labels(json!(null))).unwrap();
    stage.wait_for(&["10.244.0.1"]);
}

#[test]
fn the_set_moves_with_the_zone_of_the_node() {
    let stage = Stage::new("kube-zone");
    let api = stage.api();
    let mut slice = slice("hello", &["10.244.0.1", "10.244.0.2"]);
    for (endpoint, zone) in [(0, "zone-a"), (1, "zone-b")] {
        slice["endpoints"][endpoint]["zone"] = json!(zone);
        slice["endpoints"][endpoint]["hints"] = json!({ "forZones": [{ "name": zone }] });
    }
    api.apply_all(&[service("hello", "10.96.0.10"), slice]);
    stage.start_agent();
    stage.wait_for(&["10.244.0.1"]);
    let zone = |zone| json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": zone } } });
    let node = Reference::node(NODE);
    api.patch(&node, &zone(json!("zone-b"))).unwrap();
    stage.wait_for(&["10.244.0.2"]);
    api.patch(&node, &zone(json!("zone-c"))).unwrap();
    stage.wait_for(&["10.244.0.1", "10.244.0.2"]);
    api.patch(&node, &zone(json!("zone-a"))).unwrap();
    stage.wait_for(&["10.244.0.1"]);
    api.delete(&node, None).unwrap();
    stage.wait_for(&["10.244.0.1", "10.244.0.2"]);
    stage.wait_for_log(&["WARN", "no Node of this name", NODE]);
}

#[test]
fn a_thousand_rapid_changes_converge_to_the_maps_of_a_fresh_agent() {
    let stage = Stage::new("kube-rapid");
    let api = stage.api();
    api.apply_all(&[
        service("hello", "10.96.0.10"),
        slice("hello", &["10.244.0.1"]),
        service("other", "10.96.0.11"),
        slice("other", &["10.244.0.9"]),
    ]);
    stage.start_agent();
    let (service_of, slice_of) = (hello(), Reference::slice("default/hello-1"));
    for round in 0..1000_u32 {
        let count = 1 + round % 7;
        let addresses = (0..count).map(|host| format!("10.244.{}.{}", round % 200, host + 1));
        let endpoints: Vec<_> = addresses
            .map(|address| json!({ "addresses": [address], "conditions": { "ready": round % 3 > 0 } }))
            .collect();
        match round % 10 {
            3 => {
                let policy = if round % 20 == 3 { "Local" } else { "Cluster" };
                let change = json!({ "spec": { "internalTrafficPolicy": policy } });
                api.patch(&service_of, &change).unwrap();
            }
            7 => {
                let external = format!("192.0.2.{}", 1 + round % 200);
                api.patch(&service_of, &json!({ "spec": { "externalIPs": [external] } })).unwrap();
            }
            _ => drop(api.patch(&slice_of, &json!({ "endpoints": endpoints })).unwrap()),
        }
    }
    // A last change, which shows that all earlier ones have been read.
    api.apply_all(&[slice("other", &["10.244.0.10"])]);
    eventually("the last change is written", || match backends(&stage.world, "other") {
        found if found.contains("10.244.0.10") => Ok(()),
        found => Err(format!("{found:?}")),
    });
    let fresh = World::builder("kube-rapid-fresh").without_agent().start();
    let _relay = stage.plane.relay(&fresh);
    start(&fresh, &stage.plane.kubeconfig(), &[]);
    // Slices and Services come through two watches, so the last event of one may be later than that of
    // the other.
    let expected = content(&fresh);
    assert!(expected.len() > 3, "{expected:?}");
    eventually("the maps are those of a fresh agent", || match content(&stage.world) {
        found if found == expected => Ok(()),
        found => Err(format!("{:#?}", found.symmetric_difference(&expected))),
    });
}

#[test]
fn rejected_slice_retains_its_backends_and_affects_no_other_object() {
    let stage = Stage::new("kube-rejected");
    let api = stage.api();
    // A slice that is rejected from the start.
    api.apply_all(&[
        service("wrong", "10.96.0.12"),
        with_too_many_endpoints(&slice("wrong", &["10.244.0.7"])),
    ]);
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    stage.wait_for(&["10.244.0.1"]);
    // A slice that was readable, and retains its state.
    api.apply_all(&[with_too_many_endpoints(&slice("hello", &["10.244.0.3"]))]);
    stage.wait_for_log(&["WARN", "default/hello-1", "101 ports of 1000 endpoints"]);
    api.apply_all(&[service("other", "10.96.0.11"), slice("other", &["10.244.0.9"])]);
    let other = |expected: &str| {
        eventually("other Services are updated", || match backends(&stage.world, "other") {
            found if found.contains(expected) => Ok(()),
            found => Err(format!("{found:?}")),
        });
    };
    other("10.244.0.9");
    stage.wait_for(&["10.244.0.1"]);
    // A relist changes nothing, and logs neither slice again.
    stage.relay.cut();
    stage.plane.stop_api_server();
    stage.plane.start_api_server();
    api.apply_all(&[slice("other", &["10.244.0.10"])]);
    stage.relay.open(&stage.world);
    other("10.244.0.10");
    stage.wait_for(&["10.244.0.1"]);
    let log = stage.world.agent_log();
    for object in ["default/hello-1", "default/wrong-1"] {
        let lines = log.lines().filter(|line| line.contains(object)).count();
        assert_eq!(lines, 1, "{object}: {log}");
    }
    assert!(backends(&stage.world, "wrong").is_empty());
    // Once the slice can be read again, it is used.
    api.apply_all(&[slice("hello", &["10.244.0.2"])]);
    stage.wait_for(&["10.244.0.2"]);
}

/// The slice with more pairs of port and endpoint than svclb reads (100,000). The API server accepts it.
fn with_too_many_endpoints(slice: &serde_json::Value) -> serde_json::Value {
    let mut slice = slice.clone();
    let port = |i| json!({ "name": format!("p{i}"), "protocol": "TCP", "port": 1 + i });
    slice["ports"] = (0..101).map(port).collect();
    let first = slice["endpoints"][0].clone();
    let endpoint = |i| json!({ "addresses": [format!("10.245.{}.{}", i / 250, 1 + i % 250)] });
    let more = (1..1_000).map(endpoint);
    slice["endpoints"] = std::iter::once(first).chain(more).collect();
    slice
}

#[test]
fn slice_whose_label_is_no_service_name_belongs_to_no_service() {
    let stage = Stage::new("kube-label-value");
    let api = stage.api();
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    stage.wait_for(&["10.244.0.1"]);
    // The API server accepts any label value, but no Service can have this name.
    let label = |name| json!({ "metadata": { "labels": { "kubernetes.io/service-name": name } } });
    let reference = Reference::slice("default/hello-1");
    api.patch(&reference, &label("Hello_World")).unwrap();
    stage.wait_for(&[]);
    stage.wait_for_log(&["INFO", "slices_without_service", "count=1"]);
    let refused = stage.world.dial(Tcp, DIALLED).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED), "{refused}");
    api.patch(&reference, &label("hello")).unwrap();
    stage.wait_for(&["10.244.0.1"]);
}

#[test]
fn unusable_address_of_the_node_is_ignored_by_itself() {
    let stage = Stage::new("kube-node");
    let api = stage.api();
    let mut hello = service("hello", "10.96.0.10");
    hello["spec"]["type"] = json!("NodePort");
    hello["spec"]["ports"][0]["nodePort"] = json!(30080);
    api.apply_all(&[hello, slice("hello", &["10.244.0.1"])]);
    let node = Reference::node(NODE);
    let set = |addresses: &[(&str, &str)]| {
        let address = |&(kind, address): &(&str, &str)| json!({ "type": kind, "address": address });
        let addresses: Vec<_> = addresses.iter().map(address).collect();
        api.patch_status(&node, &json!({ "status": { "addresses": addresses } })).unwrap();
    };
    let expect_frontends = |expected: &[&str]| {
        let common = ["10.96.0.10:80", "127.0.0.1:30080"];
        let expected = common.iter().chain(expected).map(|&it| it.to_owned()).collect();
        eventually(&format!("it serves {expected:?}"), || {
            let found = frontends(&stage.world, "hello");
            if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
        });
    };
    set(&[("InternalIP", "192.0.2.1")]);
    stage.start_agent();
    expect_frontends(&["192.0.2.1:30080"]);
    set(&[("InternalIP", "some-where"), ("ExternalIP", "198.51.100.1")]);
    stage.wait_for_log(&["WARN", "Node node-a", "status.addresses[0].address"]);
    expect_frontends(&["198.51.100.1:30080"]);
    // Other changes are applied meanwhile.
    api.apply_all(&[slice("hello", &["10.244.0.2"])]);
    stage.wait_for(&["10.244.0.2"]);
    set(&[("InternalIP", "192.0.2.2"), ("ExternalIP", "198.51.100.1")]);
    expect_frontends(&["192.0.2.2:30080", "198.51.100.1:30080"]);
}

#[test]
fn a_service_is_served_at_its_current_addresses_and_ports() {
    let stage = Stage::new("kube-spec");
    let api = stage.api();
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    let expect_frontends = |what: &str, expected: &[&str]| {
        let expected = expected.iter().map(|&frontend| frontend.to_owned()).collect();
        eventually(what, || match frontends(&stage.world, "hello") {
            found if found == expected => Ok(()),
            found => Err(format!("{found:?}; log:\n{}", stage.world.agent_log())),
        });
    };
    expect_frontends("it is served", &["10.96.0.10:80"]);
    let port = |name: &str, port: u16| json!({ "name": name, "port": port, "protocol": "TCP" });
    let none = serde_json::Value::Null;
    let external = json!({
        "type": "ExternalName", "externalName": "example.net", "clusterIP": none, "clusterIPs": none,
    });
    let other = json!({
        "type": "ClusterIP", "externalName": none, "clusterIP": "10.96.0.20",
        "clusterIPs": ["10.96.0.20"],
    });
    let steps: [(&str, serde_json::Value, &[&str]); 6] = [
        (
            "a port more",
            json!({ "ports": [port("first", 80), port("more", 81)] }),
            &["10.96.0.10:80", "10.96.0.10:81"],
        ),
        ("another number", json!({ "ports": [port("first", 90)] }), &["10.96.0.10:90"]),
        ("a name elsewhere", external.clone(), &[]),
        ("another ClusterIP", other, &["10.96.0.20:90"]),
        ("a name elsewhere again", external, &[]),
        (
            "no ClusterIP",
            json!({ "type": "ClusterIP", "externalName": none, "clusterIP": "None" }),
            &[],
        ),
    ];
    for (what, spec, expected) in steps {
        api.patch(&hello(), &json!({ "spec": spec })).unwrap();
        expect_frontends(what, expected);
    }
    // A recreated Service is another one, even if the agent missed the deletion.
    api.delete(&hello(), None).unwrap();
    api.apply_all(&[service("hello", "10.96.0.30")]);
    expect_frontends("recreated", &["10.96.0.30:80"]);
    stage.wait_for(&["10.244.0.1"]);
}

#[test]
fn an_idle_agent_logs_nothing_and_one_change_logs_one_line() {
    let stage = Stage::new("kube-idle");
    let api = stage.api();
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    stage.wait_for(&["10.244.0.1"]);
    // The last lines of the start.
    thread::sleep(Duration::from_secs(1));
    let quiet = |what: &str| {
        let before = stage.world.agent_log();
        holds_for(Duration::from_secs(3), what, || match stage.world.agent_log() {
            log if log == before => Ok(()),
            log => Err(log[before.len()..].to_owned()),
        });
        before
    };
    let before = quiet("the agent logs nothing");
    api.apply_all(&[slice("hello", &["10.244.0.2"])]);
    stage.wait_for(&["10.244.0.2"]);
    let after = quiet("the agent logs nothing more");
    let lines: Vec<&str> = after[before.len()..].lines().collect();
    assert!(lines.len() == 1 && lines[0].contains("maps changed"), "{lines:#?}");
}
