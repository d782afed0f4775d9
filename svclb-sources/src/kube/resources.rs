//! The kinds that are watched, and the rights for them. The reflectors and the role in manifests/, which a test
//! compares, come from [`WATCHED`].

use crate::convert::Kind;

/// A kind of objects that is watched. Of Nodes, only the one with the name of the own node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watched {
    /// The kind.
    pub kind: Kind,
    /// API group; empty for the core group. All groups have version v1.
    pub group: &'static str,
    /// Plural name, as in URLs and RBAC rules.
    pub resource: &'static str,
    /// The label selector of the watch, the same as kube-proxy's. Other objects mean nothing here: one whose
    /// label is added or removed vanishes or appears.
    pub labels: Option<&'static str>,
}

/// The verbs that must be allowed, cluster-wide: `list` is for API servers that do not stream their lists.
pub const VERBS: [&str; 2] = ["list", "watch"];

/// All that is watched.
pub const WATCHED: [Watched; 3] = [
    Watched {
        kind: Kind::Service,
        group: "",
        resource: "services",
        labels: Some("!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless"),
    },
    Watched {
        kind: Kind::EndpointSlice,
        group: "discovery.k8s.io",
        resource: "endpointslices",
        labels: Some("!service.kubernetes.io/headless"),
    },
    Watched { kind: Kind::Node, group: "", resource: "nodes", labels: None },
];
