//! Draws a world from a seed: a seed gives the same world on every machine.

use rand::rngs::ChaCha8Rng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::shrink::smaller_services;
use super::world::{
    Addresses, Endpoint, External, Family, Host, HostRef, Ingress, Label, Mode, Past, Place, Port,
    Service, Slice, SlicePort, Transport, Type, World,
};
use crate::Protocol::{Tcp, Udp};

/// Ports on which every host listens.
pub(crate) const LISTENING: [u16; 3] = [8080, 8081, 8082];

/// Source ranges. The module `address_block` lists the addresses that they include.
const RANGES: [&[&str]; 8] = [
    &["10.244.0.0/16"],
    &["10.244.0.0/16", "fd00:244::/32"],
    &[" 192.168.78.0/24 ", "fd00:78::/64"],
    &["198.51.100.0/24"],
    &["fd00:244::/32"],
    &["0.0.0.0/0"],
    &["0.0.0.0/0", "fd00:78::/64"],
    &["0.0.0.0/0", "::/0", "203.0.113.0/24"],
];

/// The kind of topology hints that the endpoints of a Service have.
#[derive(Clone, Copy)]
enum Hints {
    None,
    Zones,
    Nodes,
    Both,
    /// Some endpoints have hints, others do not.
    Patchy,
}

/// Draws the world of a seed.
pub(crate) fn world(seed: u64) -> World {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
    let has_zone = dice.chance(75);
    let services: Vec<Service> = (0..dice.between(3, 6)).map(|_| dice.service()).collect();
    let services = services.into_iter().map(|service| dice.with_past(service)).collect();
    World { has_zone, services }
}

struct Dice(ChaCha8Rng);

impl Dice {
    fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    fn between(&mut self, least: usize, most: usize) -> usize {
        self.0.random_range(least..=most)
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(&mut self.0).cloned().expect("there is something to choose from")
    }

    /// Often unset, otherwise mostly `usual`.
    fn optional(&mut self, usual: bool, percent: u32) -> Option<bool> {
        if self.chance(25) {
            return None;
        }
        Some(if self.chance(percent) { usual } else { !usual })
    }

    fn service(&mut self) -> Service {
        let kind = match self.between(0, 99) {
            0..40 => Type::Cluster,
            40..60 => Type::NodePort,
            60..92 => Type::LoadBalancer,
            92..96 => Type::ExternalName,
            _ => Type::Headless,
        };
        let families = self.one(&[
            vec![Family::V4],
            vec![Family::V6],
            vec![Family::V4, Family::V6],
            vec![Family::V4, Family::V6],
            vec![Family::V6, Family::V4],
        ]);
        let is_balancer = kind == Type::LoadBalancer;
        let ports = self.ports();
        let hosts = self.hosts();
        let slices = self.slices(&families, &ports, hosts.len());
        Service {
            kind,
            external: self.external(),
            ingress: if is_balancer { self.ingress() } else { Vec::new() },
            ranges: if is_balancer && self.chance(40) {
                self.one(&RANGES).to_vec()
            } else {
                Vec::new()
            },
            is_internal_local: self.chance(25),
            is_external_local: self.chance(35),
            affinity: self.chance(15).then(|| self.one(&[10_800, 600, 86_400])),
            publishes_not_ready: self.chance(10),
            label: match self.between(0, 99) {
                0..5 => Some(Label::ProxyName),
                5..8 => Some(Label::Headless),
                _ => None,
            },
            has_node_ports: self.chance(80),
            families,
            ports,
            hosts,
            slices,
            past: Past::Same,
        }
    }

    /// Gives more than half of the Services a past: no Service, one of another type or label, or a smaller
    /// or larger one.
    fn with_past(&mut self, service: Service) -> Service {
        match self.between(0, 99) {
            0..40 => service,
            40..50 => Service { past: Past::Absent, ..service },
            50..57 if service.kind != Type::Headless => {
                let (kind, ingress, ranges) = (Type::ExternalName, Vec::new(), Vec::new());
                let renamed = Service { kind, ingress, ranges, ..service.clone() };
                self.in_order(renamed, service)
            }
            57..67 => {
                let label = match service.label {
                    None => Some(self.one(&[Label::ProxyName, Label::Headless])),
                    Some(_) => None,
                };
                let other = Service { label, ..service.clone() };
                self.in_order(other, service)
            }
            _ => {
                let mut other = service.clone();
                for _ in 0..self.between(1, 4) {
                    let smaller = smaller_services(&other);
                    let can = |it: &Service| it.can_become(&service) && service.can_become(it);
                    let smaller: Vec<Service> = smaller.into_iter().filter(can).collect();
                    other = smaller.choose(&mut self.0).cloned().unwrap_or(other);
                }
                self.in_order(other, service)
            }
        }
    }

    fn in_order(&mut self, one: Service, other: Service) -> Service {
        let (before, now) = if self.chance(50) { (one, other) } else { (other, one) };
        Service { past: Past::Other(Box::new(before)), ..now }
    }

    fn ports(&mut self) -> Vec<Port> {
        let port = |name, protocol, number| Port { name, protocol, number };
        let (tcp, udp) = (Transport::Of(Tcp), Transport::Of(Udp));
        match self.between(0, 9) {
            0..3 => vec![port("", tcp, 80)],
            3 => vec![port("", udp, 53)],
            4 => vec![port("web", tcp, 80)],
            5 => vec![port("dns", udp, 53), port("dns-tcp", tcp, 53)],
            6 => vec![port("web", tcp, 80), port("alt", tcp, 81)],
            7 => vec![port("web", tcp, 80), port("sctp", Transport::Sctp, 80)],
            8 => vec![port("web", tcp, 80), port("dns", udp, 80), port("alt", tcp, 443)],
            _ => vec![port("alt", tcp, 81), port("dns", udp, 53)],
        }
    }

    fn external(&mut self) -> Vec<External> {
        if !self.chance(35) {
            return Vec::new();
        }
        let mut external = Vec::new();
        for family in Family::ALL {
            // An external IP of its own shows what the shared one has to answer.
            if self.chance(70) {
                external.push(External { family, is_shared: false });
                if self.chance(60) {
                    external.push(External { family, is_shared: true });
                }
            }
        }
        external
    }

    fn ingress(&mut self) -> Vec<Ingress> {
        let count = self.one(&[0, 1, 1, 2, 2]);
        let mut ingress: Vec<Ingress> = (0..count)
            .map(|_| {
                let family = self.one(&Family::ALL);
                let mode = self.one(&[None, Some(Mode::Vip), Some(Mode::Vip), Some(Mode::Proxy)]);
                Ingress::Address(family, mode)
            })
            .collect();
        if self.chance(15) {
            ingress.push(Ingress::Name);
        }
        ingress
    }

    fn hosts(&mut self) -> Vec<Host> {
        let count = if self.chance(5) { 0 } else { self.between(1, 5) };
        let hints = match self.between(0, 99) {
            0..55 => Hints::None,
            55..70 => Hints::Zones,
            70..80 => Hints::Nodes,
            80..90 => Hints::Both,
            _ => Hints::Patchy,
        };
        // Percentages of ready and of local hosts: often all, often none.
        let ready = self.one(&[100, 95, 90, 70, 30, 0]);
        let here = self.one(&[100, 50, 30, 0]);
        (0..count)
            .map(|_| {
                let node = match self.chance(10) {
                    true => None,
                    false if self.chance(here) => Some(Place::Here),
                    false => Some(Place::There),
                };
                let alive = Endpoint {
                    ready: self.optional(ready > 0, if ready > 0 { ready } else { 100 }),
                    serving: self.optional(true, 80),
                    terminating: self.one(&[None, Some(false)]),
                    ..self.hinted(node, hints)
                };
                // A Service without ready hosts must set the condition, because unset means ready.
                let alive =
                    Endpoint { ready: if ready == 0 { Some(false) } else { alive.ready }, ..alive };
                let dying = Endpoint {
                    ready: if self.chance(85) { Some(false) } else { self.optional(true, 80) },
                    serving: self.optional(true, 75),
                    terminating: Some(true),
                    ..self.hinted(node, hints)
                };
                Host { alive, dying }
            })
            .collect()
    }

    fn hinted(&mut self, node: Option<Place>, hints: Hints) -> Endpoint {
        let (zones, nodes) = match hints {
            Hints::None => (false, false),
            Hints::Zones => (true, false),
            Hints::Nodes => (false, true),
            Hints::Both => (true, true),
            Hints::Patchy => (self.chance(70), self.chance(60)),
        };
        let places = [vec![Place::Here], vec![Place::There], vec![Place::Here, Place::There]];
        Endpoint {
            node,
            zone_hints: if zones { self.one(&places) } else { Vec::new() },
            node_hints: if nodes { self.one(&places) } else { Vec::new() },
            ..Endpoint::default()
        }
    }

    fn slices(&mut self, families: &[Family], ports: &[Port], hosts: usize) -> Vec<Slice> {
        let mut slices = Vec::new();
        if self.chance(6) {
            return slices;
        }
        for family in families {
            for _ in 0..self.one(&[0, 1, 1, 1, 2, 2, 3]) {
                slices.push(self.slice(*family, ports, hosts));
            }
        }
        if self.chance(10) {
            let family = self.one(&Family::ALL);
            slices.push(self.slice(family, ports, hosts));
        }
        slices
    }

    fn slice(&mut self, family: Family, ports: &[Port], hosts: usize) -> Slice {
        let is_of_names = self.chance(3);
        let mut written = Vec::new();
        for (number, port) in ports.iter().enumerate() {
            if self.chance(6) {
                continue;
            }
            written.push(self.slice_port(number, port));
        }
        if self.chance(10) {
            let (protocol, number) = (Transport::Of(Tcp), Some(LISTENING[2]));
            written.push(SlicePort { name: Some("unknown"), protocol, number });
        }
        let mut endpoints = Vec::new();
        for host in 0..hosts {
            if self.chance(75) {
                endpoints.push(self.host_ref(host));
            }
            if self.chance(4) {
                endpoints.push(self.host_ref(host));
            }
        }
        Slice {
            addresses: if is_of_names { Addresses::Names } else { Addresses::Of(family) },
            is_owned: self.chance(95),
            is_headless: self.chance(5),
            ports: written,
            endpoints,
        }
    }

    fn slice_port(&mut self, number: usize, port: &Port) -> SlicePort {
        let target = match self.chance(70) {
            true => LISTENING[number.min(LISTENING.len() - 1)],
            false => self.one(&LISTENING),
        };
        let other = if port.protocol == Transport::Of(Tcp) { Udp } else { Tcp };
        SlicePort {
            name: if port.name.is_empty() && self.chance(50) { None } else { Some(port.name) },
            protocol: if self.chance(5) { Transport::Of(other) } else { port.protocol },
            number: match self.between(0, 99) {
                0..3 => None,
                3..5 => Some(0),
                _ => Some(target),
            },
        }
    }

    fn host_ref(&mut self, host: usize) -> HostRef {
        HostRef { host, is_dying: self.chance(25), has_second: self.chance(8) }
    }
}

#[cfg(test)]
mod tests;
