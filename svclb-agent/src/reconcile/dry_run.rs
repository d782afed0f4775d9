//! A dry run: what an agent that starts would do, recorded instead of written.
//!
//! It takes a dump and not the maps, so there is nothing that it could write to. The steps are those of
//! [`Reconciler`] itself, over tables that record them.

use std::collections::{BTreeSet, HashMap};
use std::mem::take;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use svclb_common::layout::{BackendKey, BackendRow, FrontendKey, FrontendRow, Meta, ServiceRow};
use svclb_core::budget::Refusal;
use svclb_core::catalog::Catalog;
use svclb_core::model::{ObjectName, ServiceKey};
use svclb_core::number::{LineNumber, ServiceId};
use svclb_core::size::Sizes;
use svclb_core::table::{Dump, Key, RecordingTable, Row, Step};

use super::{Reconciler, Sizing};
use svclb_dataplane::interface::{Dataplane, GracePeriod, Remembered};
use svclb_sources::Batch;

/// The most passes of a dry run. Freed lines and slots are free at once in a dry run, so a service that waits for
/// them mostly has them in the second pass.
const PASSES: usize = 8;

/// The outcome of a dry run.
#[derive(Debug)]
pub struct DryRun {
    /// Maps are installed.
    pub is_installed: bool,
    /// The rows of the maps.
    pub before: Rows,
    /// The rows that an agent would leave.
    pub after: Rows,
    /// The number of its steps, without those that fill maps which take the place of others.
    pub steps: usize,
    /// The lines of frontends that it would write, while it keeps the maps.
    pub lines: BTreeSet<u32>,
    /// The sizes of the maps that it would make: where there are none, or others are due.
    pub made: Option<Sizes>,
    /// The objects.
    pub catalog: Catalog,
    /// Services that exceed a budget.
    pub refused: Vec<(ObjectName, Refusal)>,
    /// Services that do not fit, and why.
    pub unplaced: Vec<(ServiceKey, String)>,
}

/// Rows of maps, without slots.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rows {
    /// `svclb_services`.
    pub services: HashMap<u32, ServiceRow>,
    /// `svclb_backends`.
    pub backends: HashMap<BackendKey, BackendRow>,
    /// `svclb_frontends`.
    pub frontends: HashMap<FrontendKey, FrontendRow>,
    /// Affinity seconds of each line of `svclb_index` that holds a frontend.
    pub affinity_seconds: HashMap<u32, u32>,
}

impl DryRun {
    /// Runs an agent that starts with the first batch of its source, over a dump of the maps that are installed.
    ///
    /// # Errors
    /// When its start would fail.
    pub fn new(catalog: Catalog, installed: Option<Dump>, first: Batch) -> Result<Self> {
        let is_installed = installed.is_some();
        let before = installed.as_ref().map(Rows::of).unwrap_or_default();
        let (mut maps, sizing, row) = (Recording::default(), Sizing::default(), Meta::default());
        // Nothing reads these counts.
        let observed = Arc::default();
        let mut agent = match installed {
            Some(dump) => {
                let table = RecordingTable::new(dump);
                let mut agent =
                    Reconciler::over(catalog, table, &row, sizing, at_once(), observed)?;
                agent.ingest(first);
                agent
            }
            None => Reconciler::anew(catalog, &mut maps, first, &row, None, sizing, observed)?,
        };
        for _ in 0..PASSES {
            let done = agent.pass();
            take(&mut agent.quarantine.waits)
                .into_iter()
                .for_each(|freed| agent.state.release(freed));
            if done.steps == 0 {
                break;
            }
        }
        let steps = agent.table.steps().iter().filter(|step| !is_of_meta(step)).count();
        agent.make_room(&mut maps);
        let Reconciler { catalog, table, reports, .. } = agent;
        let (recorded, made) = (table.into_steps(), maps.made);
        let mut after = if made.is_some() { Rows::default() } else { before.clone() };
        recorded.iter().for_each(|step| after.apply(step));
        let lines = recorded.iter().filter_map(line_of).filter(|_| made.is_none()).collect();
        let refused = catalog.refusals().iter().map(|(object, why)| (object.clone(), *why));
        let (refused, unplaced) = (refused.collect(), reports.into_unplaced().collect());
        Ok(Self { is_installed, before, after, steps, lines, made, catalog, refused, unplaced })
    }
}

fn is_of_meta(step: &Step) -> bool {
    matches!(step, Step::Put(Row::Meta(_)))
}

/// The line that a step writes, with its frontend.
fn line_of(step: &Step) -> Option<u32> {
    match step {
        Step::Put(
            Row::Line(LineNumber(number), _)
            | Row::Set(LineNumber(number), _)
            | Row::Traits(LineNumber(number), ..),
        ) => Some(*number),
        _ => None,
    }
}

impl Rows {
    /// The rows of a dump.
    pub fn of(dump: &Dump) -> Self {
        let held = dump.lines.iter().filter(|(_, line)| line.protocol != 0);
        Self {
            services: dump.services.iter().copied().collect(),
            backends: dump.backends.iter().copied().collect(),
            frontends: dump.frontends.iter().copied().collect(),
            affinity_seconds: held.map(|(number, line)| (*number, line.affinity_seconds)).collect(),
        }
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Put(Row::Service(ServiceId(id), row)) => drop(self.services.insert(*id, *row)),
            Step::Put(Row::Backend(key, row)) => drop(self.backends.insert(*key, *row)),
            Step::Put(Row::Frontend(key, row)) => drop(self.frontends.insert(*key, *row)),
            Step::Put(Row::Line(LineNumber(number), line)) => {
                self.affinity_seconds.insert(*number, line.affinity_seconds);
            }
            Step::Put(Row::Traits(LineNumber(number), _, seconds)) => {
                self.affinity_seconds.insert(*number, *seconds);
            }
            Step::Remove(Key::Service(ServiceId(id))) => drop(self.services.remove(id)),
            Step::Remove(Key::Backend(key)) => drop(self.backends.remove(key)),
            Step::Remove(Key::Frontend(key)) => drop(self.frontends.remove(key)),
            Step::Remove(Key::Line(LineNumber(number))) => {
                self.affinity_seconds.remove(number);
            }
            Step::Put(_) => {}
        }
    }
}

/// No program reads the maps of a dry run.
fn at_once() -> GracePeriod {
    Box::new(|| Ok(()))
}

/// A dataplane without a kernel, whose maps record steps.
#[derive(Debug, Default)]
struct Recording {
    begun: Option<Meta>,
    /// The sizes of the maps that took the place of others last.
    made: Option<Sizes>,
}

impl Dataplane for Recording {
    type Maps = RecordingTable;

    fn shared_origins(&self) -> Result<Option<u32>> {
        Ok(None)
    }

    fn begin(&mut self, row: &Meta, _: bool) -> Result<()> {
        self.begun = Some(*row);
        Ok(())
    }

    fn made(&mut self, _: bool) -> Option<Result<RecordingTable>> {
        let row = self.begun.context("no maps are being made");
        Some(row.map(|meta| RecordingTable::new(Dump { meta, ..Dump::default() })))
    }

    fn can_switch(&self) -> bool {
        true
    }

    fn switch(&mut self, _: &mut RecordingTable) -> Result<()> {
        self.made = self.begun.take().as_ref().map(Sizes::of);
        Ok(())
    }

    fn abandon(&mut self) {
        self.begun = None;
    }

    fn grace_period(&self) -> GracePeriod {
        at_once()
    }

    fn begin_marks(&self, _: &mut RecordingTable) -> Result<Option<Remembered>> {
        Ok(None)
    }

    fn finish_marks(&self, _: &mut RecordingTable, _: &[BackendKey]) {}

    fn audit_shares(&mut self) {}

    fn is_whole(&self) -> bool {
        false
    }

    fn prove(&mut self) -> Result<()> {
        Ok(())
    }

    fn look_after(&mut self) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
