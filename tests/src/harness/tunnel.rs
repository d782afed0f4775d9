//! UDP sockets that the kernel creates itself: it creates and connects one for an L2TP tunnel, on behalf
//! of the process that requests the tunnel (genetlink, include/uapi/linux/l2tp.h).

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use super::client::ToAddress;
use super::program;
use super::world::World;

/// `nlmsghdr` and `genlmsghdr`.
const HEADERS: usize = 20;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const L2TP_CMD_TUNNEL_CREATE: u8 = 1;

impl World {
    /// Returns true if the kernel supports L2TP tunnels.
    ///
    /// # Panics
    /// If the kernel returns any other error.
    pub fn has_tunnels(&self) -> bool {
        match self.inside(|| family(&socket()?)) {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
            Err(error) => panic!("cannot look up the netlink family l2tp: {error}"),
        }
    }

    /// Creates a tunnel on behalf of a process in the cgroup: the kernel connects a UDP socket to `to`.
    /// The tunnel stays until the end of the world.
    ///
    /// # Panics
    /// If it cannot be created, for example because the connect fails.
    pub fn tunnel(&self, number: u8, from: &str, to: &str) {
        let (from, to) = (from.to_address(), to.to_address());
        let processes = self.cgroup().join("cgroup.procs");
        let mut command = Command::new(program::svclb());
        command.arg("--version");
        // SAFETY: only this thread goes on in the child, and it holds no lock.
        unsafe {
            command.pre_exec(move || {
                fs::write(&processes, "0")?;
                create(number, from, to)
            });
        }
        let output = self.run_as_client(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn create(number: u8, from: SocketAddr, to: SocketAddr) -> io::Result<()> {
    let socket = socket()?;
    let family = family(&socket)?;
    let id = u32::from(number).to_ne_bytes();
    let mut attributes = [
        // Encapsulation in UDP, protocol version 3.
        attribute(2, &0_u16.to_ne_bytes()),
        attribute(7, &[3]),
        attribute(9, &id),
        attribute(10, &id),
        attribute(26, &from.port().to_ne_bytes()),
        attribute(27, &to.port().to_ne_bytes()),
    ]
    .concat();
    for (v4, v6, ip) in [(24, 31, from.ip()), (25, 32, to.ip())] {
        attributes.extend(match ip {
            IpAddr::V4(ip) => attribute(v4, &ip.octets()),
            IpAddr::V6(ip) => attribute(v6, &ip.octets()),
        });
    }
    exchange(&socket, family, L2TP_CMD_TUNNEL_CREATE, &attributes).map(drop)
}

/// The number of the netlink family l2tp.
fn family(socket: &OwnedFd) -> io::Result<u16> {
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"l2tp\0");
    let answer = exchange(socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name)?;
    let mut rest = answer.get(HEADERS..).unwrap_or_default();
    while let [l0, l1, t0, t1, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([l0, l1])).max(4);
        if u16::from_ne_bytes([t0, t1]) == CTRL_ATTR_FAMILY_ID {
            return Ok(u16::from_ne_bytes([rest[4], rest[5]]));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Err(io::Error::other("no number of the family l2tp"))
}

/// Sends a request and reads the first reply: the answer, or an error.
fn exchange(socket: &OwnedFd, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap();
    let mut request = u32::try_from(HEADERS + attributes.len()).unwrap().to_ne_bytes().to_vec();
    request.extend([family.to_ne_bytes(), flags.to_ne_bytes()].concat());
    request.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    let mut answer = vec![0_u8; 4096];
    // SAFETY: both buffers have their sizes.
    let size = unsafe {
        libc::send(socket.as_raw_fd(), request.as_ptr().cast(), request.len(), 0);
        libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    answer.truncate(usize::try_from(size).map_err(|_| io::Error::last_os_error())?);
    let kind = answer.get(4..6).map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    if kind == Some(2) {
        // `struct nlmsgerr`: a negative error number, or 0.
        let error = answer.get(16..20).and_then(|bytes| bytes.try_into().ok());
        match error.map(i32::from_ne_bytes) {
            Some(0) => {}
            Some(error) => return Err(io::Error::from_raw_os_error(-error)),
            None => return Err(io::Error::other("an answer without an error number")),
        }
    }
    Ok(answer)
}

/// Builds a `struct nlattr` with its value, padded to a multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let size = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [&size.to_ne_bytes(), &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: plain numbers.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_GENERIC) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}
