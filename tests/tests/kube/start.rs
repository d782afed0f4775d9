//! The agent before it is ready, and the choice of its source.

use std::collections::BTreeSet;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use svclb_tests::cluster::ControlPlane;
use svclb_tests::{Tcp, World, eventually, holds_for};

use super::stage::{DIALLED, NODE, Stage, backends, rows, service, slice};

#[test]
fn nothing_is_written_before_every_kind_was_listed() {
    let plane =
        ControlPlane::builder("kube-synced").without_controllers().user("bob", ["agents"]).start();
    let stage = Stage::on("kube-synced", plane);
    let _a = stage.world.backend("a", Tcp, "10.244.0.1:8080");
    let api = stage.api();
    let role = |nodes: &str| {
        api.apply(&format!(
            "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{ name: agents }}
rules:
- {{ apiGroups: [\"\"], resources: [services{nodes}], verbs: [list, watch] }}
- {{ apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch] }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{ name: agents }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: agents }}
subjects: [{{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: agents }}]
"
        ));
    };
    role("");
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    // The state that an earlier agent left.
    stage.start_agent();
    stage.world.take_agent().kill();
    api.apply_all(&[slice("hello", &["10.244.0.2"])]);
    thread::scope(|scope| {
        scope.spawn(|| stage.start_agent_as(&stage.plane.kubeconfig_of("bob"), &[]));
        stage.wait_for_log(&["listed", "services"]);
        stage.wait_for_log(&["listed", "endpointslices"]);
        stage.wait_for_log(&["WARN", "nodes", "forbidden", "earlier agent"]);
        holds_for(Duration::from_secs(1), "served Services stay served", || {
            match (stage.world.request(Tcp, DIALLED), backends(&stage.world, "hello")) {
                (Ok(name), found) if name == "a" && found.contains("10.244.0.1") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        role(", nodes");
    });
    stage.wait_for(&["10.244.0.2"]);
}

#[test]
fn a_starting_agent_waits_for_the_api_server() {
    let stage = Stage::new("kube-away");
    stage.api().apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.plane.stop_api_server();
    thread::scope(|scope| {
        scope.spawn(|| stage.start_agent());
        stage.wait_for_log(&["watching the API server", "https://127.0.0.1:6443"]);
        stage.wait_for_log(&["WARN", "cannot watch", "services", "earlier agent"]);
        stage.plane.start_api_server();
    });
    stage.wait_for(&["10.244.0.1"]);
}

#[test]
fn agent_that_starts_without_the_api_server_serves_the_existing_state_and_is_not_ready() {
    let stage = Stage::new("kube-gone");
    let world = &stage.world;
    let _a = world.backend("a", Tcp, "10.244.0.1:8080");
    let _b = world.backend("b", Tcp, "10.244.0.2:8080");
    let api = stage.api();
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    let is_ready = || {
        let output = world.svclb(&["status", "--ready"]);
        let output_text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(output_text).unwrap().trim().to_owned())
    };
    stage.start_agent();
    assert_eq!(is_ready(), (true, "ready".to_owned()));
    stage.assert_uninterrupted(|| {
        stage.relay.cut();
        world.take_agent().kill();
        api.apply_all(&[slice("hello", &["10.244.0.2"])]);
        stage.start_agent_as(&stage.plane.kubeconfig(), &["--audit", "1"]);
        let (ready, text) = is_ready();
        assert!(!ready && text.contains("not yet heard its sources since it started"), "{text}");
        assert_eq!(world.status()["synced"], false);
        let sources = world.status()["sources"].as_array().unwrap().clone();
        assert!(sources.iter().all(|it| it["heard_seconds_ago"].is_null()), "{sources:?}");
        // Pins and hooks are supervised meanwhile.
        let link = world.pinned("links", "getpeername4");
        world.unpin(&link);
        eventually("the pin is restored", || {
            let link = link.clone();
            world.inside(move || link.exists()).then_some(()).ok_or_else(|| world.agent_log())
        });
        // Several audits remove nothing, although the desired state is not known.
        holds_for(Duration::from_secs(4), "served Services stay served", || {
            match backends(world, "hello") {
                found if found == BTreeSet::from(["10.244.0.1".to_owned()]) => Ok(()),
                other => Err(format!("{other:?}; the log:\n{}", world.agent_log())),
            }
        });
        // Several such agents in a row change nothing.
        world.take_agent().kill();
        stage.start_agent();
        stage.relay.open(world);
        stage.wait_for(&["10.244.0.2"]);
    });
    assert_eq!(is_ready(), (true, "ready".to_owned()));
    assert_eq!(world.status()["synced"], true);
    // Once it has read its sources, the agent stays ready while the API server is away.
    eventually("the status has the time and address of each source", || {
        let sources = world.status()["sources"].as_array().unwrap().clone();
        let is_complete = |it: &Value| {
            it["heard_seconds_ago"].is_u64()
                && it["way"] == "configuration"
                && it["address"] == "127.0.0.1:6443"
        };
        let names: Vec<&str> = sources.iter().filter_map(|it| it["name"].as_str()).collect();
        let is_all = names == ["services", "endpointslices", "nodes"];
        if is_all && sources.iter().all(is_complete) { Ok(()) } else { Err(format!("{sources:?}")) }
    });
    stage.relay.cut();
    stage.wait_for_log(&["WARN", "cannot watch"]);
    assert_eq!(is_ready(), (true, "ready".to_owned()));
}

#[test]
fn an_api_server_that_does_not_stream_lists_is_read_page_by_page() {
    let plane = ControlPlane::builder("kube-pages")
        .without_controllers()
        .api_server_args(["--feature-gates=WatchList=false"])
        .start();
    let stage = Stage::on("kube-pages", plane);
    let api = stage.api();
    // More than one page of Services.
    let others = (0..450).map(|number| service(&format!("other-{number}"), ""));
    api.apply_all(&others.collect::<Vec<_>>());
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    stage.wait_for_log(&["INFO", "does not stream lists", "services"]);
    stage.wait_for(&["10.244.0.1"]);
    assert!(rows(&stage.world, "services").len() > 450);
    api.apply_all(&[slice("hello", &["10.244.0.2"])]);
    stage.wait_for(&["10.244.0.2"]);
}

#[test]
fn node_ports_follow_the_addresses_of_interfaces_in_the_given_ranges() {
    let stage = Stage::new("kube-interfaces");
    let mut service = service("hello", "10.96.0.10");
    service["spec"]["type"] = json!("NodePort");
    service["spec"]["ports"][0]["nodePort"] = json!(30080);
    stage.api().apply_all(&[service]);
    let ip = |arguments: &str| {
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        let output = stage.world.output(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let expect_node_ports_at = |expected: &[&str]| {
        let what = format!("node ports are at {expected:?} and on loopback");
        eventually(&what, || {
            let shown = rows(&stage.world, "services");
            let hello = shown.iter().find(|row| row["name"] == "hello").ok_or("no hello")?;
            let frontends = hello["frontends"].as_array().unwrap().iter();
            let at = frontends.filter_map(|it| it.as_str()?.strip_suffix(":30080"));
            let at: BTreeSet<&str> = at.filter(|address| *address != "127.0.0.1").collect();
            if at == expected.iter().copied().collect() { Ok(()) } else { Err(format!("{at:?}")) }
        });
    };
    ip("address add 192.0.2.1/32 dev lo");
    let ranges = "192.0.2.0/24,127.0.0.0/8,fd00:2::/64";
    stage.start_agent_as(&stage.plane.kubeconfig(), &["--node-port-addresses", ranges]);
    expect_node_ports_at(&["192.0.2.1"]);
    ip("address add 192.0.2.2/32 dev lo");
    expect_node_ports_at(&["192.0.2.1", "192.0.2.2"]);
    // An address outside the range, and one of a family that the Service does not have.
    ip("address add 198.51.100.1/32 dev lo");
    ip("address add fd00:2::1/128 dev lo");
    ip("address del 192.0.2.1/32 dev lo");
    expect_node_ports_at(&["192.0.2.2"]);
}

#[test]
fn outside_of_a_cluster_the_agent_reports_the_missing_source() {
    let world = World::builder("kube-nowhere").without_agent().start();
    let none = world.yaml().join("none");
    let none = none.to_str().unwrap();
    let rows: [(&str, &[&str], &str); 2] = [
        ("no source", &[], "--kubeconfig"),
        ("a kubeconfig that is not there", &["--kubeconfig", none], none),
    ];
    for (row, arguments, expected) in rows {
        let mut command = Command::new(world.program());
        command.arg("agent").args(arguments).args(["--node", NODE]);
        command.arg("--pins").arg(world.pins()).arg("--cgroup").arg(world.cgroup());
        command.env_remove("KUBERNETES_SERVICE_HOST");
        let output = world.output(command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{row}: {stderr}");
        assert!(stderr.contains(expected), "{row}: {stderr}");
    }
}

#[test]
fn each_line_of_a_json_log_is_one_object() {
    let stage = Stage::new("kube-json");
    stage.start_agent_as(&stage.plane.kubeconfig(), &["--log-format", "json"]);
    let log = stage.world.agent_log();
    let listed: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .filter(|line: &serde_json::Value| line["message"] == "listed")
        .collect();
    assert_eq!(listed.len(), 3, "{log}");
    assert!(listed.iter().all(|line| line["resource"].is_string()), "{log}");
}
