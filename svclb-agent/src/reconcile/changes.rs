//! Logs the changes that passes made, so that a busy cluster fills no disk: a lone change at once, and those
//! that follow it within a second together.

use std::time::{Duration, Instant};

use svclb_core::plan::Pass;

/// The least time between two lines.
const APART: Duration = Duration::from_secs(1);

/// Changes that are not logged yet, and the time of the last line.
#[derive(Debug, Default)]
pub(super) struct Changes {
    logged: Option<Instant>,
    waits: Option<Sum>,
}

/// The work of some passes, added up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Sum {
    passes: usize,
    objects: usize,
    steps: usize,
    took: Duration,
    /// The longest.
    delay: Option<Duration>,
}

impl Changes {
    /// Adds a pass with its duration, and the longest delay of a change that it wrote.
    pub(super) fn add(&mut self, done: &Pass, took: Duration, delay: Option<Duration>) {
        let sum = self.waits.get_or_insert_default();
        sum.passes += 1;
        sum.objects += done.objects;
        sum.steps += done.steps;
        sum.took += took;
        sum.delay = sum.delay.max(delay);
        if self.logged.is_none_or(|logged| logged.elapsed() >= APART) {
            self.log();
        }
    }

    /// Logs the changes that wait.
    pub(super) fn log(&mut self) {
        let Some(Sum { passes, objects, steps, took, delay }) = self.waits.take() else { return };
        self.logged = Some(Instant::now());
        tracing::info!(
            passes,
            objects,
            steps,
            ?took,
            delay = delay.map(tracing::field::debug),
            "maps changed"
        );
    }
}

/// Logs the rest when the agent ends.
impl Drop for Changes {
    fn drop(&mut self) {
        self.log();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lone_change_is_logged_at_once_and_the_next_ones_together() {
        let pass = |steps| Pass { objects: 1, steps, ..Pass::default() };
        let mut changes = Changes::default();
        let delays = [None, Some(2), Some(5), Some(3)].map(|it| it.map(Duration::from_secs));
        changes.add(&pass(4), Duration::from_millis(1), delays[0]);
        assert_eq!(changes.waits, None);
        for (steps, delay) in [(5, delays[1]), (6, delays[2]), (7, delays[3])] {
            changes.add(&pass(steps), Duration::from_millis(2), delay);
        }
        let sum = Sum {
            passes: 3,
            objects: 3,
            steps: 18,
            took: Duration::from_millis(6),
            delay: Some(Duration::from_secs(5)),
        };
        assert_eq!(changes.waits, Some(sum));
        changes.logged = changes.logged.and_then(|logged| logged.checked_sub(APART));
        changes.add(&pass(1), Duration::ZERO, None);
        assert_eq!(changes.waits, None, "a second later all is logged");
    }
}
