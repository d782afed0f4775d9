//! An alarm that moves, and delays that grow and are partly random, so that the nodes of a cluster do not all
//! do the same thing at once.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, Sleep};

/// Wakes the task at a time that may move.
pub(super) struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    pub(super) fn new() -> Self {
        Self(Box::pin(tokio::time::sleep(Duration::ZERO)))
    }

    /// Is ready at this time, or later.
    pub(super) fn poll_at(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.deadline() != at {
            self.0.as_mut().reset(at);
        }
        self.0.as_mut().poll(cx)
    }
}

/// Delays that double from the shortest to the longest, each up to twice as long at random.
#[derive(Debug)]
pub(super) struct Backoff {
    shortest: Duration,
    longest: Duration,
    delays: ExponentialBackoff,
}

impl Backoff {
    pub(super) fn new(shortest: Duration, longest: Duration) -> Self {
        let longest = longest.max(shortest);
        let delays = ExponentialBuilder::new().with_min_delay(shortest).with_max_delay(longest);
        let delays = delays.with_jitter().without_max_times().build();
        Self { shortest, longest, delays }
    }

    pub(super) fn next(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.longest)
    }

    /// Begins again with the shortest delay.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.shortest, self.longest);
    }
}
