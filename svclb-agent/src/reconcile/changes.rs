//! What passes changed, told so that a busy cluster fills no disk: one that comes alone at once, those that
//! follow it within a second together, with the next one or when the hooks are looked after.

use std::time::{Duration, Instant};

use svclb_core::plan::Pass;

/// Lines are so far apart.
const APART: Duration = Duration::from_secs(1);

/// What was not told yet, and when the last was.
#[derive(Debug, Default)]
pub(super) struct Changes {
    told: Option<Instant>,
    waits: Option<Sum>,
}

/// What some passes did.
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
    /// Takes a pass that took so long, and wrote something that waited so long for it.
    pub(super) fn add(&mut self, done: &Pass, took: Duration, delay: Option<Duration>) {
        let sum = self.waits.get_or_insert_default();
        sum.passes += 1;
        sum.objects += done.objects;
        sum.steps += done.steps;
        sum.took += took;
        sum.delay = sum.delay.max(delay);
        if self.told.is_none_or(|told| told.elapsed() >= APART) {
            self.tell();
        }
    }

    /// Tells what waits.
    pub(super) fn tell(&mut self) {
        let Some(Sum { passes, objects, steps, took, delay }) = self.waits.take() else { return };
        self.told = Some(Instant::now());
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

/// What was not told yet is, also of an agent that ends.
impl Drop for Changes {
    fn drop(&mut self) {
        self.tell();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_comes_alone_is_told_at_once_and_the_next_ones_together() {
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
        changes.told = changes.told.and_then(|told| told.checked_sub(APART));
        changes.add(&pass(1), Duration::ZERO, None);
        assert_eq!(changes.waits, None, "a second later all is told");
    }
}
