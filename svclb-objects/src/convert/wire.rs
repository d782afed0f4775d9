//! The fields of Kubernetes objects that svclb reads, as they are written in YAML and JSON. All other fields are
//! ignored. These types take any number and any text; the conversion checks the values, so that it can name one
//! bad field with its object.
//!
//! They are created for each event of a busy cluster: a text that is no longer than most addresses and
//! names takes no allocation.

use std::fmt;
use std::ops::Not;

pub use compact_str::CompactString as Text;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Serialize, de};

/// A v1 Service.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Service {
    /// Name and labels.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// The desired state.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: ServiceSpec,
    /// The state that a load balancer reported.
    #[serde(default, deserialize_with = "or_default")]
    pub status: ServiceStatus,
}

/// `metadata` of any object.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping", rename_all = "camelCase")]
pub struct Metadata {
    /// Name.
    pub name: Option<Text>,
    /// Namespace; absent in files for the default one.
    pub namespace: Option<Text>,
    /// Distinguishes the objects that ever had this name; absent in most files.
    pub uid: Option<Text>,
    /// RFC 3339.
    pub creation_timestamp: Option<Text>,
    /// RFC 3339: the object is being deleted, and exists until its finalizers are done. Only its presence counts.
    pub deletion_timestamp: Option<Text>,
    /// Changes whenever the object does; absent in files.
    pub resource_version: Option<Text>,
    /// The labels that svclb reads.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    /// The annotations that svclb reads.
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: Annotations,
}

/// The annotations that svclb reads, of EndpointSlices.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Annotations {
    /// RFC 3339: the time of the change that an EndpointSlice reports. It is used for measurements only, so
    /// an invalid value rejects no object.
    #[serde(
        rename = "endpoints.kubernetes.io/last-change-trigger-time",
        default,
        deserialize_with = "if_text"
    )]
    pub last_change_trigger_time: Option<Text>,
}

/// The labels that svclb reads, of Services, EndpointSlices and Nodes.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Labels {
    /// The Service of an EndpointSlice.
    #[serde(rename = "kubernetes.io/service-name")]
    pub service_name: Option<Text>,
    /// Another proxy serves this Service.
    #[serde(
        rename = "service.kubernetes.io/service-proxy-name",
        default,
        deserialize_with = "present",
        skip_serializing_if = "Not::not"
    )]
    pub proxy_name: bool,
    /// Headless: no proxy serves it.
    #[serde(
        rename = "service.kubernetes.io/headless",
        default,
        deserialize_with = "present",
        skip_serializing_if = "Not::not"
    )]
    pub headless: bool,
    /// A Node's zone.
    #[serde(rename = "topology.kubernetes.io/zone")]
    pub zone: Option<Text>,
}

/// `spec` of a Service.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping", rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub kind: Option<Text>,
    /// First ClusterIP, or `None`.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<Text>,
    /// All ClusterIPs.
    #[serde(rename = "clusterIPs", default, deserialize_with = "or_default")]
    pub cluster_ips: Vec<Text>,
    /// External IPs.
    #[serde(rename = "externalIPs", default, deserialize_with = "or_default")]
    pub external_ips: Vec<Text>,
    /// The clients that may use the load balancer.
    #[serde(default, deserialize_with = "or_default")]
    pub load_balancer_source_ranges: Vec<Text>,
    /// `Cluster` or `Local`.
    pub internal_traffic_policy: Option<Text>,
    /// `Cluster` or `Local`.
    pub external_traffic_policy: Option<Text>,
    /// `None` or `ClientIP`.
    pub session_affinity: Option<Text>,
    /// The timeout of session affinity.
    #[serde(default, deserialize_with = "or_default")]
    pub session_affinity_config: SessionAffinityConfig,
    /// Ports.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<ServicePort>,
}

/// `spec.sessionAffinityConfig`.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct SessionAffinityConfig {
    /// For `ClientIP`.
    #[serde(rename = "clientIP", default, deserialize_with = "or_default")]
    pub client_ip: ClientIpConfig,
}

/// `spec.sessionAffinityConfig.clientIP`.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping", rename_all = "camelCase")]
pub struct ClientIpConfig {
    /// Seconds.
    pub timeout_seconds: Option<Number>,
}

/// One of `spec.ports` of a Service. (`targetPort` is never read: EndpointSlices hold the result.)
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping", rename_all = "camelCase")]
pub struct ServicePort {
    /// Name.
    pub name: Option<Text>,
    /// `TCP` when absent.
    pub protocol: Option<Text>,
    /// The port that clients dial.
    pub port: Option<Number>,
    /// Node port.
    pub node_port: Option<Number>,
}

/// `status` of a Service.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping", rename_all = "camelCase")]
pub struct ServiceStatus {
    /// The state that a load balancer reported.
    #[serde(default, deserialize_with = "or_default")]
    pub load_balancer: LoadBalancer,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct LoadBalancer {
    /// Its addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub ingress: Vec<Ingress>,
}

/// One of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping", rename_all = "camelCase")]
pub struct Ingress {
    /// Address; absent when there is only a host name.
    pub ip: Option<Text>,
    /// `VIP` when absent.
    pub ip_mode: Option<Text>,
}

/// A discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping", rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name and labels.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: Option<Text>,
    /// Ports.
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<EndpointPort>,
    /// Endpoints.
    #[serde(default, deserialize_with = "or_default")]
    pub endpoints: Vec<Endpoint>,
}

/// One of an EndpointSlice's `ports`.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct EndpointPort {
    /// Name; absent is the empty one, as the API server has it.
    pub name: Option<Text>,
    /// `TCP` when absent.
    pub protocol: Option<Text>,
    /// The backends' port.
    pub port: Option<Number>,
}

/// One of an EndpointSlice's `endpoints`.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping", rename_all = "camelCase")]
pub struct Endpoint {
    /// Addresses of one endpoint; the first counts.
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: First,
    /// Its state.
    #[serde(default, deserialize_with = "or_default")]
    pub conditions: Conditions,
    /// Its node.
    pub node_name: Option<Text>,
    /// The clients that should use it.
    #[serde(default, deserialize_with = "or_default")]
    pub hints: Hints,
}

/// The first of some texts. The others are skipped.
#[derive(Clone, Debug, Default, Hash)]
pub struct First(pub Option<Text>);

impl Serialize for First {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<First, A::Error> {
                let first = texts.next_element()?;
                while texts.next_element::<Text>()?.is_some() {}
                Ok(First(first))
            }
        }
        deserializer.deserialize_seq(Texts)
    }
}

/// `conditions` of an endpoint.
#[derive(Clone, Copy, Debug, Default, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping", rename_all = "camelCase")]
pub struct Hints {
    /// Zones.
    #[serde(default, deserialize_with = "or_default")]
    pub for_zones: Vec<Hint>,
    /// Nodes.
    #[serde(default, deserialize_with = "or_default")]
    pub for_nodes: Vec<Hint>,
}

/// One zone or node of a hint.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Hint {
    /// Its name. One without a name names no zone and no node.
    #[serde(default, deserialize_with = "or_default")]
    pub name: Text,
}

/// A v1 Node.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Node {
    /// Name and labels.
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// Taints.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: NodeSpec,
    /// Addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub status: NodeStatus,
}

/// `spec` of a Node.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct NodeSpec {
    /// Taints.
    #[serde(default, deserialize_with = "or_default")]
    pub taints: Vec<Taint>,
}

/// One of a Node's `spec.taints`.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct Taint {
    /// Its key.
    #[serde(default, deserialize_with = "or_default")]
    pub key: Text,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct NodeStatus {
    /// Addresses.
    #[serde(default, deserialize_with = "or_default")]
    pub addresses: Vec<NodeAddress>,
}

/// One of a Node's `status.addresses`.
#[derive(Clone, Debug, Hash, Serialize, Deserialize)]
#[serde(expecting = "a mapping")]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, ...
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    pub kind: Text,
    /// An address or a name.
    #[serde(default, deserialize_with = "or_default")]
    pub address: Text,
}

/// A whole number of any size; the conversion checks its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
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

/// Treats `null` as absent, as the API server does.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Treats values that are not strings as absent.
fn if_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Text>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum MaybeText {
        Text(Text),
        Other(IgnoredAny),
    }
    Ok(match MaybeText::deserialize(deserializer)? {
        MaybeText::Text(text) => Some(text),
        MaybeText::Other(_) => None,
    })
}

/// Returns true for a label with any value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    <IgnoredAny as de::Deserialize>::deserialize(deserializer).map(|_| true)
}
