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
const POLL: Duration = Duration::from_millis(2);

/// Maps that are being made and filled.
#[derive(Debug)]
pub(super) struct Growth<T> {
    staging: Staging,
    /// None while they are being made.
    table: Option<T>,
    sizes: Sizes,
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

impl Progress {
    /// Ends when the threads are to be looked after; never, where there are none.
    pub(super) async fn pause(self) {
        match self {
            Self::Thread => tokio::time::sleep(POLL).await,
            Self::None | Self::Part => std::future::pending().await,
        }
    }
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

    /// Lets maps of other sizes take the place of these if they are wanted, in one piece: for an agent that
    /// starts.
    pub fn make_room(&mut self, dataplane: &mut impl Dataplane<Maps = T>) {
        self.begin_growth(dataplane);
        while self.advance(dataplane, true) != Progress::None {}
    }

    fn begin_growth(&mut self, dataplane: &mut impl Dataplane<Maps = T>) {
        // New maps hold what the catalog says, and that is nothing yet.
        if !self.state.is_synced() {
            return;
        }
        let now = Sizes::of(self.state.meta());
        let counts = || self.catalog.counts();
        let Some(sizes) = self.sizes.wanted(now, counts, self.state.lacking()) else { return };
        if let Err(error) = self.try_begin(dataplane, sizes) {
            self.give_up_growth(dataplane, &error);
        }
    }

    fn try_begin(&mut self, dataplane: &mut impl Dataplane<Maps = T>, sizes: Sizes) -> Result<()> {
        let began = Instant::now();
        let meta = Meta { seed: random_seed(), ..sizes.meta() };
        let staging = Staging::begin(&mut self.state, &self.catalog, meta);
        dataplane.begin(staging.meta(), true)?;
        self.growth = Some(Growth { staging, table: None, sizes, began });
        Ok(())
    }

    fn advance(&mut self, dataplane: &mut impl Dataplane<Maps = T>, waits: bool) -> Progress {
        let Some(mut growth) = self.growth.take() else { return Progress::None };
        let advanced = match self.fill(&mut growth, dataplane, waits) {
            Ok(None) => self.switch_to(growth, dataplane).map(|()| Progress::None),
            Ok(Some(progress)) => {
                self.growth = Some(growth);
                Ok(progress)
            }
            Err(error) => Err(error),
        };
        advanced.unwrap_or_else(|error| {
            self.give_up_growth(dataplane, &error);
            Progress::None
        })
    }

    /// Writes the next part; all that there is to write if it `waits`. None says that all is written.
    fn fill(
        &mut self,
        growth: &mut Growth<T>,
        dataplane: &mut impl Dataplane<Maps = T>,
        waits: bool,
    ) -> Result<Option<Progress>> {
        let Growth { staging, table, .. } = growth;
        let table = match table {
            Some(table) => table,
            None => match dataplane.made(waits) {
                Some(made) => table.insert(made?),
                None => return Ok(Some(Progress::Thread)),
            },
        };
        let effort = if waits { usize::MAX } else { EFFORT };
        let mut done = staging.part(table, &mut self.state, &self.catalog, effort);
        if let Some(failed) = done.failed.pop() {
            return Err(Error::from(failed.error).context("cannot fill them"));
        }
        // A change that no part has looked at may have taken a frontend from an object that is filled here.
        let has_changed = !waits && self.catalog.has_changed();
        Ok(if has_changed || !staging.is_complete(&self.state) {
            Some(Progress::Part)
        } else if !waits && !dataplane.can_switch() {
            Some(Progress::Thread)
        } else {
            None
        })
    }

    /// Puts the maps into use.
    fn switch_to(
        &mut self,
        growth: Growth<T>,
        dataplane: &mut impl Dataplane<Maps = T>,
    ) -> Result<()> {
        let Growth { staging, table, sizes, began } = growth;
        let mut table = table.context("no maps were made")?;
        let now = Sizes::of(self.state.meta());
        let steps = staging.steps();
        let finished = staging.finish(&mut table, &self.state, &mut self.catalog);
        let (state, unplaced) = finished.context("cannot fill them")?;
        dataplane.switch(&mut table)?;
        (self.state, self.table) = (state, table);
        // Lines and slots that rest are the old maps'.
        self.quarantine.forget();
        self.marks.detach_all();
        self.retry = None;
        self.unrepaired = false;
        self.sizes.done();
        let done = Pass { unplaced, ..Pass::default() };
        self.reports.rejected(&done, true, |service| self.state.is_unplaced(service));
        tracing::info!(
            lines = sizes.index_lines, lines_before = now.index_lines,
            slots = sizes.slots, slots_before = now.slots,
            steps, took = ?began.elapsed(),
            "maps of other sizes are in use",
        );
        memory::give_back();
        Ok(())
    }

    fn give_up_growth(&mut self, dataplane: &mut impl Dataplane<Maps = T>, error: &Error) {
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
