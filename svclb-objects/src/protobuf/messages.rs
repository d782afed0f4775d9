//! The messages of Kubernetes that svclb reads, and of each the fields that it reads, with their numbers
//! (k8s.io/api and k8s.io/apimachinery, the files `generated.proto`).
//!
//! Texts are read as bytes. An API server does not check that an annotation which it received as protobuf is
//! UTF-8, and one such object must not end a stream. In JSON the API server writes U+FFFD in its place.

use bytes::Bytes;
use prost::Message;

/// meta/v1 WatchEvent: one frame of a watch.
#[derive(Clone, PartialEq, Message)]
pub(super) struct WatchEvent {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) kind: Bytes,
    #[prost(message, optional, tag = "2")]
    pub(super) object: Option<RawExtension>,
}

/// runtime RawExtension: an object with its envelope.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RawExtension {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) raw: Bytes,
}

/// runtime Unknown: the contents of an envelope.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Unknown {
    #[prost(message, optional, tag = "1")]
    pub(super) types: Option<TypeMeta>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) raw: Bytes,
}

/// runtime TypeMeta.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TypeMeta {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) api_version: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) kind: Bytes,
}

/// meta/v1 Status: an error.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) message: Bytes,
    #[prost(int32, tag = "6")]
    pub(super) code: i32,
}

/// The beginning of every object.
#[derive(Clone, PartialEq, Message)]
pub(super) struct MetadataOnly {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<Metadata>,
}

/// meta/v1 ObjectMeta.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Metadata {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) name: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) namespace: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    pub(super) uid: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    pub(super) resource_version: Bytes,
    #[prost(message, optional, tag = "8")]
    pub(super) creation_timestamp: Option<Time>,
    #[prost(message, optional, tag = "9")]
    pub(super) deletion_timestamp: Option<Time>,
    #[prost(message, repeated, tag = "11")]
    pub(super) labels: Vec<Pair>,
    #[prost(message, repeated, tag = "12")]
    pub(super) annotations: Vec<Pair>,
}

/// meta/v1 Time, without its nanoseconds: the API server neither writes nor reads them.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Time {
    /// Since 1970; absent is no time.
    #[prost(int64, optional, tag = "1")]
    pub(super) seconds: Option<i64>,
}

/// An entry of a map of texts.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Pair {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

/// core/v1 Service.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Service {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    pub(super) spec: Option<ServiceSpec>,
    #[prost(message, optional, tag = "3")]
    pub(super) status: Option<ServiceStatus>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServiceSpec {
    #[prost(message, repeated, tag = "1")]
    pub(super) ports: Vec<ServicePort>,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) cluster_ip: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) kind: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    pub(super) external_ips: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "7")]
    pub(super) session_affinity: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    pub(super) load_balancer_source_ranges: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "11")]
    pub(super) external_traffic_policy: Bytes,
    #[prost(message, optional, tag = "14")]
    pub(super) session_affinity_config: Option<SessionAffinityConfig>,
    #[prost(bytes = "bytes", repeated, tag = "18")]
    pub(super) cluster_ips: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "22")]
    pub(super) internal_traffic_policy: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServicePort {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) name: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) protocol: Bytes,
    #[prost(int32, tag = "3")]
    pub(super) port: i32,
    #[prost(int32, tag = "5")]
    pub(super) node_port: i32,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct SessionAffinityConfig {
    #[prost(message, optional, tag = "1")]
    pub(super) client_ip: Option<ClientIpConfig>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct ClientIpConfig {
    #[prost(int32, optional, tag = "1")]
    pub(super) timeout_seconds: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServiceStatus {
    #[prost(message, optional, tag = "1")]
    pub(super) load_balancer: Option<LoadBalancerStatus>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LoadBalancerStatus {
    #[prost(message, repeated, tag = "1")]
    pub(super) ingress: Vec<LoadBalancerIngress>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LoadBalancerIngress {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) ip: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub(super) ip_mode: Option<Bytes>,
}

/// discovery/v1 EndpointSlice.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EndpointSlice {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<Metadata>,
    /// Each an [`Endpoint`]: they are read one after the other.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) endpoints: Vec<Bytes>,
    #[prost(message, repeated, tag = "3")]
    pub(super) ports: Vec<EndpointPort>,
    #[prost(bytes = "bytes", tag = "4")]
    pub(super) address_type: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Endpoint {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub(super) addresses: Vec<Bytes>,
    #[prost(message, optional, tag = "2")]
    pub(super) conditions: Option<EndpointConditions>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub(super) node_name: Option<Bytes>,
    #[prost(message, optional, tag = "8")]
    pub(super) hints: Option<EndpointHints>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct EndpointConditions {
    #[prost(bool, optional, tag = "1")]
    pub(super) ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub(super) serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    pub(super) terminating: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EndpointHints {
    #[prost(message, repeated, tag = "1")]
    pub(super) for_zones: Vec<Hint>,
    #[prost(message, repeated, tag = "2")]
    pub(super) for_nodes: Vec<Hint>,
}

/// ForZone and ForNode.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Hint {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) name: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EndpointPort {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) name: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub(super) protocol: Option<Bytes>,
    #[prost(int32, optional, tag = "3")]
    pub(super) port: Option<i32>,
}

/// core/v1 Node.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    pub(super) spec: Option<NodeSpec>,
    #[prost(message, optional, tag = "3")]
    pub(super) status: Option<NodeStatus>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeSpec {
    #[prost(message, repeated, tag = "5")]
    pub(super) taints: Vec<Taint>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Taint {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) key: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeStatus {
    #[prost(message, repeated, tag = "5")]
    pub(super) addresses: Vec<NodeAddress>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeAddress {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) kind: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) address: Bytes,
}
