//! The state of one file between two looks at it: whether it has to be read, and when.

use std::time::{Duration, Instant};

use super::layout::{FoundFile, Stamp};

/// The shortest and the longest pause before what failed is tried again.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Something that fails, and is tried again by a timer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Failing {
    pub(super) since: Instant,
    pub(super) until: Instant,
}

impl Failing {
    /// Returns a pause as long as it has failed by now, within bounds: from one to the next they double.
    pub(super) fn again(since: Instant, now: Instant) -> Self {
        let (shortest, longest) = PAUSES;
        Self { since, until: now + now.duration_since(since).clamp(shortest, longest) }
    }
}

/// The states of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FileState {
    /// It is whole, and has to be read.
    Changed,
    /// It may be half written, and is read if it is left alone until then.
    Settling { until: Instant },
    /// It was read as it is.
    Ready,
    /// It could not be read, for a reason that may pass without a change of the file.
    Failed(Failing),
    /// It is not there. Its objects are removed if it is not back until then.
    Gone { until: Instant },
}

/// A file that is followed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tracked {
    pub(super) state: FileState,
    /// When the earliest change was noticed that was not read yet.
    pub(super) since: Option<Instant>,
    /// The stamp of what was read last.
    pub(super) stamp: Option<Stamp>,
    /// The first batch went without it, and it was not read yet.
    pub(super) is_late: bool,
}

impl Tracked {
    /// Returns a file that is not there.
    pub(super) const fn missing(until: Instant) -> Self {
        Self { state: FileState::Gone { until }, since: None, stamp: None, is_late: false }
    }

    /// Returns when its state ends by itself; `None` where only an event ends it, or where it is due.
    pub(super) const fn until(&self) -> Option<Instant> {
        match self.state {
            FileState::Settling { until }
            | FileState::Gone { until }
            | FileState::Failed(Failing { until, .. }) => Some(until),
            FileState::Changed | FileState::Ready => None,
        }
    }

    /// Returns true when it has to be read, or removed, now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_changed() || self.until().is_some_and(|until| until <= now)
    }

    /// Returns true when it has to be read now.
    pub(super) const fn is_changed(&self) -> bool {
        matches!(self.state, FileState::Changed)
    }

    /// Returns true when it will be read without another event.
    pub(super) const fn is_unread(&self) -> bool {
        matches!(self.state, FileState::Changed | FileState::Settling { .. })
    }

    /// Records a change that was noticed now.
    pub(super) fn change(&mut self, state: FileState, now: Instant) {
        self.state = state;
        self.since.get_or_insert(now);
    }

    /// Compares the file as it was found with what was read. `is_whole` is true when an event ended its last
    /// write, false when an event began one. A file that may be half written settles until `until`.
    pub(super) fn compare(
        &mut self,
        found: &FoundFile,
        is_whole: Option<bool>,
        now: Instant,
        until: Instant,
    ) {
        match self.state {
            FileState::Ready | FileState::Failed(_) if self.stamp == Some(found.stamp) => {}
            FileState::Settling { .. } if is_whole != Some(true) => {}
            FileState::Changed => {}
            _ if found.is_settled || is_whole.unwrap_or(found.is_linked) => {
                self.change(FileState::Changed, now);
            }
            _ => self.change(FileState::Settling { until }, now),
        }
    }
}
