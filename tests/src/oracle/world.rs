//! A world: a few Services with their slices, as plain data that can be drawn, rendered as objects, and
//! reduced. It has no addresses: those come from its block of addresses, so that many worlds share an
//! API server.

use crate::Protocol;

/// Maximum number of Services; a block has no addresses for more.
pub(crate) const SERVICES: usize = 8;
/// Maximum number of hosts of a Service.
pub(crate) const HOSTS: usize = 8;

/// A few Services, and the zone of the node that serves them. Before, the node had a zone if it has none
/// now, and the other way round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct World {
    /// If true, the node is in the zone [`Place::Here`]; otherwise it has no zone label.
    pub(crate) has_zone: bool,
    /// At most [`SERVICES`].
    pub(crate) services: Vec<Service>,
}

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families.
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// The place of a node or zone: this node and its zone, or another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    /// This node, or its zone.
    Here,
    /// Another node, or another zone.
    There,
}

/// The type of a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Type {
    /// `ClusterIP`.
    Cluster,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
    /// `ExternalName`.
    ExternalName,
    /// `ClusterIP`, with `clusterIP: None`.
    Headless,
}

/// A label that withdraws a Service or a slice from kube-proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Label {
    /// `service.kubernetes.io/service-proxy-name`.
    ProxyName,
    /// `service.kubernetes.io/headless`.
    Headless,
}

/// One Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Service {
    pub(crate) kind: Type,
    /// One or two families, in order of preference.
    pub(crate) families: Vec<Family>,
    /// Its ports, at least one.
    pub(crate) ports: Vec<Port>,
    /// `externalIPs`.
    pub(crate) external: Vec<External>,
    /// `status.loadBalancer.ingress` of a load balancer.
    pub(crate) ingress: Vec<Ingress>,
    /// `loadBalancerSourceRanges` of a load balancer.
    pub(crate) ranges: Vec<&'static str>,
    /// `internalTrafficPolicy: Local`.
    pub(crate) is_internal_local: bool,
    /// `externalTrafficPolicy: Local`, where the API accepts it.
    pub(crate) is_external_local: bool,
    /// `sessionAffinity: ClientIP`, with its timeout in seconds.
    pub(crate) affinity: Option<u32>,
    /// `publishNotReadyAddresses`.
    pub(crate) publishes_not_ready: bool,
    /// A label that withdraws the Service.
    pub(crate) label: Option<Label>,
    /// False for `allocateLoadBalancerNodePorts: false`.
    pub(crate) has_node_ports: bool,
    /// The hosts that its slices refer to, at most [`HOSTS`].
    pub(crate) hosts: Vec<Host>,
    pub(crate) slices: Vec<Slice>,
    /// The Service before the change.
    pub(crate) past: Past,
}

/// The state of a Service before the change. Both sides follow that state first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Past {
    /// The Service does not change.
    Same,
    /// Neither the Service nor its slices existed.
    Absent,
    /// Another Service, whose own past is ignored.
    Other(Box<Service>),
}

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Port {
    /// The name, empty if it is the only port.
    pub(crate) name: &'static str,
    pub(crate) protocol: Transport,
    pub(crate) number: u16,
}

/// The protocol of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    /// TCP or UDP.
    Of(Protocol),
    /// SCTP, which the oracle does not dial.
    Sctp,
}

/// An external IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct External {
    /// The family, which need not be one of the Service's.
    pub(crate) family: Family,
    /// If true, the external IP that Services of the world share; otherwise one of its own.
    pub(crate) is_shared: bool,
}

/// An entry of a load balancer's status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ingress {
    /// An address, with its `ipMode`.
    Address(Family, Option<Mode>),
    /// A host name.
    Name,
}

/// `ipMode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// `VIP`.
    Vip,
    /// `Proxy`.
    Proxy,
}

/// A host that slices refer to, with one address of each family.
///
/// If two slices have the same host, kube-proxy takes the one that comes last in the order of a hash
/// map, unless exactly one of them is terminating. So a host has two endpoint states and no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Host {
    /// The state of an endpoint that is not terminating.
    pub(crate) alive: Endpoint,
    /// The state of a terminating endpoint. Its `terminating` counts as true.
    pub(crate) dying: Endpoint,
}

/// The state of an endpoint in a slice.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Endpoint {
    /// `conditions.ready`.
    pub(crate) ready: Option<bool>,
    /// `conditions.serving`.
    pub(crate) serving: Option<bool>,
    /// `conditions.terminating`.
    pub(crate) terminating: Option<bool>,
    /// `nodeName`.
    pub(crate) node: Option<Place>,
    /// `hints.forNodes`.
    pub(crate) node_hints: Vec<Place>,
    /// `hints.forZones`.
    pub(crate) zone_hints: Vec<Place>,
}

/// `addressType`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Addresses {
    /// `IPv4` or `IPv6`.
    Of(Family),
    /// `FQDN`.
    Names,
}

/// One slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Slice {
    pub(crate) addresses: Addresses,
    /// False without the label that names the Service.
    pub(crate) is_owned: bool,
    /// If true, the slice has [`Label::Headless`].
    pub(crate) is_headless: bool,
    pub(crate) ports: Vec<SlicePort>,
    pub(crate) endpoints: Vec<HostRef>,
}

/// A port of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SlicePort {
    /// The name, if there is one.
    pub(crate) name: Option<&'static str>,
    pub(crate) protocol: Transport,
    /// The port number, if there is one.
    pub(crate) number: Option<u16>,
}

/// An entry of a slice for a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HostRef {
    /// Index of the host in the Service.
    pub(crate) host: usize,
    /// If true, the entry has the state [`Host::dying`].
    pub(crate) is_dying: bool,
    /// If true, the entry has a second address, which proxies ignore.
    pub(crate) has_second: bool,
}

impl Service {
    /// Returns true if the object has a ClusterIP.
    pub(crate) fn has_cluster_ip(&self) -> bool {
        !matches!(self.kind, Type::ExternalName | Type::Headless)
    }

    /// The Service before the change, if it existed.
    pub(crate) fn before(&self) -> Option<&Self> {
        match &self.past {
            Past::Same => Some(self),
            Past::Absent => None,
            Past::Other(other) => Some(other),
        }
    }

    /// Returns true if the API server and kube-proxy handle the change from this Service to the other:
    /// the API keeps the first ClusterIP as long as there is one, and kube-proxy 1.37 keeps the
    /// endpoints of a slice that loses its owner label.
    pub(crate) fn can_become(&self, other: &Self) -> bool {
        let has_ip = |it: &Self| it.kind != Type::ExternalName;
        let keeps_ip = self.families.first() == other.families.first()
            && (self.kind == Type::Headless) == (other.kind == Type::Headless);
        let mut same_slices = self.slices.iter().zip(&other.slices);
        (keeps_ip || !has_ip(self) || !has_ip(other))
            && same_slices
                .all(|(it, then)| it.addresses != then.addresses || !it.is_owned || then.is_owned)
    }

    /// Returns true if the API accepts an external traffic policy for the Service.
    pub(crate) fn has_external_policy(&self) -> bool {
        matches!(self.kind, Type::NodePort | Type::LoadBalancer)
            || (self.has_cluster_ip() && !self.external.is_empty())
    }
}
