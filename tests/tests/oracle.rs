//! kube-proxy as the oracle: on a node with svclb, clients are answered by whom kube-proxy would have
//! let answer them.
//!
//! `cargo xtask oracle` says by `SVCLB_ORACLE_WORLDS` and `SVCLB_ORACLE_SEED` how many random worlds are
//! compared, and which.

use serde_json::Value;
use svclb_tests::oracle::{Settings, compare};

/// How many frontends each exception has to be seen at in a run of the usual size, so that the list
/// holds nothing that never happens.
const AT_LEAST: usize = 2;
/// From how many worlds on hosts answer at a tenth of all frontends, so that a run in which next to
/// nobody answers proves nothing.
const ENOUGH: u64 = 16;

#[test]
fn clients_are_answered_as_with_kube_proxy() {
    let settings = Settings::from_environment();
    println!("worlds of the seeds {:?}", settings.seeds());
    let summary = compare(settings, &[]).unwrap_or_else(|difference| panic!("{difference}"));
    println!("{summary}");
    assert_eq!(u64::try_from(summary.worlds).unwrap(), settings.worlds, "{summary}");
    assert!(summary.frontends > 0, "nothing was dialled: {summary}");
    if settings.worlds >= ENOUGH {
        assert!(summary.with_hosts * 10 > summary.frontends, "few hosts answered: {summary}");
    }
    if settings == Settings::default() {
        for (name, count) in &summary.exceptions {
            assert!(*count >= AT_LEAST, "{name:?} was seen {count} times: {summary}");
        }
    }
}

/// The comparison itself: an svclb that serves no node ports, since it was told of a range without
/// addresses of this node, is found out.
#[test]
fn a_wrong_svclb_is_found_and_the_smallest_world_shows_why() {
    let settings = Settings { worlds: 3, first: 1 };
    let arguments = ["--node-port-addresses", "198.51.100.0/24"];
    let text = match compare(settings, &arguments) {
        Ok(summary) => panic!("no difference was found: {summary}"),
        Err(text) => text,
    };
    println!("{text}");

    // The seed, and how to see it again.
    let seed =
        settings.seeds().find(|seed| text.contains(&format!("what is left of seed {seed},")));
    let seed = seed.unwrap_or_else(|| panic!("no seed is named:\n{text}"));
    let again = format!("(again: cargo xtask oracle --seed {seed} --worlds 1)");
    assert!(text.contains(&format!("the world of seed {seed} differs {again}")), "{text}");

    // What is left differs still, at node ports alone.
    let (_, left) = text.split_once("made as small as it can be:\n").expect("it says what is left");
    let (differences, yaml) = left.split_once("# First,").expect("it shows the objects");
    assert!(!differences.is_empty(), "{text}");
    for line in differences.lines() {
        let is_of_node_ports = line.contains("(NodePort of ") || line.contains("(Loopback of ");
        assert!(
            is_of_node_ports && line.contains("kube-proxy: ") && line.contains("svclb: "),
            "{line}"
        );
    }

    // And nothing is left that the difference does not need.
    let (_, yaml) = yaml.split_once("# The rest:\n").expect("it shows what the world is now");
    let objects: Vec<Value> = yaml
        .split("---\n")
        .filter(|document| !document.trim().is_empty())
        .map(|document| serde_saphyr::from_str(document).expect("it is YAML"))
        .collect();
    let kinds: Vec<&str> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["Node", "Namespace", "Service"], "{text}");
    let service = &objects[2]["spec"];
    assert!(matches!(service["type"].as_str(), Some("NodePort" | "LoadBalancer")), "{text}");
    assert_eq!(service["ports"].as_array().map(Vec::len), Some(1), "{text}");
    assert_eq!(service["ipFamilies"].as_array().map(Vec::len), Some(1), "{text}");
    assert_eq!(service["externalIPs"], Value::Array(Vec::new()), "{text}");
}
