//! Objects that kustomize and Helm render, for the tests of manifests/ and charts/.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use svclb_tests::cluster::{ControlPlane, Reference, component, documents};

/// The root of this checkout.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The objects of a folder of manifests/.
pub(crate) fn build(folder: &str) -> Vec<Value> {
    build_at(&workspace().join("manifests").join(folder))
}

fn build_at(path: &Path) -> Vec<Value> {
    let mut kustomize = Command::new(component("kustomize"));
    let output = kustomize.arg("build").arg(path).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kustomize build {}: {stderr}", path.display());
    documents(&String::from_utf8(output.stdout).unwrap())
}

/// Builds a user's own kustomization, which lies beside `manifests`.
pub(crate) fn build_own(kustomization: &str) -> Vec<Value> {
    let prefix = format!("svclb-test-{}-own-", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir().unwrap();
    let link = folder.path().join("manifests");
    std::os::unix::fs::symlink(workspace().join("manifests"), link).unwrap();
    std::fs::write(folder.path().join("kustomization.yaml"), kustomization).unwrap();
    build_at(folder.path())
}

/// The only object of a kind.
pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    let (Some(object), None) = (found.next(), found.next()) else {
        panic!("expected exactly one {kind}")
    };
    object
}

/// Asserts that the API server accepts every object with all its fields, in a dry run.
pub(crate) fn assert_accepted(plane: &ControlPlane, objects: &[Value], row: &str) {
    assert!(!objects.is_empty(), "{row}");
    for object in objects {
        let at = format!("{row}: {}", Reference::of(object));
        let accepted = plane.api().try_apply(object, true);
        let accepted = accepted.unwrap_or_else(|error| panic!("{at}: {error}"));
        // The API server drops fields that it does not know.
        assert_contains(&accepted, object, &at);
    }
}

/// Asserts that all of `part` is in `whole`, which may have more fields.
fn assert_contains(whole: &Value, part: &Value, at: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (name, part) in part {
                let at = format!("{at}.{name}");
                let whole =
                    whole.get(name).unwrap_or_else(|| panic!("the API server does not know {at}"));
                assert_contains(whole, part, &at);
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            assert_eq!(whole.len(), part.len(), "{at}");
            for (number, (whole, part)) in whole.iter().zip(part).enumerate() {
                assert_contains(whole, part, &format!("{at}[{number}]"));
            }
        }
        (whole, part) => assert_eq!(whole, part, "{at}"),
    }
}

/// Makes the API server know a part of the PodMonitor of the Prometheus Operator: the fields that svclb uses.
pub(crate) fn define_pod_monitors(plane: &ControlPlane) {
    plane.api().apply(
        "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: { name: podmonitors.monitoring.coreos.com }
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: { kind: PodMonitor, listKind: PodMonitorList, plural: podmonitors, singular: podmonitor }
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          required: [spec]
          properties:
            spec:
              type: object
              required: [selector]
              properties:
                selector:
                  type: object
                  properties:
                    matchLabels: { type: object, additionalProperties: { type: string } }
                podMetricsEndpoints:
                  type: array
                  items:
                    type: object
                    properties:
                      port: { type: string }
                      interval:
                        type: string
                        pattern: ^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$
                      relabelings:
                        type: array
                        items:
                          type: object
                          properties:
                            sourceLabels: { type: array, items: { type: string } }
                            targetLabel: { type: string }
",
    );
    let monitors = "/apis/monitoring.coreos.com/v1/podmonitors";
    svclb_tests::cluster::eventually("the API server serves PodMonitors", || {
        plane.api().text(monitors).map_err(|error| error.to_string())
    });
}
