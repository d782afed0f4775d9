//! What the agent shows of itself over HTTP. The reconciler publishes counts and moments in [`Observed`], each
//! by a store that never waits; threads of their own answer requests from there and from the maps.
//!
//! * [`health`]: the answers of `/livez`, `/readyz` and `/healthz`.
//! * [`metrics`]: the page `/metrics`.
//! * [`serve`]: the server.

pub mod health;
mod histogram;
pub mod metrics;
pub mod serve;

use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use svclb_core::budget::Refusal;
use svclb_core::model::Update;

use histogram::Histogram;

/// Period of turns while the agent starts.
const TURN: Duration = Duration::from_secs(2);

/// What the reconciler publishes. It alone writes; readers see each number by itself.
#[derive(Debug)]
pub struct Observed {
    clock: Clock,
    /// The reconciler's loop has begun: from then on it notes its own turns.
    is_running: AtomicBool,
    turned: Moment,
    changes: [Changes; 2],
    /// The last change that a source reported.
    queued: Moment,
    /// The earliest change that no pass has written yet.
    pending: Moment,
    /// The end of the last pass that wrote all changes before it.
    written: Moment,
    /// The node is not eligible for new connections of load balancers.
    is_leaving: AtomicBool,
    /// The durations of passes.
    syncs: Histogram,
    /// The programming latency of each change of an endpoint.
    programmed: Histogram,
    steps: AtomicU64,
    audits: AtomicU64,
    /// Steps that repaired what another program changed.
    repairs: AtomicU64,
    /// Service objects that are refused now, by budget in the order of [`BUDGETS`].
    refused: [AtomicU64; BUDGETS.len()],
}

/// The budgets, as the flags that set them.
const BUDGETS: [&str; 8] = [
    "--service-frontends",
    "--service-addresses",
    "--service-endpoints",
    "--service-memory",
    "--all-frontends",
    "--all-backends",
    "--all-memory",
    "--namespace-share",
];

/// The changes of one kind of objects.
#[derive(Debug, Default)]
struct Changes {
    total: AtomicU64,
    /// Changes that no pass has written yet.
    pending: AtomicU64,
}

/// The places of [`Observed::changes`].
const SERVICES: usize = 0;
const ENDPOINTS: usize = 1;

/// The moments of this process, counted from its start on a clock that is never set.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> u64 {
        // A process runs for less than 500 million years.
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

/// A moment in milliseconds of [`Clock`], or 0 for none.
#[derive(Debug, Default)]
struct Moment(AtomicU64);

impl Moment {
    fn set(&self, clock: Clock) {
        self.0.store(clock.now(), Relaxed);
    }

    fn set_if_none(&self, clock: Clock) {
        if self.0.load(Relaxed) == 0 {
            self.set(clock);
        }
    }

    fn clear(&self) {
        self.0.store(0, Relaxed);
    }

    /// Its age; none if there is no such moment.
    fn age(&self, clock: Clock) -> Option<Duration> {
        let moment = self.0.load(Relaxed);
        (moment != 0).then(|| Duration::from_millis(clock.now().saturating_sub(moment)))
    }
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            clock: Clock(Instant::now()),
            is_running: AtomicBool::default(),
            turned: Moment::default(),
            changes: Default::default(),
            queued: Moment::default(),
            pending: Moment::default(),
            written: Moment::default(),
            is_leaving: AtomicBool::default(),
            syncs: Histogram::new(histogram::sync_bounds()),
            programmed: Histogram::new(histogram::programming_bounds()),
            steps: AtomicU64::default(),
            audits: AtomicU64::default(),
            repairs: AtomicU64::default(),
            refused: Default::default(),
        }
    }
}

impl Observed {
    /// Notes that the agent's thread turns, until the reconciler's loop notes its own turns. Never ends.
    pub async fn turn_until_running(&self) {
        while !self.is_running.load(Relaxed) {
            self.turned.set(self.clock);
            tokio::time::sleep(TURN).await;
        }
        pending().await
    }

    /// Notes a turn of the reconciler's loop.
    pub(crate) fn turn(&self) {
        self.is_running.store(true, Relaxed);
        self.turned.set(self.clock);
    }

    /// Notes changes of a source, before the catalog takes them in.
    pub(crate) fn queue(&self, updates: &[Update]) {
        let mut counts = [0; 2];
        for update in updates {
            match update {
                Update::Service(..) => counts[SERVICES] += 1,
                Update::Slice(..) => counts[ENDPOINTS] += 1,
                Update::Node(Some(node)) => self.is_leaving.store(node.is_leaving, Relaxed),
                // A load balancer has no use for a node without an object, whatever it was before.
                Update::Node(None) | Update::Interfaces(_) => {}
            }
        }
        if counts == [0; 2] {
            return;
        }
        for (changes, count) in self.changes.iter().zip(counts) {
            changes.total.fetch_add(count, Relaxed);
            changes.pending.fetch_add(count, Relaxed);
        }
        self.queued.set(self.clock);
        self.pending.set_if_none(self.clock);
    }

    /// Notes the end of a pass that wrote all changes before it.
    pub(crate) fn write(&self) {
        self.changes.iter().for_each(|changes| changes.pending.store(0, Relaxed));
        self.pending.clear();
        self.written.set(self.clock);
    }

    /// Notes the duration of a pass, all its parts together.
    pub(crate) fn sync(&self, took: Duration) {
        self.syncs.observe(took);
    }

    /// Notes steps of a pass.
    pub(crate) fn step(&self, steps: usize) {
        self.steps.fetch_add(steps as u64, Relaxed);
    }

    /// Notes the programming latency of a change.
    pub(crate) fn program(&self, delay: Duration) {
        self.programmed.observe(delay);
    }

    /// Notes an audit, and the steps with which it repaired what another program changed.
    pub(crate) fn audit(&self, repairs: usize) {
        self.audits.fetch_add(1, Relaxed);
        self.repairs.fetch_add(repairs as u64, Relaxed);
    }

    /// Notes all Service objects that are refused now, each by its reason.
    pub(crate) fn refuse<'a>(&self, refusals: impl Iterator<Item = &'a Refusal>) {
        let mut counts = [0; BUDGETS.len()];
        for refusal in refusals {
            let budget = BUDGETS.iter().position(|flag| *flag == refusal.flag());
            budget.into_iter().for_each(|budget| counts[budget] += 1);
        }
        self.refused.iter().zip(counts).for_each(|(refused, count)| refused.store(count, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use svclb_core::budget::{BudgetScope, Resource};
    use svclb_core::model::{Node, ObjectName};

    use super::*;

    fn name() -> ObjectName {
        ObjectName::new("default", "hello")
    }

    fn pending_of(observed: &Observed) -> [u64; 2] {
        observed.changes.each_ref().map(|changes| changes.pending.load(Relaxed))
    }

    #[test]
    fn changes_are_pending_from_the_first_one_until_a_pass_has_written_all() {
        let observed = Observed::default();
        observed.queue(&[Update::Interfaces(None)]);
        assert!(observed.queued.age(observed.clock).is_none(), "no change of an object");
        observed.queue(&[Update::Service(name(), None), Update::Slice(name(), None)]);
        let first = observed.pending.0.load(Relaxed);
        std::thread::sleep(Duration::from_millis(5));
        observed.queue(&[Update::Slice(name(), None)]);
        assert_eq!(observed.pending.0.load(Relaxed), first, "the earliest counts");
        assert!(observed.queued.0.load(Relaxed) > first, "and the last one");
        assert_eq!(pending_of(&observed), [1, 2]);
        assert!(observed.written.age(observed.clock).is_none());
        observed.write();
        assert_eq!(pending_of(&observed), [0, 0]);
        assert!(observed.pending.age(observed.clock).is_none());
        assert!(observed.written.age(observed.clock).is_some());
        let total = observed.changes.each_ref().map(|changes| changes.total.load(Relaxed));
        assert_eq!(total, [1, 2]);
    }

    #[test]
    fn a_node_is_leaving_as_its_last_object_says() {
        let observed = Observed::default();
        let node = |is_leaving| Update::Node(Some(Node { is_leaving, ..Node::default() }));
        let rows = [
            ("no object yet", None, false),
            ("it stays", Some(node(false)), false),
            ("it is leaving", Some(node(true)), true),
            ("its object is gone", Some(Update::Node(None)), true),
            ("it is back", Some(node(false)), false),
        ];
        for (row, update, expected) in rows {
            observed.queue(update.as_slice());
            assert_eq!(observed.is_leaving.load(Relaxed), expected, "{row}");
        }
    }

    #[test]
    fn every_refusal_is_counted_by_the_flag_of_its_budget() {
        use BudgetScope::{Cluster, Namespace, Objects, Service};
        let observed = Observed::default();
        let scopes = [Service, Namespace, Cluster, Objects];
        let all = scopes.into_iter().flat_map(|scope| {
            Resource::ALL.map(|resource| Refusal { scope, resource, needs: 2, used: 0, limit: 1 })
        });
        let all: Vec<Refusal> = all.collect();
        observed.refuse(all.iter());
        let counts = || observed.refused.each_ref().map(|count| count.load(Relaxed));
        assert_eq!(counts().iter().sum::<u64>(), all.len() as u64);
        assert!(counts().iter().all(|count| *count > 0), "{:?}", counts());
        observed.refuse(all[..1].iter());
        assert_eq!(counts(), [1, 0, 0, 0, 0, 0, 0, 0], "those of now");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_starts_turns_until_its_loop_does() {
        let observed = Observed::default();
        let turned = || observed.turned.0.load(Relaxed);
        let starting = tokio::time::timeout(2 * TURN, observed.turn_until_running());
        assert!(starting.await.is_err() && turned() != 0);
        observed.turn();
        observed.turned.clear();
        let running = tokio::time::timeout(2 * TURN, observed.turn_until_running());
        assert!(running.await.is_err() && turned() == 0, "the loop notes its own");
    }
}
