//! The messages of Kubernetes that svclb reads, and of each the fields that it reads, with their numbers
//! (k8s.io/api and k8s.io/apimachinery, the files `generated.proto`). As JSON they are what the API server
//! would have written, but for what nobody reads.
//!
//! Go's pointers are optional here: they are absent, or present and perhaps empty. All other fields are
//! always written in protobuf, and those with `omitempty` in JSON only if they are not empty.
//!
//! Texts are taken as bytes. Nobody checks that an annotation that came to the API server as protobuf is
//! UTF-8, and one such object must not end a stream. In JSON the API server puts U+FFFD in its place.

use bytes::Bytes;
use prost::Message;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

/// The labels that [`crate::convert::wire`] reads.
pub(super) const LABELS: [&str; 4] = [
    "kubernetes.io/service-name",
    "service.kubernetes.io/service-proxy-name",
    "service.kubernetes.io/headless",
    "topology.kubernetes.io/zone",
];
/// The annotations that it reads, and the one by which kube's watcher knows the end of a list.
pub(super) const ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "k8s.io/initial-events-end"];

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

/// runtime Unknown: what is in the envelope.
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
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Status {
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    pub(super) status: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    pub(super) message: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    pub(super) reason: Bytes,
    #[prost(int32, tag = "6")]
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) code: i32,
}

/// What every object begins with.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Named {
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<Metadata>,
}

/// meta/v1 ObjectMeta.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    name: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    namespace: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    #[serde(serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    resource_version: Bytes,
    #[prost(message, optional, tag = "8")]
    #[serde(serialize_with = "time", skip_serializing_if = "is_no_time")]
    creation_timestamp: Option<Time>,
    #[prost(message, repeated, tag = "11")]
    #[serde(serialize_with = "labels", skip_serializing_if = "Vec::is_empty")]
    labels: Vec<Pair>,
    #[prost(message, repeated, tag = "12")]
    #[serde(serialize_with = "annotations", skip_serializing_if = "Vec::is_empty")]
    annotations: Vec<Pair>,
}

/// meta/v1 Time. Its nanoseconds are nobody's: the API server writes none and reads none.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Time {
    /// Since 1970; absent is no time.
    #[prost(int64, optional, tag = "1")]
    seconds: Option<i64>,
}

/// An entry of a map of texts.
#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// core/v1 Service.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Service {
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    spec: Option<ServiceSpec>,
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<ServiceStatus>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceSpec {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<ServicePort>,
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(
        rename = "clusterIP",
        serialize_with = "text",
        skip_serializing_if = "Bytes::is_empty"
    )]
    cluster_ip: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(rename = "type", serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    kind: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    #[serde(
        rename = "externalIPs",
        serialize_with = "texts",
        skip_serializing_if = "Vec::is_empty"
    )]
    external_ips: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "7")]
    #[serde(serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    session_affinity: Bytes,
    #[prost(bytes = "bytes", repeated, tag = "9")]
    #[serde(serialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    load_balancer_source_ranges: Vec<Bytes>,
    #[prost(bytes = "bytes", tag = "11")]
    #[serde(serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    external_traffic_policy: Bytes,
    #[prost(message, optional, tag = "14")]
    #[serde(skip_serializing_if = "Option::is_none")]
    session_affinity_config: Option<SessionAffinityConfig>,
    #[prost(bytes = "bytes", repeated, tag = "18")]
    #[serde(
        rename = "clusterIPs",
        serialize_with = "texts",
        skip_serializing_if = "Vec::is_empty"
    )]
    cluster_ips: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "22")]
    #[serde(serialize_with = "pointer", skip_serializing_if = "Option::is_none")]
    internal_traffic_policy: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServicePort {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    name: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    protocol: Bytes,
    #[prost(int32, tag = "3")]
    port: i32,
    #[prost(int32, tag = "5")]
    #[serde(skip_serializing_if = "is_zero")]
    node_port: i32,
}

#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize)]
struct SessionAffinityConfig {
    #[prost(message, optional, tag = "1")]
    #[serde(rename = "clientIP", skip_serializing_if = "Option::is_none")]
    client_ip: Option<ClientIpConfig>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClientIpConfig {
    #[prost(int32, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_seconds: Option<i32>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceStatus {
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    load_balancer: Option<LoadBalancerStatus>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct LoadBalancerStatus {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ingress: Vec<LoadBalancerIngress>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct LoadBalancerIngress {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(serialize_with = "text", skip_serializing_if = "Bytes::is_empty")]
    ip: Bytes,
    #[prost(bytes = "bytes", optional, tag = "3")]
    #[serde(serialize_with = "pointer", skip_serializing_if = "Option::is_none")]
    ip_mode: Option<Bytes>,
}

/// discovery/v1 EndpointSlice.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSlice {
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<Endpoint>,
    #[prost(message, repeated, tag = "3")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<EndpointPort>,
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(serialize_with = "text")]
    address_type: Bytes,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    #[serde(serialize_with = "texts", skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<Bytes>,
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    conditions: Option<EndpointConditions>,
    #[prost(bytes = "bytes", optional, tag = "6")]
    #[serde(serialize_with = "pointer", skip_serializing_if = "Option::is_none")]
    node_name: Option<Bytes>,
    #[prost(message, optional, tag = "8")]
    #[serde(skip_serializing_if = "Option::is_none")]
    hints: Option<EndpointHints>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize)]
struct EndpointConditions {
    #[prost(bool, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    terminating: Option<bool>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointHints {
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    for_zones: Vec<Hint>,
    #[prost(message, repeated, tag = "2")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    for_nodes: Vec<Hint>,
}

/// ForZone and ForNode.
#[derive(Clone, PartialEq, Message, Serialize)]
struct Hint {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(serialize_with = "text")]
    name: Bytes,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct EndpointPort {
    #[prost(bytes = "bytes", optional, tag = "1")]
    #[serde(serialize_with = "pointer", skip_serializing_if = "Option::is_none")]
    name: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    #[serde(serialize_with = "pointer", skip_serializing_if = "Option::is_none")]
    protocol: Option<Bytes>,
    #[prost(int32, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<i32>,
}

/// core/v1 Node.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct Node {
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<NodeStatus>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct NodeStatus {
    #[prost(message, repeated, tag = "5")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<NodeAddress>,
}

#[derive(Clone, PartialEq, Message, Serialize)]
struct NodeAddress {
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(rename = "type", serialize_with = "text")]
    kind: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(serialize_with = "text")]
    address: Bytes,
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

pub(super) fn text<S: Serializer>(text: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(text))
}

fn pointer<S: Serializer>(text: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => self::text(text, serializer),
        None => serializer.serialize_none(),
    }
}

fn texts<S: Serializer>(texts: &[Bytes], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(texts.iter().map(|text| String::from_utf8_lossy(text)))
}

fn is_no_time(time: &Option<Time>) -> bool {
    time.and_then(|time| time.seconds).is_none()
}

/// RFC 3339, as in JSON. What no year from 1 to 9999 has is told as a number, which is no time.
fn time<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
    let seconds = time.and_then(|time| time.seconds).unwrap_or_default();
    match jiff::Timestamp::from_second(seconds) {
        Ok(time) => serializer.collect_str(&time),
        Err(_) => serializer.collect_str(&seconds),
    }
}

fn labels<S: Serializer>(pairs: &[Pair], serializer: S) -> Result<S::Ok, S::Error> {
    known(pairs, &LABELS, serializer)
}

fn annotations<S: Serializer>(pairs: &[Pair], serializer: S) -> Result<S::Ok, S::Error> {
    known(pairs, &ANNOTATIONS, serializer)
}

/// The pairs that have these keys. Of two with one key the last counts, as in every map of protobuf.
fn known<S: Serializer>(pairs: &[Pair], keys: &[&str], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    for key in keys {
        if let Some(pair) = pairs.iter().rev().find(|pair| pair.key == key.as_bytes()) {
            map.serialize_entry(key, &String::from_utf8_lossy(&pair.value))?;
        }
    }
    map.end()
}
