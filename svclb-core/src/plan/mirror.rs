//! What the maps hold, as far as this process knows.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use svclb_common::layout::{FrontendKey, Line, Meta, SOURCES, ServiceRow, Slot, SourceRow};

use super::members::Members;
use super::room::Room;
use super::staging::Followed;
use super::turns::Turns;
use super::{Step, Why};
use crate::compile::service_of;
use crate::digest::Digest;
use crate::index::Index;
use crate::model::{ObjectName, ServiceKey};
use crate::table::{Row, Table, TableError, Written};

/// One service's rows.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) key: ServiceKey,
    /// Of its row.
    pub(super) row: Digest,
    pub(super) members: Members,
    /// In order. At both ends coming and going is no work: a service that is taken over loses all of
    /// them, one by one, to whoever takes over.
    pub(super) frontends: VecDeque<FrontendKey>,
}

impl Held {
    fn make_room(&mut self) {
        self.frontends.reserve_exact(more(self.frontends.len(), self.frontends.capacity()));
    }

    pub(super) fn add_frontend(&mut self, key: &FrontendKey) {
        if let Err(at) = self.frontends.binary_search(key) {
            self.make_room();
            self.frontends.insert(at, *key);
        }
    }

    /// Adds one that is not there, wherever: they are put in order when all are.
    pub(super) fn push_frontend(&mut self, key: &FrontendKey) {
        self.make_room();
        self.frontends.push_back(*key);
    }

    pub(super) fn drop_frontend(&mut self, key: &FrontendKey) {
        if let Ok(at) = self.frontends.binary_search(key) {
            self.frontends.remove(at);
        }
    }
}

/// How much room to make for one more. Most services have one frontend or two, most objects one service.
const fn more(len: usize, capacity: usize) -> usize {
    if len == capacity { 1 + len / 8 } else { 0 }
}

/// Slots that are written.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) count: u32,
    /// Of the slots.
    pub(super) slots: Digest,
    /// Whose the first slot is.
    pub(super) owner: u32,
    /// How many lines refer to it.
    pub(super) lines: u32,
}

impl Range {
    pub(super) const fn of(written: &Written) -> Self {
        Self { count: written.count, slots: written.slots, owner: written.owner, lines: 0 }
    }
}

/// What a pass freed and a running program may still hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "what rests is lost unless it is given back"]
pub struct Resting {
    pub(super) lines: BTreeSet<u32>,
    /// First slot and count.
    pub(super) ranges: BTreeSet<(u32, u32)>,
}

impl Resting {
    /// Nothing rests.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.ranges.is_empty()
    }
}

/// The agent's mirror of the maps.
#[derive(Clone, Debug)]
pub struct State {
    pub(super) meta: Meta,
    // Boxed: a table has many empty places.
    pub(super) services: HashMap<u32, Box<Held>>,
    /// Ids of each object's services, in the order of their keys: an object may have thousands.
    pub(super) of_object: HashMap<ObjectName, Vec<u32>>,
    /// Service and line of each frontend.
    pub(super) frontends: HashMap<FrontendKey, (u32, u32)>,
    pub(super) lines: HashMap<u32, Line>,
    /// Generations of lines, also of empty ones; [`Meta::first_generation`] where absent.
    pub(super) generations: HashMap<u32, u32>,
    pub(super) reaches: HashMap<u32, u8>,
    pub(super) spills: HashMap<u32, u32>,
    pub(super) index: Index,
    /// Homes of lines that were filled or emptied since their reach and spill count were looked at.
    pub(super) touched: BTreeSet<u32>,
    pub(super) ranges: HashMap<u32, Range>,
    /// Ranges that no line refers to yet.
    pub(super) unreferenced: BTreeSet<u32>,
    pub(super) room: Room,
    /// Freed since it was last taken.
    pub(super) resting: Resting,
    /// Taken, and not given back yet.
    pub(super) rests: Resting,
    /// Lines that a dump holds and nobody can use, until they are emptied.
    pub(super) misfits: BTreeSet<u32>,
    /// What only they refer to: it rests when the last of them is emptied.
    pub(super) misfit_ranges: Vec<(u32, u32)>,
    /// Services that do not fit, since they were last looked at.
    pub(super) short: BTreeMap<ServiceKey, Why>,
    /// Rows of services as an earlier agent wrote them, until [`Self::take_earlier`].
    pub(super) earlier: Vec<(u32, ServiceRow)>,
    /// Ids that services had in other maps, and are given again here.
    pub(super) kept_ids: HashMap<ServiceKey, u32>,
    /// An id that the meta row says is spent and that nobody has, since a step failed in between.
    pub(super) spare_id: Option<u32>,
    /// Steps that failed and are not yet counted in the meta row.
    pub(super) uncounted: u64,
    /// The sources are known: what passes write is all that they say.
    pub(super) is_synced: bool,
    /// Larger maps are made where something does not fit.
    pub(super) grows: bool,
    /// The sources as they are now: written with the next change.
    pub(super) sources: [SourceRow; SOURCES],
    /// Objects that a pass is to look at.
    pub(super) turns: Turns,
    /// Notes for the maps that are being filled to take the place of these, if there are any.
    pub(super) followed: Option<Followed>,
    /// No program reads the maps yet: their meta row is written when they are filled.
    pub(super) is_staged: bool,
}

impl State {
    /// The state of maps that hold nothing. `meta` says how large they are.
    pub fn new(meta: Meta) -> Self {
        Self {
            meta,
            services: HashMap::new(),
            of_object: HashMap::new(),
            frontends: HashMap::new(),
            lines: HashMap::new(),
            generations: HashMap::new(),
            reaches: HashMap::new(),
            spills: HashMap::new(),
            index: Index::new(meta.seed, meta.index_lines, meta.spill_lines),
            touched: BTreeSet::new(),
            ranges: HashMap::new(),
            unreferenced: BTreeSet::new(),
            room: Room::new(meta.slots),
            resting: Resting::default(),
            rests: Resting::default(),
            misfits: BTreeSet::new(),
            misfit_ranges: Vec::new(),
            short: BTreeMap::new(),
            earlier: Vec::new(),
            kept_ids: HashMap::new(),
            spare_id: None,
            uncounted: 0,
            is_synced: true,
            grows: false,
            sources: meta.sources,
            turns: Turns::default(),
            followed: None,
            is_staged: false,
        }
    }

    /// Says whether the sources are known. Until they are, no pass says in the maps that they hold what
    /// the sources say.
    pub const fn set_synced(&mut self, is_synced: bool) {
        self.is_synced = is_synced;
    }

    /// Whether the sources are known.
    pub const fn is_synced(&self) -> bool {
        self.is_synced
    }

    /// Takes note of when the sources were heard, which is written with the next change of the maps.
    pub const fn set_sources(&mut self, sources: [SourceRow; SOURCES]) {
        self.sources = sources;
    }

    /// Writes when the sources were heard, without a change of the maps.
    ///
    /// # Errors
    /// When the row cannot be written; then the maps say what they said.
    pub fn record_sources(&mut self, table: &mut impl Table) -> Result<(), TableError> {
        let meta = Meta { sources: self.sources, ..self.meta };
        table.put(&Row::Meta(meta))?;
        self.meta = meta;
        Ok(())
    }

    /// Says whether larger maps are made where something does not fit. Then what a service waits for that
    /// does not fit stays as it is until it does, since that is soon.
    pub const fn set_growing(&mut self, grows: bool) {
        self.grows = grows;
    }

    /// Counts something that failed outside of a pass; the next one says it in the maps.
    pub const fn count_failure(&mut self) {
        self.uncounted += 1;
    }

    /// What those services lack that do not fit.
    pub fn lacking(&self) -> impl Iterator<Item = Why> {
        let lacks = |why: &Why| !matches!(why, Why::WaitsForRest);
        self.short.values().copied().filter(lacks)
    }

    /// Whether a service does not fit, or keeps what it has, since it was last looked at.
    pub fn is_short(&self, service: &ServiceKey) -> bool {
        self.short.contains_key(service)
    }

    /// Whether a service does not fit until what rests is free.
    pub fn waits_for_rest(&self) -> bool {
        self.short.values().any(|why| *why == Why::WaitsForRest)
    }

    /// The state of maps that hold nothing but what rests in this one.
    pub(super) fn only_resting(&self) -> Self {
        let mut state = Self {
            resting: self.resting.clone(),
            rests: self.rests.clone(),
            short: self.short.clone(),
            earlier: self.earlier.clone(),
            kept_ids: self.kept_ids.clone(),
            uncounted: self.uncounted,
            is_synced: self.is_synced,
            grows: self.grows,
            turns: self.turns.clone(),
            ..Self::new(self.meta)
        };
        for Resting { lines, ranges } in [&self.resting, &self.rests] {
            lines.iter().for_each(|line| state.index.empty(*line));
            for (first, count) in ranges {
                state.room.withhold(*first, *count);
            }
        }
        state
    }

    /// The meta row.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Says that a connection of the agent was translated.
    ///
    /// # Errors
    /// When the row cannot be written; then nothing is said.
    pub fn prove(&mut self, table: &mut impl Table) -> Result<(), TableError> {
        let meta = Meta { proved: 1, ..self.meta };
        table.put(&Row::Meta(meta))?;
        self.meta = meta;
        Ok(())
    }

    /// The Service objects that have rows.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.of_object.keys()
    }

    /// Whether an object's services all have what they should have, as far as the last pass over it
    /// could bring it.
    pub fn has(&self, object: &ObjectName) -> bool {
        self.of_object.contains_key(object) && self.short_of(object).next().is_none()
    }

    /// An object's services that do not fit.
    pub(super) fn short_of(&self, object: &ObjectName) -> impl Iterator<Item = &ServiceKey> {
        // Mostly there is none at all.
        let first = (!self.short.is_empty()).then(|| ServiceKey::first_of(object));
        let from_first = first.into_iter().flat_map(|first| self.short.range(first..));
        from_first.map(|(service, _)| service).take_while(|service| service.object == *object)
    }

    /// The id of a service that has a row.
    pub(super) fn id_of(&self, key: &ServiceKey) -> Option<u32> {
        let ids = self.of_object.get(&key.object)?;
        Some(ids[self.place_of(ids, key).ok()?])
    }

    /// Where a service is among these of its object, or would be.
    pub(super) fn place_of(&self, ids: &[u32], key: &ServiceKey) -> Result<usize, usize> {
        let held = |id| self.services.get(id).map(|held| &held.key);
        ids.binary_search_by(|id| held(id).cmp(&Some(key)))
    }

    /// How many services have rows.
    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// Takes what was freed since the last call. It may be used again after [`Self::rested`].
    pub fn take_resting(&mut self) -> Resting {
        self.rests.lines.extend(&self.resting.lines);
        self.rests.ranges.extend(&self.resting.ranges);
        std::mem::take(&mut self.resting)
    }

    /// Says that every program has ended that ran when `resting` was taken.
    pub fn rested(&mut self, resting: Resting) {
        for line in resting.lines {
            self.rests.lines.remove(&line);
            if !self.misfits.contains(&line) {
                self.index.rested(line);
            }
        }
        for (first, count) in resting.ranges {
            self.rests.ranges.remove(&(first, count));
            self.room.rested(first, count);
        }
    }

    /// Frees ranges that were written and that no line came to refer to, because a step failed.
    pub(super) fn drop_unreferenced(&mut self) {
        for first in std::mem::take(&mut self.unreferenced) {
            if let Some(range) = self.ranges.remove(&first) {
                self.room.give(first, range.count);
            }
        }
    }

    /// What the homes of frontends that came and went should tell and do not, because a step failed.
    pub(super) fn mend(&self) -> Vec<Step> {
        self.touched.iter().flat_map(|home| self.mend_home(*home)).collect()
    }

    /// The same for one of them.
    pub(super) fn mend_home(&self, home: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        let (reach, spilled) =
            (self.index.reach_without(home, &BTreeSet::new()), self.index.spilled(home));
        if self.reaches.get(&home).copied().unwrap_or(0) != reach {
            steps.push(Step::Put(Row::Reach(home, reach)));
        }
        if self.spills.get(&home).copied().unwrap_or(0) != spilled {
            steps.push(Step::Put(Row::Spilled(home, spilled)));
        }
        steps
    }

    pub(super) fn put_service(&mut self, id: u32, row: &ServiceRow) {
        if let Some(held) = self.services.get_mut(&id) {
            held.row = Digest::of_row(row);
            return;
        }
        let Some(mut key) = service_of(row) else { return };
        let mut ids = Vec::new();
        if let Some((known, others)) = self.of_object.remove_entry(&key.object) {
            (key.object, ids) = (known, others);
        }
        let (Ok(at) | Err(at)) = self.place_of(&ids, &key);
        ids.reserve_exact(more(ids.len(), ids.capacity()));
        ids.insert(at, id);
        self.of_object.insert(key.object.clone(), ids);
        let row = Digest::of_row(row);
        let held = Held { key, row, members: Members::default(), frontends: VecDeque::new() };
        self.services.insert(id, Box::new(held));
    }

    /// Gives up room that a service's change left.
    pub(super) fn shrink(&mut self, key: &ServiceKey) {
        if let Some(held) = self.id_of(key).and_then(|id| self.services.get_mut(&id)) {
            held.members.shrink();
        }
    }
}

/// How many slots.
pub(super) fn count_of(slots: &[Slot]) -> u32 {
    u32::try_from(slots.len()).unwrap_or(u32::MAX)
}
