//! Staging maps: filled part by part to take the place of those in use, which go on being changed meanwhile.
//!
//! * A part of a pass over the maps in use notes which objects it visited, and which claim or own other
//!   frontends now ([`Followed`]). Each has another turn in the staging maps, so these lag behind in nothing
//!   when they have no turn left.
//! * Large objects keep what they have in the maps in use until the staging maps are in use. So filling them
//!   comes to an end even where a large object changes all the time.
//! * A service that has rows in the maps in use keeps its id, by which session affinity knows it.

use std::collections::BTreeSet;

use svclb_common::layout::{LAYOUT_VERSION, Meta};

use super::followed::Followed;
use super::outcome::Pass;
use super::pass;
use super::planner::Planner;
use super::runner::Runner;
use super::status::MetaStatus;
use super::unplaced::UnplacedService;
use super::work::Done;
use crate::catalog::Catalog;
use crate::model::ObjectName;
use crate::table::{Row, Step, Table, TableError};

/// The reason why staging maps cannot take the place of those in use.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// A service that has rows in the maps in use does not fit.
    #[error("not all that is served fits: {}", .0.why)]
    Lost(UnplacedService),
    /// Too many changes of the maps in use: ids or generations would be used twice.
    #[error("too much changed while they were filled")]
    Overtaken,
    /// A row cannot be written.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Maps that are being filled, which no program reads yet.
#[derive(Debug)]
pub struct Staging {
    planner: Planner,
    /// Objects that a part could not finish: they have another turn once other objects have changed.
    waiting: BTreeSet<ObjectName>,
    /// Steps since those that wait had their last turn.
    fresh: usize,
    steps: usize,
    /// The first service id of these maps that those in use did not give.
    first_id: u32,
}

impl Staging {
    /// Begins to fill maps of the sizes of `meta` with all objects of the catalog, the older ones first.
    pub fn begin(current: &mut Planner, catalog: &Catalog, meta: Meta) -> Self {
        let mut planner = current.staging(meta);
        planner.status.is_staged = true;
        current.followed = Some(Followed::default());
        let objects: BTreeSet<&ObjectName> = catalog.objects().chain(current.objects()).collect();
        let mut objects: Vec<_> = objects.into_iter().map(|it| (catalog.age(it), it)).collect();
        objects.sort();
        objects.into_iter().for_each(|(_, object)| planner.turns.add(object.clone()));
        let first_id = planner.meta().next_service;
        Self { planner, waiting: BTreeSet::new(), fresh: 0, steps: 0, first_id }
    }

    /// The meta row of the maps.
    pub const fn meta(&self) -> &Meta {
        self.planner.meta()
    }

    /// The number of steps so far.
    pub const fn steps(&self) -> usize {
        self.steps
    }

    /// Takes a part of the steps, about `effort`, and includes the changes of the maps in use since the part
    /// before. A step that failed ends it: the maps are not to be used then.
    pub fn part(
        &mut self,
        table: &mut impl Table,
        current: &mut Planner,
        catalog: &Catalog,
        effort: usize,
    ) -> Pass {
        let visited = current.followed.as_mut().map(Followed::take_visited);
        for object in visited.unwrap_or_default() {
            self.planner.mirror.inherit_ids(&object, &current.mirror);
            self.planner.turns.add(object);
        }
        let Done { pass, again, .. } = pass::run(&mut self.planner, table, catalog, effort);
        // No program has met what was freed.
        let freed = self.planner.take_freed();
        self.planner.release(freed);
        self.waiting.extend(again);
        self.fresh += pass.steps;
        self.steps += pass.steps;
        if self.planner.turns.is_empty() && self.fresh > 0 {
            self.fresh = 0;
            for object in std::mem::take(&mut self.waiting) {
                self.planner.turns.add(object);
            }
        }
        pass
    }

    /// Returns whether the maps hold all that those in use do, and nothing is left to be done.
    pub fn is_complete(&self, current: &Planner) -> bool {
        let is_level = current.followed.as_ref().is_none_or(Followed::is_taken);
        self.planner.turns.is_empty() && is_level
    }

    /// Writes the rest of the maps. Returns their planner, which takes the place of `current`, and the
    /// services that do not fit.
    ///
    /// # Errors
    /// When the maps cannot take the place of those in use.
    pub fn finish(
        self,
        table: &mut impl Table,
        current: &Planner,
        catalog: &mut Catalog,
    ) -> Result<(Planner, Vec<UnplacedService>), StagingError> {
        let Self { mut planner, waiting, first_id, .. } = self;
        let is_installed =
            |it: &UnplacedService| current.mirror.services.id_of(&it.service).is_some();
        if let Some(lost) = planner.unplaced.iter().find(is_installed) {
            return Err(StagingError::Lost(lost));
        }
        let (meta, now) = (*planner.meta(), *current.meta());
        if now.next_service >= first_id
            || current.mirror.lines.highest_generation().0 >= meta.first_generation
        {
            return Err(StagingError::Overtaken);
        }
        let meta = Meta {
            layout: LAYOUT_VERSION,
            passes: now.passes + 1,
            failures: now.failures,
            synced: now.synced,
            proved: now.proved,
            short: planner.unplaced.count(),
            refused: catalog.refused(),
            sources: current.status.sources,
            ..meta
        };
        Runner::new(table).run(&mut planner.mirror, &[Step::Put(Row::Meta(meta))])?;
        table.flush()?;
        planner.forget_inherited_ids();
        planner.status = MetaStatus { is_staged: false, ..current.status.clone() };
        let postponed = current.followed.iter().flat_map(Followed::postponed);
        let objects = current.turns.objects().chain(postponed);
        objects.for_each(|object| planner.turns.add(object.clone()));
        catalog.wait(waiting);
        let unplaced = planner.unplaced.iter().collect();
        Ok((planner, unplaced))
    }
}

impl Planner {
    /// Ends the filling of staging maps, which will not take the place of these.
    pub fn abandon_staging(&mut self) {
        for (object, turn) in self.followed.take().unwrap_or_default().into_postponed() {
            self.turns.go_on(object, turn);
        }
    }
}
