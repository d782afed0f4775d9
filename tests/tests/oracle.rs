//! kube-proxy as the oracle: on a node with svclb, the same hosts answer clients as on a node with
//! kube-proxy.
//!
//! `cargo xtask oracle` sets the number of random worlds and the first seed by `SVCLB_ORACLE_WORLDS` and
//! `SVCLB_ORACLE_SEED`.

use serde_json::Value;
use svclb_tests::oracle::{Settings, compare};

/// Minimum number of frontends for each exception in a default run, so that the list has no exception
/// that never applies.
const AT_LEAST: usize = 2;
/// From this number of worlds on, hosts must answer at a tenth of all frontends: a run in which hardly
/// any host answers would prove nothing.
const ENOUGH: u64 = 16;

#[test]
fn clients_are_answered_as_with_kube_proxy() {
    let settings = Settings::from_environment();
    println!("worlds of the seeds {:?}", settings.seeds());
    let summary = compare(settings, &[]).unwrap_or_else(|difference| panic!("{difference}"));
    println!("{summary}");
    assert_eq!(u64::try_from(summary.worlds).unwrap(), settings.worlds, "{summary}");
    assert!(summary.frontends > 0, "expected frontends: {summary}");
    if settings.worlds >= ENOUGH {
        assert!(summary.with_hosts * 10 > summary.frontends, "too few hosts answered: {summary}");
    }
    if settings == Settings::default() {
        for (name, count) in &summary.exceptions {
            assert!(
                *count >= AT_LEAST,
                "{name:?} applied {count} times, expected at least {AT_LEAST}: {summary}"
            );
        }
    }
}

/// Tests the comparison itself: an svclb that serves no node ports, because of a range without addresses
/// of this node, must be found out.
#[test]
fn a_misconfigured_svclb_is_found_and_reduced_to_the_smallest_world() {
    let settings = Settings { worlds: 3, first: 1 };
    let arguments = ["--node-port-addresses", "198.51.100.0/24"];
    let text = match compare(settings, &arguments) {
        Ok(summary) => panic!("expected a difference: {summary}"),
        Err(text) => text,
    };
    println!("{text}");

    // The seed, and the command that repeats its world.
    let seed =
        settings.seeds().find(|seed| text.contains(&format!("the world of seed {seed}, reduced")));
    let seed = seed.unwrap_or_else(|| panic!("expected a seed in:\n{text}"));
    let again = format!("(run it again by cargo xtask oracle --seed {seed} --worlds 1)");
    assert!(text.contains(&format!("the world of seed {seed} differs {again}")), "{text}");

    // The reduced world still differs, at node ports only.
    let (_, left) =
        text.split_once("reduced as far as possible:\n").expect("the text has the reduced world");
    let (differences, yaml) =
        left.split_once("# First these objects;").expect("the text has the objects");
    assert!(!differences.is_empty(), "{text}");
    for line in differences.lines() {
        let is_of_node_ports = line.contains("(NodePort of ") || line.contains("(Loopback of ");
        assert!(
            is_of_node_ports && line.contains("kube-proxy: ") && line.contains("svclb: "),
            "{line}"
        );
    }

    // The reduced world has nothing that the difference does not need.
    let (_, yaml) = yaml.split_once("# Next objects:\n").expect("the text has the next objects");
    let objects: Vec<Value> = yaml
        .split("---\n")
        .filter(|document| !document.trim().is_empty())
        .map(|document| serde_saphyr::from_str(document).expect("the document is YAML"))
        .collect();
    let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["Node", "Namespace", "Service"], "{text}");
    let service = &objects[2]["spec"];
    assert!(matches!(service["type"].as_str(), Some("NodePort" | "LoadBalancer")), "{text}");
    assert_eq!(service["ports"].as_array().map(Vec::len), Some(1), "{text}");
    assert_eq!(service["ipFamilies"].as_array().map(Vec::len), Some(1), "{text}");
    assert_eq!(service["externalIPs"], Value::Array(Vec::new()), "{text}");
}
