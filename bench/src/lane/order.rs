//! What a lane's process is asked, one line of JSON each, and what it answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

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

/// How long a call took, each time it was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Times {
    /// Percentiles from 0 to 100, nanoseconds.
    pub(crate) percentiles: Vec<u64>,
}

impl Answer {
    /// How often it was done in a second.
    pub(crate) fn rate(&self) -> f64 {
        crate::book::rate(self.calls, self.seconds)
    }
}

impl Times {
    /// Sums up what was measured, in nanoseconds.
    ///
    /// A percentile is the least of them that so many percent are not above (the nearest rank): of fewer
    /// than a hundred, the 99th is the slowest.
    pub(crate) fn of(mut measured: Vec<u64>) -> Self {
        measured.sort_unstable();
        let at = |percent: usize| {
            let rank = (measured.len() * percent).div_ceil(100);
            measured.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { percentiles: (0..=100).map(at).collect() }
    }

    /// The median.
    pub(crate) fn median(&self) -> f64 {
        nanoseconds(self.percentiles.get(50).copied().unwrap_or_default())
    }
}

/// As figures are kept.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52, which are 52 days")]
pub(crate) const fn nanoseconds(time: u64) -> f64 {
    time as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let times = Times::of((0..=1_000).rev().collect());
        assert_eq!(times.percentiles.len(), 101);
        assert_eq!(
            (times.percentiles[0], times.percentiles[50], times.percentiles[99]),
            (0, 500, 990)
        );
        assert_eq!(times.percentiles[100], 1_000);
        let few = Times::of(vec![5_000_000_000, 1]);
        assert_eq!(
            (few.percentiles[0], few.percentiles[50], few.percentiles[99]),
            (1, 1, 5_000_000_000)
        );
    }
}
