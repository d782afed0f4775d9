//! The kinds that are watched, and the rights for them. The reflectors and the role in manifests/, which a test
//! compares, come from [`WATCHED`].

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
