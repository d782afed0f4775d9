//! The hosts of a side: one thread for all of them, which answers with the address at which it was
//! reached.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::generate::LISTENING;
use super::world::Family;
use crate::harness::namespace::Namespace;

/// The thread, which ends on drop.
pub(crate) struct Server {
    /// Closing this end stops the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens on every address of the namespace.
    pub(crate) fn start(namespace: &Namespace) -> Self {
        let (listeners, sockets) = namespace.run(bind).unwrap_or_else(|error| {
            panic!("the hosts of the namespace cannot listen: {error}");
        });
        let (stop, stopped) = UnixStream::pair().expect("a socket pair can be made");
        let thread = thread::Builder::new()
            .name("hosts".to_owned())
            .spawn(move || serve(&listeners, &sockets, &stopped))
            .expect("a thread can be started");
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

fn bind() -> io::Result<(Vec<TcpListener>, Vec<Socket>)> {
    let (mut listeners, mut sockets) = (Vec::new(), Vec::new());
    for family in Family::ALL {
        let any = match family {
            Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        for port in LISTENING {
            let address = SockAddr::from(SocketAddr::new(any, port));
            for kind in [Type::STREAM, Type::DGRAM] {
                let socket =
                    Socket::new(Domain::for_address(SocketAddr::new(any, port)), kind, None)?;
                if family == Family::V6 {
                    socket.set_only_v6(true)?;
                }
                socket.set_nonblocking(true)?;
                if kind == Type::STREAM {
                    socket.set_reuse_address(true)?;
                    socket.bind(&address)?;
                    socket.listen(4096)?;
                    listeners.push(socket.into());
                } else {
                    socket.set_recv_buffer_size(1 << 20)?;
                    match family {
                        Family::V4 => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
                        Family::V6 => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
                    }
                    socket.bind(&address)?;
                    sockets.push(socket);
                }
            }
        }
    }
    Ok((listeners, sockets))
}

fn serve(listeners: &[TcpListener], sockets: &[Socket], stopped: &UnixStream) {
    let all: Vec<BorrowedFd<'_>> = std::iter::once(stopped.as_fd())
        .chain(listeners.iter().map(|it| it.as_fd()))
        .chain(sockets.iter().map(|it| it.as_fd()))
        .collect();
    loop {
        let mut polled: Vec<_> =
            all.iter().map(|socket| PollFd::new(*socket, PollFlags::POLLIN)).collect();
        if poll(&mut polled, PollTimeout::NONE).is_err() {
            continue;
        }
        if polled[0].any() != Some(false) {
            return;
        }
        let ready = |at: usize| polled[at].any() != Some(false);
        for (at, listener) in listeners.iter().enumerate().filter(|(at, _)| ready(at + 1)) {
            let _ = at;
            accept(listener);
        }
        for (at, socket) in sockets.iter().enumerate() {
            if ready(1 + listeners.len() + at) {
                answer(socket);
            }
        }
    }
}

/// Sends each new client the address at which it arrived.
fn accept(listener: &TcpListener) {
    while let Ok((mut client, _)) = listener.accept() {
        if let Ok(here) = client.local_addr() {
            // The write fails if the client has closed its socket meanwhile.
            let _ = client.write_all(format!("{here}\n").as_bytes());
        }
    }
}

/// Sends the sender of each datagram the address at which it arrived, from that address.
fn answer(socket: &Socket) {
    let port = match socket.local_addr().map(|address| address.as_socket()) {
        Ok(Some(address)) => address.port(),
        other => panic!("a bound socket has an address: {other:?}"),
    };
    loop {
        let mut buffer = [0; 64];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut control_buffer = nix::cmsg_space!(libc::in6_pktinfo);
        let received = recvmsg::<SockaddrStorage>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control_buffer),
            MsgFlags::empty(),
        );
        let Ok(received) = received else { return };
        let controls: Vec<ControlMessageOwned> =
            received.cmsgs().map(Iterator::collect).unwrap_or_default();
        let Some(from) = received.address else { continue };
        for control in controls {
            // The send fails if the client has closed its socket meanwhile.
            let _ = match control {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let here =
                        IpAddr::from(Ipv4Addr::from_bits(u32::from_be(info.ipi_addr.s_addr)));
                    let source = libc::in_pktinfo {
                        ipi_ifindex: 0,
                        ipi_spec_dst: info.ipi_addr,
                        ipi_addr: libc::in_addr { s_addr: 0 },
                    };
                    reply(socket, here, port, &from, &ControlMessage::Ipv4PacketInfo(&source))
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    let here = IpAddr::from(Ipv6Addr::from(info.ipi6_addr.s6_addr));
                    let source = libc::in6_pktinfo { ipi6_addr: info.ipi6_addr, ipi6_ifindex: 0 };
                    reply(socket, here, port, &from, &ControlMessage::Ipv6PacketInfo(&source))
                }
                _ => Ok(0),
            };
        }
    }
}

fn reply(
    socket: &Socket,
    here: IpAddr,
    port: u16,
    to: &SockaddrStorage,
    source: &ControlMessage<'_>,
) -> nix::Result<usize> {
    let text = format!("{}\n", SocketAddr::new(here, port));
    let parts = [IoSlice::new(text.as_bytes())];
    sendmsg(socket.as_raw_fd(), &parts, &[*source], MsgFlags::empty(), Some(to))
}
