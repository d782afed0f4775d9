//! The objects of a large cluster: the 5,000 Services with 250,000 endpoints of SPEED.md, and others of
//! that shape.

use serde_json::{Value, json};

/// Namespace of all objects.
const NAMESPACE: &str = "default";
/// First byte of each endpoint's address, and the lowest value of the second byte.
const PODS: (usize, usize) = (10, 128);

/// A number of Services, each with one EndpointSlice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Large {
    /// Number of Services.
    pub services: usize,
    /// Number of endpoints per Service, at most 1,000.
    pub endpoints: usize,
}

impl Large {
    /// The cluster of SPEED.md.
    pub const SPEED: Self = Self { services: 5_000, endpoints: 50 };

    /// Number of endpoints of all Services.
    pub const fn all_endpoints(&self) -> usize {
        self.services * self.endpoints
    }

    /// All Services and EndpointSlices.
    pub fn objects(&self) -> Vec<Value> {
        (0..self.services).flat_map(|number| [self.service(number), self.slice(number)]).collect()
    }

    /// A Service, to which the API server will assign an address.
    pub fn service(&self, number: usize) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": format!("service-{number}"), "namespace": NAMESPACE },
            "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
        })
    }

    /// The EndpointSlice of a Service, with all fields that the controller writes.
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
