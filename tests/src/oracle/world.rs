//! A world: a handful of Services with their slices, as plain data that can be drawn, written as
//! objects, and made smaller. It says nothing of addresses: those come from the lane that a world is
//! put in, so that many worlds share an API server.

use crate::Protocol;

/// Most Services of a world: a lane has no addresses for more.
pub(crate) const SERVICES: usize = 8;
/// Most hosts of a Service.
pub(crate) const HOSTS: usize = 8;

/// A handful of Services, and the zone of the node that looks at them. Until a moment before, the node
/// was in a zone if it is in none, and the other way round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct World {
    /// Whether the node says that it is in [`Place::Here`]; otherwise it says nothing.
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
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];
}

/// Where something is: for nodes this one or another, for zones this node's or another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    /// Here.
    Here,
    /// Elsewhere.
    There,
}

/// What a Service is.
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

/// A label that takes a Service, or a slice, away from who serves it.
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
    /// What it is.
    pub(crate) kind: Type,
    /// Its families, the first first. One or two.
    pub(crate) families: Vec<Family>,
    /// Its ports. Never empty.
    pub(crate) ports: Vec<Port>,
    /// `externalIPs`.
    pub(crate) external: Vec<External>,
    /// `status.loadBalancer.ingress` of a load balancer.
    pub(crate) ingress: Vec<Ingress>,
    /// `loadBalancerSourceRanges` of a load balancer.
    pub(crate) ranges: Vec<&'static str>,
    /// `internalTrafficPolicy: Local`.
    pub(crate) is_internal_local: bool,
    /// `externalTrafficPolicy: Local`, where the API takes it.
    pub(crate) is_external_local: bool,
    /// `sessionAffinity: ClientIP`, with its timeout in seconds.
    pub(crate) affinity: Option<u32>,
    /// `publishNotReadyAddresses`.
    pub(crate) publishes_not_ready: bool,
    /// A label that takes it away.
    pub(crate) label: Option<Label>,
    /// False for `allocateLoadBalancerNodePorts: false`.
    pub(crate) has_node_ports: bool,
    /// Who its slices speak of. At most [`HOSTS`].
    pub(crate) hosts: Vec<Host>,
    /// Its slices.
    pub(crate) slices: Vec<Slice>,
    /// What it was a moment before.
    pub(crate) past: Past,
}

/// What a Service was before both sides had followed and it became what it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Past {
    /// What it is.
    Same,
    /// Nothing: neither was it there, nor its slices.
    Absent,
    /// Something else, whose own past does not count.
    Other(Box<Service>),
}

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Port {
    /// Its name, empty if it is the only one.
    pub(crate) name: &'static str,
    /// What it speaks.
    pub(crate) protocol: Transport,
    /// Its number.
    pub(crate) number: u16,
}

/// What a port speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    /// TCP or UDP.
    Of(Protocol),
    /// SCTP, which nobody dials here.
    Sctp,
}

/// An external IP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct External {
    /// Its family, not always one of the Service's.
    pub(crate) family: Family,
    /// Whether it is the one that all Services of this world share; otherwise it is the Service's own.
    pub(crate) is_shared: bool,
}

/// Where a load balancer says it is.
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

/// Somebody whom slices speak of, with one address of each family.
///
/// Where two slices speak of the same host, kube-proxy goes by the order of a hash map unless exactly
/// one of them says that it is terminating. So there are two ways to speak of a host, and no more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Host {
    /// As an endpoint that is not terminating.
    pub(crate) alive: Endpoint,
    /// As one that is. What it says of `terminating` counts as true.
    pub(crate) dying: Endpoint,
}

/// What a slice says of an endpoint.
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
    /// Its kind of addresses.
    pub(crate) addresses: Addresses,
    /// False for one without the label that says whose it is.
    pub(crate) is_owned: bool,
    /// Whether it has [`Label::Headless`].
    pub(crate) is_headless: bool,
    /// Its ports.
    pub(crate) ports: Vec<SlicePort>,
    /// Its endpoints.
    pub(crate) endpoints: Vec<Mention>,
}

/// A port of a slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SlicePort {
    /// Its name; none is none.
    pub(crate) name: Option<&'static str>,
    /// What it speaks.
    pub(crate) protocol: Transport,
    /// Its number.
    pub(crate) number: Option<u16>,
}

/// A slice's word on a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mention {
    /// Which of the Service's hosts.
    pub(crate) host: usize,
    /// Whether it is spoken of as [`Host::dying`].
    pub(crate) is_dying: bool,
    /// Whether a second address follows, which nobody reads.
    pub(crate) has_second: bool,
}

impl Service {
    /// Whether the object has a ClusterIP.
    pub(crate) fn has_cluster_ip(&self) -> bool {
        !matches!(self.kind, Type::ExternalName | Type::Headless)
    }

    /// What it was a moment before, if it was there.
    pub(crate) fn before(&self) -> Option<&Self> {
        match &self.past {
            Past::Same => Some(self),
            Past::Absent => None,
            Past::Other(other) => Some(other),
        }
    }

    /// Whether the one can become the other: the API keeps the first ClusterIP for as long as there is
    /// one, and kube-proxy 1.37 keeps the endpoints of a slice that no longer says whose it is.
    pub(crate) fn can_become(&self, other: &Self) -> bool {
        let has_ip = |it: &Self| it.kind != Type::ExternalName;
        let keeps_ip = self.families.first() == other.families.first()
            && (self.kind == Type::Headless) == (other.kind == Type::Headless);
        let mut same_slices = self.slices.iter().zip(&other.slices);
        (keeps_ip || !has_ip(self) || !has_ip(other))
            && same_slices
                .all(|(it, then)| it.addresses != then.addresses || !it.is_owned || then.is_owned)
    }

    /// Whether the API takes an external traffic policy for it.
    pub(crate) fn takes_external_policy(&self) -> bool {
        matches!(self.kind, Type::NodePort | Type::LoadBalancer)
            || (self.has_cluster_ip() && !self.external.is_empty())
    }
}
