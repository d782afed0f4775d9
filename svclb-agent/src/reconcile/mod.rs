//! The reconciler: one task that owns catalog, planner and maps, and makes the maps match the catalog pass by
//! pass.
//!
//! No lock, and no shared state but the counts in [`Observed`]: a source reports changes, a pass writes them, freed
//! lines and slots go into quarantine, and a periodic audit repairs maps that another program changed.

mod changes;
mod dry_run;
mod growth;
mod parts;
mod quarantine;
mod rejects;
mod reports;
mod retry;
mod sizing;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use backon::ExponentialBuilder;
use svclb_common::layout::{BackendKey, Meta, ServiceRow, SourceRow};
use svclb_core::catalog::Catalog;
use svclb_core::model::ObjectName;
use svclb_core::plan::{self, Freed, Pass, Planner};
use svclb_core::size::Sizes;
use svclb_core::table::{Dump, Row, Table, TableError};
use tokio::task::JoinSet;

use crate::memory;
use crate::observe::Observed;
use changes::Changes;
pub use dry_run::{DryRun, Rows};
use growth::{Growth, POLL, Progress};
use parts::UnderWay;
use quarantine::Quarantine;
use reports::Reports;
use retry::{Retry, pause};
use sizing::MapSizes;
pub use sizing::{Sizing, random_seed};
use svclb_dataplane::interface::{Dataplane, GracePeriod};
use svclb_dataplane::probe;
use svclb_sources::{Batch, Source};

/// Period of checking hooks and pins, which takes some twenty short system calls.
const LOOK: Duration = Duration::from_secs(2);
/// A batch that took so long to take in is written after the next one is taken in, if there is one.
const LONG: Duration = Duration::from_millis(5);
/// Age in seconds from which the times of the sources' last answers are written without another change.
const RECORD: u64 = 10;
/// The waits before a pass that failed is tried again.
const RETRY: ExponentialBuilder = retry::delays(Duration::from_millis(50), Duration::from_secs(5));

/// Keeps maps in step with a catalog.
#[derive(Debug)]
pub struct Reconciler<T> {
    catalog: Catalog,
    state: Planner,
    table: T,
    quarantine: Quarantine,
    /// The review of the index's marks (docs/decisions/0007) that is under way on a thread, if one is: it
    /// reads the backends that sockets remember.
    marks: JoinSet<Result<Vec<BackendKey>>>,
    reports: Reports,
    changes: Changes,
    retry: Option<Retry>,
    /// Work of the pass that is under way.
    under_way: UnderWay,
    /// The last audit could not put everything right: the next try is one.
    unrepaired: bool,
    /// The catalog has the probe's service, and no connect to it was seen yet.
    proving: bool,
    sizes: MapSizes,
    growth: Option<Growth<T>>,
    /// Changes older than this process do not count towards programming latency.
    started: SystemTime,
    /// Counts and moments, for metrics and health.
    observed: Arc<Observed>,
}

/// Applies a batch to the catalog, and reports what was rejected or left out.
fn ingest(catalog: &mut Catalog, reports: &mut Reports, observed: &Observed, batch: Batch) {
    observed.queue(&batch.updates);
    reports.rejects.add(&batch.rejects);
    reports.skipped(batch.skipped);
    batch.updates.into_iter().for_each(|update| catalog.apply(update));
    if let Some(unread) = batch.unread {
        catalog.set_unread(unread);
    }
}

impl<T: Table> Reconciler<T> {
    fn new(
        catalog: Catalog,
        state: Planner,
        table: T,
        sizing: Sizing,
        observed: Arc<Observed>,
    ) -> Self {
        Self {
            catalog,
            state,
            table,
            quarantine: Quarantine::default(),
            marks: JoinSet::new(),
            reports: Reports::default(),
            changes: Changes::default(),
            retry: None,
            under_way: UnderWay::default(),
            unrepaired: false,
            proving: false,
            sizes: MapSizes::new(sizing),
            growth: None,
            started: SystemTime::now(),
            observed,
        }
    }

    /// Adopts the maps of an earlier agent, and repairs rows that do not fit together. Until the first batch is
    /// ingested they stay as they are. `row` has the agent's process and start, `grace` waits for programs that
    /// read what the earlier agent freed.
    ///
    /// # Errors
    /// When the maps cannot be read or written.
    pub fn over(
        catalog: Catalog,
        mut table: T,
        row: &Meta,
        sizing: Sizing,
        grace: GracePeriod,
        observed: Arc<Observed>,
    ) -> Result<Self> {
        // A running program may still read what the previous agent freed just before it died.
        grace().context("cannot wait for running programs")?;
        let dump = table.load().context("cannot read the maps")?;
        let row = Meta { agent: row.agent, agent_started: row.agent_started, ..dump.meta };
        let (mut state, heal) = plan::load(&dump, row);
        state.set_synced(false);
        let mut reconciler = Self::new(catalog, state, table, sizing, observed);
        let (state, table) = (&mut reconciler.state, &mut reconciler.table);
        table.put(&Row::Meta(*state.meta())).context("cannot write svclb_meta")?;
        if !heal.is_empty() {
            tracing::warn!(
                steps = heal.len(),
                "putting right what did not fit together in the maps"
            );
        }
        if let Err(error) = state.repair(table, &heal) {
            tracing::error!("cannot repair the maps; trying again: {error}");
            reconciler.unrepaired = true;
            reconciler.back_off();
        }
        Ok(reconciler)
    }

    /// Fills new maps with the source's first batch, and puts them into use: where there are none, or only
    /// such as cannot be used. `ids` are the rows of services that those have, `row` has the agent's process
    /// and start.
    ///
    /// # Errors
    /// When they cannot be made or filled.
    pub fn anew(
        mut catalog: Catalog,
        dataplane: &mut impl Dataplane<Maps = T>,
        first: Batch,
        row: &Meta,
        ids: Option<&[(u32, ServiceRow)]>,
        sizing: Sizing,
        observed: Arc<Observed>,
    ) -> Result<Self> {
        let mut reports = Reports::default();
        ingest(&mut catalog, &mut reports, &observed, first);
        reports.lost(ids.unwrap_or_default(), &catalog);
        let sizes = sizing.of(catalog.counts());
        let origins = dataplane.shared_origins()?.unwrap_or(sizes.origins);
        let sizes = Sizes { origins, ..sizes };
        let row = Meta {
            agent: row.agent,
            agent_started: row.agent_started,
            first_generation: row.first_generation,
            seed: random_seed(),
            ..sizes.meta()
        };
        let state = Planner::renewed(ids.unwrap_or_default(), row);
        dataplane.begin(state.meta(), ids.is_some())?;
        let table = dataplane.made(true).context("no maps are being made")??;
        let mut reconciler = Self { reports, ..Self::new(catalog, state, table, sizing, observed) };
        let done = reconciler.pass();
        if let Err(error) = complete(&reconciler.state, &mut reconciler.table, done) {
            dataplane.abandon();
            return Err(error).context("cannot fill the maps");
        }
        reconciler.state.forget_inherited_ids();
        dataplane.switch(&mut reconciler.table)?;
        Ok(reconciler)
    }

    /// Applies a batch of the source.
    pub fn ingest(&mut self, batch: Batch) {
        let is_whole = batch.whole;
        ingest(&mut self.catalog, &mut self.reports, &self.observed, batch);
        if is_whole {
            // State of objects that the source cannot read is retained as the previous agent wrote it.
            let earlier = self.state.take_previous(|service| self.catalog.misses(service));
            self.catalog.retain(earlier);
            // Services in the maps that the source does not have were removed.
            self.state.set_synced(true);
            self.catalog.mark(self.state.objects().cloned().collect::<Vec<_>>());
            self.sizes.look_for_waste();
        }
    }

    /// Connects to the probe's service, if the maps have it, and records in them that this was translated.
    /// Returns false if it has to wait: the maps are full, or something cannot be written or attached yet.
    ///
    /// # Errors
    /// When the connect was not translated, or that cannot be written.
    fn prove(&mut self, dataplane: &mut impl Dataplane<Maps = T>) -> Result<bool> {
        let name = probe::name();
        let is_due = self.catalog.is_marked(&name) || self.state.has_turn(&name);
        let is_there = self.state.is_installed(&name) && !is_due;
        if !is_there || !dataplane.is_whole() {
            return Ok(false);
        }
        dataplane.prove()?;
        self.proving = false;
        probe::vanish().into_iter().for_each(|update| self.catalog.apply(update));
        self.begin();
        self.state.record_proof(&mut self.table).context("cannot write svclb_meta")?;
        // All that the start did is logged before it is ready.
        self.changes.log();
        Ok(true)
    }

    /// Sets when what failed is tried again, each time later.
    fn back_off(&mut self) {
        self.retry = Some(Retry::after(self.retry.take(), RETRY));
    }

    /// Releases what was in quarantine. Services that were unplaced may fit now, so the next pass includes them.
    fn release(&mut self, ended: io::Result<Vec<Freed>>) {
        self.reports.grace_period(&ended);
        let Ok(freed) = ended else { return };
        freed.into_iter().for_each(|freed| self.state.release(freed));
        let rejected: Vec<ObjectName> =
            self.reports.standing().map(|service| service.object.clone()).collect();
        self.catalog.mark(rejected);
        if self.catalog.is_dirty() {
            self.begin();
        }
    }

    /// Writes the times of the sources' last answers, if those in the maps are out of date.
    fn record(&mut self, source: &Source) {
        let sources = source.rows();
        self.state.set_sources(sources);
        let rows = self.state.meta().sources.into_iter().zip(sources);
        if rows.into_iter().any(|(old, new)| is_out_of_date(&old, &new))
            && let Err(error) = self.state.record_sources(&mut self.table)
        {
            tracing::error!("cannot write when the sources were heard; trying again: {error}");
            self.state.count_failure();
        }
    }

    /// Follows a source until it is dropped, on this dataplane. `audit` is the period of comparing the maps
    /// with their desired state. `ready` is called when a connect was seen translated, with true if the sources
    /// are known by then; if not, once more when they are.
    ///
    /// # Errors
    /// When the maps are lost to this agent: it has to start again.
    pub async fn run(
        mut self,
        mut source: Source,
        mut dataplane: impl Dataplane<Maps = T>,
        audit: Duration,
        mut ready: impl FnMut(bool) -> Result<()>,
    ) -> Result<()> {
        self.proving = true;
        probe::appear().into_iter().for_each(|update| self.catalog.apply(update));
        self.pass();
        if !self.prove(&mut dataplane)? {
            tracing::warn!(
                "not ready: a connect of the agent's own cannot be tried yet; what the maps hold is \
                 served, and it is tried again"
            );
        }
        let mut audit = tokio::time::interval(audit);
        audit.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        audit.reset();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        memory::give_back();
        self.observed.turn();
        let mut announced = None;
        loop {
            let state = (!self.proving).then_some(self.state.is_synced());
            if let Some(is_synced) = state.filter(|_| state != announced) {
                announced = state;
                ready(is_synced)?;
            }
            let growth = self.grow(&mut dataplane);
            self.quarantine.start(self.state.waits_for_release(), || dataplane.grace_period());
            let has_more = self.has_more() || growth == Progress::Part;
            tokio::select! {
                batch = parts::next(&mut source, has_more) => match batch {
                    Some(batch) => {
                        self.state.set_sources(source.rows());
                        let start = Instant::now();
                        self.ingest(batch);
                        // The source's next batch must not wait for both, and joins the part. Without a change
                        // there is no part: the pass ends here.
                        if start.elapsed() < LONG || !self.catalog.has_changed() {
                            self.begin();
                        } else {
                            self.catalog.recall();
                        }
                    }
                    None if self.has_more() => self.go_on(),
                    None => {}
                },
                ended = self.quarantine.ended() => self.release(ended?),
                () = pause(self.retry.as_ref()) => {
                    if self.unrepaired && self.growth.is_none() {
                        self.audit();
                    } else {
                        self.begin();
                    }
                }
                () = pause(self.sizes.later()), if growth == Progress::None => {}
                () = tokio::time::sleep(POLL), if growth == Progress::Thread => {}
                _ = look.tick() => {
                    self.observed.turn();
                    self.changes.log();
                    self.reports.log_due();
                    self.record(&source);
                    dataplane.look_after()?;
                    if self.proving {
                        self.prove(&mut dataplane)?;
                    }
                }
                Some(ended) = self.marks.join_next() => {
                    match ended.context("the thread that reads origins died").flatten() {
                        Ok(remembered) => dataplane.finish_marks(&mut self.table, &remembered),
                        Err(error) => tracing::warn!("cannot review the index's marks: {error:#}"),
                    }
                }
                // In the middle of a pass, the agent's own changes would count as drift.
                _ = audit.tick(), if !has_more && growth == Progress::None => {
                    self.audit();
                    self.review_marks(&dataplane);
                    dataplane.audit_shares();
                }
            }
        }
    }

    /// Begins a review of the index's marks, if no change is outstanding: a backend may be given by a line
    /// whose generation has not moved yet after its row was removed.
    fn review_marks(&mut self, dataplane: &impl Dataplane<Maps = T>) {
        let is_done = self.retry.is_none() && !self.unrepaired && !self.catalog.is_dirty();
        if !is_done || !self.marks.is_empty() {
            return;
        }
        match dataplane.begin_marks(&mut self.table) {
            Ok(Some(remembered)) => drop(self.marks.spawn_blocking(remembered)),
            Ok(None) => {}
            Err(error) => tracing::warn!("cannot review the index's marks: {error:#}"),
        }
    }

    /// Every Service object that is wanted or written.
    fn all(&self) -> Vec<ObjectName> {
        self.catalog.objects().chain(self.state.objects()).cloned().collect()
    }

    /// Reads the maps; none if they `may_be_right` and a comparison finds no difference.
    fn load_if_different(&mut self, may_be_right: bool) -> Result<Option<Dump>, TableError> {
        if may_be_right && self.state.is_in(&mut self.table)? {
            return Ok(None);
        }
        self.table.load().map(Some)
    }

    /// Compares the maps with their desired state, and repairs what another program changed.
    fn audit(&mut self) {
        // While own changes are outstanding, differences are not drift.
        let is_done = self.retry.is_none() && !self.catalog.is_dirty() && !self.has_more();
        let dump = match self.load_if_different(is_done && !self.unrepaired) {
            Ok(Some(dump)) => dump,
            Ok(None) => {
                self.observed.audit(0);
                return;
            }
            Err(error) => {
                tracing::error!(%error, "cannot read the maps to compare them");
                self.state.count_failure();
                self.pass();
                if self.unrepaired {
                    self.back_off();
                }
                return;
            }
        };
        // The meta row is always written as a whole.
        let is_ours = dump.meta == *self.state.meta();
        let heal = self.state.reload(&dump);
        let row = Row::Meta(*self.state.meta());
        let written = if is_ours { Ok(()) } else { self.table.put(&row) };
        let repaired = self.state.repair(&mut self.table, &heal).and(written);
        self.unrepaired = repaired.is_err();
        if let Err(error) = repaired {
            tracing::error!(%error, "cannot repair the maps; trying again");
            self.state.count_failure();
        }
        // Until the sources are known, what the maps hold is not looked at.
        let all = match self.state.is_synced() {
            true => self.all(),
            false => self.catalog.objects().cloned().collect(),
        };
        self.catalog.mark(all);
        let done = self.pass();
        if self.unrepaired && done.failed.is_empty() {
            self.back_off();
        }
        let steps = done.steps + heal.len() + usize::from(!is_ours);
        let is_drift = steps > 0 && is_done && !self.unrepaired;
        self.observed.audit(if is_drift { steps } else { 0 });
        if is_drift {
            tracing::warn!(steps, "another program changed the maps; repaired");
        }
        memory::give_back();
    }
}

/// Returns true if a source's row in the maps is worth a write of its own: its time moves with every event.
fn is_out_of_date(old: &SourceRow, new: &SourceRow) -> bool {
    let heard = old.heard;
    let is_same = *old == SourceRow { heard, ..*new };
    !is_same || heard != new.heard && (heard == 0 || new.heard >= heard + RECORD)
}

/// Writes the rest of new maps.
///
/// # Errors
/// When they cannot take the place of the earlier ones: a step failed, or a service of those did not fit.
fn complete(state: &Planner, table: &mut impl Table, mut done: Pass) -> Result<()> {
    if let Some(failed) = done.failed.pop() {
        return Err(failed.error.into());
    }
    table.flush()?;
    match done.unplaced.iter().find(|rejected| state.has_inherited_id(&rejected.service)) {
        Some(lost) => Err(anyhow!("not all that is served fits: {}", lost.why)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
