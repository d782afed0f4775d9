//! The plugin as kubectl starts it, against a real API server. No kubelet runs here, so a script before kubectl
//! runs what `kubectl exec` is given on the test's node; everything else is kubectl's.
#![expect(clippy::unwrap_used, reason = "a failure in a helper fails the test, with its reason")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use svclb_tests::cluster::{ControlPlane, Reference, component};
use svclb_tests::{Tcp, World, at, kubectl_plugin};

/// Runs the command of `kubectl exec ... -- /svclb COMMAND` here, and everything else by kubectl.
const SCRIPT: &str = r#"#!/bin/sh
[ "$1" = exec ] || exec KUBECTL "$@"
echo "$@" >> EXECUTED
while [ "$1" != -- ]; do shift; done
shift 2
exec SVCLB "$@"
"#;

struct Kubectl<'world> {
    world: &'world World,
    /// Has the script as `kubectl`, and the plugin.
    folder: tempfile::TempDir,
    kubeconfig: PathBuf,
}

impl<'world> Kubectl<'world> {
    fn new(world: &'world World, plane: &ControlPlane) -> Self {
        let prefix = format!("svclb-test-{}-plugin-", std::process::id());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
        let script = SCRIPT
            .replace("KUBECTL", component("kubectl").to_str().unwrap())
            .replace("EXECUTED", folder.path().join("executed").to_str().unwrap())
            .replace("SVCLB", world.program().to_str().unwrap());
        let path = folder.path().join("kubectl");
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        symlink(kubectl_plugin(), folder.path().join("kubectl-svclb")).unwrap();
        Self { world, folder, kubeconfig: plane.kubeconfig() }
    }

    /// Runs kubectl in the world. PATH has the script first.
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(component("kubectl"));
        let path = format!("{}:/usr/bin:/bin", self.folder.path().display());
        command.args(arguments).env("PATH", path).env("KUBECONFIG", &self.kubeconfig);
        command.env("HOME", self.folder.path()).env("SVCLB_PINS", self.world.pins());
        self.world.output(command)
    }

    /// Runs a command that succeeds; returns its output.
    fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that fails; returns its error.
    fn error(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The command lines of `kubectl exec` since the last call.
    fn executed(&self) -> String {
        let file = self.folder.path().join("executed");
        let text = fs::read_to_string(&file).unwrap_or_default();
        // There is none unless something was executed.
        let _ = fs::remove_file(file);
        text
    }
}

/// Makes a pod that runs on a node, as scheduler and kubelet leave it.
fn pod(plane: &ControlPlane, name: &str, namespace: &str, node: &str, labels: &Value) {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": false,
            "containers": [{"name": "agent", "image": "localhost/svclb:0.1.0"}],
        },
    });
    let created = plane.api().apply_all(&[pod]);
    let phase = json!({"status": {"phase": "Running"}});
    plane.api().patch_status(&Reference::of(&created[0]), &phase).unwrap();
}

#[test]
fn a_command_runs_in_the_agent_of_a_node_or_of_a_pods_node() {
    let plane = ControlPlane::builder("plugin").without_controllers().start();
    let world = World::new("plugin");
    let hello = world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp);
    hello.backends([at("10.244.0.1:8080")]).apply();
    let _relay = plane.relay(&world);
    let kubectl = Kubectl::new(&world, &plane);
    for namespace in ["default", "kube-system"] {
        // The controller that makes it does not run.
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace}});
        plane.api().apply_all(&[account]);
    }

    let error = kubectl.error(&["svclb", "services"]);
    assert!(error.contains("no pod of svclb in the namespace \"kube-system\""), "{error}");
    assert_eq!(kubectl.executed(), "");

    let agent = json!({"app.kubernetes.io/name": "svclb", "app.kubernetes.io/component": "agent"});
    pod(&plane, "svclb-a", "kube-system", "node-a", &agent);
    pod(&plane, "web", "default", "node-b", &json!({}));
    let services = kubectl.text(&["svclb", "services", "-o", "name"]);
    assert!(
        services.starts_with("default/hello:/TCP\n"),
        "the only agent needs no name: {services}"
    );
    let before = "exec --namespace=kube-system pods/svclb-a --container agent -- /svclb";
    assert_eq!(kubectl.executed(), format!("{before} services -o name\n"));

    pod(&plane, "svclb-b", "kube-system", "node-b", &agent);
    let error = kubectl.error(&["svclb", "services"]);
    let expected = "which node? svclb is on 2 nodes: \"node-a\", \"node-b\"; --node names one";
    assert!(error.contains(expected), "{error}");
    let error = kubectl.error(&["svclb", "--node", "node-c", "services"]);
    assert!(error.contains("no pod of svclb is on the node \"node-c\""), "{error}");
    let error = kubectl.error(&["svclb", "--pod", "absent", "services"]);
    assert!(error.contains("\"absent\" not found"), "kubectl says so: {error}");
    assert_eq!(kubectl.executed(), "");

    for selected in [["--node", "node-b"], ["--pod", "web"], ["--pod", "default/web"]] {
        let arguments = [&["svclb"], &selected[..], &["status", "--ready"]].concat();
        assert_eq!(kubectl.text(&arguments), "ready\n", "{selected:?}");
        let expected = before.replace("svclb-a", "svclb-b") + " status --ready\n";
        assert_eq!(kubectl.executed(), expected, "{selected:?}");
    }

    // The exit code is that of the command.
    world.take_agent().kill();
    let error = kubectl.error(&["svclb", "--node", "node-a", "status", "--ready"]);
    assert!(error.contains("no agent runs"), "{error}");
}

#[test]
fn kubectl_lists_the_plugin_and_shows_its_usage() {
    let plane = ControlPlane::builder("plugin-list").without_controllers().start();
    let world = World::builder("plugin-list").without_agent().start();
    let kubectl = Kubectl::new(&world, &plane);
    let listed = kubectl.text(&["plugin", "list"]);
    assert!(listed.contains("kubectl-svclb"), "{listed}");
    let help = kubectl.text(&["svclb", "--help"]);
    assert!(help.contains("Usage: kubectl svclb [OPTIONS] <COMMAND>..."), "{help}");
}
