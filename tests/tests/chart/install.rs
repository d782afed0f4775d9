//! The chart and a real API server.

use std::fs;

use serde_json::{Value, json};
use svclb_tests::World;
use svclb_tests::cluster::ControlPlane;

use super::helm::{EVERY_VALUE, Helm, NAMESPACE, text};
use super::rendered::{assert_accepted, define_pod_monitors, of_kind, workspace};

#[test]
fn the_api_server_accepts_all_that_the_chart_renders() {
    let plane = ControlPlane::builder("chart").without_controllers().start();
    define_pod_monitors(&plane);
    for helm in Helm::all() {
        let every_value = helm.values(EVERY_VALUE);
        for flags in [
            "",
            "--set uninstall=true",
            "--set updateStrategy.type=OnDelete",
            &every_value,
            &format!("{every_value} --set uninstall=true"),
        ] {
            assert_accepted(&plane, &helm.template(flags), &format!("{} {flags}", helm.name));
        }
    }
}

#[test]
fn the_documented_helm_commands_install_svclb_and_take_it_away() {
    let plane = ControlPlane::builder("helm").without_controllers().start();
    let world = World::builder("helm").without_agent().start();
    let _relay = plane.relay(&world);
    let manual = fs::read_to_string(workspace().join("docs/install.md")).unwrap();
    let commands = manual.lines().filter_map(|line| line.strip_prefix("$ "));
    let commands: Vec<&str> = commands.filter(|line| line.starts_with("helm ")).collect();
    let steps = [
        ("helm install", &["svclb"][..], "rollout status daemonset/svclb\n"),
        ("helm upgrade", &["svclb"], "exec daemonset/svclb -- /svclb services\n"),
        ("helm upgrade", &["svclb"], "rollout status daemonset/svclb\n"),
        ("helm rollback", &["svclb"], "Rollback was a success"),
        ("helm upgrade", &["svclb-uninstall"], "rollout status daemonset/svclb-uninstall\n"),
        ("helm uninstall", &[], "uninstalled"),
    ];
    assert_eq!(commands.len(), steps.len(), "{commands:?}");
    for helm in Helm::all() {
        for (line, (start, daemon_sets, expected)) in commands.iter().zip(steps) {
            let mut command = helm.shell(line);
            command.env("KUBECONFIG", plane.kubeconfig());
            let output = world.output(command);
            let text = text(&output);
            assert!(output.status.success(), "{}: {line}: {text}", helm.name);
            assert!(line.starts_with(start) && text.contains(expected), "{line}: {text}");
            let found = plane.api().list("apps/v1", "DaemonSet", NAMESPACE, "").unwrap();
            let names: Vec<&str> =
                found.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect();
            assert_eq!(names, daemon_sets, "{}: after {line}", helm.name);
            // The second command's values, which the further ones keep.
            if !matches!(start, "helm install" | "helm uninstall") {
                let found = found[0].pointer("/spec/template/spec/containers/0/image");
                let image = format!("REGISTRY/svclb:{}", env!("CARGO_PKG_VERSION"));
                assert_eq!(found.unwrap(), &json!(image), "after {line}");
            }
        }
        let roles = plane.api().list("rbac.authorization.k8s.io/v1", "ClusterRole", "", OURS);
        assert_eq!(roles.unwrap(), [Value::Null; 0], "{}", helm.name);
    }
}

/// Selects the chart's objects.
const OURS: &str = "app.kubernetes.io/name=svclb";

#[test]
fn the_pods_need_the_pod_security_level_privileged() {
    let plane = ControlPlane::builder("pod-security").without_controllers().start();
    for level in ["baseline", "privileged"] {
        plane.api().apply(&format!(
            "
apiVersion: v1
kind: Namespace
metadata: {{ name: {level}, labels: {{ pod-security.kubernetes.io/enforce: {level} }} }}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: svclb, namespace: {level} }}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: default, namespace: {level} }}
"
        ));
    }
    let helm = &Helm::all()[1];
    for flags in ["", "--set mountBpffs=true", "--set uninstall=true"] {
        let objects = helm.template(flags);
        let template = &of_kind(&objects, "DaemonSet")["spec"]["template"];
        let create = |namespace: &str| {
            let pod = json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "name": "svclb", "namespace": namespace },
                "spec": template["spec"],
            });
            plane.api().try_apply(&pod, true).map_err(|error| error.to_string())
        };
        let error = create("baseline").unwrap_err();
        // As docs/install.md says.
        for word in ["violates PodSecurity", "host namespaces", "hostPath", "BPF", "spc_t"] {
            assert!(error.contains(word), "{flags}: {word}: {error}");
        }
        create("privileged").unwrap_or_else(|error| panic!("{flags}: {error}"));
    }
}
