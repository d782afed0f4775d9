//! `svclb trace` over real maps: what it says is what a connection then gets, with an agent and without one.
#![expect(clippy::unwrap_used, reason = "a failure in the set-up fails the test")]

use std::collections::BTreeMap;

use serde_json::Value;
use svclb_tests::{Tcp, World, eventually};

/// `shop/web` with a ready endpoint, one that is not ready, one whose hints name another zone, and one that
/// terminates; `shop/near` for this node's endpoints only, which has none; `shop/empty` without any.
const OBJECTS: &str = r#"
{apiVersion: v1, kind: Node, metadata: {name: here, labels: {topology.kubernetes.io/zone: a}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop},
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, namespace: shop,
labels: {kubernetes.io/service-name: web}}, addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [
{addresses: [10.244.0.1], hints: {forZones: [{name: a}]}},
{addresses: [10.244.0.2], hints: {forZones: [{name: b}]}},
{addresses: [10.244.0.3], conditions: {ready: false, serving: false}},
{addresses: [10.244.0.4], conditions: {ready: false, serving: true, terminating: true}}]}
---
{apiVersion: v1, kind: Service, metadata: {name: near, namespace: shop},
spec: {clusterIP: 10.96.0.20, internalTrafficPolicy: Local, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: near-1, namespace: shop,
labels: {kubernetes.io/service-name: near}}, addressType: IPv4, ports: [{name: "", port: 8080}], endpoints: [
{addresses: [10.244.0.1], nodeName: there}]}
---
{apiVersion: v1, kind: Service, metadata: {name: sticky, namespace: shop},
spec: {clusterIP: 10.96.0.30, sessionAffinity: ClientIP, ports: [{port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: sticky-1, namespace: shop,
labels: {kubernetes.io/service-name: sticky}}, addressType: IPv4, ports: [{name: "", port: 8080}], endpoints: [
{addresses: [10.244.0.1]}]}
"#;

/// Runs `svclb trace` over the world's files, and returns its exit code and standard output.
fn trace(world: &World, target: &str, more: &[&str]) -> (Option<i32>, String) {
    let yaml = world.yaml();
    let source = ["trace", target, "--source", yaml.to_str().unwrap(), "--node", "here"];
    let output = world.svclb(&[&source, more].concat());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{target}");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// The JSON, which conforms to the schema.
fn json(world: &World, target: &str) -> Value {
    let printed = serde_json::from_str(&trace(world, target, &["-o", "json"]).1).unwrap();
    let schema = serde_json::from_str(include_str!("../../docs/schema/trace.json")).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let faults: Vec<String> =
        validator.iter_errors(&printed).map(|error| error.to_string()).collect();
    assert_eq!(faults, [""; 0], "{printed:#}");
    printed
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

fn assert_answers(world: &World) {
    let expected = "\
10.96.0.10:80/TCP is a frontend of shop/web:http/TCP (internalTrafficPolicy Cluster)
  a new connection gets one of these at random:
    10.244.0.1:8080 100.0 % ready
endpoints of shop/web:http/TCP, for its internal frontends:
  10.244.0.1:8080 used: ready
  10.244.0.2:8080 unused: its hints name other zones
  10.244.0.3:8080 unused: not ready
  10.244.0.4:8080 unused: terminating, and others are ready
";
    for target in ["10.96.0.10:80", "shop/web", "shop/web:80", "shop/web:http"] {
        assert_eq!(trace(world, target, &[]), (Some(0), expected.to_owned()), "{target}");
    }
    assert_eq!(world.request(Tcp, "10.96.0.10:80").unwrap(), "a");

    let (code, text) = trace(world, "shop/near", &[]);
    let expected = "\
10.96.0.20:80/TCP is a frontend of shop/near:/TCP (internalTrafficPolicy Local)
  a connection is refused: no backend
endpoints of shop/near:/TCP, for its internal frontends:
  10.244.0.1:8080 unused: not on this node, and the traffic policy is Local
";
    assert_eq!((code, text.as_str()), (Some(1), expected));
    let error = world.dial(Tcp, "10.96.0.20:80").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");

    let sticky = json(world, "10.96.0.30:80");
    assert_eq!(sticky["frontends"][0]["affinity_seconds"], 10_800, "{sticky:#}");
    assert_eq!(sticky["frontends"][0]["outcome"], "backend", "{sticky:#}");

    for (target, word) in [
        ("10.96.0.99:80", "10.96.0.99:80 is no frontend: connections are left alone"),
        ("shop/none", "the source has no Service shop/none with frontends"),
        ("shop/web:81", "shop/web:81 is no frontend"),
    ] {
        let (code, text) = trace(world, target, &[]);
        assert!(code == Some(1) && text.contains(word), "{target}: {code:?} {text}");
    }
}

#[test]
fn its_answer_is_what_a_connection_gets_with_an_agent_and_without_one() {
    let world = World::builder("trace").agent_args(["--node", "here"]).start();
    let _a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.write_file("objects.yaml", OBJECTS);
    eventually("the Services are served", || match trace(&world, "shop/web", &[]) {
        (Some(0), text) if !text.contains("behind") => Ok(()),
        other => Err(format!("{other:?}\n{}", world.agent_log())),
    });
    assert_answers(&world);
    world.take_agent().kill();
    let before = maps(&world);
    assert!(before.len() > 5, "{:?}", before.keys());
    trace(&world, "shop/web", &[]);
    assert_eq!(maps(&world), before, "it changes nothing");
    assert_answers(&world);
}

#[test]
fn without_its_source_it_answers_from_the_maps_and_says_what_is_missing() {
    let world = World::builder("trace-maps").agent_args(["--node", "here"]).start();
    let _a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.write_file("objects.yaml", OBJECTS);
    eventually("the Services are served", || match trace(&world, "shop/web", &[]) {
        (Some(0), _) => Ok(()),
        other => Err(format!("{other:?}\n{}", world.agent_log())),
    });
    world.take_agent().kill();
    let output = world.svclb(&["trace", "shop/web", "--source", "/nonexistent"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for word in ["    10.244.0.1:8080 100.0 % ready\n", "no reasons, since the source is missing: "]
    {
        assert!(text.contains(word), "{text}");
    }
    assert!(text.contains("/nonexistent"), "{text}");
    let (code, text) = trace(&world, "shop/web", &["--maps-only"]);
    assert!(code == Some(0) && text.contains("not read (--maps-only)"), "{code:?} {text}");
}

#[test]
fn a_change_that_the_maps_lack_is_said() {
    let world = World::builder("trace-behind").agent_args(["--node", "here"]).start();
    world.write_file("objects.yaml", OBJECTS);
    eventually("the Services are served", || match trace(&world, "shop/web", &[]) {
        (Some(0), _) => Ok(()),
        other => Err(format!("{other:?}\n{}", world.agent_log())),
    });
    world.take_agent().kill();
    world.write_file("objects.yaml", &OBJECTS.replace("10.244.0.1", "10.244.0.9"));
    let (code, text) = trace(&world, "10.96.0.10:80", &[]);
    assert_eq!(code, Some(0), "{text}");
    for word in [
        "    10.244.0.1:8080 100.0 % ready\n",
        "  10.244.0.9:8080 used: ready\n",
        "the maps are behind the source for shop/web",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn where_nothing_is_installed_it_says_so() {
    let world = World::builder("trace-none").without_agent().start();
    world.write_file("objects.yaml", OBJECTS);
    let (code, text) = trace(&world, "shop/web", &[]);
    assert!(code == Some(1) && text.contains("no svclb is installed on this node"), "{text}");
    assert!(text.contains("  10.244.0.1:8080 used: ready\n"), "{text}");
}
