//! The addresses of a world. Each world gets a block of its own in every range, so that many worlds
//! share an API server and none sees what another left behind.
//!
//! | addresses | what |
//! |---|---|
//! | 10.96.0.0/16, fd00:96::/112 | ClusterIPs |
//! | 10.112.0.0/16, fd00:112::/112 | external IPs |
//! | 10.113.0.0/16, fd00:113::/112 | load balancers |
//! | 10.64.0.0/14, fd00:64::/64 | hosts, all of them addresses of the node |
//! | 10.244.1.0/24, fd00:244:1::/64 | the pod that dials |
//! | 192.168.77.1, fd00:77::1 | the node; .2 and ::2 stand for another node, which does not exist |
//! | 192.168.78.0/24, fd00:78::/64 | more addresses of the node, to dial from |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::world::Family;

/// The name of this node.
pub(crate) const NODE: &str = "here";
/// The name of the other node.
pub(crate) const OTHER_NODE: &str = "there";
/// Number of blocks. After the last one, the first is used again.
const BLOCKS: u32 = 3_800;
/// Addresses of each range per block.
const PER_BLOCK: u32 = 16;
/// Host addresses per block.
const HOSTS_PER_BLOCK: u32 = 64;
/// The first addresses of a range are left to the API server's own Services.
const FIRST: u32 = 256;

/// The block of addresses of one world.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct AddressBlock(u32);

impl AddressBlock {
    /// The block of this number, modulo the number of blocks.
    pub(crate) fn new(number: u32) -> Self {
        Self(number % BLOCKS)
    }

    /// The Kubernetes namespace of its world.
    pub(crate) fn namespace(self) -> String {
        format!("world-{}", self.0)
    }

    /// The ClusterIP of a Service.
    pub(crate) fn cluster_ip(self, service: usize, family: Family) -> IpAddr {
        self.one(family, [10, 96], 0x96, service)
    }

    /// The external IP of a Service, or the one that Services share.
    pub(crate) fn external_ip(self, service: usize, is_shared: bool, family: Family) -> IpAddr {
        self.one(family, [10, 112], 0x112, if is_shared { 0 } else { 1 + service })
    }

    /// An address of a load balancer. Each Service has two.
    pub(crate) fn balancer(self, service: usize, number: usize, family: Family) -> IpAddr {
        self.one(family, [10, 113], 0x113, service * 2 + number % 2)
    }

    /// The address of a host of a Service.
    pub(crate) fn host(self, service: usize, host: usize, family: Family) -> IpAddr {
        let number = FIRST + self.0 * HOSTS_PER_BLOCK + small(service * super::world::HOSTS + host);
        match family {
            Family::V4 => {
                IpAddr::from(Ipv4Addr::from_bits(u32::from_be_bytes([10, 64, 0, 0]) + number))
            }
            Family::V6 => IpAddr::from(six(0x64, number)),
        }
    }

    fn one(self, family: Family, four: [u8; 2], prefix: u16, at: usize) -> IpAddr {
        let number = FIRST + self.0 * PER_BLOCK + small(at);
        match family {
            Family::V4 => IpAddr::from(Ipv4Addr::from_bits(
                u32::from_be_bytes([four[0], four[1], 0, 0]) + number,
            )),
            Family::V6 => IpAddr::from(six(prefix, number)),
        }
    }
}

/// The address of this node.
pub(crate) fn node(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 168, 77, 1]),
        Family::V6 => IpAddr::from(six(0x77, 1)),
    }
}

/// The address of the other node.
pub(crate) fn other_node(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 168, 77, 2]),
        Family::V6 => IpAddr::from(six(0x77, 2)),
    }
}

/// The loopback address.
pub(crate) fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([127, 0, 0, 1]),
        Family::V6 => IpAddr::from(Ipv6Addr::LOCALHOST),
    }
}

/// An address of this node that a client can bind.
pub(crate) fn host_source(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 168, 78, number]),
        Family::V6 => IpAddr::from(six(0x78, number.into())),
    }
}

/// An address of the pod.
pub(crate) fn pod_source(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 244, 1, number]),
        Family::V6 => IpAddr::from(Ipv6Addr::new(0xfd00, 0x244, 1, 0, 0, 0, 0, u16::from(number))),
    }
}

/// The family of an address.
pub(crate) fn family(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

fn six(prefix: u16, number: u32) -> Ipv6Addr {
    let [a, b, c, d] = number.to_be_bytes();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Ipv6Addr::new(0xfd00, prefix, 0, 0, 0, 0, high, low)
}

fn small(number: usize) -> u32 {
    u32::try_from(number).expect("a world is small")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::world::{HOSTS, SERVICES};
    use super::*;

    #[test]
    fn addresses_of_all_blocks_are_distinct() {
        for family in Family::ALL {
            let mut seen = HashSet::new();
            for block in (0..BLOCKS).map(AddressBlock::new) {
                assert!(seen.insert(block.external_ip(0, true, family)));
                for service in 0..SERVICES {
                    assert!(seen.insert(block.cluster_ip(service, family)));
                    assert!(seen.insert(block.external_ip(service, false, family)));
                    assert!(seen.insert(block.balancer(service, 0, family)));
                    assert!(seen.insert(block.balancer(service, 1, family)));
                    for host in 0..HOSTS {
                        assert!(seen.insert(block.host(service, host, family)));
                    }
                }
            }
        }
    }

    #[test]
    fn last_block_is_within_the_ranges() {
        let last = AddressBlock::new(BLOCKS - 1);
        let shown = |address: IpAddr| address.to_string();
        assert!(shown(last.cluster_ip(SERVICES - 1, Family::V4)).starts_with("10.96."));
        assert!(shown(last.balancer(SERVICES - 1, 1, Family::V4)).starts_with("10.113."));
        assert!(shown(last.host(SERVICES - 1, HOSTS - 1, Family::V4)).starts_with("10.67."));
        let six = shown(last.cluster_ip(SERVICES - 1, Family::V6));
        assert!(six.starts_with("fd00:96::") && six.len() <= "fd00:96::ffff".len(), "{six}");
    }
}
