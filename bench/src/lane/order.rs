//! The orders to a lane's process and its answers, each one line of JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::times::{Times, rate};

/// The protocol of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Transport {
    /// `SOCK_STREAM`.
    Tcp,
    /// `SOCK_DGRAM`.
    Udp,
}

/// Calls that a client makes, by their number or for a time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Connect new sockets and close them.
    Connect {
        /// The protocol.
        transport: Transport,
        /// The destinations, in turn.
        to: Vec<SocketAddr>,
        /// Number of sockets.
        count: u32,
        /// True if every connect must be refused, instead of none.
        refused: bool,
    },
    /// Send datagrams by one unconnected UDP socket, and receive the answer to each.
    Exchange {
        /// The destinations, in turn.
        to: Vec<SocketAddr>,
        /// Number of datagrams.
        count: u32,
    },
    /// Call getpeername(2) on one connected UDP socket.
    Names {
        /// The destination.
        to: SocketAddr,
        /// Number of calls.
        count: u32,
    },
    /// Connect new UDP sockets in threads on different processors.
    Threads {
        /// The destinations, in turn.
        to: Vec<SocketAddr>,
        /// Number of threads.
        threads: usize,
        /// Duration.
        milliseconds: u64,
    },
    /// Send by one TCP connection to a server that only reads.
    Bulk {
        /// The server.
        to: SocketAddr,
        /// Duration.
        milliseconds: u64,
    },
    /// Send datagrams by one connected UDP socket to a server that reads them.
    Packets {
        /// The server.
        to: SocketAddr,
        /// Duration.
        milliseconds: u64,
    },
    /// Send single bytes by one TCP connection to a server that echoes them.
    PingPong {
        /// The server.
        to: SocketAddr,
        /// Duration.
        milliseconds: u64,
    },
}

impl Order {
    /// Returns an order for connects of which none is refused.
    pub(crate) fn connect(transport: Transport, to: Vec<SocketAddr>, count: u32) -> Self {
        Self::Connect { transport, to, count, refused: false }
    }

    /// Divides the number of calls or the time.
    pub(crate) fn part(mut self, of: u32) -> Self {
        match &mut self {
            Self::Connect { count, .. }
            | Self::Exchange { count, .. }
            | Self::Names { count, .. } => {
                *count = (*count / of).max(1);
            }
            Self::Threads { milliseconds, .. }
            | Self::Bulk { milliseconds, .. }
            | Self::Packets { milliseconds, .. }
            | Self::PingPong { milliseconds, .. } => {
                *milliseconds = (*milliseconds / u64::from(of)).max(1);
            }
        }
        self
    }
}

/// The result of an order.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Number of calls, bytes or datagrams.
    pub(crate) calls: u64,
    /// Duration of all.
    pub(crate) seconds: f64,
    /// Durations of calls, by the name of the call.
    pub(crate) times: BTreeMap<String, Times>,
}

impl Answer {
    /// Returns the number per second.
    pub(crate) fn rate(&self) -> f64 {
        rate(self.calls, self.seconds)
    }
}
