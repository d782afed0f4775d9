//! Metrics and health over HTTP: what an operator's Prometheus, probes and load balancers see of an agent.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a helper fails the test, with its reason"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use svclb_tests::{LIMIT, Tcp, World, at, eventually};

const METRICS: &str = "127.0.0.1:19249";
const HEALTH: &str = "127.0.0.1:19256";
/// The most connections that a server keeps.
const CONNECTIONS: usize = 16;

/// Sends a request from inside the world; returns status and body.
fn request(world: &World, address: &str, line: &str) -> Result<(u16, String), String> {
    let (to, line) = (at(address), line.to_owned());
    world.inside(move || exchange(to, &line).map_err(|error| format!("{to}: {error}")))
}

fn exchange(to: SocketAddr, line: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "{line} HTTP/1.1\r\nHost: node\r\nUser-Agent: test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, body.to_owned()))
}

fn get(world: &World, address: &str, path: &str) -> Result<(u16, String), String> {
    request(world, address, &format!("GET {path}"))
}

/// Waits until a page of the agent's health has this status; returns its body.
fn wait_for(world: &World, path: &str, status: u16) -> String {
    eventually(&format!("{path} has status {status}"), || match get(world, HEALTH, path)? {
        (found, body) if found == status => Ok(body),
        other => Err(format!("{other:?}; the log:\n{}", world.agent_log())),
    })
}

/// All metrics, once the server listens.
fn scrape(world: &World) -> String {
    eventually("the metrics are served", || match get(world, METRICS, "/metrics")? {
        (200, page) => Ok(page),
        other => Err(format!("{other:?}")),
    })
}

/// The value of a metric with its labels.
fn value(page: &str, name: &str) -> f64 {
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

#[test]
fn counters_of_connections_move_with_the_connections() {
    let world = World::new("metrics");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    world.service("default/empty").cluster_ip("10.96.0.11").port(80, Tcp).apply();
    let before = scrape(&world);
    for _ in 0..5 {
        assert_eq!(world.request(Tcp, "10.96.0.10:80").unwrap(), "a");
    }
    for _ in 0..3 {
        world.dial(Tcp, "10.96.0.11:80").unwrap_err();
    }
    assert_eq!(world.request(Tcp, a.address().to_string()).unwrap(), "a");
    let after = scrape(&world);
    for (name, least, most) in [
        ("svclb_connections_translated_total", 5.0, 5.0),
        ("svclb_connections_refused_total{reason=\"no_backend\"}", 3.0, 3.0),
        ("svclb_connections_refused_total{reason=\"torn\"}", 0.0, 0.0),
        ("svclb_connections_not_service_total", 1.0, f64::MAX),
        ("svclb_origins_unrecorded_total{reason=\"full\"}", 0.0, 0.0),
    ] {
        let moved = value(&after, name) - value(&before, name);
        assert!((least..=most).contains(&moved), "{name} moved by {moved}\n{after}");
    }
    // The maps are described as svclb status does.
    let status: Value =
        serde_json::from_slice(&world.svclb(&["status", "-o", "json"]).stdout).unwrap();
    for (name, field) in [
        ("svclb_services", "services"),
        ("svclb_frontends", "frontends"),
        ("svclb_map_entries{map=\"svclb_index\"}", "index_lines_used"),
        ("svclb_map_capacity{map=\"svclb_index\"}", "index_lines"),
        ("svclb_map_entries{map=\"svclb_slots\"}", "slots_used"),
        ("svclb_map_capacity{map=\"svclb_slots\"}", "slots"),
        ("svclb_map_capacity{map=\"svclb_origins\"}", "origins"),
    ] {
        let expected = status[field].as_f64().unwrap();
        assert!((value(&after, name) - expected).abs() < 0.5, "{name} is not {expected}\n{after}");
    }
    for (name, least) in [
        ("svclb_maps_readable", 1.0),
        ("svclb_synced", 1.0),
        ("svclb_proved", 1.0),
        ("svclb_hook_attached{hook=\"connect4\"}", 1.0),
        ("svclb_sync_service_changes_total", 2.0),
        ("svclb_sync_endpoint_changes_total", 1.0),
        ("svclb_sync_duration_seconds_count", 1.0),
        ("svclb_sync_last_timestamp_seconds", 1.0),
        ("svclb_sync_last_queued_timestamp_seconds", 1.0),
        ("svclb_source_last_heard_timestamp_seconds{source=\"files\"}", 1.0),
        ("svclb_backends{traffic_policy=\"internal\"}", 1.0),
    ] {
        assert!(value(&after, name) >= least, "{name}\n{after}");
    }
    for name in ["svclb_sync_service_changes_pending", "svclb_sync_endpoint_changes_pending"] {
        assert!(value(&after, name) < 0.5, "{name}\n{after}");
    }
}

#[test]
fn a_page_is_only_read() {
    let world = World::new("pages");
    for (address, line, status) in [
        (METRICS, "GET /metrics", 200),
        (METRICS, "HEAD /metrics", 200),
        (METRICS, "POST /metrics", 405),
        (METRICS, "GET /", 404),
        (METRICS, "GET /livez", 404),
        (HEALTH, "HEAD /livez", 200),
        (HEALTH, "DELETE /livez", 405),
        (HEALTH, "GET /metrics", 404),
    ] {
        let (found, body) = eventually("the servers listen", || request(&world, address, line));
        assert_eq!(found, status, "{line} at {address}: {body}");
        assert!(!line.starts_with("HEAD") || body.is_empty(), "{line}: {body}");
    }
}

#[test]
fn healthz_fails_while_the_node_is_leaving_and_livez_does_not() {
    let world = World::builder("leaving").agent_args(["--node", "here"]).start();
    let body = wait_for(&world, "/healthz", 200);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["nodeEligible"], true, "{body}");
    assert_eq!(body["lastUpdated"], body["currentTime"], "{body}");
    let node = |rest: &str| {
        format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: here}}, spec: {{taints: [{rest}]}}}}\n"
        )
    };
    let taint = "{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}";
    world.write_file("node.yaml", &node(taint));
    let body: Value = serde_json::from_str(&wait_for(&world, "/healthz", 503)).unwrap();
    assert_eq!(body["nodeEligible"], false, "{body}");
    assert!(body["lastUpdated"].is_string(), "{body}");
    wait_for(&world, "/livez", 200);
    assert_eq!(wait_for(&world, "/readyz", 200), "ready\n");
    assert!(value(&scrape(&world), "svclb_node_eligible") < 0.5);
    world.write_file("node.yaml", &node("{key: other}"));
    wait_for(&world, "/healthz", 200);
}

#[test]
fn an_agent_whose_source_is_away_is_live_and_healthy_and_not_ready() {
    let world = World::new("source-away");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    assert_eq!(wait_for(&world, "/readyz", 200), "ready\n");
    world.take_agent().stop();
    // Nothing listens there.
    let kubeconfig = world.yaml().with_file_name("away.kubeconfig");
    let text = "{apiVersion: v1, kind: Config, current-context: a, \
        contexts: [{name: a, context: {cluster: a, user: a}}], users: [{name: a, user: {}}], \
        clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}]}";
    fs::write(&kubeconfig, text).unwrap();
    let mut command = Command::new(world.program());
    command.arg("agent").arg("--kubeconfig").arg(&kubeconfig).arg("--pins").arg(world.pins());
    command.arg("--cgroup").arg(world.cgroup());
    let mut agent = world.spawn(command);
    let reason = wait_for(&world, "/readyz", 503);
    assert!(reason.starts_with("not ready: "), "{reason}");
    for _ in 0..10 {
        assert_eq!(get(&world, HEALTH, "/livez").unwrap().0, 200);
        assert_eq!(get(&world, HEALTH, "/healthz").unwrap().0, 200);
        assert_eq!(world.request(Tcp, "10.96.0.10:80").unwrap(), "a");
    }
    // The maps hold what the earlier agent wrote.
    eventually("the maps are adopted", || {
        let page = scrape(&world);
        let is_there = value(&page, "svclb_services") > 0.5 && value(&page, "svclb_synced") < 0.5;
        if is_there { Ok(()) } else { Err(page) }
    });
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[test]
fn idle_connections_keep_no_scrape_and_no_probe_away() {
    let world = World::new("idle");
    scrape(&world);
    wait_for(&world, "/livez", 200);
    for address in [METRICS, HEALTH] {
        let idle: Vec<TcpStream> = world.inside(move || {
            let connect = |_| TcpStream::connect(address).unwrap();
            (0..CONNECTIONS).map(connect).collect()
        });
        let path = if address == METRICS { "/metrics" } else { "/livez" };
        for _ in 0..2 {
            assert_eq!(get(&world, address, path).unwrap().0, 200, "{path}");
        }
        // The oldest one gave way.
        idle[0].set_read_timeout(Some(LIMIT)).unwrap();
        assert_eq!((&idle[0]).read(&mut [0]).unwrap(), 0, "{path}");
    }
}

#[test]
fn a_taken_port_is_logged_once_and_served_once_it_is_free() {
    let world = World::builder("taken").without_agent().start();
    let holder = world.inside(|| std::net::TcpListener::bind(METRICS).unwrap());
    world.start_agent();
    wait_for(&world, "/livez", 200);
    let logged = || world.agent_log().matches("cannot listen for metrics").count();
    eventually("the taken port is logged", || match logged() {
        1 => Ok(()),
        other => Err(format!("{other} times")),
    });
    // It is tried again meanwhile.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(logged(), 1, "{}", world.agent_log());
    drop(holder);
    assert!(value(&scrape(&world), "svclb_maps_readable") > 0.5);
}

#[test]
fn none_turns_a_server_off_and_an_address_moves_it() {
    let arguments = ["--metrics-address", "none", "--health-address", "[::1]:8080"];
    let world = World::builder("off").agent_args(arguments).start();
    let (status, body) =
        eventually("the other address is served", || get(&world, "[::1]:8080", "/livez"));
    assert_eq!(status, 200, "{body}");
    for address in [METRICS, HEALTH] {
        get(&world, address, "/livez").unwrap_err();
    }
}
