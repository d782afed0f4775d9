//! manifests/base/rbac.yaml grants what the agent watches, and nothing else.

use std::fs;
use std::path::Path;

use svclb_sources::kube::resources::rbac_rules;

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
    for rule in rbac_rules() {
        let list = |items: &[&str]| {
            let quoted = |item: &&str| if item.is_empty() { "\"\"" } else { *item }.to_owned();
            items.iter().map(quoted).collect::<Vec<_>>().join(", ")
        };
        let (groups, resources, verbs) =
            (list(&rule.api_groups), list(&rule.resources), list(&rule.verbs));
        expected += &format!("  - apiGroups: [{groups}]\n    resources: [{resources}]\n");
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
