//! The chart and manifests/ install the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};
use svclb_tests::cluster::Reference;

use super::helm::Helm;
use super::rendered::{build, build_own};

#[test]
fn the_chart_renders_what_kustomize_builds_in_every_field() {
    // The whole list of permitted differences: two labels of the objects themselves.
    let version = env!("CARGO_PKG_VERSION");
    let chart = [
        ("app.kubernetes.io/managed-by", json!("Helm")),
        ("helm.sh/chart", json!(format!("svclb-{version}"))),
    ];
    let manifests = [("app.kubernetes.io/managed-by", json!("kustomize"))];

    let api_server = "--set k8sServiceHost=api-server.example.org";
    let pod_monitor = "--set metrics.podMonitor.enabled=true,metrics.address=0.0.0.0:19249";
    let all = "resources: [manifests/base]\ncomponents: [manifests/components/api-server, \
               manifests/components/mount-bpffs, manifests/components/pod-monitor]";
    let rows = [
        ("base", build("base"), String::new()),
        ("api-server", build("overlays/api-server"), api_server.to_owned()),
        ("mount-bpffs", build("overlays/mount-bpffs"), "--set mountBpffs=true".to_owned()),
        ("pod-monitor", build("overlays/pod-monitor"), pod_monitor.to_owned()),
        (
            "all components",
            build_own(all),
            format!("--set mountBpffs=true {api_server} {pod_monitor}"),
        ),
        ("uninstall", build("uninstall"), "--set uninstall=true".to_owned()),
    ];
    for helm in Helm::all() {
        for (row, built, flags) in &rows {
            let row = format!("{} {row}", helm.name);
            let built = without_labels(built.clone(), &manifests, &row);
            let rendered = without_labels(helm.template(flags), &chart, &row);
            let mut differences = String::new();
            compare(&json!(rendered), &json!(built), &row, &mut differences);
            assert!(differences.is_empty(), "chart != manifests:\n{differences}");
        }
    }
}

/// The objects by their names, without labels of theirs that must have these values.
fn without_labels(
    objects: Vec<Value>,
    labels: &[(&str, Value)],
    row: &str,
) -> BTreeMap<String, Value> {
    let objects = objects.into_iter().map(|mut object| {
        let name = Reference::of(&object).to_string();
        let found = object["metadata"]["labels"].as_object_mut().unwrap();
        for (label, value) in labels {
            assert_eq!(found.remove(*label).as_ref(), Some(value), "{row}: {name}: {label}");
        }
        (name, object)
    });
    objects.collect()
}

/// Writes a line for each field that differs.
fn compare(left: &Value, right: &Value, at: &str, differences: &mut String) {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            for name in left.keys().chain(right.keys().filter(|name| !left.contains_key(*name))) {
                let value = |object: &serde_json::Map<String, Value>| {
                    object.get(name).cloned().unwrap_or(Value::Null)
                };
                compare(&value(left), &value(right), &format!("{at}.{name}"), differences);
            }
        }
        (Value::Array(left), Value::Array(right)) if left.len() == right.len() => {
            for (number, (left, right)) in left.iter().zip(right).enumerate() {
                compare(left, right, &format!("{at}[{number}]"), differences);
            }
        }
        (left, right) if left == right => {}
        (left, right) => writeln!(differences, "{at}: {left} != {right}").unwrap(),
    }
}
