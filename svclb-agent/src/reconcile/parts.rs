//! A pass in parts: what a source reports meanwhile is taken in between two of them, so that a change of
//! a small object waits for one part of a large one, and not for all of it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use svclb_core::catalog::Catalog;
use svclb_core::plan::{self, FailedStep, Pass, Planner};
use svclb_core::table::Table;

use super::Reconciler;
use svclb_sources::{Batch, Source};

/// Steps of one part, which take some milliseconds.
pub(super) const EFFORT: usize = 2_000;

/// The work of the parts of a pass so far.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    parts: usize,
    steps: usize,
    /// Service objects that were dirty.
    objects: usize,
    took: Duration,
    /// Steps that failed, each with its object and why.
    failed: Vec<String>,
}

impl UnderWay {
    fn add(&mut self, done: &Pass, took: Duration) {
        let shown = |failed: &FailedStep| match &failed.object {
            Some(object) => format!("{object}: {}", failed.error),
            None => failed.error.to_string(),
        };
        self.parts += 1;
        self.steps += done.steps;
        self.objects += done.objects;
        self.took += took;
        self.failed.extend(done.failed.iter().map(shown));
    }
}

/// Waits for the source's next batch; returns none at once if a pass waits for its next part and the source has
/// no batch.
pub(super) async fn next(source: &mut Source, is_under_way: bool) -> Option<Batch> {
    if !is_under_way {
        return Some(source.next().await);
    }
    tokio::select! {
        biased;
        batch = source.next() => Some(batch),
        // Lets the runtime look at sockets and timers in between.
        () = tokio::task::yield_now() => None,
    }
}

impl<T: Table> Reconciler<T> {
    /// One pass over all that is dirty.
    pub fn pass(&mut self) -> Pass {
        self.under_way = UnderWay::default();
        self.part_by(|state, table, catalog| plan::pass(state, table, catalog))
    }

    /// A pass, or the part of one that `plan` makes.
    fn part_by(&mut self, plan: impl FnOnce(&mut Planner, &mut T, &mut Catalog) -> Pass) -> Pass {
        let start = Instant::now();
        self.state.set_growing(self.state.is_synced() && self.sizes.may_grow(&self.state));
        let done = plan(&mut self.state, &mut self.table, &mut self.catalog);
        let took = start.elapsed();
        let is_at_end = !self.state.is_under_way();
        self.under_way.add(&done, took);
        self.observed.step(done.steps);
        if is_at_end || !done.failed.is_empty() {
            self.reports.failed(&self.under_way.failed);
        }
        if !done.failed.is_empty() {
            self.back_off();
        } else if is_at_end && self.under_way.failed.is_empty() && !self.unrepaired {
            self.retry = None;
        }
        if done.steps > 0 {
            let delays = delays(&done, self.started, SystemTime::now());
            let delay = delays.inspect(|delay| self.observed.program(*delay)).max();
            self.changes.add(&done, took, delay);
        }
        if is_at_end {
            self.reports.retained(self.catalog.retained());
            let UnderWay { steps, objects, took, failed, .. } = &self.under_way;
            if *steps > 0 || *objects > 0 {
                self.observed.sync(*took);
            }
            if failed.is_empty() && !self.unrepaired {
                self.observed.write();
            }
        }
        // Unplaced services will fit in a moment, if larger maps can be made.
        let grows = || self.sizes.larger(&self.state, &self.catalog).is_some();
        if !self.state.is_synced() || !grows() {
            self.reports.rejected(&done, is_at_end, |service| self.state.is_unplaced(service));
        }
        if let Some(refusals) = self.catalog.take_refusals() {
            self.observed.refuse(refusals.iter().map(|(_, refusal)| refusal));
            self.reports.refused(refusals);
        }
        if let Some(conflicts) = self.catalog.take_conflicts() {
            self.reports.conflicts(&conflicts);
        }
        self.quarantine.add(self.state.take_freed());
        done
    }

    /// Begins a pass, or joins the one that is under way: objects that wait have their turn, too.
    pub(super) fn begin(&mut self) {
        self.catalog.recall();
        if !self.state.is_under_way() {
            self.under_way = UnderWay::default();
        }
        self.go_on();
    }

    /// The next part of a pass.
    pub(super) fn go_on(&mut self) {
        let effort = self.effort();
        self.part_by(|state, table, catalog| plan::part(state, table, catalog, effort));
        let UnderWay { parts, steps, .. } = self.under_way;
        if parts > 1 && steps > 0 && !self.has_more() {
            // A later part may have done what an early one waited for.
            self.under_way = UnderWay::default();
            self.catalog.recall();
        }
    }

    /// Returns true if a pass waits for its next part.
    pub(super) fn has_more(&self) -> bool {
        self.state.is_under_way() || self.catalog.has_changed()
    }
}

/// Programming latency of each change that a pass wrote: from the time that its slice names to now. Changes from
/// before `started` do not count, as in kube-proxy's metric (pkg/proxy/endpointschangetracker.go).
pub(super) fn delays(
    pass: &Pass,
    started: SystemTime,
    now: SystemTime,
) -> impl Iterator<Item = Duration> {
    let times = pass.triggered.iter().flat_map(|(_, times)| times);
    let times = times.filter_map(|time| {
        UNIX_EPOCH.checked_add(Duration::from_nanos(u64::try_from(*time).ok()?))
    });
    // A clock that differs from the API server's is no delay.
    let delay = move |time| now.duration_since(time).unwrap_or_default();
    times.filter(move |time| *time >= started).map(delay)
}
