//! The capabilities to keep, and documents that name them.

use std::collections::BTreeSet;

use caps::Capability::{
    CAP_BPF, CAP_DAC_READ_SEARCH, CAP_KILL, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN,
};
use serde_json::Value;

use super::*;

#[test]
fn what_is_kept_is_what_is_needed_and_was_given() {
    let needed = [CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON];
    let with = |more: &[Capability]| [&needed[..], more].concat();
    let rows = [
        ("root", with(&[CAP_SYS_ADMIN, CAP_KILL, CAP_DAC_READ_SEARCH]), false, needed.to_vec()),
        (
            "root that reads a user's file",
            with(&[CAP_KILL, CAP_DAC_READ_SEARCH]),
            true,
            with(&[CAP_DAC_READ_SEARCH]),
        ),
        ("a container that reads another's file", needed.to_vec(), true, needed.to_vec()),
        (
            "a runtime that does not know the new ones",
            vec![CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_KILL],
            false,
            vec![CAP_SYS_ADMIN, CAP_NET_ADMIN],
        ),
        ("a user", vec![], false, vec![]),
    ];
    for (row, permitted, reads_others, expected) in rows {
        let kept = super::needed(&permitted.into_iter().collect(), reads_others);
        assert_eq!(kept, expected.into_iter().collect(), "{row}");
    }
}

#[test]
fn manifests_and_manual_name_the_same_capabilities() {
    let expected: BTreeSet<String> =
        NEEDS.iter().map(|capability| capability.to_string().replacen("CAP_", "", 1)).collect();
    let daemon_set: Value =
        serde_saphyr::from_str(include_str!("../../../../manifests/base/daemonset.yaml")).unwrap();
    let context = &daemon_set["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    let names = |list: &Value| -> BTreeSet<String> {
        list.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&context["capabilities"]["add"]), expected);
    assert_eq!(names(&context["capabilities"]["drop"]), ["ALL".to_owned()].into());
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["privileged"], false);
    let manual = include_str!("../../../../docs/privileges.md");
    let (_, table) = manual.split_once("## The agent\n").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let named = table.lines().filter_map(|line| line.strip_prefix("| `CAP_")?.split('`').next());
    assert_eq!(named.map(str::to_owned).collect::<BTreeSet<_>>(), expected);
}
