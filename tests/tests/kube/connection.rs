//! The connection to the API server fails in every possible way: served Services stay served, and the
//! agent catches up with the changes afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use svclb_tests::cluster::{ControlPlane, Reference, documents};
use svclb_tests::{Tcp, at, eventually, holds_for};

use super::stage::{NODE, Stage, backends, content, service, slice};

#[test]
fn a_restarted_api_server_is_watched_again_and_the_maps_stay_unchanged_meanwhile() {
    let stage = Stage::new("kube-restart");
    let _a = stage.world.backend("a", Tcp, "10.244.0.1:8080");
    let api = stage.api();
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    let (before, passes) = (content(&stage.world), passes(&stage));
    stage.assert_uninterrupted(|| {
        stage.plane.stop_api_server();
        stage.wait_for_log(&["WARN", "cannot watch", "endpointslices"]);
        let unchanged = || match content(&stage.world) {
            found if found == before => Ok(()),
            found => Err(format!("{:#?}", found.symmetric_difference(&before))),
        };
        holds_for(Duration::from_secs(1), "the maps stay as they are", unchanged);
        stage.plane.start_api_server();
        for resource in ["services", "endpointslices", "nodes"] {
            stage.wait_for_log(&["answers again", resource]);
        }
        holds_for(Duration::from_millis(500), "the maps stay as they are", unchanged);
        assert_eq!(self::passes(&stage), passes, "no pass may have run");
        // The error is logged when it changes, not at each attempt.
        let log = stage.world.agent_log();
        let is_warning = |line: &&str| line.contains("cannot watch") && line.contains("\"nodes\"");
        assert!(log.lines().filter(is_warning).count() < 5, "{log}");
    });
    api.apply_all(&[slice("hello", &["10.244.0.2"])]);
    stage.wait_for(&["10.244.0.2"]);
}

#[test]
fn changes_made_while_the_connection_was_cut_are_applied() {
    let stage = Stage::new("kube-cut");
    let _a = stage.world.backend("a", Tcp, "10.244.0.1:8080");
    let _b = stage.world.backend("b", Tcp, "10.244.0.3:8080");
    let api = stage.api();
    api.apply_all(&[
        service("hello", "10.96.0.10"),
        slice("hello", &["10.244.0.1"]),
        service("goes", "10.96.0.11"),
        slice("goes", &["10.244.0.9"]),
    ]);
    stage.start_agent();
    for (way, restart) in [("a resumed watch", false), ("a new list", true)] {
        let lists = count(&stage, "listed anew");
        stage.relay.cut();
        stage.assert_uninterrupted(|| {
            if restart {
                // After its restart the API server does not know older versions: 410 Gone.
                stage.plane.stop_api_server();
                stage.plane.start_api_server();
            }
            api.apply_all(&[slice("hello", &["10.244.0.1", "10.244.0.3"])]);
            api.delete(&Reference::service("default/goes"), None).unwrap();
            api.delete(&Reference::slice("default/goes-1"), None).unwrap();
            api.apply_all(&[slice("hello", &["10.244.0.1"]), service("comes", "10.96.0.12")]);
            assert_eq!(backends(&stage.world, "goes").len(), 1, "{way}: the agent cannot know yet");
            stage.relay.open(&stage.world);
            eventually(&format!("{way}: the maps hold the API server's objects"), || {
                let found = content(&stage.world);
                let has = |name: &str| found.iter().any(|row| row.contains(name));
                match (has("\"comes\""), has("\"goes\"")) {
                    (true, false) => Ok(()),
                    _ => Err(format!("{found:#?}; log:\n{}", stage.world.agent_log())),
                }
            });
            stage.wait_for(&["10.244.0.1"]);
        });
        let mut listed = || match count(&stage, "listed anew") > lists {
            found if found == restart => Ok(()),
            found => Err(format!("{found}: {}", stage.world.agent_log())),
        };
        eventually(&format!("{way}: listed anew"), &mut listed);
        api.delete(&Reference::service("default/comes"), None).unwrap();
        api.apply_all(&[service("goes", "10.96.0.11"), slice("goes", &["10.244.0.9"])]);
        eventually(&format!("{way}: later changes are applied"), || {
            match backends(&stage.world, "goes").len() {
                1 => Ok(()),
                other => Err(other.to_string()),
            }
        });
    }
}

#[test]
fn an_expired_token_is_read_again_from_its_file() {
    assert_token_is_renewed("kube-token", |token| json!({ "tokenFile": token }));
}

#[test]
fn a_plugin_is_run_again_when_its_token_expires() {
    assert_token_is_renewed("kube-exec", |token| plugin_user("", token));
}

/// The user of a kubeconfig whose token a plugin reads from a file, after running the commands `before`.
fn plugin_user(before: &str, token: &Path) -> Value {
    let status = "{\"token\":\"'$(cat \"$0\")'\"}";
    let kind = "\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\"";
    let script = format!("{before} echo '{{{kind},\"status\":{status}}}'");
    json!({ "exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "interactiveMode": "Never",
        "command": "sh",
        "args": ["-c", script, token],
    }})
}

#[test]
fn existing_services_are_served_while_a_plugin_fails_or_hangs_at_a_start() {
    let stage = Stage::new("kube-no-token");
    let (world, api) = (&stage.world, stage.api());
    let _a = world.backend("a", Tcp, "10.244.0.1:8080");
    let _b = world.backend("b", Tcp, "10.244.0.2:8080");
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    // The commands of the plugin before there is a token, the words of the log, and the backend after
    // that.
    let rows = [
        ("fails", "test -e \"$0\" || exit 1;", "cannot get credentials", "10.244.0.2"),
        (
            "hangs",
            "until test -e \"$0\"; do sleep 0.1; done;",
            "there are no credentials for it yet",
            "10.244.0.1",
        ),
    ];
    for (row, before, words, next) in rows {
        let token = stage.plane.folder().join(format!("{row}.token"));
        let mut token_value = Value::Null;
        let kubeconfig = kubeconfig(&stage, row, |config| {
            let user = &mut config["users"][0]["user"];
            token_value = std::mem::replace(user, plugin_user(before, &token))["token"].take();
        });
        let found = backends(world, "hello");
        stage.assert_uninterrupted(|| {
            world.take_agent().kill();
            api.apply_all(&[slice("hello", &[next])]);
            stage.start_agent_as(&kubeconfig, &[]);
            assert_eq!(world.status()["synced"], false, "{row}: {}", world.agent_log());
            stage.wait_for_log(&["WARN", words]);
            assert_eq!(backends(world, "hello"), found, "{row}: {}", world.agent_log());
            let hidden = token.with_extension("new");
            fs::write(&hidden, token_value.as_str().unwrap()).unwrap();
            fs::rename(hidden, &token).unwrap();
            stage.wait_for(&[next]);
        });
        assert_eq!(world.status()["synced"], true, "{row}");
    }
}

/// Lets an agent's token expire and then provides a new one. `user` returns the user of a kubeconfig
/// with a token in the given file.
fn assert_token_is_renewed(name: &str, user: impl FnOnce(&Path) -> Value) {
    let stage = Stage::new(name);
    let api = stage.api();
    api.apply(
        "
apiVersion: v1
kind: ServiceAccount
metadata: { name: agent, namespace: default }
---
apiVersion: v1
kind: Secret
metadata: { name: bound, namespace: default }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: agent }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }
subjects: [{ kind: ServiceAccount, name: agent, namespace: default }]
",
    );
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    // A token that is valid only while a Secret exists.
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "expirationSeconds": 3600,
            "boundObjectRef": { "kind": "Secret", "apiVersion": "v1", "name": "bound" },
        },
    });
    let account = Reference::new("v1", "ServiceAccount", "default/agent");
    let token_value = api.create_subresource(&account, "token", &request).unwrap();
    let token = stage.plane.folder().join("token");
    fs::write(&token, token_value["status"]["token"].as_str().unwrap()).unwrap();
    let kubeconfig = kubeconfig(&stage, "token", |config| {
        config["users"][0]["user"] = user(&token);
    });
    stage.start_agent_as(&kubeconfig, &[]);
    stage.wait_for(&["10.244.0.1"]);

    api.delete(&Reference::new("v1", "Secret", "default/bound"), None).unwrap();
    // The API server caches the validity of a token for some seconds.
    let refused = |stage: &Stage| {
        stage.relay.cut();
        stage.relay.open(&stage.world);
        thread::sleep(Duration::from_secs(2));
        count(stage, "Unauthorized") > 0
    };
    assert!((0..15).any(|_| refused(&stage)), "{}", stage.world.agent_log());
    api.apply_all(&[slice("hello", &["10.244.0.2"])]);
    stage.wait_for(&["10.244.0.1"]);
    let fresh = stage.plane.service_account_token("default/agent", Duration::from_secs(3600));
    fs::write(&token, fresh).unwrap();
    stage.wait_for(&["10.244.0.2"]);
}

#[test]
fn a_frozen_connection_is_closed_and_tried_again() {
    let stage = Stage::new("kube-frozen");
    let _a = stage.world.backend("a", Tcp, "10.244.0.1:8080");
    let _b = stage.world.backend("b", Tcp, "10.244.0.2:8080");
    let api = stage.api();
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    stage.start_agent();
    stage.assert_uninterrupted(|| {
        stage.relay.open(&stage.world);
        stage.relay.freeze();
        api.apply_all(&[slice("hello", &["10.244.0.1", "10.244.0.2"])]);
        let has_timed_out = || {
            thread::sleep(Duration::from_secs(1));
            count(&stage, "no connection within 10 s") == 3
        };
        assert!((0..60).any(|_| has_timed_out()), "{}", stage.world.agent_log());
        // Connections that were frozen stay frozen.
        stage.relay.thaw();
        stage.wait_for(&["10.244.0.1", "10.244.0.2"]);
    });
}

#[test]
fn unchanged_objects_of_a_relist_are_recognized_in_streams_and_lists() {
    for (name, streams) in [("kube-streams", "true"), ("kube-lists", "false")] {
        let plane = ControlPlane::builder(name).without_controllers();
        let gate = format!("--feature-gates=WatchList={streams}");
        let stage = Stage::on(name, plane.api_server_args([&gate]).start());
        let api = stage.api();
        api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
        stage.start_agent();
        // The first Service was listed; these objects are watched.
        api.apply_all(&[service("other", "10.96.0.11"), slice("other", &["10.244.0.9"])]);
        let zone = json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": "zone-b" } } });
        api.patch(&Reference::node(NODE), &zone).unwrap();
        eventually("the Service is written", || match backends(&stage.world, "other").len() {
            1 => Ok(()),
            other => Err(other.to_string()),
        });
        stage.relay.cut();
        stage.plane.stop_api_server();
        stage.plane.start_api_server();
        api.apply_all(&[service("comes", "10.96.0.12"), slice("hello", &["10.244.0.2"])]);
        stage.relay.open(&stage.world);
        for resource in ["services", "endpointslices"] {
            stage.wait_for_log(&["listed anew", resource, "changed=1", "gone=0"]);
        }
        let log = stage.world.agent_log();
        let mut relists = log.lines().filter(|line| line.contains("listed anew"));
        assert!(relists.all(|line| line.contains("changed=1") || line.contains("nodes")), "{log}");
    }
}

#[test]
fn another_address_of_the_api_server_must_have_the_configured_name() {
    let stage = Stage::new("kube-way");
    let api = stage.api();
    api.apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
    // No certificate names this address, and nothing listens at the kubeconfig's address.
    let way = "10.244.250.1:7443";
    let relay = stage.plane.relay_at(&stage.world, at(way));
    stage.relay.cut();
    let server = format!("https://{way}");
    stage.start_agent_as(&stage.plane.kubeconfig(), &["--api-server", &server]);
    stage.wait_for(&["10.244.0.1"]);
    // As the kubeconfig's own server, the address is not trusted.
    stage.world.take_agent().kill();
    let other = kubeconfig(&stage, "other", |config| {
        config["clusters"][0]["cluster"]["server"] = json!(server);
    });
    let mut command = Command::new("timeout");
    command.arg("5").arg(stage.world.program()).arg("agent").arg("--kubeconfig").arg(&other);
    command.args(["--node", NODE]).arg("--pins").arg(stage.world.pins());
    command.arg("--cgroup").arg(stage.world.cgroup());
    let output = stage.world.output(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("cannot watch") && stderr.contains("ertificate"), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.lines().all(|line| line != "ready"), "{stdout}");
    drop(relay);
}

/// Writes a changed copy of the administrator's kubeconfig.
fn kubeconfig(stage: &Stage, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let admin = fs::read_to_string(stage.plane.kubeconfig()).unwrap();
    let mut config = documents(&admin).pop().unwrap();
    change(&mut config);
    let path = stage.plane.folder().join(format!("{name}.kubeconfig"));
    fs::write(&path, config.to_string()).unwrap();
    path
}

fn passes(stage: &Stage) -> u64 {
    stage.world.status()["passes"].as_u64().unwrap()
}

fn count(stage: &Stage, words: &str) -> usize {
    stage.world.agent_log().lines().filter(|line| line.contains(words)).count()
}
