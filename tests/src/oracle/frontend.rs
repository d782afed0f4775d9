//! The frontends of a world that are dialled: every address that its objects name, and some that they do
//! not.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::address_block::{AddressBlock, loopback, node, other_node};
use super::world::{Family, Ingress, Label, Mode, Port, Service, Transport, World};
use crate::Protocol;

/// Offset from a Service's port to a port that no Service has.
const ABSENT: u16 = 1_000;

/// A world with its addresses and with what the API server allocated.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) world: World,
    pub(crate) block: AddressBlock,
    /// One element for each Service.
    pub(crate) allocated: Vec<Allocated>,
}

/// Values that the API server allocated for a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Allocated {
    /// `creationTimestamp`, in seconds; its text sorts by time.
    pub(crate) created: String,
    /// The node port of each port, or 0 if it has none.
    pub(crate) node_ports: Vec<u16>,
}

impl Allocated {
    /// Reads the values from a Service object with these ports.
    pub(crate) fn read(object: &Value, ports: &[Port]) -> Self {
        let written = object["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
        let number = |port: &Port| {
            let is_it = |it: &&Value| it["name"].as_str().unwrap_or_default() == port.name;
            let found = written.iter().find(is_it).and_then(|it| it["nodePort"].as_u64());
            found.map_or(0, |number| u16::try_from(number).expect("a node port is a port"))
        };
        Self {
            created: object["metadata"]["creationTimestamp"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            node_ports: ports.iter().map(number).collect(),
        }
    }
}

/// An address and port that is dialled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Frontend {
    /// Index of its Service in the world.
    pub(crate) service: usize,
    /// Index of the port in the Service.
    pub(crate) port: usize,
    /// The kind of address.
    pub(crate) kind: Kind,
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
}

/// The relation of an address to its Service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    /// The Service's ClusterIP.
    ClusterIp,
    /// Its ClusterIP with a port that the Service does not have.
    AbsentPort,
    /// An external IP that only this Service has.
    ExternalIp,
    /// The external IP that several Services of the world share.
    SharedIp,
    /// A load balancer's address with ipMode VIP or none.
    Balancer,
    /// A load balancer's address with ipMode Proxy.
    ProxyBalancer,
    /// Its node port on this node's address.
    NodePort,
    /// Its node port on another node's address.
    OtherNode,
    /// Its node port on loopback.
    Loopback,
}

/// The client that dials.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Client {
    /// A process in a pod on this node.
    Pod,
    /// A process in the node's own network namespace.
    Host,
}

impl Client {
    /// Both clients.
    pub(crate) const ALL: [Self; 2] = [Self::Pod, Self::Host];
}

impl Frontend {
    /// The address family.
    pub(crate) fn family(&self) -> Family {
        super::address_block::family(self.address)
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, port, kind, protocol, address } = self;
        write!(
            f,
            "{address}/{protocol:?} ({kind:?} of {}, port {port})",
            super::render::name(*service)
        )
    }
}

impl Placed {
    /// The Service of a frontend.
    pub(crate) fn service(&self, frontend: &Frontend) -> &Service {
        &self.world.services[frontend.service]
    }

    /// All frontends that are dialled.
    pub(crate) fn frontends(&self) -> Vec<Frontend> {
        let mut all = Vec::new();
        for (number, service) in self.world.services.iter().enumerate() {
            for (port, written) in service.ports.iter().enumerate() {
                if let Transport::Of(protocol) = written.protocol {
                    self.add(&mut all, number, port, protocol);
                }
            }
        }
        all
    }

    fn add(&self, all: &mut Vec<Frontend>, number: usize, port: usize, protocol: Protocol) {
        let service = &self.world.services[number];
        let own = service.ports[port].number;
        let mut add = |kind, ip, at| {
            let address = SocketAddr::new(ip, at);
            let frontend = Frontend { service: number, port, kind, protocol, address };
            if !all.contains(&frontend) {
                all.push(frontend);
            }
        };
        if service.has_cluster_ip() {
            for family in &service.families {
                let ip = self.block.cluster_ip(number, *family);
                add(Kind::ClusterIp, ip, own);
                if port == 0 {
                    add(Kind::AbsentPort, ip, own + ABSENT);
                }
            }
        }
        for external in &service.external {
            let kind = if external.is_shared { Kind::SharedIp } else { Kind::ExternalIp };
            add(kind, self.block.external_ip(number, external.is_shared, external.family), own);
        }
        for (at, ingress) in service.ingress.iter().enumerate() {
            if let Ingress::Address(family, mode) = ingress {
                let kind = match mode {
                    None | Some(Mode::Vip) => Kind::Balancer,
                    Some(Mode::Proxy) => Kind::ProxyBalancer,
                };
                add(kind, self.block.balancer(number, at, *family), own);
            }
        }
        if self.allocated[number].node_ports[port] != 0 {
            let at = self.allocated[number].node_ports[port];
            for family in Family::ALL {
                add(Kind::NodePort, node(family), at);
                add(Kind::Loopback, loopback(family), at);
                if port == 0 {
                    add(Kind::OtherNode, other_node(family), at);
                }
            }
        }
    }

    /// The Services, with their ports, that have the same address, port and protocol as this frontend.
    /// The oldest comes first.
    pub(crate) fn claimants(&self, frontend: &Frontend) -> Vec<(usize, usize)> {
        let family = frontend.family();
        let mut found = Vec::new();
        for (number, service) in self.world.services.iter().enumerate() {
            let is_served = service.has_cluster_ip()
                && service.label.is_none()
                && service.families.contains(&family)
                && service.external.iter().any(|it| it.is_shared && it.family == family);
            let ports = service.ports.iter().enumerate();
            let same = ports.filter(|(_, port)| {
                port.number == frontend.address.port()
                    && port.protocol == Transport::Of(frontend.protocol)
            });
            if is_served {
                found.extend(same.map(|(port, _)| (number, port)));
            }
        }
        // Names sort as indices do, since there are fewer than ten Services.
        found.sort_by_key(|(number, _)| (self.allocated[*number].created.clone(), *number));
        found
    }

    /// The frontends of a Service's port through which clients count as coming from outside the cluster.
    /// Frontends of its own come first.
    pub(crate) fn externals(&self, owner: (usize, usize), family: Family) -> Vec<Frontend> {
        let service = &self.world.services[owner.0];
        let rank = |it: &Frontend| match it.kind {
            Kind::SharedIp => (self.claimants(it).first() == Some(&owner)).then_some(3),
            _ if (it.service, it.port) != owner => None,
            Kind::ExternalIp => Some(0),
            Kind::NodePort => Some(1),
            Kind::Balancer => restricted(&service.ranges, family).is_none().then_some(2),
            _ => None,
        };
        let all = self.frontends().into_iter().filter(|it| it.family() == family);
        let mut found: Vec<_> = all.filter_map(|it| Some((rank(&it)?, it))).collect();
        found.sort_by_key(|(rank, _)| *rank);
        found.into_iter().map(|(_, frontend)| frontend).collect()
    }

    /// The frontend on the ClusterIP of a Service's port.
    pub(crate) fn cluster_ip(&self, owner: (usize, usize), family: Family) -> Option<Frontend> {
        self.frontends().into_iter().find(|it| {
            it.kind == Kind::ClusterIp && (it.service, it.port) == owner && it.family() == family
        })
    }

    /// A frontend of the same port and family whose answers show what the Service gives to clients from
    /// outside the cluster: an address that is neither shared nor restricted by source ranges.
    pub(crate) fn reference(&self, owner: (usize, usize), family: Family) -> Option<Frontend> {
        let own = self.externals(owner, family).into_iter().find(|it| it.kind != Kind::SharedIp);
        let is_local = self.world.services[owner.0].is_internal_local;
        own.or_else(|| self.cluster_ip(owner, family).filter(|_| !is_local))
    }

    /// Returns true if this frontend is dialled before the others, and never again afterwards: through
    /// it a client may keep a host of another list than through the other frontends of the port, and
    /// either order would be visible in the other's answers.
    pub(crate) fn is_first(&self, frontend: &Frontend) -> bool {
        let service = self.service(frontend);
        frontend.kind == Kind::ClusterIp && service.is_internal_local && service.affinity.is_some()
    }

    /// Returns true if the Service has a ClusterIP of this family and no label leaves it to another
    /// proxy.
    pub(crate) fn is_served(&self, frontend: &Frontend) -> bool {
        let service = self.service(frontend);
        service.has_cluster_ip()
            && service.label != Some(Label::ProxyName)
            && service.families.contains(&frontend.family())
    }
}

/// The source ranges of a family, if they exclude any source.
pub(crate) fn restricted(ranges: &[&str], family: Family) -> Option<Vec<IpNet>> {
    let all = ranges.iter().map(|text| text.trim().parse::<IpNet>().expect("it is a range"));
    let own: Vec<IpNet> =
        all.filter(|range| range.addr().is_ipv4() == (family == Family::V4)).collect();
    let has_all = own.iter().any(|range: &IpNet| range.prefix_len() == 0);
    (!own.is_empty() && !has_all).then_some(own)
}
