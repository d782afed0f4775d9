//! What of a world is dialled: every address that its objects name, and some that they do not.

use std::fmt;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::lane::{Lane, loopback, node, other_node};
use super::world::{Family, Ingress, Label, Mode, Port, Service, Transport, World};
use crate::Protocol;

/// How much higher a port is that no Service has.
const ABSENT: u16 = 1_000;

/// A world in a lane, as the API server took it.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) world: World,
    pub(crate) lane: Lane,
    /// Of each Service.
    pub(crate) given: Vec<Given>,
}

/// What the API server gave a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Given {
    /// `creationTimestamp`, to the second; its text sorts as time does.
    pub(crate) created: String,
    /// The node port of each port; 0 is none.
    pub(crate) node_ports: Vec<u16>,
}

impl Given {
    /// Reads it from a Service with its ports.
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

/// What is dialled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Frontend {
    /// Whose it is, by its place in the world.
    pub(crate) service: usize,
    /// Which of its ports, by its place.
    pub(crate) port: usize,
    /// As what.
    pub(crate) kind: Kind,
    /// Over which protocol.
    pub(crate) protocol: Protocol,
    /// The address.
    pub(crate) address: SocketAddr,
}

/// What an address is to its Service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Kind {
    /// Its ClusterIP.
    ClusterIp,
    /// A port that the Service has not, on its ClusterIP.
    AbsentPort,
    /// An external IP of its own.
    ExternalIp,
    /// The external IP that Services of this world share.
    SharedIp,
    /// A load balancer's address, VIP or unsaid.
    Balancer,
    /// A load balancer's address of mode Proxy.
    ProxyBalancer,
    /// Its node port, on this node's address.
    NodePort,
    /// Its node port, on another node's address.
    OtherNode,
    /// Its node port, on the loopback.
    Loopback,
}

/// Who dials.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) enum Dialler {
    /// A process in a pod of this node.
    Pod,
    /// A process of the node itself.
    Host,
}

impl Dialler {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Pod, Self::Host];
}

impl Frontend {
    /// Its family.
    pub(crate) fn family(&self) -> Family {
        super::lane::family(self.address)
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

    /// Everything that is dialled.
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
                let ip = self.lane.cluster_ip(number, *family);
                add(Kind::ClusterIp, ip, own);
                if port == 0 {
                    add(Kind::AbsentPort, ip, own + ABSENT);
                }
            }
        }
        for external in &service.external {
            let kind = if external.is_shared { Kind::SharedIp } else { Kind::ExternalIp };
            add(kind, self.lane.external_ip(number, external.is_shared, external.family), own);
        }
        for (at, ingress) in service.ingress.iter().enumerate() {
            if let Ingress::Address(family, mode) = ingress {
                let kind = match mode {
                    None | Some(Mode::Vip) => Kind::Balancer,
                    Some(Mode::Proxy) => Kind::ProxyBalancer,
                };
                add(kind, self.lane.balancer(number, at, *family), own);
            }
        }
        if self.given[number].node_ports[port] != 0 {
            let at = self.given[number].node_ports[port];
            for family in Family::ALL {
                add(Kind::NodePort, node(family), at);
                add(Kind::Loopback, loopback(family), at);
                if port == 0 {
                    add(Kind::OtherNode, other_node(family), at);
                }
            }
        }
    }

    /// The Services that have a frontend at the same address and port, and over the same protocol, as
    /// this: with their port. The first is the oldest.
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
        // The names sort as the places do: there are fewer than ten.
        found.sort_by_key(|(number, _)| (self.given[*number].created.clone(), *number));
        found
    }

    /// Frontends of a Service's port by which clients come as from outside the cluster, those first
    /// that are its own.
    pub(crate) fn externals(&self, holder: (usize, usize), family: Family) -> Vec<Frontend> {
        let service = &self.world.services[holder.0];
        let rank = |it: &Frontend| match it.kind {
            Kind::SharedIp => (self.claimants(it).first() == Some(&holder)).then_some(3),
            _ if (it.service, it.port) != holder => None,
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

    /// The ClusterIP of a Service's port.
    pub(crate) fn cluster_ip(&self, holder: (usize, usize), family: Family) -> Option<Frontend> {
        self.frontends().into_iter().find(|it| {
            it.kind == Kind::ClusterIp && (it.service, it.port) == holder && it.family() == family
        })
    }

    /// A frontend of the same port and family that answers with what the Service gives to clients that
    /// come by an external address, and nothing else is to be said of.
    pub(crate) fn reference(&self, holder: (usize, usize), family: Family) -> Option<Frontend> {
        let own = self.externals(holder, family).into_iter().find(|it| it.kind != Kind::SharedIp);
        let is_local = self.world.services[holder.0].is_internal_local;
        own.or_else(|| self.cluster_ip(holder, family).filter(|_| !is_local))
    }

    /// Whether this is dialled first, and never again once the others were: by it a client may stay
    /// with a host of another list than by the other frontends of the same port, which would show in
    /// what they answer, and theirs here.
    pub(crate) fn is_first(&self, frontend: &Frontend) -> bool {
        let service = self.service(frontend);
        frontend.kind == Kind::ClusterIp && service.is_internal_local && service.affinity.is_some()
    }

    /// Whether a label takes the Service away from both, or has no ClusterIP of this family.
    pub(crate) fn is_served(&self, frontend: &Frontend) -> bool {
        let service = self.service(frontend);
        service.has_cluster_ip()
            && service.label != Some(Label::ProxyName)
            && service.families.contains(&frontend.family())
    }
}

/// The source ranges of a family, if they keep anybody out.
pub(crate) fn restricted(ranges: &[&str], family: Family) -> Option<Vec<IpNet>> {
    let all = ranges.iter().map(|text| text.trim().parse::<IpNet>().expect("it is a range"));
    let own: Vec<IpNet> =
        all.filter(|range| range.addr().is_ipv4() == (family == Family::V4)).collect();
    let has_all = own.iter().any(|range: &IpNet| range.prefix_len() == 0);
    (!own.is_empty() && !has_all).then_some(own)
}
