//! Maps of other sizes take the place of these when something does not fit, or when most of these is wasted.
//! They are filled part by part, and between two parts these go on being changed: a change of a small object
//! waits for one part. Where filling takes long, the maps in use get the smaller share of the time.

use std::time::Instant;

use anyhow::{Context as _, Error, Result};
use svclb_common::layout::Meta;
use svclb_core::plan::{Pass, Staging};
use svclb_core::size::Sizes;
use svclb_core::table::Table;
use tokio::time::Duration;

use super::Reconciler;
use super::parts::EFFORT;
use super::sizing::random_seed;
use crate::memory;
use svclb_dataplane::interface::Dataplane;

/// After so long these maps are changed in parts of [`SLOW`] steps: they might be changed faster than others
/// are filled.
const PATIENCE: Duration = Duration::from_secs(3);
/// Well below [`EFFORT`], which is a part of the maps that are filled: these have to catch up.
const SLOW: usize = EFFORT / 4;
/// Period of looking whether the threads that make maps and load programs have ended.
pub(super) const POLL: Duration = Duration::from_millis(2);

/// Staging maps that are being made and filled.
#[derive(Debug)]
pub(super) struct Growth<T> {
    staging: Staging,
    /// None while they are being made.
    table: Option<T>,
    began: Instant,
}

/// The next thing that the growth of maps needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// No maps are being filled.
    None,
    /// The next part can be written.
    Part,
    /// A thread makes maps or loads programs.
    Thread,
}

impl<T: Table> Reconciler<T> {
    /// Number of steps of a part for the maps in use.
    pub(super) fn effort(&self) -> usize {
        match &self.growth {
            Some(growth) if growth.began.elapsed() > PATIENCE => SLOW,
            _ => EFFORT,
        }
    }

    /// Begins to make maps of other sizes if they are wanted, and writes the next part of those that are
    /// being filled. When they cannot be made, these stay, and it is tried again later.
    pub(super) fn grow(&mut self, dataplane: &mut impl Dataplane<Maps = T>) -> Progress {
        if self.growth.is_none() {
            self.begin_growth(dataplane);
        }
        self.advance(dataplane, false)
    }

    /// Replaces these maps by maps of other sizes if they are wanted, without a pause: for an agent that starts.
    pub fn make_room(&mut self, dataplane: &mut impl Dataplane<Maps = T>) {
        self.begin_growth(dataplane);
        while self.advance(dataplane, true) != Progress::None {}
    }

    fn begin_growth(&mut self, dataplane: &mut impl Dataplane<Maps = T>) {
        // New maps get the catalog's services, of which there are none yet.
        if !self.state.is_synced() {
            return;
        }
        let Some(sizes) = self.sizes.wanted(&self.state, &self.catalog) else { return };
        let began = Instant::now();
        let meta = Meta { seed: random_seed(), ..sizes.meta() };
        let staging = Staging::begin(&mut self.state, &self.catalog, meta);
        match dataplane.begin(staging.meta(), true) {
            Ok(()) => self.growth = Some(Growth { staging, table: None, began }),
            Err(error) => self.give_up_growth(dataplane, &error),
        }
    }

    fn advance(&mut self, dataplane: &mut impl Dataplane<Maps = T>, waits: bool) -> Progress {
        self.try_advance(dataplane, waits).unwrap_or_else(|error| {
            self.give_up_growth(dataplane, &error);
            Progress::None
        })
    }

    /// Writes the next part, or all that is left if it `waits`, and puts the maps into use once all is written.
    fn try_advance(
        &mut self,
        dataplane: &mut impl Dataplane<Maps = T>,
        waits: bool,
    ) -> Result<Progress> {
        let Some(Growth { staging, table, .. }) = &mut self.growth else {
            return Ok(Progress::None);
        };
        let table = match table {
            Some(table) => table,
            None => match dataplane.made(waits) {
                Some(made) => table.insert(made?),
                None => return Ok(Progress::Thread),
            },
        };
        let effort = if waits { usize::MAX } else { EFFORT };
        let mut done = staging.part(table, &mut self.state, &self.catalog, effort);
        if let Some(failed) = done.failed.pop() {
            return Err(Error::from(failed.error).context("cannot fill them"));
        }
        // A change that no part has looked at may have taken a frontend from an object that is filled here.
        let has_changed = !waits && self.catalog.has_changed();
        if has_changed || !staging.is_complete(&self.state) {
            return Ok(Progress::Part);
        }
        if !waits && !dataplane.can_switch() {
            return Ok(Progress::Thread);
        }
        self.switch(dataplane)?;
        Ok(Progress::None)
    }

    /// Puts the maps into use.
    fn switch(&mut self, dataplane: &mut impl Dataplane<Maps = T>) -> Result<()> {
        let Some(Growth { staging, table: Some(mut table), began }) = self.growth.take() else {
            return Ok(());
        };
        let before = Sizes::of(self.state.meta());
        let steps = staging.steps();
        let finished = staging.finish(&mut table, &self.state, &mut self.catalog);
        let (state, unplaced) = finished.context("cannot fill them")?;
        dataplane.switch(&mut table)?;
        (self.state, self.table) = (state, table);
        // Freed lines and slots in quarantine are the old maps'.
        self.quarantine.forget();
        self.marks.detach_all();
        self.retry = None;
        self.unrepaired = false;
        self.sizes.done();
        let done = Pass { unplaced, ..Pass::default() };
        self.reports.rejected(&done, true, |service| self.state.is_unplaced(service));
        let now = Sizes::of(self.state.meta());
        tracing::info!(
            lines = now.index_lines, lines_before = before.index_lines,
            slots = now.slots, slots_before = before.slots,
            steps, took = ?began.elapsed(),
            "maps of other sizes are in use",
        );
        memory::give_back();
        Ok(())
    }

    fn give_up_growth(&mut self, dataplane: &mut impl Dataplane<Maps = T>, error: &Error) {
        self.growth = None;
        dataplane.abandon();
        self.state.abandon_staging();
        if let Some(error) = self.sizes.failed(error) {
            tracing::error!(
                "cannot make maps of other sizes; these stay, and it is tried again: {error}"
            );
        }
        // Larger maps are not about to come: log the services that do not fit.
        self.catalog.mark(self.all());
        self.begin();
    }
}
