//! The health of one kind's watch: errors, logged when they change and not at each attempt, and delays
//! after them.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use svclb_common::layout::{SourceKind, SourceRow, WayKind};
use svclb_core::text::short;
use tokio::time::Instant;

use super::timing::Backoff;
use crate::convert::Kind;

/// The most errors of one outage that are logged.
const ERRORS: usize = 8;
/// The shortest and the longest delay after an error.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// After this time without an error the watch is healthy, and earlier errors count no more.
const HEALTHY: Duration = Duration::from_secs(5);

/// The health of one kind's watch.
#[derive(Debug)]
pub(super) struct Health {
    resource: &'static str,
    /// Errors that were logged since the watch was healthy.
    errors: Vec<String>,
    pub(super) backoff: Backoff,
    /// The time at which a version last had expired, which caused a list at once.
    expired: Option<Instant>,
    /// The first good answer since the last error. The watch that it begins may still fail.
    good: Option<Instant>,
    /// The latest good answer, until it is taken.
    pub(super) answered: Option<Instant>,
    /// The latest request had no answer at all.
    pub(super) unreached: bool,
    /// The time at which a good answer, or a part of one, last came.
    latest: Option<SystemTime>,
    /// Its sender, and the way to it.
    peer: Option<(SocketAddr, WayKind)>,
}

impl Health {
    /// Returns the state of a healthy watch.
    pub(super) fn new(resource: &'static str) -> Self {
        Self {
            resource,
            errors: Vec::new(),
            backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
            expired: None,
            good: None,
            answered: None,
            unreached: false,
            latest: None,
            peer: None,
        }
    }

    /// Records a good answer, from this peer if it is known.
    pub(super) fn answered_by(&mut self, peer: Option<(SocketAddr, WayKind)>) {
        let now = Instant::now();
        self.good.get_or_insert(now);
        (self.answered, self.unreached) = (Some(now), false);
        self.received();
        self.peer = peer.or(self.peer);
    }

    /// Records a part of a good answer.
    pub(super) fn received(&mut self) {
        self.latest = Some(SystemTime::now());
    }

    /// Returns the time at which a good answer last came, and its sender.
    pub(super) fn row(&self, kind: Kind) -> SourceRow {
        let kind = match kind {
            Kind::Service => SourceKind::Services,
            Kind::EndpointSlice => SourceKind::EndpointSlices,
            Kind::Node => SourceKind::Nodes,
        };
        let since = self.latest.and_then(|latest| latest.duration_since(UNIX_EPOCH).ok());
        let (heard, kind) = (since.map_or(0, |since| since.as_secs()), kind as u8);
        let row = SourceRow { heard, kind, ..SourceRow::default() };
        self.peer.map_or(row, |(peer, way)| SourceRow {
            address: peer.ip().into(),
            port: peer.port(),
            way: way as u8,
            ..row
        })
    }

    /// Returns the time at which the watch is healthy again, if no error comes before. A good answer alone is
    /// not enough: an error may come with it.
    pub(super) fn recovery(&self) -> Option<Instant> {
        self.good.filter(|_| !self.errors.is_empty()).map(|since| since + HEALTHY)
    }

    /// Returns the last error that was logged since the watch was healthy.
    pub(super) fn error(&self) -> Option<&str> {
        self.errors.last().map(String::as_str)
    }

    /// Records that the watch is healthy again.
    pub(super) fn recover(&mut self) {
        if !std::mem::take(&mut self.errors).is_empty() {
            tracing::info!(resource = self.resource, "the API server answers again");
        }
        self.expired = None;
        self.backoff.reset();
    }

    /// Records that a version expired. Returns true when that is no error, since a list at once may help, and
    /// false where a list has just led to the same.
    pub(super) fn expires(&mut self) -> bool {
        let is_healthy = self.errors.is_empty();
        let again = self.expired.is_some_and(|before| !is_healthy || before.elapsed() <= HEALTHY);
        if !again {
            self.expired = Some(Instant::now());
        }
        !again
    }

    /// Reports that a request failed, or a watch broke off; `rest` names the state that is served meanwhile.
    /// Returns the delay before the next request.
    pub(super) fn report(&mut self, error: &(dyn Error + 'static), rest: &'static str) -> Duration {
        if self.recovery().is_some_and(|at| at <= Instant::now()) {
            self.recover();
        }
        let error = short(&words(error));
        if self.errors.len() < ERRORS && !self.errors.contains(&error) {
            tracing::warn!(resource = self.resource, error, "cannot watch; trying again; {rest}");
            self.errors.push(error);
        }
        self.good = None;
        self.backoff.next()
    }
}

/// Returns an error's message with its causes, none of them repeated.
pub(super) fn words(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !words.contains(&text) {
            words.push_str(": ");
            words.push_str(&text);
        }
        cause = error.source();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watch_is_healthy_again_some_time_after_the_first_good_answer() {
        let mut health = Health::new("services");
        health.answered_by(None);
        assert_eq!(health.recovery(), None, "nothing was wrong");
        let error = std::io::Error::other("away");
        health.report(&error, "");
        assert_eq!(health.recovery(), None);
        health.unreached = false;
        assert_eq!(health.recovery(), None);
        health.answered_by(None);
        let recovery = health.recovery();
        health.answered_by(None);
        assert!(recovery.is_some() && health.recovery() == recovery, "since the first");
        health.report(&error, "");
        assert_eq!(health.recovery(), None);
        health.answered_by(None);
        health.recover();
        assert_eq!(health.recovery(), None);
    }

    #[test]
    fn cause_that_is_part_of_its_errors_message_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot do it: {0}")]
        struct Outer(#[source] std::io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("cannot do it")]
        struct Short(#[source] std::io::Error);
        let cause = || std::io::Error::other("no such thing");
        assert_eq!(words(&Outer(cause())), "cannot do it: no such thing");
        assert_eq!(words(&Short(cause())), "cannot do it: no such thing");
    }
}
