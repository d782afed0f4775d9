//! Maps that are filled part by part to take the place of those in use, which go on being changed meanwhile.
//!
//! * A part of a pass over the maps in use notes which objects it looked at, and which claim or own
//!   other frontends now. Each has another turn in the staging maps, so these never lag behind when they have no
//!   turn left.
//! * Large objects keep what they have in the maps in use until the staging maps are in use. So the staging
//!   maps come to their end even where a large object changes all the time.
//! * A service that the maps in use have keeps its id, by which session affinity knows it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use svclb_common::layout::{LAYOUT_VERSION, Meta};

use super::Step;
use super::mirror::State;
use super::outcome::{Pass, Rejected, take};
use super::run::Run;
use super::turns::Turn;
use crate::catalog::Catalog;
use crate::model::ObjectName;
use crate::table::{Row, Table, TableError};

/// So many ids of services, and generations of a line, are the maps' in use while others are filled: those
/// of the staging maps begin behind.
pub(super) const AHEAD: u32 = 1 << 16;

/// What the maps in use note while others are filled.
#[derive(Clone, Debug, Default)]
pub(super) struct Followed {
    /// Objects that a pass looked at, or that claim or own other frontends, since they were last taken.
    pub(super) looked: BTreeSet<ObjectName>,
    /// Large objects, which have no turn before the other maps are in use.
    pub(super) held: BTreeMap<ObjectName, Turn>,
}

impl Followed {
    /// Lets a large object wait. One that waits already and has another turn has changed.
    pub(super) fn hold(&mut self, object: ObjectName, turn: Turn) {
        match self.held.entry(object) {
            Entry::Vacant(place) => drop(place.insert(turn)),
            Entry::Occupied(held) => {
                let held = held.into_mut();
                held.has_changed |= held.from != Turn::NEW.from;
            }
        }
    }
}

/// Why staging maps cannot take the place of those in use.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    /// A service that is served does not fit.
    #[error("not all that is served fits: {}", .0.why)]
    Lost(Rejected),
    /// So much changed in the maps in use that ids or generations would be used twice.
    #[error("too much changed while they were filled")]
    Overtaken,
    /// A row cannot be written.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Maps that are being filled, which no program reads yet.
#[derive(Debug)]
pub struct Staging {
    state: State,
    /// Objects that a part could not finish: they have another turn once other objects have changed.
    waiting: BTreeSet<ObjectName>,
    /// Steps since those that wait had their last turn.
    fresh: usize,
    steps: usize,
    /// The first service id of these maps that those in use did not give.
    first_id: u32,
}

impl Staging {
    /// Begins to fill maps of the sizes of `meta` with all that the catalog has, the older objects first.
    pub fn begin(current: &mut State, catalog: &Catalog, meta: Meta) -> Self {
        let mut state = current.beside(meta);
        state.is_staged = true;
        current.followed = Some(Followed::default());
        let objects: BTreeSet<&ObjectName> = catalog.objects().chain(current.objects()).collect();
        let mut objects: Vec<_> = objects.into_iter().map(|it| (catalog.age(it), it)).collect();
        objects.sort();
        objects.into_iter().for_each(|(_, object)| state.turns.add(object.clone()));
        let first_id = state.meta.next_service;
        Self { state, waiting: BTreeSet::new(), fresh: 0, steps: 0, first_id }
    }

    /// The meta row of the maps.
    pub fn meta(&self) -> &Meta {
        self.state.meta()
    }

    /// How many steps were taken.
    pub const fn steps(&self) -> usize {
        self.steps
    }

    /// Takes a part of the steps, about as many as `effort`, and takes in what the maps in use were given
    /// meanwhile. A step that failed ends it: the maps are not to be used then.
    pub fn part(
        &mut self,
        table: &mut impl Table,
        current: &mut State,
        catalog: &Catalog,
        effort: usize,
    ) -> Pass {
        for object in current.take_looked() {
            self.state.keep_ids_of(&object, current);
            self.state.turns.add(object);
        }
        self.state.drop_unreferenced();
        let (pass, _, again) = Run::new(&mut self.state, table, catalog, effort).run();
        // No program has met what was freed.
        let resting = self.state.take_resting();
        self.state.rested(resting);
        self.waiting.extend(again);
        self.fresh += pass.steps;
        self.steps += pass.steps;
        if self.state.turns.is_empty() && self.fresh > 0 {
            self.fresh = 0;
            for object in std::mem::take(&mut self.waiting) {
                self.state.turns.add(object);
            }
        }
        pass
    }

    /// Whether the maps hold all that those in use do, and nothing is left to be done.
    pub fn is_complete(&self, current: &State) -> bool {
        let is_level = current.followed.as_ref().is_none_or(|it| it.looked.is_empty());
        self.state.turns.is_empty() && is_level
    }

    /// Writes the rest of the maps. Gives their state, which takes the place of `current`, and the services
    /// that do not fit.
    ///
    /// # Errors
    /// When the maps cannot take the place of those in use.
    pub fn finish(
        mut self,
        table: &mut impl Table,
        current: &State,
        catalog: &mut Catalog,
    ) -> Result<(State, Vec<Rejected>), StagingError> {
        let lost = self.state.short.iter().find(|(service, _)| current.id_of(service).is_some());
        if let Some((service, why)) = lost {
            return Err(StagingError::Lost(Rejected { service: service.clone(), why: *why }));
        }
        let (meta, now) = (*self.state.meta(), *current.meta());
        if now.next_service >= self.first_id
            || current.highest_generation() >= meta.first_generation
        {
            return Err(StagingError::Overtaken);
        }
        let meta = Meta {
            layout: LAYOUT_VERSION,
            passes: now.passes + 1,
            short: u32::try_from(self.state.short.len()).unwrap_or(u32::MAX),
            refused: u32::try_from(catalog.refusals().len()).unwrap_or(u32::MAX),
            next_service: meta.next_service,
            index_lines: meta.index_lines,
            spill_lines: meta.spill_lines,
            slots: meta.slots,
            seed: meta.seed,
            first_generation: meta.first_generation,
            sources: current.sources,
            ..now
        };
        take(&mut self.state, table, &[Step::Put(Row::Meta(meta))], &mut 0)?;
        table.flush()?;
        let state = &mut self.state;
        state.is_staged = false;
        state.settle();
        (state.is_synced, state.uncounted) = (current.is_synced, current.uncounted);
        state.sources = current.sources;
        let held = current.followed.iter().flat_map(|followed| followed.held.keys());
        current.turns.objects().chain(held).for_each(|object| state.turns.add(object.clone()));
        catalog.wait(std::mem::take(&mut self.waiting));
        let short = self.state.short.iter();
        let rejected = short.map(|(service, why)| Rejected { service: service.clone(), why: *why });
        let rejected = rejected.collect();
        Ok((self.state, rejected))
    }
}

impl State {
    /// Ends the filling of other maps, which will not take the place of these.
    pub fn abandon_staging(&mut self) {
        for (object, turn) in self.followed.take().unwrap_or_default().held {
            self.turns.go_on(object, turn);
        }
    }

    fn take_looked(&mut self) -> BTreeSet<ObjectName> {
        self.followed
            .as_mut()
            .map(|followed| std::mem::take(&mut followed.looked))
            .unwrap_or_default()
    }

    /// Lets an object's services have the ids here that they have there.
    fn keep_ids_of(&mut self, object: &ObjectName, other: &Self) {
        for id in other.of_object.get(object).into_iter().flatten() {
            if let Some(held) = other.services.get(id) {
                self.kept_ids.insert(held.key.clone(), *id);
            }
        }
    }
}
