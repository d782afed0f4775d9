//! The kubelet's reports to the API server, made by a test: a Pod runs, is ready or not, has ended.
//! Responders on a Pod's addresses are started by the test, in a world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::api::{Client, Reference};
use super::control_plane::{ControlPlane, PATIENCE};
use super::http::HttpServer;
use crate::harness::wait::within;
use crate::{Backend, Protocol, World};

/// A node, with its range of pod addresses: 10.244.N.0/24 and fd00:244::N:0/112.
pub struct Kubelet<'plane> {
    plane: &'plane ControlPlane,
    node: String,
    number: u8,
    next: AtomicU8,
}

/// A Pod on a node. Dropping it changes nothing.
pub struct Pod<'plane> {
    plane: &'plane ControlPlane,
    reference: Reference,
    node: String,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
}

impl<'plane> Kubelet<'plane> {
    /// Creates the Node in a topology zone (empty: in none). Each node of a cluster needs a `number` of
    /// its own, from 0 to 99.
    ///
    /// # Panics
    /// If the API server refuses it.
    pub fn new(plane: &'plane ControlPlane, node: &str, zone: &str, number: u8) -> Self {
        let mut labels = json!({ "kubernetes.io/hostname": node });
        if !zone.is_empty() {
            labels["topology.kubernetes.io/zone"] = zone.into();
        }
        let metadata = json!({ "name": node, "labels": labels });
        plane
            .api()
            .apply_all(&[json!({ "apiVersion": "v1", "kind": "Node", "metadata": metadata })]);
        let kubelet = Self { plane, node: node.to_owned(), number, next: AtomicU8::new(1) };
        let (ipv4, ipv6) = kubelet.addresses(255);
        let status = json!({ "status": {
            "addresses": [
                { "type": "InternalIP", "address": ipv4 },
                { "type": "InternalIP", "address": ipv6 },
            ],
            "allocatable": { "cpu": "64", "memory": "64Gi", "pods": "200" },
            "conditions": [condition("Ready", true)],
        }});
        let done = plane.api().patch_status(&Reference::node(node), &status);
        done.unwrap_or_else(|error| panic!("cannot report the status of node {node}: {error}"));
        kubelet
    }

    /// The node's addresses, as in its status.
    pub fn node_addresses(&self) -> [IpAddr; 2] {
        let (ipv4, ipv6) = self.addresses(255);
        [ipv4.into(), ipv6.into()]
    }

    /// Creates a Pod on this node, `NAMESPACE/NAME`, with a label `app`. It is not ready yet.
    ///
    /// # Panics
    /// If the API server refuses it.
    pub fn pod(&self, name: &str, app: &str) -> Pod<'plane> {
        self.pod_with(name, &json!({ "app": app }), &json!({}))
    }

    /// Creates a Pod with these labels and additional fields of its specification, such as containers
    /// with named ports.
    ///
    /// # Panics
    /// If the API server refuses it.
    pub fn pod_with(&self, name: &str, labels: &Value, more: &Value) -> Pod<'plane> {
        let reference = Reference::pod(name);
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": reference.name,
                "namespace": reference.namespace,
                "labels": labels,
            },
            "spec": {
                "nodeName": self.node,
                "containers": [{ "name": "main", "image": "none.invalid/none" }],
            },
        });
        for (field, value) in more.as_object().into_iter().flatten() {
            pod["spec"][field] = value.clone();
        }
        let made = self.plane.api().create(&pod);
        made.unwrap_or_else(|error| panic!("cannot create {reference}: {error}"));
        self.assign_addresses(reference)
    }

    /// Waits for `count` Pods that a controller such as a Deployment has created and that have no node
    /// yet, and binds them to this node, as a scheduler does. They are not ready yet.
    ///
    /// # Panics
    /// If there are fewer Pods within the limit.
    pub fn adopt(&self, namespace: &str, labels: &str, count: usize) -> Vec<Pod<'plane>> {
        let waiting = within(PATIENCE, || {
            let found = self.api().list("v1", "Pod", namespace, labels);
            let mut found = found.map_err(|error| error.to_string())?;
            found.retain(|pod| {
                pod["spec"]["nodeName"].is_null() && pod["metadata"]["deletionTimestamp"].is_null()
            });
            if found.len() < count {
                return Err(format!("{} of {count} Pods of {labels}", found.len()));
            }
            found.truncate(count);
            Ok(found)
        });
        let waiting = waiting.unwrap_or_else(|error| {
            panic!("expected Pods to adopt within {PATIENCE:?}, found {error}")
        });
        waiting.iter().map(|pod| self.bind(Reference::of(pod))).collect()
    }

    fn bind(&self, reference: Reference) -> Pod<'plane> {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": { "name": reference.name, "namespace": reference.namespace },
            "target": { "apiVersion": "v1", "kind": "Node", "name": self.node },
        });
        let bound = self.api().create_subresource(&reference, "binding", &binding);
        bound.unwrap_or_else(|error| panic!("cannot bind {reference}: {error}"));
        self.assign_addresses(reference)
    }

    fn assign_addresses(&self, reference: Reference) -> Pod<'plane> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        assert!(index < 255, "the node {} has no address for {reference}", self.node);
        let (ipv4, ipv6) = self.addresses(index);
        Pod { plane: self.plane, reference, node: self.node.clone(), ipv4, ipv6 }
    }

    fn addresses(&self, index: u8) -> (Ipv4Addr, Ipv6Addr) {
        let (node, pod) = (self.number, index);
        let ipv6 = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, node.into(), pod.into());
        (Ipv4Addr::new(10, 244, node, pod), ipv6)
    }

    fn api(&self) -> &Client {
        self.plane.api()
    }
}

impl Pod<'_> {
    /// The Pod's name, without its namespace.
    pub fn name(&self) -> &str {
        &self.reference.name
    }

    /// The reference of the Pod object.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Its IPv4 address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ipv4.into(), port)
    }

    /// Its IPv6 address with a port.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ipv6.into(), port)
    }

    /// Starts responders on both addresses of the Pod, which answer with its name.
    pub fn listen(&self, world: &World, protocol: Protocol, port: u16) -> [Backend; 2] {
        [self.at(port), self.at6(port)]
            .map(|at| world.backend(self.name(), protocol, &at.to_string()))
    }

    /// Starts a web server on the Pod's IPv4 address, which answers with its name and this text.
    pub fn serve(&self, world: &World, port: u16, text: &str) -> HttpServer {
        HttpServer::start(world, self.at(port), &format!("{} {text}\n", self.name()))
    }

    /// Reports that the Pod runs, and whether it is ready.
    ///
    /// # Panics
    /// If the API server refuses it.
    pub fn set_ready(&self, is_ready: bool) {
        let conditions = ["PodScheduled", "Initialized"].map(|kind| condition(kind, true));
        let ready = ["ContainersReady", "Ready"].map(|kind| condition(kind, is_ready));
        let conditions = [&conditions[..], &ready[..]].concat();
        let status = json!({ "status": {
            "phase": "Running",
            "startTime": now(),
            "hostIP": Ipv4Addr::new(10, 244, self.ipv4.octets()[2], 255),
            "podIP": self.ipv4,
            "podIPs": [{ "ip": self.ipv4 }, { "ip": self.ipv6 }],
            "conditions": conditions,
        }});
        let done = self.plane.api().patch_status(&self.reference, &status);
        done.unwrap_or_else(|error| {
            panic!("cannot report the status of {}: {error}", self.reference)
        });
    }

    /// Deletes the Pod as a user does: it is terminating until [`Self::remove`].
    ///
    /// # Panics
    /// If the API server refuses it.
    pub fn terminate(&self) {
        self.delete(3600);
    }

    /// Reports that the Pod has ended, which removes it.
    ///
    /// # Panics
    /// If the API server refuses it.
    pub fn remove(&self) {
        self.delete(0);
    }

    /// The name of its node.
    pub fn node(&self) -> &str {
        &self.node
    }

    fn delete(&self, grace: u32) {
        let done = self.plane.api().delete(&self.reference, Some(grace));
        done.unwrap_or_else(|error| panic!("cannot delete {}: {error}", self.reference));
    }
}

fn condition(kind: &str, is_true: bool) -> Value {
    let status = if is_true { "True" } else { "False" };
    json!({ "type": kind, "status": status, "lastTransitionTime": now() })
}

/// The current time in the API's format, in seconds.
fn now() -> String {
    format!("{:.0}", Timestamp::now())
}
