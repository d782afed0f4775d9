//! Many concurrent calls, each from a socket of its own, and their answers.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{SockAddr, Socket};

use crate::Protocol;
use crate::harness::factory::{Factory, Order};

/// Number of concurrent calls.
const AT_ONCE: usize = 200;
/// Number of sockets fetched from the factory at a time.
const BATCH: u32 = 50;

/// One connect, or one datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Call {
    pub(crate) protocol: Protocol,
    pub(crate) to: SocketAddr,
    /// Source address; the kernel chooses one if there is none.
    pub(crate) from: Option<IpAddr>,
}

/// The answer to a call.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Answer {
    /// A host answered, with the address and port at which it was reached.
    Host(SocketAddr),
    /// ECONNREFUSED.
    Refused,
    /// The reject rules answered (see the module `network`): no proxy translated the address.
    Untouched,
    /// No answer in time.
    Silence,
    /// Any other error or text.
    Other(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(address) => address.fmt(f),
            Self::Refused => f.write_str("refused"),
            Self::Untouched => f.write_str("left alone"),
            Self::Silence => f.write_str("silence"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// A call that waits for its answer.
struct Open {
    number: usize,
    socket: Socket,
    until: Instant,
}

/// Makes all calls and returns their answers in the same order. Each call waits for `patience`.
pub(crate) fn dial(factory: &Factory, calls: &[Call], patience: Duration) -> Vec<Answer> {
    let mut answers: Vec<Option<Answer>> = vec![None; calls.len()];
    let mut stock = Stock { factory, sockets: Default::default() };
    let mut open: Vec<Open> = Vec::new();
    let mut next = 0;
    while next < calls.len() || !open.is_empty() {
        while open.len() < AT_ONCE && next < calls.len() {
            let socket = stock.take(calls[next]);
            match begin(&socket, calls[next]) {
                Ok(()) => {
                    open.push(Open { number: next, socket, until: Instant::now() + patience })
                }
                Err(error) => answers[next] = Some(answer_of_error(&error)),
            }
            next += 1;
        }
        wait(&open);
        let now = Instant::now();
        open.retain(|call| {
            let answer = receive(&call.socket).or((now >= call.until).then_some(Answer::Silence));
            let is_done = answer.is_some();
            if is_done {
                answers[call.number] = answer;
                // The connection is reset, so that its port is free at once.
                let _ = call.socket.set_linger(Some(Duration::ZERO));
            }
            !is_done
        });
    }
    answers.into_iter().map(|answer| answer.expect("each call has been answered")).collect()
}

fn begin(socket: &Socket, call: Call) -> io::Result<()> {
    if let Some(from) = call.from {
        socket.bind(&SockAddr::from(SocketAddr::new(from, 0)))?;
    }
    match socket.connect(&SockAddr::from(call.to)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    if call.protocol == Protocol::Udp {
        match socket.send(b"?") {
            // A reject rule returns EPERM to a local sender. The refusal itself follows as an ICMP
            // message.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Waits until a call has an answer, at most a tenth of a second.
fn wait(open: &[Open]) {
    let Some(first) = open.iter().map(|call| call.until).min() else { return };
    let left = first.saturating_duration_since(Instant::now()).min(Duration::from_millis(100));
    let left = u16::try_from(left.as_millis() + 1).expect("a moment is short");
    let mut polled: Vec<_> =
        open.iter().map(|call| PollFd::new(call.socket.as_fd(), PollFlags::POLLIN)).collect();
    // An interrupted wait is only a shorter one.
    let _ = poll(&mut polled, PollTimeout::from(left));
}

fn receive(socket: &Socket) -> Option<Answer> {
    let mut part = [MaybeUninit::<u8>::uninit(); 128];
    match socket.recv(&mut part) {
        Ok(size) => {
            // SAFETY: the kernel wrote that many bytes.
            let received: Vec<u8> =
                part[..size].iter().map(|byte| unsafe { byte.assume_init() }).collect();
            let text = String::from_utf8_lossy(&received);
            Some(match text.trim_end().parse() {
                Ok(address) => Answer::Host(address),
                Err(_) => Answer::Other(format!("{text:?}")),
            })
        }
        Err(error) => match error.raw_os_error() {
            // TCP: not connected yet.
            Some(libc::EAGAIN | libc::ENOTCONN) => None,
            _ => Some(answer_of_error(&error)),
        },
    }
}

fn answer_of_error(error: &io::Error) -> Answer {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Answer::Refused,
        // ICMP code 13 and ICMPv6 code 1: administratively prohibited.
        Some(libc::EHOSTUNREACH | libc::EACCES) => Answer::Untouched,
        _ => Answer::Other(error.to_string()),
    }
}

/// Sockets created by the client's factory, by family and protocol.
struct Stock<'a> {
    factory: &'a Factory,
    /// TCP and UDP over IPv4, then TCP and UDP over IPv6.
    sockets: [Vec<OwnedFd>; 4],
}

impl Stock<'_> {
    fn take(&mut self, call: Call) -> Socket {
        let (kind, protocol, at) = match call.protocol {
            Protocol::Tcp => (libc::SOCK_STREAM, libc::IPPROTO_TCP, 0),
            Protocol::Udp => (libc::SOCK_DGRAM, libc::IPPROTO_UDP, 1),
        };
        let (domain, at) =
            if call.to.is_ipv4() { (libc::AF_INET, at) } else { (libc::AF_INET6, at + 2) };
        if self.sockets[at].is_empty() {
            let order = Order { domain, kind: kind | libc::SOCK_NONBLOCK, protocol, count: BATCH };
            let made = self.factory.make(order);
            self.sockets[at] = made.unwrap_or_else(|error| panic!("cannot make sockets: {error}"));
        }
        self.sockets[at].pop().expect("some were made").into()
    }
}
