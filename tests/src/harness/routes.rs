//! The loopback interface and the routes of a world, set by rtnetlink(7), so that no tool has to be
//! installed, here or in a small virtual machine.

use std::ffi::CStr;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// The effect of a route on a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Route {
    /// The addresses are local to this host.
    Local,
    /// A connect or a send fails with EACCES.
    Prohibit,
}

/// `struct nlmsghdr` and `struct rtmsg`, which the attributes RTA_DST and RTA_OIF follow.
#[repr(C)]
struct Request {
    header: libc::nlmsghdr,
    route: Rtmsg,
}

/// `struct rtmsg` (include/uapi/linux/rtnetlink.h).
#[repr(C)]
struct Rtmsg {
    family: u8,
    destination_bits: u8,
    source_bits: u8,
    tos: u8,
    table: u8,
    protocol: u8,
    scope: u8,
    kind: u8,
    flags: u32,
}

/// Brings the loopback of this thread's network namespace up.
///
/// # Errors
/// If the kernel returns an error.
pub fn loopback_up() -> io::Result<()> {
    up(c"lo")
}

/// Brings an interface up.
pub(crate) fn up(interface: &CStr) -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // SAFETY: all zeros are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.to_bytes()) {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap();
    // SAFETY: the request has the name of an interface and flags.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Adds a route to the addresses that begin with the first `bits` bits of `destination`.
pub(crate) fn add(route: Route, destination: IpAddr, bits: u8) -> io::Result<()> {
    let (family, address) = match destination {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    let mut attributes = attribute(libc::RTA_DST, &address);
    let (table, scope, kind) = match route {
        Route::Local => {
            // SAFETY: a C string.
            let loopback = unsafe { libc::if_nametoindex(c"lo".as_ptr()) };
            attributes.extend(attribute(libc::RTA_OIF, &loopback.to_ne_bytes()));
            (libc::RT_TABLE_LOCAL, libc::RT_SCOPE_HOST, libc::RTN_LOCAL)
        }
        Route::Prohibit => (libc::RT_TABLE_MAIN, libc::RT_SCOPE_UNIVERSE, libc::RTN_PROHIBIT),
    };
    let size = u32::try_from(size_of::<Request>() + attributes.len()).unwrap();
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let request = Request {
        header: libc::nlmsghdr {
            nlmsg_len: size,
            nlmsg_type: libc::RTM_NEWROUTE,
            nlmsg_flags: u16::try_from(flags).unwrap(),
            nlmsg_seq: 1,
            nlmsg_pid: 0,
        },
        route: Rtmsg {
            family: u8::try_from(family).unwrap(),
            destination_bits: bits,
            source_bits: 0,
            tos: 0,
            table,
            protocol: libc::RTPROT_STATIC,
            scope,
            kind,
            flags: 0,
        },
    };
    // SAFETY: integers without padding between them.
    let head = unsafe {
        std::slice::from_raw_parts((&raw const request).cast::<u8>(), size_of::<Request>())
    };
    exchange(&[head, &attributes].concat())
}

/// Builds a `struct rtattr` with its value; the sizes used here need no padding.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let size = u16::try_from(4 + value.len()).unwrap();
    [&size.to_ne_bytes(), &kind.to_ne_bytes(), value].concat()
}

/// Sends a request and reads its acknowledgement.
pub(super) fn exchange(request: &[u8]) -> io::Result<()> {
    let socket = socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?;
    let mut answer = [0_u8; 512];
    // SAFETY: both buffers have their sizes.
    let got = unsafe {
        libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0);
        libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    // `struct nlmsgerr` after the header: a negative error number, or 0.
    let at = size_of::<libc::nlmsghdr>();
    match usize::try_from(got) {
        Ok(size) if size >= at + 4 => {
            match i32::from_ne_bytes(answer[at..at + 4].try_into().unwrap()) {
                0 => Ok(()),
                error => Err(io::Error::from_raw_os_error(-error)),
            }
        }
        _ => Err(io::Error::last_os_error()),
    }
}

fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers.
    let socket = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}
