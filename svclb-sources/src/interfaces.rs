//! `--node-port-addresses`: the addresses of the node's interfaces that node ports are served at,
//! followed as interfaces come, go and change.
//!
//! A netlink message means only that something changed: all addresses are read again then, so the next
//! message makes up for a lost one.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR` of linux/rtnetlink.h.
const GROUPS: u32 = 0x10 | 0x100;
/// The delay before the addresses are read again after an error.
const AGAIN: Duration = Duration::from_secs(1);

/// The addresses, followed.
#[derive(Debug)]
pub struct Interfaces {
    wanted: Vec<IpNet>,
    socket: AsyncFd<OwnedFd>,
    /// The addresses that were last handed on.
    latest: Vec<IpAddr>,
    /// The kernel reported a change, and the addresses were not read since.
    changed: bool,
    read: fn(&[IpNet]) -> io::Result<Vec<IpAddr>>,
}

impl Interfaces {
    /// Follows the addresses in these ranges. Must be called in a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket, or the addresses cannot be read.
    pub fn new(wanted: Vec<IpNet>) -> Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let route = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, route)
            .context("cannot open a netlink socket to follow the node's addresses")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))
            .context("cannot follow the node's addresses")?;
        // SAFETY: the descriptor is owned here, stays the same and is closed with what owns it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }
            .map_err(io::Error::from)
            .context("cannot wait for the node's addresses")?;
        // After the socket is bound, so that a later change sends a message.
        let latest = read(&wanted).context("cannot read the node's addresses")?;
        Ok(Self { wanted, socket, latest, changed: false, read })
    }

    /// Returns the addresses that were last handed on.
    pub fn now(&self) -> Vec<IpAddr> {
        self.latest.clone()
    }

    /// Waits until the addresses change, and returns them. Cancel-safe.
    pub async fn next(&mut self) -> Vec<IpAddr> {
        loop {
            if !self.changed {
                if let Err(error) = self.messages().await {
                    tracing::error!(%error, "cannot follow the node's addresses");
                    tokio::time::sleep(AGAIN).await;
                }
                self.changed = true;
            }
            match (self.read)(&self.wanted) {
                Ok(now) => {
                    self.changed = false;
                    if now != self.latest {
                        self.latest.clone_from(&now);
                        return now;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "cannot read the node's addresses; trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Waits for messages of the kernel, and takes all that are there. Their contents do not matter.
    async fn messages(&self) -> io::Result<()> {
        let mut ready = self.socket.readable().await?;
        let mut buffer = [0_u8; 8192];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    return Ok(());
                }
                // Lost messages are messages.
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Returns the addresses of all interfaces that are in one of these ranges, sorted. Loopback addresses are
/// left out whatever the ranges: there a node port is for clients in the host's network namespace alone.
fn read(wanted: &[IpNet]) -> io::Result<Vec<IpAddr>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    let chosen: BTreeSet<IpAddr> = addresses.filter(|address| chosen(wanted, *address)).collect();
    Ok(chosen.into_iter().collect())
}

fn chosen(wanted: &[IpNet], address: IpAddr) -> bool {
    let usable = !(address.is_loopback() || address.is_unspecified() || address.is_multicast());
    usable && wanted.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn change_is_not_lost_when_the_addresses_cannot_be_read() {
        static READS: AtomicUsize = AtomicUsize::new(0);
        fn fails_once(_: &[IpNet]) -> io::Result<Vec<IpAddr>> {
            match READS.fetch_add(1, Ordering::Relaxed) {
                0 => Err(Errno::ENOMEM.into()),
                _ => Ok(vec![IpAddr::from([192, 0, 2, 1])]),
            }
        }
        let mut interfaces = Interfaces::new(Vec::new()).unwrap();
        interfaces.read = fails_once;
        // As after a message of the kernel, and no other comes.
        interfaces.changed = true;
        // The future may be dropped during the delay.
        let early = tokio::time::timeout(AGAIN / 10, interfaces.next()).await;
        assert!(early.is_err());
        let next = tokio::time::timeout(AGAIN * 20, interfaces.next()).await;
        assert_eq!(next.unwrap(), [IpAddr::from([192, 0, 2, 1])]);
    }

    #[test]
    fn address_counts_if_it_is_in_a_range_and_not_loopback() {
        let rows = [
            ("in the range", "10.0.0.0/8", "10.1.2.3", true),
            ("outside", "10.0.0.0/8", "11.1.2.3", false),
            ("everything", "0.0.0.0/0", "192.0.2.1", true),
            ("loopback, though in the range", "127.0.0.0/8", "127.0.0.1", false),
            ("loopback among everything", "::/0", "::1", false),
            ("the other family", "0.0.0.0/0", "fd00::1", false),
            ("one address", "192.0.2.1/32", "192.0.2.1", true),
            ("IPv6", "fd00::/64", "fd00::1", true),
        ];
        for (row, range, address, counts) in rows {
            let wanted = [range.parse().unwrap()];
            assert_eq!(chosen(&wanted, address.parse().unwrap()), counts, "{row}");
        }
    }
}
