//! A pair of interfaces between two network namespaces, with their addresses and routes, set by
//! rtnetlink(7) like the other routes.

use std::ffi::CStr;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::routes::exchange;

// Numbers of include/uapi/linux/if_link.h, veth.h and if_addr.h that libc does not have.
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_F_NODAD: u8 = 2;
/// A `struct ifinfomsg` that names no interface.
const ANY_LINK: [u8; 16] = [0; 16];

/// Creates a veth pair: `near` in this thread's namespace, `far` in the other.
pub(crate) fn pair(near: &CStr, far: &CStr, other: BorrowedFd<'_>) -> io::Result<()> {
    let other = other.as_raw_fd().to_ne_bytes();
    let far = [
        &ANY_LINK[..],
        &attribute(libc::IFLA_IFNAME, far.to_bytes_with_nul()),
        &attribute(IFLA_NET_NS_FD, &other),
    ];
    let peer = attribute(VETH_INFO_PEER, &far.concat());
    let kind = attribute(IFLA_INFO_KIND, b"veth");
    let info = [kind, attribute(IFLA_INFO_DATA, &peer)].concat();
    let body = [
        &ANY_LINK[..],
        &attribute(libc::IFLA_IFNAME, near.to_bytes_with_nul()),
        &attribute(libc::IFLA_LINKINFO, &info),
    ];
    request(libc::RTM_NEWLINK, &body.concat())
}

/// Gives an interface an address in a network with a prefix of `bits` bits.
pub(crate) fn address(interface: &CStr, address: IpAddr, bits: u8) -> io::Result<()> {
    let (family, bytes) = family(address);
    // `struct ifaddrmsg`. Without IFA_F_NODAD an IPv6 address would be tentative for a while.
    let head = [&[family, bits, IFA_F_NODAD, 0][..], &index(interface)?.to_ne_bytes()].concat();
    let body =
        [head, attribute(libc::IFA_LOCAL, &bytes), attribute(libc::IFA_ADDRESS, &bytes)].concat();
    request(libc::RTM_NEWADDR, &body)
}

/// Adds a route through `neighbour` to the addresses that begin with `bits` bits of `destination`.
pub(crate) fn route(destination: IpAddr, bits: u8, neighbour: IpAddr) -> io::Result<()> {
    let (family, bytes) = family(destination);
    // `struct rtmsg`: after the family come three prefix lengths and a type of service, then table,
    // protocol, scope and kind.
    let head = [
        family,
        bits,
        0,
        0,
        libc::RT_TABLE_MAIN,
        libc::RTPROT_STATIC,
        libc::RT_SCOPE_UNIVERSE,
        libc::RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    let gateway = attribute(libc::RTA_GATEWAY, &self::family(neighbour).1);
    request(libc::RTM_NEWROUTE, &[&head[..], &attribute(libc::RTA_DST, &bytes), &gateway].concat())
}

fn family(address: IpAddr) -> (u8, Vec<u8>) {
    let (family, bytes) = match address {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    (u8::try_from(family).unwrap(), bytes)
}

fn index(interface: &CStr) -> io::Result<u32> {
    // SAFETY: a C string.
    match unsafe { libc::if_nametoindex(interface.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// Builds a `struct rtattr` with its value, padded with zeros to a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let size = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [&size.to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends a request that creates an object.
fn request(kind: u16, body: &[u8]) -> io::Result<()> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let size = u32::try_from(size_of::<libc::nlmsghdr>() + body.len()).unwrap();
    // `struct nlmsghdr` with sequence number 1 and port 0.
    let head = [
        &size.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &u16::try_from(flags).unwrap().to_ne_bytes(),
        &1_u32.to_ne_bytes(),
        &0_u32.to_ne_bytes(),
    ];
    exchange(&[&head.concat(), body].concat())
}
