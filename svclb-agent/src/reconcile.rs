//! One task that owns catalog, mirror and maps, and brings them together pass by pass.
//!
//! No lock and no shared state: a source says what changed, a pass writes it, what the pass freed rests
//! beside, and an audit looks now and then whether somebody else changed the maps.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use svclb_common::layout::Meta;
use svclb_core::catalog::{Catalog, Conflict};
use svclb_core::model::{ObjectName, ServiceKey, Update};
use svclb_core::plan::{self, Pass, Resting, State};
use svclb_core::table::{Row, Table};
use tokio::task::JoinHandle;

use crate::dataplane::grace::Grace;
use crate::source::files::{Batch, Files};

/// How often the maps are compared with what they should hold.
const AUDIT: Duration = Duration::from_secs(60);
/// The first and the longest wait before a pass that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What the kernel is asked to wait for, beside the reconciler.
type Rest = JoinHandle<(Resting, io::Result<()>)>;

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
    rejected: BTreeSet<(ServiceKey, String)>,
    conflicts: Vec<Conflict>,
    retry: Option<Duration>,
}

/// Takes what a source says into the catalog, and tells what was rejected.
pub fn hear(catalog: &mut Catalog, batch: Batch) {
    for reject in &batch.rejects {
        tracing::warn!("{reject}");
    }
    if batch.first {
        let skipped = batch.skipped.counts().into_iter().filter(|(_, count)| *count > 0);
        for (what, count) in skipped {
            tracing::info!(count, "left out: {what}");
        }
        catalog.replace(batch.updates);
    } else {
        for update in batch.updates {
            catalog.apply(update);
        }
    }
}

impl<T: Table> Reconciler<T> {
    /// Takes maps over, new ones or those of an earlier agent, and puts right what does not fit
    /// together. `meta` says how new maps are made, and who the agent is.
    ///
    /// # Errors
    /// When the maps cannot be read or written.
    pub fn over(mut catalog: Catalog, mut table: T, meta: Meta) -> Result<Self> {
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
            rejected: BTreeSet::new(),
            conflicts: Vec::new(),
            retry: None,
        })
    }

    /// Takes changes in.
    pub fn update(&mut self, updates: Vec<Update>) {
        for update in updates {
            self.catalog.apply(update);
        }
    }

    /// One pass over all that is dirty.
    pub fn pass(&mut self) -> Pass {
        let start = Instant::now();
        let done = plan::pass(&mut self.state, &mut self.table, &mut self.catalog);
        let took = start.elapsed();
        match &done.failed {
            Some(error) => {
                let wait = self.retry.map_or(RETRY.0, |wait| (wait * 2).min(RETRY.1));
                self.retry = Some(wait);
                tracing::error!(
                    %error, steps = done.steps, again_in = ?wait,
                    "a pass failed; what was served stays served",
                );
            }
            None => {
                self.retry = None;
                if done.steps > 0 {
                    tracing::info!(
                        objects = done.objects,
                        steps = done.steps,
                        ?took,
                        "maps changed"
                    );
                }
            }
        }
        self.tell_rejected(&done);
        let resting = self.state.take_resting();
        if !resting.is_empty() {
            self.waits.push(resting);
        }
        done
    }

    /// Tells of services that keep their previous state, once.
    fn tell_rejected(&mut self, done: &Pass) {
        let now: BTreeSet<(ServiceKey, String)> = done
            .rejected
            .iter()
            .filter(|rejected| rejected.why != plan::Why::WaitsForRest)
            .map(|rejected| (rejected.service.clone(), rejected.why.to_string()))
            .collect();
        for (service, why) in now.difference(&self.rejected) {
            tracing::error!(%service, "keeps its previous state: {why}");
        }
        // One that was not looked at in this pass stays rejected.
        self.rejected.extend(now);
    }

    /// Lets the next of what was freed rest, unless something does already.
    fn start_rest(&mut self) {
        if self.rest.is_some() {
            return;
        }
        if let Some(resting) = self.waits.pop() {
            let grace = Arc::clone(&self.grace);
            self.rest = Some(tokio::task::spawn_blocking(move || {
                let waited = grace.wait();
                (resting, waited)
            }));
        }
    }

    /// What has rested is free again: what did not fit may fit now.
    fn rested(&mut self, resting: Resting, waited: io::Result<()>) {
        match waited {
            Ok(()) => {
                self.state.rested(resting);
                let objects = std::mem::take(&mut self.rejected);
                self.catalog.mark(objects.into_iter().map(|(service, _)| service.object));
            }
            Err(error) => {
                tracing::error!(%error, "cannot wait for running programs; freed room stays unused");
                self.waits.push(resting);
            }
        }
    }

    /// Follows a source until it is dropped.
    pub async fn run(mut self, mut files: Files) -> Result<()> {
        let mut audit = tokio::time::interval(AUDIT);
        audit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        audit.reset();
        self.tell_conflicts();
        loop {
            self.start_rest();
            tokio::select! {
                batch = files.next() => {
                    hear(&mut self.catalog, batch);
                    self.pass();
                }
                ended = ended(&mut self.rest) => {
                    self.rest = None;
                    let (resting, waited) = ended?;
                    self.rested(resting, waited);
                    if self.catalog.is_dirty() && self.retry.is_none() {
                        self.pass();
                    }
                }
                () = pause(self.retry) => {
                    self.pass();
                }
                _ = audit.tick() => self.audit(),
            }
        }
    }

    /// Compares the maps with what they should hold, and puts right what somebody else changed.
    fn audit(&mut self) {
        self.tell_conflicts();
        // What rests is neither free nor held: a dump cannot tell.
        if self.rest.is_some() || !self.waits.is_empty() {
            return;
        }
        let dump = match self.table.load() {
            Ok(dump) => dump,
            Err(error) => {
                tracing::error!(%error, "cannot read the maps to compare them");
                return;
            }
        };
        let (state, heal) = plan::load(&dump, *self.state.meta());
        self.state = state;
        if let Err(error) = self.state.heal(&mut self.table, &heal) {
            tracing::error!(%error, "cannot put the maps right");
        }
        let objects: Vec<ObjectName> =
            self.catalog.objects().chain(self.state.objects()).cloned().collect();
        self.catalog.mark(objects);
        let steps = self.pass().steps + heal.len();
        if steps > 0 {
            tracing::warn!(steps, "somebody else changed the maps; they are right again");
        }
    }

    /// Tells of frontends that two services ask for, when that changed.
    fn tell_conflicts(&mut self) {
        let now = self.catalog.conflicts();
        for conflict in now.iter().filter(|conflict| !self.conflicts.contains(conflict)) {
            tracing::warn!(
                address = %conflict.frontend.address, port = conflict.frontend.port,
                holder = %conflict.holder, waits = %conflict.waits,
                "two services ask for one frontend; the older has it",
            );
        }
        self.conflicts = now;
    }
}

/// The end of a rest; never, when there is none.
async fn ended(rest: &mut Option<Rest>) -> Result<(Resting, io::Result<()>)> {
    match rest {
        Some(rest) => rest.await.context("the thread that waits for running programs died"),
        None => std::future::pending().await,
    }
}

/// Waits so long; for ever, when there is nothing to wait for.
async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
