//! How long a watch may be silent. An API server that is asked for bookmarks, as kube's watcher asks it, sends
//! one about every minute to each watch, whether or not anything changed. A watch without a byte for minutes
//! is open, and says nothing of what happens: after etcd was restored to an older state, it waits for
//! versions that do not exist yet; a proxy may hold a connection whose other side is gone. So all is listed.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, Sleep};

use super::health::Health;

/// The first limit: five bookmarks that did not come. Each limit is up to twice as long by chance, since
/// after an etcd was restored the watches of all nodes are silent from one moment on.
pub const SILENCE: Duration = Duration::from_secs(300);
/// The longest limit, which is come to where lists show time after time that nothing was missed: a server that
/// sends no bookmarks is not to list all objects every few minutes.
const LONGEST: Duration = Duration::from_secs(3600);

/// The silence of one kind's watches. It goes on when one of them ends and the next one begins.
pub(super) struct Silence {
    first: Duration,
    limits: ExponentialBackoff,
    limit: Duration,
    /// It was over since the last sign of life.
    was_over: bool,
    since: Instant,
    /// Not later than the end of the limit.
    alarm: Pin<Box<Sleep>>,
}

impl Silence {
    pub(super) fn new(first: Duration) -> Self {
        let mut limits = limits(first);
        let limit = limits.next().unwrap_or(LONGEST);
        let since = Instant::now();
        let alarm = Box::pin(tokio::time::sleep_until(since + limit));
        Self { first, limits, limit, was_over: false, since, alarm }
    }

    /// Counts from now on.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
        self.alarm.as_mut().reset(self.since + self.limit);
    }

    /// Goes back to the first limit: a watch that was silent too long is so no more, or had missed something.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.was_over) {
            self.limits = limits(self.first);
            self.limit = self.limits.next().unwrap_or(LONGEST);
            self.alarm.as_mut().reset(self.since + self.limit);
        }
    }

    /// How long it lasts, where that is too long, and whether it is the first time. Otherwise the task is
    /// woken then.
    pub(super) fn is_over(
        &mut self,
        health: &Health,
        cx: &mut Context<'_>,
    ) -> Option<(Duration, bool)> {
        loop {
            if self.alarm.as_mut().poll(cx) == Poll::Pending {
                return None;
            }
            if let Some(part) = health.part().filter(|part| *part > self.since) {
                self.since = part;
                self.end();
            }
            let lasts = self.since.elapsed();
            if lasts >= self.limit {
                self.limit = self.limits.next().unwrap_or(LONGEST);
                return Some((lasts, !std::mem::replace(&mut self.was_over, true)));
            }
            self.alarm.as_mut().reset(self.since + self.limit);
        }
    }
}

/// So long, or up to twice as long by chance: so that not all nodes of a cluster list at once.
pub(super) fn by_chance(first: Duration) -> Duration {
    limits(first).next().unwrap_or(first)
}

fn limits(first: Duration) -> ExponentialBackoff {
    let limits = ExponentialBuilder::new().with_min_delay(first).with_max_delay(LONGEST.max(first));
    limits.with_jitter().without_max_times().build()
}
