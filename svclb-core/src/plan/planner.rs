//! The planner: the mirror of the maps, and the work that earlier passes left.

use svclb_common::layout::{Meta, SOURCES, ServiceRow, SourceRow};

use super::followed::Followed;
use super::mirror::{Freed, Mirror};
use super::runner::Runner;
use super::status::MetaStatus;
use super::turns::Turns;
use super::unplaced::{Unplaced, UnplacedServices};
use crate::model::{ObjectName, ServiceKey};
use crate::table::{Dump, Row, Step, Table, TableError};

/// The mirror of the maps of one agent, and the work on them.
#[derive(Clone, Debug)]
pub struct Planner {
    pub(super) mirror: Mirror,
    pub(super) unplaced: UnplacedServices,
    /// Objects that a pass is to visit.
    pub(super) turns: Turns,
    /// Notes for staging maps, while such are filled.
    pub(super) followed: Option<Followed>,
    pub(super) status: MetaStatus,
    /// Rows of services as a previous agent wrote them, until [`Self::take_previous`].
    pub(super) previous: Vec<(u32, ServiceRow)>,
}

/// The planner of maps with the contents of a dump, and the repairs that have to be made before anything else.
/// `meta` has the sizes of the maps. All that they hold was written by a previous agent
/// ([`Planner::take_previous`]).
pub fn load(dump: &Dump, meta: Meta) -> (Planner, Vec<Step>) {
    let mut planner = Planner::new(meta);
    let repairs = planner.mirror.load(dump);
    planner.previous.clone_from(&dump.services);
    (planner, repairs)
}

impl Planner {
    /// The planner of empty maps of the sizes in `meta`.
    pub fn new(meta: Meta) -> Self {
        Self::over(Mirror::new(meta))
    }

    fn over(mirror: Mirror) -> Self {
        Self {
            unplaced: UnplacedServices::default(),
            turns: Turns::default(),
            followed: None,
            status: MetaStatus::new(&mirror.meta),
            previous: Vec::new(),
            mirror,
        }
    }

    /// The planner of new maps that are to take the place of maps of which only the rows of `svclb_services`
    /// can be used: services keep their ids. `meta` has the sizes of the new maps, the seed of their index,
    /// and the agent that makes them.
    pub fn renewed(rows: &[(u32, ServiceRow)], meta: Meta) -> Self {
        Self::over(Mirror::with_ids_of(rows, meta))
    }

    /// The planner of new maps that are to take the place of these, still empty. Services keep their ids, by
    /// which session affinity knows them, and generations begin above those of these maps, so that no record
    /// of a socket matches lines of both. `meta` has the sizes of the new maps and the seed of their index.
    pub fn staging(&self, meta: Meta) -> Self {
        let mut staging = Self::over(self.mirror.staging(meta));
        staging.status.uncounted = self.status.uncounted;
        staging.status.is_synced = self.status.is_synced;
        staging
    }

    /// Returns whether a service had an id in the maps whose place these are to take.
    pub fn has_inherited_id(&self, service: &ServiceKey) -> bool {
        self.mirror.ids.has_inherited(service)
    }

    /// Forgets the ids of services that are not in these maps, which are filled now.
    pub fn forget_inherited_ids(&mut self) {
        self.mirror.ids.forget_inherited();
    }

    /// Reads a later dump of the same maps. Returns the repairs.
    pub fn reload(&mut self, dump: &Dump) -> Vec<Step> {
        self.mirror.reload(dump)
    }

    /// Makes the repairs that [`load`] or [`Self::reload`] returned, also those after one that fails: they do
    /// not depend on each other, and the mirror is right without them too. The next dump shows those that
    /// were not made.
    ///
    /// # Errors
    /// The first that failed.
    pub fn repair(&mut self, table: &mut impl Table, repairs: &[Step]) -> Result<(), TableError> {
        let mut runner = Runner::new(table);
        let runs =
            repairs.iter().map(|step| runner.run(&mut self.mirror, std::slice::from_ref(step)));
        runs.fold(Ok(()), Result::and)
    }

    /// Returns whether a table holds just what the steps so far have written, and none of them was half of a change.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_in(&self, table: &mut impl Table) -> Result<bool, TableError> {
        self.mirror.is_in(table)
    }

    /// The meta row.
    pub const fn meta(&self) -> &Meta {
        &self.mirror.meta
    }

    fn put_meta(&mut self, table: &mut impl Table, meta: Meta) -> Result<(), TableError> {
        Runner::new(table).run(&mut self.mirror, &[Step::Put(Row::Meta(meta))])
    }

    /// Writes that a connection of the agent was translated.
    ///
    /// # Errors
    /// When the row cannot be written.
    pub fn record_proof(&mut self, table: &mut impl Table) -> Result<(), TableError> {
        self.put_meta(table, Meta { proved: 1, ..*self.meta() })
    }

    /// Sets whether the sources are known. Until they are, no pass writes that the maps hold their state.
    pub const fn set_synced(&mut self, is_synced: bool) {
        self.status.is_synced = is_synced;
    }

    /// Returns whether the sources are known.
    pub const fn is_synced(&self) -> bool {
        self.status.is_synced
    }

    /// Sets the state of the sources, which is written with the next change of the maps.
    pub const fn set_sources(&mut self, sources: [SourceRow; SOURCES]) {
        self.status.sources = sources;
    }

    /// Writes the state of the sources without a change of the maps.
    ///
    /// # Errors
    /// When the row cannot be written.
    pub fn record_sources(&mut self, table: &mut impl Table) -> Result<(), TableError> {
        self.put_meta(table, Meta { sources: self.status.sources, ..*self.meta() })
    }

    /// Counts an operation that failed outside of a pass; the next pass writes the count.
    pub const fn count_failure(&mut self) {
        self.status.uncounted += 1;
    }

    /// Sets whether larger maps are made where a service does not fit. Then frontends that such a service
    /// claims stay as they are until it fits, since that is soon.
    pub const fn set_growing(&mut self, grows: bool) {
        self.unplaced.set_growing(grows);
    }

    /// The reasons why services do not fit, except for the end of a quarantine.
    pub fn lacking(&self) -> impl Iterator<Item = Unplaced> {
        self.unplaced.reasons().filter(|why| *why != Unplaced::Quarantined)
    }

    /// Returns whether a service keeps an earlier state because it does not fit.
    pub fn is_unplaced(&self, service: &ServiceKey) -> bool {
        self.unplaced.has(service)
    }

    /// Returns whether a service waits for the end of a quarantine.
    pub fn waits_for_release(&self) -> bool {
        self.unplaced.reasons().any(|why| why == Unplaced::Quarantined)
    }

    /// Takes what was freed since the last call. It is free after [`Self::release`].
    pub fn take_freed(&mut self) -> Freed {
        self.mirror.take_freed()
    }

    /// Ends the quarantine of what was freed: every program has ended that ran when it was taken.
    pub fn release(&mut self, freed: Freed) {
        self.mirror.release(freed);
    }

    /// The Service objects that have rows.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.mirror.services.objects()
    }

    /// The number of services that have rows.
    pub fn services(&self) -> usize {
        self.mirror.services.len()
    }

    /// Returns whether an object has rows and all its services fit, as of the last pass over it.
    pub fn is_installed(&self, object: &ObjectName) -> bool {
        let has_rows = !self.mirror.services.ids_of(object).is_empty();
        has_rows && self.unplaced.of_object(object).next().is_none()
    }

    /// Returns whether a pass is under way whose next [`part`](super::part) has something to do.
    pub fn is_under_way(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Returns whether the next [`part`](super::part) has something to do for this object.
    pub fn has_turn(&self, object: &ObjectName) -> bool {
        let followed = self.followed.as_ref();
        self.turns.has(object) || followed.is_some_and(|followed| followed.has_postponed(object))
    }
}
