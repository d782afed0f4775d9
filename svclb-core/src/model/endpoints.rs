//! The endpoints of a slice, kept small: a cluster has many of them, and most have the same fields.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use svclb_common::layout::Address;

/// An endpoint without its address. Endpoints of one node are mostly the same, so that a source can share one
/// value between them.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    /// Condition; absent means true.
    pub ready: bool,
    /// Condition; absent means true.
    pub serving: bool,
    /// Condition; absent means false.
    pub terminating: bool,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// `hints.forNodes[].name`.
    pub node_hints: Box<[Arc<str>]>,
    /// `hints.forZones[].name`.
    pub zone_hints: Box<[Arc<str>]>,
}

impl Default for Endpoint {
    /// An endpoint without any field set is ready.
    fn default() -> Self {
        Self {
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            node_hints: Box::default(),
            zone_hints: Box::default(),
        }
    }
}

impl Endpoint {
    /// About how many bytes it takes with all its names.
    fn memory(&self) -> usize {
        // With the counts of those who share it.
        const SHARED: usize = size_of::<[usize; 2]>();
        let hints = self.node_hints.iter().chain(&self.zone_hints);
        let hints = hints.map(|hint| size_of::<Arc<str>>() + SHARED + hint.len());
        let node = self.node.as_ref().map_or(0, |node| SHARED + node.len());
        SHARED + size_of::<Self>() + node + hints.sum::<usize>()
    }
}

/// The endpoints of a slice in their order, each by its `addresses[0]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Endpoints {
    addresses: Addresses,
    endpoints: Box<[Arc<Endpoint>]>,
    /// See [`Self::memory`].
    memory: usize,
}

/// IPv4 takes 4 bytes where all are.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Addresses {
    V4(Box<[Ipv4Addr]>),
    Any(Box<[Address]>),
}

impl Default for Addresses {
    fn default() -> Self {
        Self::V4(Box::default())
    }
}

impl Addresses {
    fn get(&self, at: usize) -> Option<IpAddr> {
        match self {
            Self::V4(addresses) => addresses.get(at).map(|address| IpAddr::V4(*address)),
            Self::Any(addresses) => addresses.get(at).map(|address| address.ip()),
        }
    }
}

impl Endpoints {
    /// The number of endpoints.
    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    /// About how many bytes all of it takes if no two endpoints share a value: sharing depends on other
    /// objects.
    pub const fn memory(&self) -> usize {
        self.memory
    }

    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// Each with its address.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Arc<Endpoint>)> {
        let addressed = self.endpoints.iter().enumerate();
        addressed.filter_map(|(at, endpoint)| Some((self.addresses.get(at)?, endpoint)))
    }
}

impl FromIterator<(IpAddr, Arc<Endpoint>)> for Endpoints {
    fn from_iter<I: IntoIterator<Item = (IpAddr, Arc<Endpoint>)>>(endpoints: I) -> Self {
        let (addresses, all): (Vec<IpAddr>, Vec<Arc<Endpoint>>) = endpoints.into_iter().unzip();
        let addresses = match all_v4(&addresses) {
            Some(addresses) => Addresses::V4(addresses),
            None => Addresses::Any(addresses.into_iter().map(Address::from).collect()),
        };
        let memory = all.iter().map(|it| size_of::<[usize; 3]>() + it.memory()).sum();
        Self { addresses, endpoints: all.into_boxed_slice(), memory }
    }
}

/// These addresses, where all are IPv4.
fn all_v4(addresses: &[IpAddr]) -> Option<Box<[Ipv4Addr]>> {
    let mut all = Vec::with_capacity(addresses.len());
    for address in addresses {
        let IpAddr::V4(address) = address else { return None };
        all.push(*address);
    }
    Some(all.into_boxed_slice())
}

impl FromIterator<(IpAddr, Endpoint)> for Endpoints {
    fn from_iter<I: IntoIterator<Item = (IpAddr, Endpoint)>>(endpoints: I) -> Self {
        endpoints.into_iter().map(|(address, endpoint)| (address, Arc::new(endpoint))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_come_back_as_they_were_given_whatever_their_family() {
        let rows: [&[&str]; 4] = [
            &[],
            &["10.0.0.1", "10.0.0.1", "0.0.0.0"],
            &["fd00::1", "::1"],
            &["fd00::1", "1.2.3.4"],
        ];
        for row in rows {
            let given: Vec<(IpAddr, Endpoint)> = row
                .iter()
                .enumerate()
                .map(|(at, text)| {
                    (text.parse().unwrap(), Endpoint { ready: at > 0, ..Endpoint::default() })
                })
                .collect();
            let endpoints: Endpoints = given.iter().cloned().collect();
            assert_eq!((endpoints.len(), endpoints.is_empty()), (row.len(), row.is_empty()));
            assert!(endpoints.memory() >= row.len() * size_of::<Endpoint>());
            let back: Vec<_> =
                endpoints.iter().map(|(address, said)| (address, said.as_ref().clone())).collect();
            assert_eq!(back, given);
        }
    }
    #[test]
    fn names_of_nodes_and_hints_take_memory() {
        let of = |endpoint: Endpoint| {
            let all: Endpoints = [([10, 0, 0, 1].into(), endpoint)].into_iter().collect();
            all.memory()
        };
        let text: Arc<str> = "a".repeat(1_000).into();
        let hints = || -> Box<[Arc<str>]> { vec![Arc::clone(&text); 8].into() };
        let node = Some(Arc::clone(&text));
        let (node_hints, zone_hints) = (hints(), hints());
        let large = Endpoint { node, node_hints, zone_hints, ..Endpoint::default() };
        assert!(of(large) >= of(Endpoint::default()) + 17_000);
    }
}
