//! The next attempt after a failure, and later each time.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep_until};

/// Delays that double from the shortest to the longest.
pub(super) const fn delays(shortest: Duration, longest: Duration) -> ExponentialBuilder {
    ExponentialBuilder::new().with_min_delay(shortest).with_max_delay(longest).without_max_times()
}

/// The next attempt.
#[derive(Debug)]
pub(super) struct Retry {
    delays: ExponentialBackoff,
    pub(super) at: Instant,
}

impl Retry {
    /// Returns the attempt after a failure: later than `before`, if that one failed too.
    pub(super) fn after(before: Option<Self>, delays: ExponentialBuilder) -> Self {
        let mut delays = before.map_or_else(|| delays.build(), |before| before.delays);
        // They never end.
        let at = Instant::now() + delays.next().unwrap_or_default();
        Self { delays, at }
    }
}

/// Waits until then; for ever, when there is nothing to wait for.
pub(super) async fn pause(retry: Option<&Retry>) {
    match retry {
        Some(retry) => sleep_until(retry.at).await,
        None => std::future::pending().await,
    }
}
