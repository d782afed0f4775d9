//! Whether the watch of one kind does well: told to the operator when that changes, not at each attempt.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use svclb_common::layout::{SourceKind, SourceRow, WayKind};
use svclb_core::text::short;
use tokio::time::Instant;

/// How many different errors of one outage are told.
const TOLD: usize = 8;

/// Shared between the watch, which sees errors, and its client, which sees answers.
#[derive(Clone, Debug)]
pub(super) struct Health {
    resource: &'static str,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What was told to be wrong since all was well.
    wrong: Vec<String>,
    /// The first good answer since something went wrong. What it begins may end badly.
    good: Option<Instant>,
    /// The latest good answer, until somebody asks.
    heard: Option<Instant>,
    /// The latest request had no answer at all.
    unreached: bool,
    /// The latest part of a good answer's body.
    part: Option<Instant>,
    /// When something good last came: an answer, or a part of one.
    latest: Option<SystemTime>,
    /// Who sent it, and by which way.
    peer: Option<(SocketAddr, WayKind)>,
}

impl Health {
    /// All is well.
    pub(super) fn new(resource: &'static str) -> Self {
        Self { resource, state: Arc::default() }
    }

    /// The API server answered a request, well or not; or nobody did.
    pub(super) fn answered(&self, good: Option<bool>) {
        let mut state = self.state();
        state.unreached = good.is_none();
        if good == Some(true) {
            let now = Instant::now();
            state.good.get_or_insert(now);
            state.heard = Some(now);
        }
    }

    /// A part of a good answer's body came.
    pub(super) fn received(&self) {
        let mut state = self.state();
        state.part = Some(Instant::now());
        state.latest = Some(SystemTime::now());
    }

    /// When the latest part of a good answer's body came.
    pub(super) fn part(&self) -> Option<Instant> {
        self.state().part
    }

    /// A good answer began, from this peer if it is known.
    pub(super) fn answered_by(&self, peer: Option<(SocketAddr, WayKind)>) {
        let mut state = self.state();
        state.latest = Some(SystemTime::now());
        state.peer = peer.or(state.peer);
    }

    /// When something good last came, and from where.
    pub(super) fn row(&self, kind: SourceKind) -> SourceRow {
        let state = self.state();
        let heard = state.latest.and_then(|latest| latest.duration_since(UNIX_EPOCH).ok());
        let row = SourceRow {
            heard: heard.map_or(0, |since| since.as_secs()),
            kind: kind as u8,
            ..SourceRow::default()
        };
        match state.peer {
            Some((peer, way)) => {
                SourceRow { address: peer.ip().into(), port: peer.port(), way: way as u8, ..row }
            }
            None => row,
        }
    }

    /// The latest good answer since this was asked last.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.state().heard.take()
    }

    /// Whether the latest request had no answer at all.
    pub(super) fn unreached(&self) -> bool {
        self.state().unreached
    }

    /// Whether nothing was wrong since [`Self::well`].
    pub(super) fn is_well(&self) -> bool {
        self.state().wrong.is_empty()
    }

    /// Since when it does well again, where something was wrong and nobody said [`Self::well`] since.
    pub(super) fn better(&self) -> Option<Instant> {
        let state = self.state();
        state.good.filter(|_| !state.wrong.is_empty())
    }

    /// All is well again.
    pub(super) fn well(&self) {
        if !std::mem::take(&mut self.state().wrong).is_empty() {
            tracing::info!(resource = self.resource, "the API server answers again");
        }
    }

    /// An attempt failed, or a watch broke. `rest` says what is meanwhile.
    pub(super) fn bad(&self, error: &(dyn Error + 'static), rest: &'static str) {
        let error = short(&words(error));
        let mut state = self.state();
        if state.wrong.len() < TOLD && !state.wrong.contains(&error) {
            tracing::warn!(resource = self.resource, error, "cannot watch; trying again; {rest}");
            state.wrong.push(error);
        }
        state.good = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error with its causes, each said once.
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
    fn a_good_answer_after_an_error_is_better_and_well_only_when_somebody_says_so() {
        let health = Health::new("services");
        health.answered(Some(true));
        assert_eq!(health.better(), None, "nothing was wrong");
        let error = std::io::Error::other("away");
        health.bad(&error, "");
        assert_eq!(health.better(), None);
        health.answered(Some(false));
        assert_eq!(health.better(), None);
        health.answered(Some(true));
        let better = health.better();
        health.answered(Some(true));
        assert!(better.is_some() && health.better() == better, "since the first");
        health.bad(&error, "");
        assert_eq!(health.better(), None);
        health.answered(Some(true));
        health.well();
        assert_eq!(health.better(), None);
    }

    #[test]
    fn a_cause_that_its_error_says_already_is_not_said_twice() {
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
