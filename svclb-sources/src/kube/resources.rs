//! The kinds that are watched, and the rights for them. The reflectors, the rules in manifests/ and their
//! test all come from [`WATCHED`].

use crate::convert::Kind;

/// A kind of objects that is watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watched {
    /// The kind.
    pub kind: Kind,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version of the API group.
    pub version: &'static str,
    /// Plural name, as in URLs and RBAC rules.
    pub resource: &'static str,
    /// The verbs that must be allowed, cluster-wide.
    pub verbs: &'static [&'static str],
    /// The label selector of the watch, the same as kube-proxy's. Other objects mean nothing here: one whose
    /// label is added or removed vanishes or appears.
    pub labels: Option<&'static str>,
    /// Only the object with the name of the own node is watched.
    pub own: bool,
}

/// `list` is for API servers that do not stream their lists.
const VERBS: &[&str] = &["list", "watch"];

/// All that is watched.
pub const WATCHED: [Watched; 3] = [
    Watched {
        kind: Kind::Service,
        group: "",
        version: "v1",
        resource: "services",
        verbs: VERBS,
        labels: Some("!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless"),
        own: false,
    },
    Watched {
        kind: Kind::EndpointSlice,
        group: "discovery.k8s.io",
        version: "v1",
        resource: "endpointslices",
        verbs: VERBS,
        labels: Some("!service.kubernetes.io/headless"),
        own: false,
    },
    Watched {
        kind: Kind::Node,
        group: "",
        version: "v1",
        resource: "nodes",
        verbs: VERBS,
        labels: None,
        own: true,
    },
];

/// One rule of a ClusterRole.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rule {
    /// `apiGroups`.
    pub api_groups: Vec<&'static str>,
    /// `resources`.
    pub resources: Vec<&'static str>,
    /// `verbs`.
    pub verbs: Vec<&'static str>,
}

/// The rules that a ClusterRole of the agent needs, and no more: one for each API group and set of verbs.
pub fn rbac_rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for watched in &WATCHED {
        let group = vec![watched.group];
        match rules.iter_mut().find(|rule| rule.api_groups == group && rule.verbs == watched.verbs)
        {
            Some(rule) => rule.resources.push(watched.resource),
            None => rules.push(Rule {
                api_groups: group,
                resources: vec![watched.resource],
                verbs: watched.verbs.to_vec(),
            }),
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_allow_what_is_watched_and_nothing_else() {
        let rules = rbac_rules();
        let allowed: usize = rules.iter().map(|rule| rule.resources.len()).sum();
        assert_eq!(allowed, WATCHED.len());
        for watched in &WATCHED {
            assert!(
                rules.iter().any(|rule| rule.api_groups == [watched.group]
                    && rule.resources.contains(&watched.resource)
                    && rule.verbs == watched.verbs),
                "{}",
                watched.resource,
            );
        }
    }
}
