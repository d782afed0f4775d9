//! The agent's configuration file, and `svclb config`, which shows the settings of an agent that runs.
#![expect(clippy::unwrap_used, reason = "a failure in the set-up fails the test")]

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use svclb_tests::{Tcp, World};

/// Writes a configuration file beside the world's YAML. Its source is that YAML.
fn write_config(world: &World, rest: &str) -> PathBuf {
    let path = world.yaml().with_file_name("config.yaml");
    let from = world.yaml();
    let text = format!(
        "apiVersion: svclb.dev/v1alpha1\nkind: AgentConfiguration\nfrom: [\"{}\"]\n{rest}",
        from.display()
    );
    fs::write(&path, text).unwrap();
    path
}

/// A setting of the running agent: its value, its origin and its place.
fn setting(world: &World, name: &str) -> (Value, String, String) {
    let output = world.svclb(&["config", "-o", "json"]);
    assert!(output.status.success(), "{output:?}");
    let settings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let schema = serde_json::from_str(include_str!("../../docs/schema/config.json")).unwrap();
    assert!(jsonschema::draft202012::new(&schema).unwrap().is_valid(&settings), "{settings:#}");
    let found = settings.as_array().unwrap().iter().find(|setting| setting["name"] == name);
    let found = found.unwrap();
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (found["value"].clone(), text("origin"), text("place"))
}

#[test]
fn an_agent_uses_its_file_and_a_flag_wins_over_it() {
    let rest = "metricsAddress: none\nnode: from-the-file\nserviceAddresses: 7\n";
    let world = World::builder("config").without_agent().agent_args(["--node", "here"]).start();
    let config = write_config(&world, rest);
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.start_agent_with(&["--config".as_ref(), config.as_os_str()]);
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    assert_eq!(world.request(Tcp, "10.96.0.10:80").unwrap(), "a");
    let line = |line: u32| format!("{}:{line}", config.display());
    let file = |value: Value, at: u32| (value, "file".to_owned(), line(at));
    assert_eq!(setting(&world, "from").2, line(3));
    assert_eq!(setting(&world, "metricsAddress"), file("none".into(), 4));
    assert_eq!(setting(&world, "serviceAddresses"), file(7.into(), 6));
    let flag = ("here".into(), "flag".to_owned(), "--node".to_owned());
    assert_eq!(setting(&world, "node"), flag);
    assert_eq!(setting(&world, "healthAddress").1, "default");
    // What the agent uses, not what the file says now.
    write_config(&world, "metricsAddress: broken\n");
    assert_eq!(setting(&world, "metricsAddress"), file("none".into(), 4));
    let pid = world.take_agent();
    let last = pid.pid();
    pid.kill();
    let output = world.svclb(&["config"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("no agent runs") && error.contains(&format!("process {last}")),
        "{error}"
    );
}

#[test]
fn a_broken_file_is_refused_with_its_line_and_what_was_served_stays() {
    let world = World::new("broken");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    world.take_agent().stop();
    let before = world.content();
    let config = write_config(&world, "metricsAdress: none\n");
    let output = world.svclb(&["agent", "--config", config.to_str().unwrap()]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let expected = format!(
        "svclb: {}:4: unknown field `metricsAdress`, did you mean `metricsAddress`?\n",
        config.display()
    );
    assert_eq!(error, expected);
    assert_eq!(world.content(), before);
    assert_eq!(world.request(Tcp, "10.96.0.10:80").unwrap(), "a");
}
