//! The fields of Kubernetes objects that svclb reads, as they stand in YAML and JSON. Everything else
//! of an object is ignored. What a value means, and whether it may be, is decided in the conversion:
//! these types take any number and any text, so that one bad field can be named with its object.

use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, Unexpected, Visitor};
use serde::{Deserialize, de};

/// A v1 Service.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Service {
    /// Name and labels.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// What is wanted.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: ServiceSpec,
    /// What a load balancer said.
    #[serde(default, deserialize_with = "or_default")]
    pub status: ServiceStatus,
}

/// `metadata` of any object.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    pub name: Option<Box<str>>,
    /// Namespace; absent in files for the default one.
    pub namespace: Option<Box<str>>,
    /// RFC 3339.
    pub creation_timestamp: Option<Box<str>>,
    /// Changes whenever the object does; absent in files.
    pub resource_version: Option<Box<str>>,
    /// The labels that mean something here.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    /// The annotations that mean something here.
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: Annotations,
}

/// The annotations that svclb reads, of EndpointSlices.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Annotations {
    /// RFC 3339: when what an EndpointSlice tells of happened. Only measured by, so nothing is wrong
    /// with an object that has something else there.
    #[serde(
        rename = "endpoints.kubernetes.io/last-change-trigger-time",
        default,
        deserialize_with = "if_text"
    )]
    pub last_change_trigger_time: Option<Box<str>>,
}

/// The labels that svclb reads, of Services, EndpointSlices and Nodes.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Labels {
    /// Which Service an EndpointSlice belongs to.
    #[serde(rename = "kubernetes.io/service-name")]
    pub service_name: Option<Box<str>>,
    /// Another proxy serves this Service.
    #[serde(
        rename = "service.kubernetes.io/service-proxy-name",
        default,
        deserialize_with = "present"
    )]
    pub proxy_name: bool,
    /// Headless: no proxy serves it.
    #[serde(rename = "service.kubernetes.io/headless", default, deserialize_with = "present")]
    pub headless: bool,
    /// A Node's zone.
    #[serde(rename = "topology.kubernetes.io/zone")]
    pub zone: Option<Box<str>>,
}

/// `spec` of a Service.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub kind: Option<Box<str>>,
    /// First ClusterIP, or `None`.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<Box<str>>,
    /// All ClusterIPs.
    #[serde(rename = "clusterIPs", default, deserialize_with = "or_default")]
    pub cluster_ips: Vec<Box<str>>,
    /// External IPs.
    #[serde(rename = "externalIPs", default, deserialize_with = "or_default")]
    pub external_ips: Vec<Box<str>>,
    /// Who may use the load balancer.
    #[serde(default, deserialize_with = "or_default")]
    pub load_balancer_source_ranges: Vec<Box<str>>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: Option<Box<str>>,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: Option<Box<str>>,
    /// `None` or `ClientIP`.
    pub session_affinity: Option<Box<str>>,
    /// The timeout of session affinity.
    #[serde(default, deserialize_with = "or_default")]
    pub session_affinity_config: SessionAffinityConfig,
    /// Ports.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
}

/// `spec.sessionAffinityConfig`.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct SessionAffinityConfig {
    /// For `ClientIP`.
    #[serde(rename = "clientIP", default, deserialize_with = "or_default")]
    pub client_ip: ClientIpConfig,
}

/// `spec.sessionAffinityConfig.clientIP`.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
#[serde(rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// Seconds.
    pub timeout_seconds: Option<Number>,
}

/// One of `spec.ports` of a Service. (`targetPort` is never read: EndpointSlices hold the result.)
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Name.
    pub name: Option<Box<str>>,
    /// `TCP` when absent.
    pub protocol: Option<Box<str>>,
    /// What clients dial.
    pub port: Option<Number>,
    /// Node port.
    pub node_port: Option<Number>,
}

/// `status` of a Service.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// What a load balancer said.
    #[serde(default, deserialize_with = "or_default")]
    pub load_balancer: LoadBalancer,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct LoadBalancer {
    /// Its addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub ingress: Vec<Ingress>,
}

/// One of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// Address; absent when there is only a host name.
    pub ip: Option<Box<str>>,
    /// `VIP` when absent.
    pub ip_mode: Option<Box<str>>,
}

/// A discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name and labels.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: Option<Box<str>>,
    /// Ports.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<EndpointPort>,
    /// Endpoints.
    #[serde(default, deserialize_with = "or_default")]
    pub endpoints: Vec<Endpoint>,
}

/// One of an EndpointSlice's `ports`.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct EndpointPort {
    /// Name; empty is a name, absent is none.
    pub name: Option<Box<str>>,
    /// `TCP` when absent.
    pub protocol: Option<Box<str>>,
    /// The backends' port.
    pub port: Option<Number>,
}

/// One of an EndpointSlice's `endpoints`.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Addresses of one endpoint; the first counts.
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<Box<str>>,
    /// Its state.
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Conditions,
    /// Its node.
    pub node_name: Option<Box<str>>,
    /// Who should use it.
    #[serde(default, deserialize_with = "or_default")]
    pub hints: Hints,
}

/// `conditions` of an endpoint.
#[derive(Clone, Copy, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Conditions {
    /// Absent means true.
    pub ready: Option<bool>,
    /// Absent means true.
    pub serving: Option<bool>,
    /// Absent means false.
    pub terminating: Option<bool>,
}

/// `hints` of an endpoint.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
#[serde(rename_all = "camelCase")]
pub struct Hints {
    /// Zones.
    #[serde(default, deserialize_with = "or_default")]
    pub for_zones: Vec<Named>,
    /// Nodes.
    #[serde(default, deserialize_with = "or_default")]
    pub for_nodes: Vec<Named>,
}

/// One zone or node of a hint.
#[derive(Clone, Debug, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Named {
    /// Its name.
    pub name: Box<str>,
}

/// A v1 Node.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Node {
    /// Name and labels.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// Addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub status: NodeStatus,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct NodeStatus {
    /// Addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<NodeAddress>,
}

/// One of a Node's `status.addresses`.
#[derive(Clone, Debug, Hash, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, ...
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// An address or a name.
    pub address: Box<str>,
}

/// A whole number of whatever size; the conversion says which ones may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Number(pub i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Whole;
        impl Visitor<'_> for Whole {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
                i64::try_from(value)
                    .map(Number)
                    .map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
            }
        }
        deserializer.deserialize_i64(Whole)
    }
}

/// `null` is the same as nothing, as the API server has it.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// What is no text is nothing.
fn if_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<str>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Found {
        Text(Box<str>),
        Other(IgnoredAny),
    }
    Ok(match Found::deserialize(deserializer)? {
        Found::Text(text) => Some(text),
        Found::Other(_) => None,
    })
}

/// A label counts with any value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    <IgnoredAny as de::Deserialize>::deserialize(deserializer).map(|_| true)
}
