//! `svclb plan` and `svclb diff` over real maps: they show what an agent that starts would change, and change
//! nothing themselves.
#![expect(clippy::unwrap_used, reason = "a failure in the set-up fails the test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;
use svclb_tests::{Tcp, World, at, eventually};

/// `default/hello` with a port that is none, and its slice.
const BROKEN: &str = r#"{apiVersion: v1, kind: Service, metadata: {name: hello, namespace: default},
spec: {clusterIP: 10.96.0.10, ports: [{port: 70000}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: hello-1, namespace: default,
labels: {kubernetes.io/service-name: hello}}, addressType: IPv4, ports: [{name: "", port: 8080}],
endpoints: [{addresses: [10.244.0.1]}]}
"#;

/// Runs a command over the world's YAML, and returns its exit code and standard output. Nothing may be on
/// standard error.
fn svclb(world: &World, command: &str, more: &[&str]) -> (Option<i32>, String) {
    let yaml = world.yaml();
    let arguments = [&[command, "--from", yaml.to_str().unwrap()], more].concat();
    let output = world.svclb(&arguments);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "svclb {command}");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

fn json(world: &World, command: &str) -> Value {
    let printed = serde_json::from_str(&svclb(world, command, &["-o", "json"]).1).unwrap();
    let schema = match command {
        "plan" => include_str!("../../docs/schema/plan.json"),
        _ => include_str!("../../docs/schema/diff.json"),
    };
    let schema = serde_json::from_str(schema).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let faults: Vec<String> =
        validator.iter_errors(&printed).map(|error| error.to_string()).collect();
    assert_eq!(faults, [""; 0], "{command}: {printed:#}");
    printed
}

/// All names below the pins in use, and the content of each map, byte by byte.
fn installed(world: &World) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for kind in ["", "maps", "links", "layouts"] {
        for name in world.names_in(&world.version().join(kind)) {
            let pin = world.pinned(kind, &name);
            let content = match kind {
                "maps" => world.bpftool(["map", "dump", "pinned"], [pin]),
                _ => Vec::new(),
            };
            found.insert(Path::new(kind).join(name).to_str().unwrap().to_owned(), content);
        }
    }
    assert!(found.len() > 20, "{:?}", found.keys());
    found
}

fn assert_no_difference(world: &World) {
    eventually("nothing differs", || match svclb(world, "diff", &[]) {
        (Some(0), stdout) if stdout.is_empty() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let (code, stdout) = svclb(world, "plan", &[]);
    assert_eq!(
        (code, stdout.as_str()),
        (Some(0), "nothing to change: the maps hold what the source says\n")
    );
}

#[test]
fn both_show_what_a_dead_agent_missed_and_change_nothing() {
    let world = World::new("plan");
    let hello = || world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp);
    let old = || world.service("default/old").cluster_ip("10.96.0.20").port(80, Tcp);
    hello().backends([at("10.244.0.1:8080")]).apply();
    old().external_ip("192.0.2.1").backends([at("10.244.0.9:8080")]).apply();
    assert_no_difference(&world);
    world.take_agent().kill();
    assert_no_difference(&world);
    hello().affinity(300).backends([at("10.244.0.2:8080")]).write();
    world
        .service("default/new")
        .cluster_ip("10.96.0.30")
        .external_ip("192.0.2.1")
        .port(80, Tcp)
        .write();
    world.remove("default/old");
    let before = installed(&world);
    let expected = "\
- default/hello:/TCP backend 10.244.0.1:8080: ready in internal
+ default/hello:/TCP backend 10.244.0.2:8080: ready in internal
~ default/hello:/TCP affinity_seconds 0 -> 300
+ default/new:/TCP
+ default/new:/TCP frontend 10.96.0.30:80
+ default/new:/TCP frontend 192.0.2.1:80 (from default/old:/TCP)
- default/old:/TCP
- default/old:/TCP frontend 10.96.0.20:80
- default/old:/TCP frontend 192.0.2.1:80 (to default/new:/TCP)
- default/old:/TCP backend 10.244.0.9:8080: ready in internal,external
";
    for _ in 0..2 {
        assert_eq!(svclb(&world, "diff", &[]), (Some(1), expected.to_owned()));
        let (code, stdout) = svclb(&world, "plan", &[]);
        let summary = "services: 1 added, 1 changed, 1 removed; steps: ";
        let last = stdout.lines().last().unwrap_or_default();
        assert!(code == Some(0) && last.starts_with(summary), "{code:?} {stdout}");
    }
    let rows = json(&world, "diff");
    assert_eq!(rows.as_array().map(Vec::len), Some(expected.lines().count()));
    assert_eq!(json(&world, "plan")["services"].as_array().map(Vec::len), Some(3));
    for command in ["plan", "diff"] {
        let names = "default/hello:/TCP\ndefault/new:/TCP\ndefault/old:/TCP\n";
        assert_eq!(svclb(&world, command, &["-o", "name"]).1, names, "{command}");
    }
    assert_eq!(installed(&world), before, "neither command writes");
    world.start_agent_with_faults(None);
    assert_no_difference(&world);
    world.assert_same_as_fresh_agent();
}

#[test]
fn without_maps_the_plan_is_over_empty_ones_and_makes_none() {
    let world = World::builder("plan-none").without_agent().start();
    world
        .service("default/hello")
        .cluster_ip("10.96.0.10")
        .port(80, Tcp)
        .backends([at("10.244.0.1:8080")])
        .write();
    let plan = json(&world, "plan");
    assert_eq!(
        (&plan["installed"], &plan["services"][0]["change"]),
        (&false.into(), &"added".into())
    );
    assert!(plan["maps"]["index_lines"].as_u64() > Some(0), "{plan}");
    assert_eq!(svclb(&world, "diff", &[]).0, Some(1));
    let pins = world.pins();
    assert!(!world.inside(move || pins.exists()), "no folder of pins is made");
}

#[test]
fn unreadable_objects_and_services_over_a_budget_are_named() {
    let world = World::new("plan-rejects");
    let hello = || world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp);
    hello().backends([at("10.244.0.1:8080")]).apply();
    world.take_agent().kill();
    let mut ports = String::new();
    for port in 1..=20_000 {
        let comma = if port == 1 { "" } else { "," };
        write!(ports, r#"{comma}{{"name":"p{port}","port":{port}}}"#).unwrap();
    }
    let large = format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"large","namespace":"default"}},
"spec":{{"clusterIP":"10.97.0.1","ports":[{ports}]}}}}"#
    );
    world.write_file("large.json", &large);
    world.write_file("default.hello.yaml", BROKEN);
    let before = installed(&world);
    let plan = json(&world, "plan");
    let rejected = plan["rejected"][0].as_str().unwrap_or_default();
    for word in ["default.hello.yaml:2", "default/hello", "70000"] {
        assert!(rejected.contains(word), "{word}: {plan}");
    }
    assert_eq!(plan["refused"][0]["name"], "large", "{plan}");
    let why = plan["refused"][0]["why"].as_str().unwrap_or_default();
    assert!(why.contains("20000 frontends") && why.contains("--service-frontends"), "{plan}");
    let expected = "~ default/hello:/TCP notes none -> retained\n";
    assert_eq!(svclb(&world, "diff", &[]), (Some(1), expected.to_owned()));
    let (_, larger) = svclb(&world, "diff", &["--service-frontends", "30000"]);
    assert!(larger.contains("+ default/large:p20000/TCP frontend 10.97.0.1:20000\n"), "{larger}");
    assert_eq!(installed(&world), before, "neither command writes");
    world.start_agent_with_faults(None);
    assert_no_difference_but_rejects(&world);
}

/// Nothing differs, though a Service is rejected and another is refused.
fn assert_no_difference_but_rejects(world: &World) {
    eventually("nothing differs", || match svclb(world, "diff", &[]) {
        (Some(0), stdout) if stdout.is_empty() => Ok(()),
        other => Err(format!("{other:?}; the log:\n{}", world.agent_log())),
    });
    let plan = json(world, "plan");
    let count = |field: &str| plan[field].as_array().map(Vec::len);
    assert_eq!(
        (count("rejected"), count("refused"), count("services")),
        (Some(1), Some(1), Some(0))
    );
}

#[test]
fn damage_that_another_program_did_is_a_difference() {
    let world = World::new("plan-damage");
    world
        .service("default/hello")
        .cluster_ip("10.96.0.10")
        .port(80, Tcp)
        .backends([at("10.244.0.1:8080")])
        .apply();
    world.take_agent().kill();
    assert!(world.corrupt_sets() > 0);
    let (code, stdout) = svclb(&world, "diff", &[]);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("~ default/hello:/TCP frontend 10.96.0.10:80 (renewed)\n"), "{stdout}");
}
