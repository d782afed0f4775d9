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
fn the_documented_commands_install_svclb_and_take_it_away() {
    let plane = ControlPlane::new("helm");
    let world = World::builder("helm").without_agent().start();
    let _relay = plane.relay(&world);
    let manual = fs::read_to_string(workspace().join("docs/install.md")).unwrap();
    let commands: Vec<&str> = manual.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    // How each begins, a part of what it prints, and the DaemonSets that are there afterwards.
    let (agent, uninstall) = ("svclb", "svclb-uninstall");
    let rolled_out = "successfully rolled out";
    let steps = [
        ("helm install", "rollout status daemonset/svclb\n", Some(agent)),
        ("kubectl -n kube-system rollout", rolled_out, Some(agent)),
        ("helm upgrade", "exec daemonset/svclb -- /svclb services\n", Some(agent)),
        ("helm upgrade", "set uninstall=true", Some(agent)),
        ("helm rollback", "Rollback was a success", Some(agent)),
        ("helm upgrade", "rollout status daemonset/svclb-uninstall\n", Some(uninstall)),
        ("kubectl -n kube-system rollout", rolled_out, Some(uninstall)),
        ("helm uninstall", "uninstalled", None),
        ("kubectl apply", "daemonset.apps/svclb created", Some(agent)),
        ("kubectl -n kube-system rollout", rolled_out, Some(agent)),
        ("kubectl delete", "deleted", None),
        ("kubectl apply", "daemonset.apps/svclb-uninstall created", Some(uninstall)),
        ("kubectl -n kube-system rollout", rolled_out, Some(uninstall)),
        ("kubectl delete", "deleted", None),
        ("kubectl label", "labeled", None),
    ];
    assert_eq!(commands.len(), steps.len(), "{commands:?}");
    for helm in Helm::all() {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": helm.name },
        });
        plane.api().create(&namespace).unwrap();
        for (number, (line, (start, printed, expected))) in commands.iter().zip(steps).enumerate() {
            let mut command = helm.shell(&line.replace("NAMESPACE", helm.name));
            command.env("KUBECONFIG", plane.kubeconfig());
            let output = world.output(command);
            let text = text(&output);
            let row = format!("{} {number}: {line}", helm.name);
            assert!(output.status.success(), "{row}: {text}");
            assert!(line.starts_with(start) && text.contains(printed), "{row}: {text}");
            let found = plane.api().list("apps/v1", "DaemonSet", NAMESPACE, "").unwrap();
            let names: Vec<&str> =
                found.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect();
            assert_eq!(names, Vec::from_iter(expected), "{row}");
            // The values of the first upgrade, which the further releases keep.
            if matches!(start, "helm upgrade" | "helm rollback") {
                let found = found[0].pointer("/spec/template/spec/containers/0/image");
                let image = format!("REGISTRY/svclb:{}", env!("CARGO_PKG_VERSION"));
                assert_eq!(found.unwrap(), &json!(image), "{row}");
            }
            if expected.is_none() {
                let group = "rbac.authorization.k8s.io/v1";
                let roles = plane.api().list(group, "ClusterRole", "", OURS).unwrap();
                assert_eq!(roles, [Value::Null; 0], "{row}");
            }
        }
    }
}

/// Selects the objects of svclb.
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
