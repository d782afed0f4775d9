//! A large cluster's objects: SPEED.md's 5,000 Services with 250,000 endpoints, and others of that shape.

use serde_json::{Value, json};

/// The namespace of all.
const NAMESPACE: &str = "default";
/// The first byte of each endpoint's address, and the first value of the second.
const PODS: (usize, usize) = (10, 128);

/// So many Services, each with an EndpointSlice of so many endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Large {
    /// How many Services.
    pub services: usize,
    /// How many endpoints each has, at most 1,000.
    pub endpoints: usize,
}

impl Large {
    /// That of SPEED.md.
    pub const SPEED: Self = Self { services: 5_000, endpoints: 50 };

    /// How many endpoints all have.
    pub const fn all_endpoints(&self) -> usize {
        self.services * self.endpoints
    }

    /// All Services and EndpointSlices.
    pub fn objects(&self) -> Vec<Value> {
        (0..self.services).flat_map(|number| [self.service(number), self.slice(number)]).collect()
    }

    /// A Service. The API server gives it an address.
    pub fn service(&self, number: usize) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": format!("service-{number}"), "namespace": NAMESPACE },
            "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
        })
    }

    /// Its EndpointSlice, with all that the controller writes.
    pub fn slice(&self, number: usize) -> Value {
        let endpoint = |at: usize| {
            let pod = number * self.endpoints + at;
            let (first, second) = PODS;
            let address =
                format!("{first}.{}.{}.{}", second + pod / 65_536, pod / 256 % 256, pod % 256);
            json!({
                "addresses": [address],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": format!("node-{}", pod % 1_000),
                "zone": format!("zone-{}", pod % 3),
                "targetRef": { "kind": "Pod", "namespace": NAMESPACE, "name": format!("pod-{pod}") },
            })
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": format!("service-{number}-abcde"), "namespace": NAMESPACE,
                "labels": {
                    "kubernetes.io/service-name": format!("service-{number}"),
                    "endpointslice.kubernetes.io/managed-by": "svclb-tests",
                },
                "annotations": {
                    "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z",
                },
            },
            "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
            "endpoints": (0..self.endpoints).map(endpoint).collect::<Vec<_>>(),
        })
    }
}
