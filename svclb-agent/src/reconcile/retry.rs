//! The back-off of a loop after a failure.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// When what failed is tried again, and how long that was waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    pub(super) wait: Duration,
    pub(super) at: Instant,
}

impl Retry {
    /// The next after one that failed again: from the first wait on twice as late each time, up to the
    /// longest.
    pub(super) fn after(before: Option<Self>, (first, longest): (Duration, Duration)) -> Self {
        let wait = before.map_or(first, |before| (before.wait * 2).min(longest));
        Self { wait, at: Instant::now() + wait }
    }
}

/// Waits until then; for ever, when there is nothing to wait for.
pub(super) async fn pause(retry: Option<Retry>) {
    match retry {
        Some(retry) => sleep_until(retry.at).await,
        None => std::future::pending().await,
    }
}
