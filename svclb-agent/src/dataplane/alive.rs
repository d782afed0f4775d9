//! Which sockets of this network namespace the kernel can find: sock_diag(7), which asks for no privilege.
//!
//! A socket is listed while it is in one of the kernel's tables: a TCP socket that listens, connects or is
//! connected, and a UDP socket that has a port, also while no process holds it (unix(7), SCM_RIGHTS). One
//! whose connection was reset, or that was connected to AF_UNSPEC, is not, although it may be open; and
//! those of other network namespaces are not.

use std::collections::HashSet;
use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};

/// The cookies of all TCP and UDP sockets that were listed. One that was there all the time is among them.
///
/// # Errors
/// When the kernel does not answer, or what it said has gaps: then nothing is known.
pub fn cookies() -> io::Result<HashSet<u64>> {
    let mut found = HashSet::new();
    for family in [AF_INET, AF_INET6] {
        for protocol in [IPPROTO_TCP, IPPROTO_UDP] {
            list(family, protocol, &mut found)?;
        }
    }
    Ok(found)
}

fn list(family: u8, protocol: u8, found: &mut HashSet<u64>) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let request = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
    });
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut request = NetlinkMessage::new(header, request.into());
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = &answer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                .map_err(|error| io::Error::other(error.to_string()))?;
            if message.header.flags & NLM_F_DUMP_INTR != 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            // Messages begin at multiples of 4 (NLMSG_ALIGN).
            let size = (message.header.length as usize).next_multiple_of(4).max(16);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::Overrun(_) => {
                    return Err(io::Error::other("sock_diag lost messages"));
                }
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(listed)) => {
                    found.insert(u64::from_ne_bytes(listed.header.socket_id.cookie));
                }
                _ => {}
            }
            rest = rest.get(size..).unwrap_or_default();
        }
    }
}
