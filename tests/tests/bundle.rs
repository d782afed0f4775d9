//! `svclb support-bundle` over real maps, with an agent and without one.
#![expect(clippy::unwrap_used, reason = "a failure in the set-up fails the test")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;

use flate2::read::GzDecoder;
use serde_json::Value;
use svclb_tests::{Tcp, World};

/// Writes an archive, and returns its files.
fn bundle(world: &World, name: &str, more: &[&str]) -> BTreeMap<String, String> {
    let path = world.yaml().with_file_name(name);
    let arguments = [&["support-bundle", "--output", path.to_str().unwrap()], more].concat();
    let output = world.svclb(&arguments);
    assert!(output.status.success(), "{output:?}");
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(GzDecoder::new(File::open(&path).unwrap()));
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(name, text);
    }
    // A file that is there stays.
    assert_eq!(world.svclb(&arguments).status.code(), Some(1));
    files
}

fn world() -> World {
    let world = World::builder("bundle").agent_args(["--node", "zebra-node"]).start();
    let service = world.service("quagga/okapi").cluster_ip("10.96.0.10").port(80, Tcp);
    service.backends([world.backend("a", Tcp, "10.244.0.1:8080").address()]).apply();
    world
}

#[test]
fn an_archive_has_every_part_and_without_an_agent_the_reasons_for_the_missing_ones() {
    let world = world();
    let parts = [
        "services.json",
        "backends.json",
        "sockets.json",
        "config.json",
        "status.json",
        "check.json",
        "maps.json",
        "kernel.txt",
        "version.txt",
        "agent.log",
        "contents.txt",
    ];
    let files = bundle(&world, "running.tar.gz", &[]);
    for part in parts {
        assert!(files.contains_key(part), "no {part}: {:?}", files.keys());
    }
    let services: Value = serde_json::from_str(&files["services.json"]).unwrap();
    assert!(services.as_array().unwrap().iter().any(|row| row["name"] == "okapi"), "{services:#}");
    let log = world.agent_log();
    assert!(log.starts_with(&files["agent.log"]) && !files["agent.log"].is_empty(), "{log}");
    world.take_agent().kill();
    let files = bundle(&world, "dead.tar.gz", &[]);
    assert!(files["config.json.unread.txt"].contains("no agent runs"), "{files:?}");
    assert!(files["maps.json"].contains("okapi"), "{files:?}");
}

#[test]
fn a_redacted_archive_has_no_address_and_no_name_of_the_cluster() {
    let world = world();
    let files = bundle(&world, "redacted.tar.gz", &["--redact"]);
    for (name, text) in &files {
        for secret in ["10.96.0.10", "10.244.0.1", "quagga", "okapi", "zebra-node"] {
            assert!(!text.contains(secret), "{name} has {secret}: {text}");
        }
    }
    let json = |name: &str| serde_json::from_str::<Value>(&files[name]).unwrap();
    // The same address has the same placeholder in each part.
    let frontend = json("services.json")[0]["frontends"][0].as_str().unwrap().to_owned();
    let (address, _) = frontend.split_once(':').unwrap();
    assert!(address.starts_with("address-"), "{address}");
    assert!(files["maps.json"].contains(&format!("\"{address}\"")), "{}", files["maps.json"]);
}
