//! Conversion of messages to the types of `wire`, which JSON is read to, too.
//!
//! Go's pointers are optional in a message: they are absent, or present and perhaps empty. All other
//! fields are always there in protobuf, and in JSON those with `omitempty` only if they are not empty.

use bytes::Bytes;
use prost::{DecodeError, Message as _};

use super::Encoded;
use super::messages::{
    Endpoint, EndpointPort, EndpointSlice, Hint, LoadBalancerIngress, Metadata, Node, NodeAddress,
    Pair, Service, ServicePort, ServiceSpec, Taint, Time,
};
use crate::convert::Kind;
use crate::convert::wire::{self, Number, Text};

/// The number of endpoints that the controller puts into a slice, by default.
const FULL: usize = 100;

impl Encoded for wire::Service {
    const KIND: Kind = Kind::Service;
    const PARTS: &'static str = "spec";

    fn decode(message: Bytes) -> Result<Self, DecodeError> {
        let Service { metadata, spec, status } = Service::decode(message)?;
        let load_balancer = status.and_then(|status| status.load_balancer).unwrap_or_default();
        Ok(Self {
            metadata: metadata.map(Into::into).unwrap_or_default(),
            spec: spec.map(Into::into).unwrap_or_default(),
            status: wire::ServiceStatus {
                load_balancer: wire::LoadBalancer { ingress: all(load_balancer.ingress) },
            },
        })
    }
}

impl Encoded for wire::EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;
    const PARTS: &'static str = "endpoints";

    fn decode(message: Bytes) -> Result<Self, DecodeError> {
        let mut slice =
            EndpointSlice { endpoints: Vec::with_capacity(FULL), ..EndpointSlice::default() };
        slice.merge(message)?;
        let EndpointSlice { metadata, endpoints, ports, address_type } = slice;
        // One message for all of them, since most need no more memory than the one before.
        let mut endpoint = Endpoint::default();
        let mut read = Vec::with_capacity(endpoints.len());
        for message in endpoints {
            endpoint.clear();
            endpoint.merge(message)?;
            read.push((&endpoint).into());
        }
        Ok(Self {
            metadata: metadata.map(Into::into).unwrap_or_default(),
            address_type: Some(text(&address_type)),
            ports: all(ports),
            endpoints: read,
        })
    }
}

impl Encoded for wire::Node {
    const KIND: Kind = Kind::Node;
    const PARTS: &'static str = "status";

    fn decode(message: Bytes) -> Result<Self, DecodeError> {
        let Node { metadata, spec, status } = Node::decode(message)?;
        Ok(Self {
            metadata: metadata.map(Into::into).unwrap_or_default(),
            spec: wire::NodeSpec { taints: all(spec.unwrap_or_default().taints) },
            status: wire::NodeStatus { addresses: all(status.unwrap_or_default().addresses) },
        })
    }
}

impl From<Metadata> for wire::Metadata {
    fn from(it: Metadata) -> Self {
        let label = |key| it.labels.value(key);
        Self {
            name: unless_empty(&it.name),
            namespace: unless_empty(&it.namespace),
            uid: unless_empty(&it.uid),
            creation_timestamp: it.creation_timestamp.and_then(time),
            deletion_timestamp: it.deletion_timestamp.and_then(time),
            resource_version: unless_empty(&it.resource_version),
            labels: wire::Labels {
                service_name: label("kubernetes.io/service-name"),
                proxy_name: label("service.kubernetes.io/service-proxy-name").is_some(),
                headless: label("service.kubernetes.io/headless").is_some(),
                zone: label("topology.kubernetes.io/zone"),
            },
            annotations: wire::Annotations {
                last_change_trigger_time: it
                    .annotations
                    .value("endpoints.kubernetes.io/last-change-trigger-time"),
            },
        }
    }
}

impl From<ServiceSpec> for wire::ServiceSpec {
    fn from(it: ServiceSpec) -> Self {
        let config = it.session_affinity_config.unwrap_or_default();
        let timeout_seconds = config.client_ip.and_then(|it| it.timeout_seconds).map(number);
        Self {
            kind: unless_empty(&it.kind),
            cluster_ip: unless_empty(&it.cluster_ip),
            cluster_ips: texts(&it.cluster_ips),
            external_ips: texts(&it.external_ips),
            load_balancer_source_ranges: texts(&it.load_balancer_source_ranges),
            internal_traffic_policy: it.internal_traffic_policy.as_ref().map(text),
            external_traffic_policy: unless_empty(&it.external_traffic_policy),
            session_affinity: unless_empty(&it.session_affinity),
            session_affinity_config: wire::SessionAffinityConfig {
                client_ip: wire::ClientIpConfig { timeout_seconds },
            },
            ports: all(it.ports),
        }
    }
}

impl From<ServicePort> for wire::ServicePort {
    fn from(it: ServicePort) -> Self {
        Self {
            name: unless_empty(&it.name),
            protocol: unless_empty(&it.protocol),
            port: Some(number(it.port)),
            node_port: Some(it.node_port).filter(|port| *port != 0).map(number),
        }
    }
}

impl From<LoadBalancerIngress> for wire::Ingress {
    fn from(it: LoadBalancerIngress) -> Self {
        Self { ip: unless_empty(&it.ip), ip_mode: it.ip_mode.as_ref().map(text) }
    }
}

impl From<&Endpoint> for wire::Endpoint {
    fn from(it: &Endpoint) -> Self {
        let conditions = it.conditions.unwrap_or_default();
        let names = |hints: &[Hint]| {
            hints.iter().map(|hint| wire::Hint { name: text(&hint.name) }).collect()
        };
        Self {
            addresses: wire::First(it.addresses.first().map(text)),
            conditions: wire::Conditions {
                ready: conditions.ready,
                serving: conditions.serving,
                terminating: conditions.terminating,
            },
            node_name: it.node_name.as_ref().map(text),
            hints: it.hints.as_ref().map_or_else(Default::default, |hints| wire::Hints {
                for_zones: names(&hints.for_zones),
                for_nodes: names(&hints.for_nodes),
            }),
        }
    }
}

impl From<EndpointPort> for wire::EndpointPort {
    fn from(it: EndpointPort) -> Self {
        Self {
            name: it.name.as_ref().map(text),
            protocol: it.protocol.as_ref().map(text),
            port: it.port.map(number),
        }
    }
}

impl From<Taint> for wire::Taint {
    fn from(it: Taint) -> Self {
        Self { key: text(&it.key) }
    }
}

impl From<NodeAddress> for wire::NodeAddress {
    fn from(it: NodeAddress) -> Self {
        Self { kind: text(&it.kind), address: text(&it.address) }
    }
}

/// A map of texts.
pub(super) trait Pairs {
    /// Returns the value of this key. The last of several with one key counts, as in every map of protobuf.
    fn value(&self, key: &str) -> Option<Text>;
}

impl Pairs for Vec<Pair> {
    fn value(&self, key: &str) -> Option<Text> {
        let pair = self.iter().rev().find(|pair| pair.key == key.as_bytes())?;
        Some(text(&pair.value))
    }
}

fn all<T, U: From<T>>(messages: Vec<T>) -> Vec<U> {
    messages.into_iter().map(Into::into).collect()
}

pub(super) fn text(bytes: &Bytes) -> Text {
    Text::from_utf8_lossy(bytes)
}

fn unless_empty(bytes: &Bytes) -> Option<Text> {
    (!bytes.is_empty()).then(|| text(bytes))
}

fn texts(texts: &[Bytes]) -> Vec<Text> {
    texts.iter().map(text).collect()
}

fn number(number: i32) -> Number {
    Number(number.into())
}

/// Writes a time as RFC 3339, as in JSON; one outside of the years 1 to 9999 as a number, which is rejected as a
/// time.
fn time(time: Time) -> Option<Text> {
    use compact_str::ToCompactString as _;
    let seconds = time.seconds?;
    Some(match jiff::Timestamp::from_second(seconds) {
        Ok(time) => time.to_compact_string(),
        Err(_) => seconds.to_compact_string(),
    })
}
