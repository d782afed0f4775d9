//! Frontends that a partly ignored or rejected object may retain: none that another object claims.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use svclb_tests::cluster::Reference;
use svclb_tests::eventually;

use super::stage::{Stage, frontends, hello, service, slice};

/// Waits until a Service has exactly these frontends.
fn wait_for_frontends(stage: &Stage, service: &str, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|&it| it.to_owned()).collect();
    eventually(&format!("{service} has {expected:?}"), || match frontends(&stage.world, service) {
        found if found == expected => Ok(()),
        found => Err(format!("{found:?}; log:\n{}", stage.world.agent_log())),
    });
}

fn node_port(name: &str, cluster_ip: &str, node_port: u16) -> Value {
    let mut service = service(name, cluster_ip);
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["ports"][0]["nodePort"] = json!(node_port);
    service
}

#[test]
fn service_with_an_ignored_external_ip_does_not_retain_its_former_node_port() {
    let stage = Stage::new("kube-claims");
    let api = stage.api();
    api.apply_all(&[node_port("hello", "10.96.0.10", 30_080), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    wait_for_frontends(&stage, "hello", &["10.96.0.10:80", "127.0.0.1:30080"]);
    // The API server accepts a multicast address.
    let mut changed = node_port("hello", "10.96.0.10", 30_081);
    changed["spec"]["externalIPs"] = json!(["239.1.1.1", "198.51.100.7"]);
    api.apply_all(&[changed]);
    api.apply_all(&[node_port("other", "10.96.0.11", 30_080), slice("other", &["10.244.0.9"])]);
    wait_for_frontends(&stage, "other", &["10.96.0.11:80", "127.0.0.1:30080"]);
    let expected = ["10.96.0.10:80", "127.0.0.1:30081", "198.51.100.7:80"];
    wait_for_frontends(&stage, "hello", &expected);
    stage.wait_for_log(&["WARN", "Service default/hello", "spec.externalIPs[0]", "239.1.1.1"]);
}

#[test]
fn rejected_service_of_another_uid_retains_nothing_of_its_predecessor() {
    let stage = Stage::new("kube-uid");
    let api = stage.api();
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    wait_for_frontends(&stage, "hello", &["10.96.0.10:80"]);
    stage.relay.cut();
    // While the agent cannot see it, the Service is deleted, another Service gets its address, and a new
    // one of its name is created that svclb rejects, because it has more pairs of address and port than
    // svclb reads.
    api.delete(&hello(), None).unwrap();
    api.apply_all(&[service("other", "10.96.0.10"), slice("other", &["10.244.0.9"])]);
    let mut recreated = service("hello", "10.96.0.20");
    let port = |port| json!({ "name": format!("p{port}"), "port": port, "protocol": "TCP" });
    recreated["spec"]["ports"] = (80..90).map(port).collect();
    let address = |at: u32| json!(format!("192.0.{}.{}", at / 250, at % 250 + 1));
    recreated["spec"]["externalIPs"] = (0..7_000).map(address).collect();
    api.create(&recreated).unwrap();
    stage.relay.open(&stage.world);
    wait_for_frontends(&stage, "other", &["10.96.0.10:80"]);
    wait_for_frontends(&stage, "hello", &[]);
    stage.wait_for_log(&["WARN", "rejected Service default/hello"]);
    // Once it can be read again, it is served.
    let reference = Reference::service("default/hello");
    api.patch(&reference, &json!({ "spec": { "externalIPs": null } })).unwrap();
    let ports: Vec<String> = (80..90).map(|port| format!("10.96.0.20:{port}")).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    wait_for_frontends(&stage, "hello", &ports);
}
