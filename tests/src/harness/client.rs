//! A socket of a pod, in a test's hands. Everything on it ends within [`PATIENCE`].

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

/// How long a connect, a send or a receive may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// AF_SMC (include/linux/socket.h).
pub const AF_SMC: i32 = 43;

/// What kind of socket a client opens.
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
    /// Shared Memory Communications (RFC 7609) over IPv4, which the peer does not speak.
    Smc4,
}

impl Kind {
    /// What a client opens to dial this address.
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

/// The address that this text writes, such as `10.96.0.10:80` or `[::ffff:10.96.0.10]:80`.
///
/// # Panics
/// When it writes none.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// Where something can be sent: an address, its text, or a backend.
pub trait Place {
    /// The address.
    fn place(&self) -> SocketAddr;
}

impl Place for SocketAddr {
    fn place(&self) -> SocketAddr {
        *self
    }
}

impl Place for str {
    fn place(&self) -> SocketAddr {
        at(self)
    }
}

impl Place for String {
    fn place(&self) -> SocketAddr {
        at(self)
    }
}

impl Place for Backend {
    fn place(&self) -> SocketAddr {
        self.address()
    }
}

impl<P: Place + ?Sized> Place for &P {
    fn place(&self) -> SocketAddr {
        (*self).place()
    }
}

/// What came back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Name of the backend that answered.
    pub backend: String,
    /// Where the answer came from, as the socket tells.
    pub from: SocketAddr,
}

/// A socket that was made in the world's cgroup and network.
pub struct Socket(socket2::Socket);

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<OwnedFd> for Socket {
    /// Bounds what the socket can wait for.
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
    /// The socket itself, for what is not here.
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
    pub fn dial(&self, to: impl Place) -> io::Result<()> {
        self.0.connect(&SockAddr::from(to.place()))
    }

    /// connect(2) with AF_UNSPEC: the socket is connected no more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn undial(&self) -> io::Result<()> {
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

    /// Asks the peer of a connected socket who it is: its name.
    ///
    /// # Errors
    /// The kernel's; TimedOut when nothing came; InvalidData when it is no answer to this question.
    pub fn ask(&self) -> io::Result<String> {
        let question = question();
        self.0.send(question.as_bytes())?;
        self.read(&question)
    }

    /// Reads the answer to a question that was sent.
    pub(crate) fn read(&self, question: &str) -> io::Result<String> {
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
        name_in(&answer, question)
    }

    /// Sends a question to an address and waits for the answer, on an unconnected UDP socket.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn ask_at(&self, to: impl Place) -> io::Result<Answer> {
        let question = self.send_to(to)?;
        self.hear(&question)
    }

    /// Sends a question to an address, and gives it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send_to(&self, to: impl Place) -> io::Result<String> {
        let question = question();
        self.0.send_to(question.as_bytes(), &SockAddr::from(to.place()))?;
        Ok(question)
    }

    /// Receives the answer to a question, and where it came from.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn hear(&self, question: &str) -> io::Result<Answer> {
        let mut part = [MaybeUninit::uninit(); 256];
        let (size, from) = self.0.recv_from(&mut part).map_err(timed_out)?;
        // SAFETY: the kernel wrote that many bytes.
        let answer: Vec<u8> =
            part[..size].iter().map(|byte| unsafe { byte.assume_init() }).collect();
        Ok(Answer { backend: name_in(&answer, question)?, from: internet(&from)? })
    }
}

/// A question that nobody asked before.
pub(crate) fn question() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("{}\n", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A backend answers with its name and the question.
fn name_in(answer: &[u8], question: &str) -> io::Result<String> {
    let text = String::from_utf8_lossy(answer);
    match text.strip_suffix(question).and_then(|rest| rest.strip_suffix(' ')) {
        Some(name) => Ok(name.to_owned()),
        None => {
            let what = format!("{text:?} is no answer to {question:?}");
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
    }
}

fn internet(address: &SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::Error::other(format!("{address:?} is no address")))
}

/// What a timeout of a receive looks like is up to the kernel; this says what it is.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {PATIENCE:?}"));
    }
    error
}
