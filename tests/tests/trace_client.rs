//! `svclb trace` for a client: what it says of a process is what a connection of that process then gets.
#![expect(clippy::unwrap_used, reason = "a failure in the set-up fails the test")]

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use svclb_tests::{Tcp, World, eventually};

/// A timeout of affinity longer than any test.
const LONG: u32 = 10_800;

/// Starts a process in a namespace of its own or the host's, inside the cgroup or outside, and returns its pid.
fn client(world: &World, unshare: &str, is_inside: bool) -> u32 {
    let procs = world.cgroup().join("cgroup.procs");
    let enter =
        if is_inside { format!("echo $$ > {} && ", procs.display()) } else { String::new() };
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{enter}exec {unshare} sleep 600")]);
    let pid = world.spawn(command).id();
    eventually("the client runs", || match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) if name == "sleep\n" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    pid
}

/// Traces the connection of a process, from the maps alone; returns the exit code and the JSON, which conforms to
/// the schema.
fn trace(world: &World, target: &str, pid: u32) -> (Option<i32>, Value) {
    let pid = pid.to_string();
    let output = world.svclb(&["trace", target, "--maps-only", "-o", "json", "--pid", &pid]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{target}");
    let printed = serde_json::from_slice(&output.stdout).unwrap();
    let schema = serde_json::from_str(include_str!("../../docs/schema/trace.json")).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let faults: Vec<String> =
        validator.iter_errors(&printed).map(|error| error.to_string()).collect();
    assert_eq!(faults, [""; 0], "{printed:#}");
    (output.status.code(), printed)
}

/// The result for the one frontend.
fn result(world: &World, target: &str, pid: u32) -> (Option<i32>, Value, Value) {
    let (code, printed) = trace(world, target, pid);
    let connections = printed["client"]["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 1, "{printed:#}");
    (code, connections[0]["result"].clone(), connections[0]["backend"].clone())
}

/// The content of each map.
fn maps(world: &World) -> BTreeMap<String, Vec<u8>> {
    let names = world.names_in(&world.version().join("maps"));
    let dump = |name: String| {
        let content = world.bpftool(["map", "dump", "pinned"], [world.pinned("maps", &name)]);
        (name, content)
    };
    names.into_iter().map(dump).collect()
}

#[test]
fn a_client_with_affinity_gets_the_backend_that_the_trace_names() {
    let world = World::new("trace-affinity");
    let backends = world.backends("a", Tcp, 8);
    let kept = || world.service("default/kept").cluster_ip("10.96.0.10").affinity(LONG);
    kept().port(80, Tcp).backends(&backends).apply();
    let (host, pod) = (client(&world, "", true), client(&world, "unshare -n", true));
    let drawn = (Some(0), json!("drawn"), Value::Null);
    assert_eq!(result(&world, "10.96.0.10:80", host), drawn);
    let first = world.request(Tcp, "10.96.0.10:80").unwrap();
    let address = backends.iter().find(|it| it.name() == first).unwrap().address();
    let pinned = (Some(0), json!("kept"), json!(address.to_string()));
    assert_eq!(result(&world, "10.96.0.10:80", host), pinned);
    // Another client has none.
    assert_eq!(result(&world, "10.96.0.10:80", pod), drawn);
    let (_, printed) = trace(&world, "10.96.0.10:80", pod);
    assert_eq!(printed["client"]["host_network"], false, "{printed:#}");
    assert_eq!(printed["client"]["in_scope"], true, "{printed:#}");

    world.take_agent().kill();
    let before = maps(&world);
    assert!(before.len() > 5, "{:?}", before.keys());
    assert_eq!(result(&world, "default/kept", host), pinned, "without an agent");
    assert_eq!(result(&world, "default/kept", pod), drawn, "without an agent");
    assert_eq!(maps(&world), before, "a trace changes nothing");
    assert_eq!(world.request(Tcp, "10.96.0.10:80").unwrap(), first);
}

#[test]
fn a_process_outside_the_cgroup_is_not_translated_and_a_service_without_backends_refuses() {
    let world = World::new("trace-scope");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    world.service("default/empty").cluster_ip("10.96.0.11").port(80, Tcp).apply();
    let (inside, outside) = (client(&world, "", true), client(&world, "", false));
    assert_eq!(result(&world, "10.96.0.10:80", inside), (Some(0), json!("drawn"), Value::Null));
    assert_eq!(world.request(Tcp, "10.96.0.10:80").unwrap(), "a");
    assert_eq!(result(&world, "10.96.0.11:80", inside), (Some(1), json!("refused"), Value::Null));
    let error = world.dial(Tcp, "10.96.0.11:80").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");

    let (code, printed) = trace(&world, "10.96.0.10:80", outside);
    assert_eq!(code, Some(1), "{printed:#}");
    assert_eq!(printed["client"]["in_scope"], false, "{printed:#}");
    assert_eq!(printed["client"]["connections"][0]["result"], "left_alone", "{printed:#}");
    let pid = outside.to_string();
    let output = world.svclb(&["trace", "default/hello", "--maps-only", "--pid", &pid]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("not translated: this process is outside the cgroup"), "{text}");
    // What this process dials is not translated: the address has a route that prohibits it.
    let to = svclb_tests::at("10.96.0.10:80");
    world.inside(move || std::net::TcpStream::connect(to).map(drop)).unwrap_err();

    let output = world.svclb(&["trace", "default/hello", "--maps-only", "--pid", "2147483647"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("no process 2147483647 is seen here"), "{text}");
    let output = world.svclb(&["trace", "default/hello", "--maps-only", "--from", "shop/none"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--pid"), "{text}");
}
