//! One task that owns catalog, mirror and maps, and brings them together pass by pass.
//!
//! No lock and no shared state: a source says what changed, a pass writes it, what the pass freed rests
//! beside, and an audit looks now and then whether somebody else changed the maps.

mod told;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use svclb_common::layout::Meta;
use svclb_core::catalog::Catalog;
use svclb_core::model::{ObjectName, Update};
use svclb_core::plan::{self, Pass, Resting, State};
use svclb_core::table::{Row, Table};
use tokio::task::JoinHandle;

use crate::dataplane::grace::Grace;
use crate::memory;
use crate::source::{Batch, Source};
pub use told::Told;

/// How often the maps are compared with what they should hold.
const AUDIT: Duration = Duration::from_secs(60);
/// The first and the longest wait before a pass that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What the kernel is asked to wait for, beside the reconciler.
type Rest = JoinHandle<(Resting, io::Result<()>)>;

/// When what failed is tried again, and how long that was waited for.
#[derive(Clone, Copy, Debug)]
struct Retry {
    wait: Duration,
    at: tokio::time::Instant,
}

/// Keeps maps in step with a catalog.
#[derive(Debug)]
pub struct Reconciler<T> {
    catalog: Catalog,
    state: State,
    table: T,
    grace: Arc<Grace>,
    rest: Option<Rest>,
    /// Freed, while an earlier rest is under way or after one failed.
    waits: Vec<Resting>,
    /// How long the next of it waits first, since the kernel did not let the last one rest.
    rest_later: Option<Duration>,
    told: Told,
    retry: Option<Retry>,
    /// The last audit could not put everything right: the next try is one.
    unhealed: bool,
    /// What happened before is nobody's delay.
    started: SystemTime,
}

/// Takes what a source says into the catalog, and tells what was rejected or left out.
pub fn hear(catalog: &mut Catalog, told: &mut Told, batch: Batch) {
    batch.rejects.iter().for_each(|reject| reject.tell(batch.whole));
    told.skipped(batch.skipped);
    if batch.whole {
        catalog.replace(batch.updates);
    } else {
        for update in batch.updates {
            catalog.apply(update);
        }
    }
}

impl<T: Table> Reconciler<T> {
    /// Takes maps over, new ones or those of an earlier agent, and puts right what does not fit
    /// together. `told` is what [`hear`] told, `meta` says how new maps are made, and who the agent is.
    ///
    /// # Errors
    /// When the maps cannot be read or written.
    pub fn over(mut catalog: Catalog, told: Told, mut table: T, meta: Meta) -> Result<Self> {
        let grace = Grace::new().context("cannot make the map that waits for running programs")?;
        let dump = table.load().context("cannot read the maps")?;
        let meta = if dump.meta.layout == 0 {
            Meta { next_service: 1, ..meta }
        } else {
            Meta { agent: meta.agent, agent_started: meta.agent_started, ..dump.meta }
        };
        let (mut state, heal) = plan::load(&dump, meta);
        // What an agent freed just before it died may still be in a running program's hands.
        grace.wait().context("cannot wait for running programs")?;
        table.put(&Row::Meta(*state.meta())).context("cannot write svclb_meta")?;
        if !heal.is_empty() {
            tracing::warn!(
                steps = heal.len(),
                "putting right what did not fit together in the maps"
            );
        }
        state.heal(&mut table, &heal).context("cannot put the maps right")?;
        catalog.mark(state.objects().cloned().collect::<Vec<_>>());
        Ok(Self {
            catalog,
            state,
            table,
            grace: Arc::new(grace),
            rest: None,
            waits: Vec::new(),
            rest_later: None,
            told,
            retry: None,
            unhealed: false,
            started: SystemTime::now(),
        })
    }

    /// Takes changes in.
    pub fn update(&mut self, updates: Vec<Update>) {
        for update in updates {
            self.catalog.apply(update);
        }
    }

    /// Says in the maps that a connection of this agent was translated.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn prove(&mut self) -> Result<()> {
        self.state.prove(&mut self.table).context("cannot write svclb_meta")
    }

    /// One pass over all that is dirty.
    pub fn pass(&mut self) -> Pass {
        self.pass_over(false)
    }

    /// As [`Self::pass`]; `rejected` says that those that did not fit are among it.
    fn pass_over(&mut self, rejected: bool) -> Pass {
        let start = Instant::now();
        let done = plan::pass(&mut self.state, &mut self.table, &mut self.catalog);
        let took = start.elapsed();
        self.told.failed(&done);
        if !done.failed.is_empty() {
            self.back_off();
        } else if !self.unhealed {
            self.retry = None;
        }
        if done.steps > 0 {
            let delay = delay(&done, self.started, SystemTime::now());
            tracing::info!(
                objects = done.objects,
                steps = done.steps,
                ?took,
                delay = delay.map(tracing::field::debug),
                "maps changed"
            );
        }
        self.told.rejected(&done, rejected);
        self.told.conflicts(self.catalog.conflicts());
        let resting = self.state.take_resting();
        if !resting.is_empty() {
            self.waits.push(resting);
        }
        done
    }

    /// Sets when what failed is tried again, each time later.
    fn back_off(&mut self) {
        let wait = self.retry.map_or(RETRY.0, |retry| (retry.wait * 2).min(RETRY.1));
        self.retry = Some(Retry { wait, at: tokio::time::Instant::now() + wait });
    }

    /// Lets the next of what was freed rest, unless something does already.
    fn start_rest(&mut self) {
        if self.rest.is_some() {
            return;
        }
        if let Some(resting) = self.waits.pop() {
            let (grace, later) = (Arc::clone(&self.grace), self.rest_later);
            self.rest = Some(tokio::spawn(async move {
                if let Some(later) = later {
                    tokio::time::sleep(later).await;
                }
                let waited = tokio::task::spawn_blocking(move || grace.wait()).await;
                (resting, waited.unwrap_or_else(|died| Err(io::Error::other(died))))
            }));
        }
    }

    /// What has rested is free again: what did not fit may fit now, and is looked at again.
    fn rested(&mut self, resting: Resting, waited: io::Result<()>) {
        self.told.rest(&waited);
        if waited.is_err() {
            let later = self.rest_later.map_or(RETRY.0, |wait| (wait * 2).min(RETRY.1));
            self.rest_later = Some(later);
            self.waits.push(resting);
            return;
        }
        self.rest_later = None;
        self.state.rested(resting);
        let rejected: Vec<ObjectName> =
            self.told.standing().map(|service| service.object.clone()).collect();
        self.catalog.mark(rejected);
        if self.catalog.is_dirty() {
            self.pass_over(true);
        }
    }

    /// Follows a source until it is dropped.
    pub async fn run(mut self, mut source: Source) -> Result<()> {
        let mut audit = tokio::time::interval(AUDIT);
        audit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        audit.reset();
        memory::give_back();
        loop {
            self.start_rest();
            tokio::select! {
                batch = source.next() => {
                    hear(&mut self.catalog, &mut self.told, batch);
                    self.pass();
                }
                ended = ended(&mut self.rest) => {
                    self.rest = None;
                    let (resting, waited) = ended?;
                    self.rested(resting, waited);
                }
                () = pause(self.retry) => {
                    if self.unhealed {
                        self.audit();
                    } else {
                        self.pass();
                    }
                }
                _ = audit.tick() => self.audit(),
            }
        }
    }

    /// Compares the maps with what they should hold, and puts right what somebody else changed.
    fn audit(&mut self) {
        // What we have not yet done ourselves is nobody else's doing.
        let is_done = self.retry.is_none() && !self.catalog.is_dirty();
        let dump = match self.table.load() {
            Ok(dump) => dump,
            Err(error) => {
                tracing::error!(%error, "cannot read the maps to compare them");
                if self.unhealed {
                    self.back_off();
                }
                return;
            }
        };
        let (state, heal) = self.state.reload(&dump);
        self.state = state;
        let healed = self.state.heal(&mut self.table, &heal);
        self.unhealed = healed.is_err();
        if let Err(error) = healed {
            tracing::error!(%error, "cannot put the maps right; it is tried again");
        }
        let objects: Vec<ObjectName> =
            self.catalog.objects().chain(self.state.objects()).cloned().collect();
        self.catalog.mark(objects);
        let done = self.pass_over(true);
        if self.unhealed && done.failed.is_empty() {
            self.back_off();
        }
        let steps = done.steps + heal.len();
        if steps > 0 && is_done && !self.unhealed {
            tracing::warn!(steps, "somebody else changed the maps; they are right again");
        }
        memory::give_back();
    }
}

/// How long the oldest change that a pass wrote has been waiting for it: from the time that its slice
/// names to now. Changes from before `started` do not count, as in kube-proxy's metric
/// (pkg/proxy/endpointschangetracker.go).
fn delay(pass: &Pass, started: SystemTime, now: SystemTime) -> Option<Duration> {
    let times = pass.triggered.iter().flat_map(|(_, times)| times);
    let times = times.filter_map(|time| {
        UNIX_EPOCH.checked_add(Duration::from_nanos(u64::try_from(*time).ok()?))
    });
    let oldest = times.filter(|time| *time >= started).min()?;
    // A clock that differs from the API server's is no delay.
    Some(now.duration_since(oldest).unwrap_or_default())
}

/// The end of a rest; never, when there is none.
async fn ended(rest: &mut Option<Rest>) -> Result<(Resting, io::Result<()>)> {
    match rest {
        Some(rest) => rest.await.context("the thread that waits for running programs died"),
        None => std::future::pending().await,
    }
}

/// Waits until then; for ever, when there is nothing to wait for.
async fn pause(retry: Option<Retry>) {
    match retry {
        Some(retry) => tokio::time::sleep_until(retry.at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use svclb_core::model::{Endpoint, Node, Protocol, Service, ServicePort, Slice, SlicePort};
    use svclb_core::table::{Failing, Key, Memory};

    use super::*;

    /// A reconciler over memory that has written one Service.
    fn reconciler() -> Reconciler<Failing<Memory>> {
        let meta = Meta { index_lines: 4, spill_lines: 2, slots: 8, seed: 7, ..Meta::default() };
        let object = ObjectName::new("default", "hello");
        let service = Service {
            cluster_ips: vec![[10, 96, 0, 1].into()],
            ports: vec![ServicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
            }],
            ..Service::default()
        };
        let slice = Slice {
            service: object.clone(),
            ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 80 }].into(),
            endpoints: [([10, 0, 0, 1].into(), Endpoint::default())].into_iter().collect(),
            triggered: None,
        };
        let mut catalog = Catalog::new(Node::default());
        catalog.apply(Update::Service(object.clone(), Some(service)));
        catalog.apply(Update::Slice(object, Some(slice)));
        let table = Failing::new(Memory::new(meta));
        let mut reconciler = Reconciler::over(catalog, Told::default(), table, meta)
            .expect("a map can be made: run the tests as root, or with CAP_BPF");
        assert!(reconciler.pass().failed.is_empty());
        reconciler
    }

    /// A line that holds what is no Service's, as somebody else may have written it.
    fn spoil(reconciler: &mut Reconciler<Failing<Memory>>) {
        let memory = &mut reconciler.table.inner;
        let held = memory.load().unwrap().lines.into_iter().find(|(_, line)| line.protocol != 0);
        let (number, line) = held.unwrap();
        memory.remove(&Key::Line(number)).unwrap();
        memory.put(&Row::Line(number, svclb_common::layout::Line { port: 9, ..line })).unwrap();
        memory.put(&Row::Heir(number, 9)).unwrap();
        memory.put(&Row::Owner(number, line.service)).unwrap();
    }

    #[tokio::test]
    async fn an_audit_that_cannot_put_the_maps_right_is_tried_again_and_later_each_time() {
        let mut reconciler = reconciler();
        reconciler.audit();
        assert!(reconciler.retry.is_none() && !reconciler.unhealed, "nothing to put right");
        spoil(&mut reconciler);
        let mut last = Duration::ZERO;
        for _ in 0..10 {
            reconciler.table.fail(0, usize::MAX);
            reconciler.audit();
            assert!(reconciler.unhealed);
            let wait = reconciler.retry.unwrap().wait;
            assert!(wait > last || wait == RETRY.1, "{wait:?} after {last:?}");
            last = wait;
        }
        reconciler.table.fail(0, 0);
        reconciler.audit();
        assert!(reconciler.retry.is_none() && !reconciler.unhealed);
        let dump = reconciler.table.load().unwrap();
        assert_eq!(reconciler.state.reload(&dump).1, [], "nothing is left to put right");
        let held: Vec<_> = dump.lines.iter().filter(|(_, line)| line.protocol != 0).collect();
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].1.port, 80);
    }

    #[tokio::test]
    async fn an_audit_has_its_turn_while_something_rests() {
        let mut reconciler = reconciler();
        spoil(&mut reconciler);
        reconciler.audit();
        assert!(!reconciler.waits.is_empty(), "the line that was emptied rests");
        spoil(&mut reconciler);
        reconciler.audit();
        let dump = reconciler.table.load().unwrap();
        let held = dump.lines.iter().filter(|(_, line)| line.protocol != 0);
        assert_eq!(held.map(|(_, line)| line.port).collect::<Vec<_>>(), [80]);
    }

    #[test]
    fn the_delay_of_a_pass_is_that_of_its_oldest_change_since_the_start() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let rows: [(&str, &[i64], Option<u64>); 6] = [
            ("nothing", &[], None),
            ("one", &[95], Some(5)),
            ("the oldest", &[97, 91, 99], Some(9)),
            ("before the start", &[10], None),
            ("some before the start", &[10, 98], Some(2)),
            ("a clock that is ahead", &[105], Some(0)),
        ];
        for (row, times, expected) in rows {
            let times = times.iter().map(|seconds| seconds * 1_000_000_000).collect();
            let triggered = vec![(ObjectName::new("default", "hello"), times)];
            let pass = Pass { triggered, ..Pass::default() };
            let found = delay(&pass, at(90), at(100));
            assert_eq!(found, expected.map(Duration::from_secs), "{row}");
        }
    }
}
