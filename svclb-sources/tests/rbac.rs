//! manifests/base/rbac.yaml grants the rights for the kinds that the agent watches, and no others.

use std::fs;
use std::path::Path;

use svclb_sources::kube::resources::{VERBS, WATCHED};

const HEAD: &str = "\
# What the agent may read, written from its own list (svclb-sources/src/kube/resources.rs): after a
# change there, `cargo xtask check --bless` writes this anew.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: svclb
rules:
";
const BINDING: &str = "\
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: svclb
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: svclb
subjects:
  - kind: ServiceAccount
    name: svclb
    namespace: kube-system
";

#[test]
fn the_golden_role_in_manifests_grants_what_is_watched() {
    let mut expected = HEAD.to_owned();
    // One rule for each API group.
    let mut rules: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in &WATCHED {
        match rules.iter_mut().find(|(group, _)| *group == kind.group) {
            Some((_, resources)) => resources.push(kind.resource),
            None => rules.push((kind.group, vec![kind.resource])),
        }
    }
    for (group, resources) in rules {
        let group = if group.is_empty() { "\"\"" } else { group };
        let (resources, verbs) = (resources.join(", "), VERBS.join(", "));
        expected += &format!("  - apiGroups: [{group}]\n    resources: [{resources}]\n");
        expected += &format!("    verbs: [{verbs}]\n");
    }
    expected += BINDING;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/base/rbac.yaml");
    if std::env::var_os("SVCLB_BLESS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "`cargo xtask check --bless` writes {}", path.display());
}
