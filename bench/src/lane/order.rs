//! What a lane's process is asked, one line of JSON each, and what it answers.

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

/// Something that a client does so many times, or for so long.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// New sockets, each connected once, to these in turn, and closed.
    Connect {
        /// How.
        transport: Transport,
        /// Where to.
        to: Vec<SocketAddr>,
        /// How many sockets.
        count: u32,
        /// Every connect must be refused, instead of none.
        refused: bool,
    },
    /// One unconnected UDP socket: a datagram to these in turn, and the answer to each.
    Exchange {
        /// Where to.
        to: Vec<SocketAddr>,
        /// How many datagrams.
        count: u32,
    },
    /// One connected UDP socket that is asked for its peer.
    Names {
        /// Where it is connected to.
        to: SocketAddr,
        /// How often.
        count: u32,
    },
    /// Threads that connect new UDP sockets, each on a processor of its own.
    Threads {
        /// Where to, in turn.
        to: Vec<SocketAddr>,
        /// How many threads.
        threads: usize,
        /// For how long.
        milliseconds: u64,
    },
    /// One TCP connection to a server that reads all and says nothing.
    Bulk {
        /// Where it is.
        to: SocketAddr,
        /// For how long.
        milliseconds: u64,
    },
    /// Datagrams of one connected UDP socket, which a server reads.
    Packets {
        /// Where it is.
        to: SocketAddr,
        /// For how long.
        milliseconds: u64,
    },
    /// One TCP connection to a server that says one byte for each.
    PingPong {
        /// Where it is.
        to: SocketAddr,
        /// For how long.
        milliseconds: u64,
    },
}

impl Order {
    /// Connects, none of which is refused.
    pub(crate) fn connect(transport: Transport, to: Vec<SocketAddr>, count: u32) -> Self {
        Self::Connect { transport, to, count, refused: false }
    }

    /// The same, done so many times less often, or for less long.
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

/// What came of it.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// How often it was done.
    pub(crate) calls: u64,
    /// How long all took.
    pub(crate) seconds: f64,
    /// How long each call took, by the call's name.
    pub(crate) times: BTreeMap<String, Times>,
}

impl Answer {
    /// How often it was done in a second.
    pub(crate) fn rate(&self) -> f64 {
        rate(self.calls, self.seconds)
    }
}
