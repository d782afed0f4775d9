//! Computes from a world's slices alone whether a Service has usable endpoints, so that an exception for
//! Services without any does not depend on observed answers.

use std::collections::HashMap;

use super::world::{Addresses, Endpoint, Family, Place, Service, SlicePort};

/// The nodes whose endpoints count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// Any node.
    Anywhere,
    /// This node.
    Here,
}

impl Service {
    /// Returns true if a port of this Service has an endpoint of this family that is ready, or is
    /// serving and terminating.
    pub(crate) fn has_usable(&self, port: usize, family: Family, reach: Reach) -> bool {
        let is_usable = |endpoint: &Endpoint| {
            let is_ready = endpoint.ready.unwrap_or(true);
            let is_last_resort =
                endpoint.serving.unwrap_or(true) && endpoint.terminating == Some(true);
            let is_in_reach = reach == Reach::Anywhere || endpoint.node == Some(Place::Here);
            is_in_reach && (is_ready || is_last_resort)
        };
        self.backends(port, family).values().any(|endpoint| is_usable(endpoint))
    }

    /// The endpoints of a port over all slices, by host and port number.
    fn backends(&self, port: usize, family: Family) -> HashMap<(usize, u16), &Endpoint> {
        let port = &self.ports[port];
        let number = |it: &SlicePort| {
            // The API server stores a missing name as an empty one.
            let is_it = it.name.unwrap_or_default() == port.name && it.protocol == port.protocol;
            it.number.filter(|number| is_it && *number != 0)
        };
        let mut found: HashMap<_, &Endpoint> = HashMap::new();
        let own = self.slices.iter().filter(|slice| {
            slice.is_owned && !slice.is_headless && slice.addresses == Addresses::Of(family)
        });
        for slice in own {
            for number in slice.ports.iter().filter_map(number) {
                for host_ref in &slice.endpoints {
                    let host = &self.hosts[host_ref.host];
                    let state = if host_ref.is_dying { &host.dying } else { &host.alive };
                    let counts = found.entry((host_ref.host, number)).or_insert(state);
                    // An endpoint that is not terminating wins over one that is.
                    if counts.terminating == Some(true) {
                        *counts = state;
                    }
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::generate;
    use super::super::world::{Host, HostRef, Slice, Transport};
    use super::*;
    use crate::Protocol::{Tcp, Udp};

    /// A Service with one slice that has one host: ready, serving and on this node.
    fn one() -> Service {
        let alive = Endpoint { node: Some(Place::Here), ..Endpoint::default() };
        let dying = Endpoint { ready: Some(false), terminating: Some(true), ..alive.clone() };
        let mut service = generate::world(1).services[0].clone();
        service.ports.truncate(1);
        (service.ports[0].name, service.ports[0].protocol) = ("web", Transport::Of(Tcp));
        service.hosts = vec![Host { alive, dying }];
        service.slices = vec![Slice {
            addresses: Addresses::Of(Family::V4),
            is_owned: true,
            is_headless: false,
            ports: vec![SlicePort {
                name: Some("web"),
                protocol: Transport::Of(Tcp),
                number: Some(8080),
            }],
            endpoints: vec![HostRef { host: 0, is_dying: false, has_second: false }],
        }];
        service
    }

    #[test]
    fn usable_endpoints_are_found_in_the_slices() {
        let not_ready = |it: &mut Service| it.hosts[0].alive.ready = Some(false);
        let dies = |it: &mut Service| it.slices[0].endpoints[0].is_dying = true;
        type Change = Box<dyn Fn(&mut Service)>;
        let rows: [(&str, Change, [bool; 2]); 16] = [
            ("ready", Box::new(|_| {}), [true, true]),
            (
                "on another node",
                Box::new(|it| it.hosts[0].alive.node = Some(Place::There)),
                [true, false],
            ),
            ("without a node", Box::new(|it| it.hosts[0].alive.node = None), [true, false]),
            ("not ready, serving", Box::new(not_ready), [false, false]),
            ("terminating", Box::new(dies), [true, true]),
            (
                "terminating, not serving",
                Box::new(move |it| {
                    dies(it);
                    it.hosts[0].dying.serving = Some(false);
                }),
                [false, false],
            ),
            (
                "terminating in one slice, not ready in another",
                Box::new(move |it| {
                    dies(it);
                    not_ready(it);
                    let mut other = it.slices[0].clone();
                    other.endpoints[0].is_dying = false;
                    it.slices.push(other);
                }),
                [false, false],
            ),
            (
                "the same by another port",
                Box::new(move |it| {
                    dies(it);
                    not_ready(it);
                    let mut other = it.slices[0].clone();
                    other.endpoints[0].is_dying = false;
                    other.ports[0].number = Some(8081);
                    it.slices.push(other);
                }),
                [true, true],
            ),
            ("no endpoint", Box::new(|it| it.slices[0].endpoints.clear()), [false, false]),
            ("no slice", Box::new(|it| it.slices.clear()), [false, false]),
            (
                "a slice without owner label",
                Box::new(|it| it.slices[0].is_owned = false),
                [false, false],
            ),
            ("a headless slice", Box::new(|it| it.slices[0].is_headless = true), [false, false]),
            (
                "another family",
                Box::new(|it| it.slices[0].addresses = Addresses::Of(Family::V6)),
                [false, false],
            ),
            ("another name", Box::new(|it| it.slices[0].ports[0].name = None), [false, false]),
            (
                "another protocol",
                Box::new(|it| it.slices[0].ports[0].protocol = Transport::Of(Udp)),
                [false, false],
            ),
            ("port 0", Box::new(|it| it.slices[0].ports[0].number = Some(0)), [false, false]),
        ];
        for (row, change, expected) in rows {
            let mut service = one();
            change(&mut service);
            let has = |reach| service.has_usable(0, Family::V4, reach);
            assert_eq!([has(Reach::Anywhere), has(Reach::Here)], expected, "{row}");
        }
    }
}
