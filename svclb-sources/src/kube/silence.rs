//! Silent watches. Where bookmarks are requested, an API server sends one about every minute to each watch,
//! whether or not anything changed. A watch without a byte for minutes is open and reports no change: after
//! etcd was restored to an older state, it waits for versions that do not exist yet; or a proxy holds a
//! connection whose other side is gone. So all objects are listed.

use std::time::Duration;

use tokio::time::Instant;

use super::timing::Backoff;

/// The first limit: five bookmarks that did not come. Each limit is up to twice as long at random, since
/// after an etcd was restored the watches of all nodes are silent from one moment on.
pub const SILENCE: Duration = Duration::from_secs(300);
/// The longest limit, which is reached where lists show time after time that nothing was missed: all objects
/// of a server that sends no bookmarks must not be listed every few minutes.
const LONGEST: Duration = Duration::from_secs(3600);

/// The silence of one kind's watches. It goes on when one of them ends and the next one begins.
pub(super) struct Silence {
    limits: Backoff,
    /// The duration from which on it is too long.
    pub(super) limit: Duration,
    /// The limit was exceeded since the last sign of life.
    was_exceeded: bool,
    pub(super) since: Instant,
}

impl Silence {
    pub(super) fn new(first: Duration) -> Self {
        let mut limits = Backoff::new(first, LONGEST);
        let limit = limits.next();
        Self { limits, limit, was_exceeded: false, since: Instant::now() }
    }

    /// Counts from now on.
    pub(super) fn restart(&mut self) {
        self.since = Instant::now();
    }

    /// Goes back to the first limit: the watch is not silent any more, or its silence had hidden a change.
    pub(super) fn end(&mut self) {
        if std::mem::take(&mut self.was_exceeded) {
            self.limits.reset();
            self.limit = self.limits.next();
        }
    }

    /// Records an event: the watch is alive.
    pub(super) fn received(&mut self) {
        self.end();
        self.restart();
    }

    /// Goes on to a longer limit, since this one is exceeded. Returns how long the silence lasts, the first
    /// time.
    pub(super) fn exceeds_first(&mut self) -> Option<Duration> {
        self.limit = self.limits.next();
        let is_first = !std::mem::replace(&mut self.was_exceeded, true);
        is_first.then(|| self.since.elapsed())
    }
}
