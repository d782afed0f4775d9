//! What is left alone for a while, and until when.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::layout::FileKey;

/// The shortest and the longest pause before what failed is tried again.
pub(super) const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Something that is left alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    pub(super) since: Instant,
    pub(super) until: Instant,
}

impl Wait {
    /// A pause as long as it has failed by now, within bounds: from one to the next they double.
    pub(super) fn again(since: Instant, now: Instant) -> Self {
        let (shortest, longest) = AGAIN;
        Self { since, until: now + now.duration_since(since).clamp(shortest, longest) }
    }
}

/// Takes out what has waited long enough.
pub(super) fn due(waiting: &mut BTreeMap<FileKey, Wait>, now: Instant) -> Vec<(FileKey, Wait)> {
    let due: Vec<_> = waiting
        .iter()
        .filter(|(_, wait)| wait.until <= now)
        .map(|(f, w)| (f.clone(), *w))
        .collect();
    for (file, _) in &due {
        waiting.remove(file);
    }
    due
}
