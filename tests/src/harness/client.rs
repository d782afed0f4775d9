//! A client's socket in the hands of a test. Every call on it ends within [`PATIENCE`].

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockAddr;

use super::factory::Order;
use super::wait::patient;
use crate::{Backend, Protocol};

/// Limit for a connect, a send or a receive.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// AF_SMC (include/linux/socket.h).
pub const AF_SMC: i32 = 43;

/// The kind of socket that a client opens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP on an IPv6 socket, which can dial v4-mapped addresses too.
    Tcp6,
    /// UDP over IPv4.
    Udp4,
    /// UDP on an IPv6 socket.
    Udp6,
    /// Multipath TCP (RFC 8684) over IPv4.
    Mptcp4,
    /// Shared Memory Communications (RFC 7609) over IPv4. The peers of tests do not support it, so it
    /// falls back to TCP.
    Smc4,
}

impl Kind {
    /// The kind of socket that can dial this address with this protocol.
    pub fn of(protocol: Protocol, address: SocketAddr) -> Self {
        match (protocol, address) {
            (Protocol::Tcp, SocketAddr::V4(_)) => Self::Tcp4,
            (Protocol::Tcp, SocketAddr::V6(_)) => Self::Tcp6,
            (Protocol::Udp, SocketAddr::V4(_)) => Self::Udp4,
            (Protocol::Udp, SocketAddr::V6(_)) => Self::Udp6,
        }
    }

    pub(crate) fn order(self, count: u32) -> Order {
        let (domain, kind, protocol) = match self {
            Self::Tcp4 => (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP),
            Self::Tcp6 => (libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP),
            Self::Udp4 => (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            Self::Udp6 => (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            Self::Mptcp4 => (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
            Self::Smc4 => (AF_SMC, libc::SOCK_STREAM, 0),
        };
        Order { domain, kind, protocol, count }
    }
}

/// Parses an address and port, such as `10.96.0.10:80` or `[::ffff:10.96.0.10]:80`.
///
/// # Panics
/// If the text is not an address and port.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// A value with a socket address: an address, its text, or a backend.
pub trait ToAddress {
    /// Returns the address.
    fn to_address(&self) -> SocketAddr;
}

impl ToAddress for SocketAddr {
    fn to_address(&self) -> SocketAddr {
        *self
    }
}

impl ToAddress for str {
    fn to_address(&self) -> SocketAddr {
        at(self)
    }
}

impl ToAddress for String {
    fn to_address(&self) -> SocketAddr {
        at(self)
    }
}

impl ToAddress for Backend {
    fn to_address(&self) -> SocketAddr {
        self.address()
    }
}

impl<P: ToAddress + ?Sized> ToAddress for &P {
    fn to_address(&self) -> SocketAddr {
        (*self).to_address()
    }
}

/// A response that a socket received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// Name of the backend that answered.
    pub backend: String,
    /// Source address of the response, as recvfrom(2) returned it.
    pub from: SocketAddr,
}

/// A socket that was created in the world's cgroup and network namespace.
pub struct Socket(socket2::Socket);

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<OwnedFd> for Socket {
    /// Sets the socket's timeouts to [`PATIENCE`].
    fn from(fd: OwnedFd) -> Self {
        let socket = socket2::Socket::from(fd);
        let patience = Some(patient(PATIENCE));
        socket.set_read_timeout(patience).expect("a socket takes a timeout");
        socket.set_write_timeout(patience).expect("a socket takes a timeout");
        Self(socket)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// The underlying socket, for calls that have no method here.
    pub fn raw(&self) -> &socket2::Socket {
        &self.0
    }

    /// Another descriptor of the same socket.
    pub fn duplicate(&self) -> Self {
        Self(self.0.try_clone().expect("a descriptor can be duplicated"))
    }

    /// connect(2).
    ///
    /// # Errors
    /// The kernel's.
    pub fn dial(&self, to: impl ToAddress) -> io::Result<()> {
        self.0.connect(&SockAddr::from(to.to_address()))
    }

    /// Dissolves the connection: connect(2) with AF_UNSPEC.
    ///
    /// # Errors
    /// The kernel's.
    pub fn disconnect(&self) -> io::Result<()> {
        // SAFETY: plain bytes.
        let mut nowhere: libc::sockaddr = unsafe { MaybeUninit::zeroed().assume_init() };
        nowhere.sa_family = libc::sa_family_t::try_from(libc::AF_UNSPEC).unwrap();
        let size = libc::socklen_t::try_from(size_of::<libc::sockaddr>()).unwrap();
        // SAFETY: the address lives here and has this size.
        match unsafe { libc::connect(self.0.as_raw_fd(), &raw const nowhere, size) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// getpeername(2).
    ///
    /// # Errors
    /// The kernel's.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        internet(&self.0.peer_addr()?)
    }

    /// getsockname(2).
    ///
    /// # Errors
    /// The kernel's.
    pub fn local(&self) -> io::Result<SocketAddr> {
        internet(&self.0.local_addr()?)
    }

    /// SO_COOKIE.
    pub fn cookie(&self) -> u64 {
        self.0.cookie().expect("a socket has a cookie")
    }

    /// Sends a request on a connected socket and returns the name of the backend that answers.
    ///
    /// # Errors
    /// The kernel's; `TimedOut` without a response; `InvalidData` if the response belongs to another
    /// request.
    pub fn request(&self) -> io::Result<String> {
        let new_request = new_request();
        self.0.send(new_request.as_bytes())?;
        self.read(&new_request)
    }

    /// Reads the response to a request that was sent, and returns the backend's name.
    pub(crate) fn read(&self, new_request: &str) -> io::Result<String> {
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            let mut part = [MaybeUninit::uninit(); 256];
            let size = self.0.recv(&mut part).map_err(timed_out)?;
            if size == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // SAFETY: the kernel wrote that many bytes.
            answer.extend(part[..size].iter().map(|byte| unsafe { byte.assume_init() }));
        }
        name_in(&answer, new_request)
    }

    /// Sends a request to an address and waits for the response, on an unconnected UDP socket.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn request_to(&self, to: impl ToAddress) -> io::Result<Response> {
        let new_request = self.send_to(to)?;
        self.receive_response(&new_request)
    }

    /// Sends a new request to an address and returns its text.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send_to(&self, to: impl ToAddress) -> io::Result<String> {
        let new_request = new_request();
        self.0.send_to(new_request.as_bytes(), &SockAddr::from(to.to_address()))?;
        Ok(new_request)
    }

    /// Receives the response to a request, with its source address.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub fn receive_response(&self, new_request: &str) -> io::Result<Response> {
        let mut part = [MaybeUninit::uninit(); 256];
        let (size, from) = self.0.recv_from(&mut part).map_err(timed_out)?;
        // SAFETY: the kernel wrote that many bytes.
        let answer: Vec<u8> =
            part[..size].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        Ok(Response { backend: name_in(&answer, new_request)?, from: internet(&from)? })
    }
}

/// Creates a request with a text that no other request of this process has.
pub(crate) fn new_request() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{}\n", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Extracts the backend's name from a response, which consists of the name and the request.
fn name_in(answer: &[u8], new_request: &str) -> io::Result<String> {
    let text = String::from_utf8_lossy(answer);
    match text.strip_suffix(new_request).and_then(|rest| rest.strip_suffix(' ')) {
        Some(name) => Ok(name.to_owned()),
        None => {
            let what = format!("{text:?} is no answer to {new_request:?}");
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
    }
}

fn internet(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other(format!("{address:?} is no address")))
}

/// Turns the `WouldBlock` that a timed-out receive returns into `TimedOut`.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {PATIENCE:?}"));
    }
    error
}
