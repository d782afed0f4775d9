//! The objects of a cluster, reduced to the fields that decide where a connection goes.
//!
//! Sources build these from API objects (svclb-objects' `convert`); nothing here knows YAML or JSON.

mod endpoints;
mod omission;
mod unread;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use endpoints::{Endpoint, Endpoints};
pub use omission::Omission;
pub use svclb_common::layout::{Protocol, Scope, ServiceNotes};
pub use unread::Unread;

/// Namespace and name of an API object.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ObjectName {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectName {
    /// The name made of these two.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A service in svclb's sense: one port of a Service object. This is what has an id, backends and sets.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceKey {
    /// The Service object.
    pub object: ObjectName,
    /// The port's name; empty where a Service has a single port without a name.
    pub port_name: Arc<str>,
    /// The port's protocol.
    pub protocol: Protocol,
}

impl ServiceKey {
    /// Returns whether this is its port, of the object that this names.
    pub(crate) fn is_port(&self, port: &ServicePort) -> bool {
        (&self.port_name, self.protocol) == (&port.name, port.protocol)
    }

    /// A key that is not behind any service of an object.
    pub(crate) fn first_of(object: &ObjectName) -> Self {
        Self { object: object.clone(), port_name: "".into(), protocol: Protocol::Tcp }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.object, self.port_name, self.protocol.name())
    }
}

/// About how many bytes malloc and a table take beside an object and its name.
const OBJECT: usize = 200;
/// The same for a port, whose name is mostly shared.
const PORT: usize = 32;

/// A Service object that has frontends here. Headless, ExternalName and other proxies' Services are no Service
/// of the model: a source reports them as gone.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Service {
    /// When it was created, seconds since the epoch; decides which of two claimants owns a frontend.
    pub created: Option<i64>,
    /// ClusterIPs, at most one of each family.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose ipMode is absent or VIP.
    pub load_balancer_ips: Vec<IpAddr>,
    /// The families whose load balancer IPs `loadBalancerSourceRanges` restricts: those are left alone.
    pub source_ranges: Families,
    /// `internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `externalTrafficPolicy`.
    pub external_policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity_seconds: Option<u32>,
    /// Notes on the object itself (`ServiceNotes`): what of it is left out of this.
    pub notes: u32,
    /// Its ports that svclb translates (TCP and UDP).
    pub ports: Vec<ServicePort>,
    /// Its source kept nothing of it but its name and age.
    pub omitted: Option<Box<Omission>>,
}

impl Service {
    /// The number of its addresses of all kinds.
    pub const fn address_count(&self) -> usize {
        self.cluster_ips.len() + self.external_ips.len() + self.load_balancer_ips.len()
    }

    /// About how many bytes it takes.
    pub const fn memory(&self) -> usize {
        OBJECT
            + self.ports.len() * (size_of::<ServicePort>() + PORT)
            + self.address_count() * size_of::<IpAddr>()
    }

    /// The same without its contents, which its source does not keep.
    #[must_use]
    pub fn omit(&self, why: Omission) -> Self {
        Self { created: self.created, omitted: Some(Box::new(why)), ..Self::default() }
    }
}

/// Some of the two families of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Families {
    /// IPv4 is among them.
    pub v4: bool,
    /// IPv6 is among them.
    pub v6: bool,
}

impl Families {
    /// The families of these addresses.
    pub fn of(addresses: &[IpAddr]) -> Self {
        Self {
            v4: addresses.iter().any(IpAddr::is_ipv4),
            v6: addresses.iter().any(IpAddr::is_ipv6),
        }
    }

    /// Returns whether this address is of one of them.
    pub const fn have(self, address: &IpAddr) -> bool {
        if address.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// `internalTrafficPolicy` or `externalTrafficPolicy`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum TrafficPolicy {
    /// Every endpoint.
    #[default]
    Cluster,
    /// Endpoints of this node only.
    Local,
}

impl TrafficPolicy {
    /// The policy of this name; the default one where there is none.
    pub fn named(name: &str) -> Self {
        if name == Self::Local.name() { Self::Local } else { Self::Cluster }
    }

    /// The name Kubernetes uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

/// One port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// Its name; empty where it has none.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port that clients dial, 1 to 65535.
    pub port: u16,
    /// The node port, if there is one.
    pub node_port: Option<u16>,
}

/// An EndpointSlice of IPv4 or IPv6 addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slice {
    /// The Service object it belongs to (label `kubernetes.io/service-name`).
    pub service: ObjectName,
    /// Its ports that have a name and a number and a protocol that svclb translates.
    pub ports: Box<[SlicePort]>,
    /// Its endpoints.
    pub endpoints: Endpoints,
    /// Notes on it for its Service (`ServiceNotes`): what of it is left out of this.
    pub notes: u32,
    /// When the change happened that it reports, nanoseconds since the epoch (annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`). A slice that differs in this only is no
    /// change.
    pub triggered: Option<i64>,
    /// Its source kept nothing of it but the names.
    pub omitted: Option<Box<Omission>>,
}

impl Slice {
    /// About how many bytes it takes.
    pub const fn memory(&self) -> usize {
        OBJECT + self.ports.len() * (size_of::<SlicePort>() + PORT) + self.endpoints.memory()
    }

    /// The same without its contents, which its source does not keep.
    #[must_use]
    pub fn omit(&self, why: Omission) -> Self {
        Self {
            service: self.service.clone(),
            ports: Box::default(),
            endpoints: Endpoints::default(),
            notes: 0,
            triggered: None,
            omitted: Some(Box::new(why)),
        }
    }

    /// Returns whether it equals another, `triggered` apart.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.service, &self.ports, &self.endpoints, self.notes, &self.omitted)
            == (&other.service, &other.ports, &other.endpoints, other.notes, &other.omitted)
    }
}

/// One port of an EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlicePort {
    /// Its name, which matches a ServicePort's.
    pub name: Arc<str>,
    /// Its protocol, which matches too.
    pub protocol: Protocol,
    /// The backends' port, 1 to 65535.
    pub port: u16,
}

/// The node that the clients are on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Its own addresses, for node ports.
    pub addresses: Vec<IpAddr>,
    /// Its object is being deleted, or the cluster autoscaler is about to remove it. Load balancers are to send
    /// it no new connections; Services are served as before.
    pub is_leaving: bool,
}

/// One change that a source reports. An object is named by its kind and name; a change replaces all
/// that was known of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Update {
    /// A Service object, or `None` when it is gone or is no Service of the model any more.
    Service(ObjectName, Option<Service>),
    /// An EndpointSlice object by its own name, or `None` when it is gone or is ignored.
    Slice(ObjectName, Option<Slice>),
    /// The own node, or `None` when its object is gone.
    Node(Option<Node>),
    /// The addresses of the node's interfaces that were chosen for node ports. While there are some,
    /// they count instead of [`Node::addresses`]; an empty list means no node ports but on loopback.
    Interfaces(Option<Vec<IpAddr>>),
}
