//! What the maps hold, as far as this process knows: one step at a time, as it succeeds.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use svclb_common::layout::{
    BackendKey, BackendRow, FrontendKey, Line, Meta, ServiceRow, Set, Slot,
};

use super::Step;
use crate::compile::service_of;
use crate::index::Index;
use crate::model::{ObjectName, ServiceKey};
use crate::ranges::Ranges;
use crate::table::{Key, Row};

/// One service's rows.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) key: ServiceKey,
    pub(super) row: ServiceRow,
    pub(super) members: BTreeMap<BackendKey, BackendRow>,
    pub(super) frontends: BTreeSet<FrontendKey>,
}

/// Slots that are written.
#[derive(Clone, Debug)]
pub(super) struct Range {
    pub(super) slots: Vec<Slot>,
    /// How many lines refer to it.
    pub(super) lines: u32,
}

/// What a pass freed and a running program may still hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "what rests is lost unless it is given back"]
pub struct Resting {
    pub(super) lines: Vec<u32>,
    /// First slot and count.
    pub(super) ranges: Vec<(u32, u32)>,
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
    pub(super) services: HashMap<u32, Held>,
    pub(super) ids: HashMap<ServiceKey, u32>,
    pub(super) of_object: HashMap<ObjectName, BTreeSet<u32>>,
    /// Service and line of each frontend.
    pub(super) frontends: HashMap<FrontendKey, (u32, u32)>,
    pub(super) lines: HashMap<u32, Line>,
    /// Generations of lines, also of empty ones; 0 where absent.
    pub(super) generations: HashMap<u32, u32>,
    pub(super) reaches: HashMap<u32, u8>,
    pub(super) spills: HashMap<u32, u32>,
    pub(super) index: Index,
    pub(super) ranges: HashMap<u32, Range>,
    /// Ranges that no line refers to yet.
    pub(super) unreferenced: BTreeSet<u32>,
    pub(super) free: Ranges,
    pub(super) resting: Resting,
    /// Slots that rest or wait to be told to: so that "no room" is told from "no room yet".
    pub(super) resting_slots: u64,
}

impl State {
    /// The state of maps that hold nothing. `meta` says how large they are.
    pub fn new(meta: Meta) -> Self {
        Self {
            meta,
            services: HashMap::new(),
            ids: HashMap::new(),
            of_object: HashMap::new(),
            frontends: HashMap::new(),
            lines: HashMap::new(),
            generations: HashMap::new(),
            reaches: HashMap::new(),
            spills: HashMap::new(),
            index: Index::new(meta.seed, meta.index_lines, meta.spill_lines),
            ranges: HashMap::new(),
            unreferenced: BTreeSet::new(),
            free: Ranges::new(meta.slots),
            resting: Resting::default(),
            resting_slots: 0,
        }
    }

    /// The meta row.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The Service objects that have rows.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.of_object.keys()
    }

    /// How many services have rows.
    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// Takes what was freed since the last call. It may be used again after [`Self::rested`].
    pub fn take_resting(&mut self) -> Resting {
        std::mem::take(&mut self.resting)
    }

    /// Says that every program has ended that ran when `resting` was taken.
    pub fn rested(&mut self, resting: Resting) {
        for line in resting.lines {
            self.index.rested(line);
        }
        for (first, count) in resting.ranges {
            self.resting_slots -= u64::from(count);
            self.free.give(first, count);
        }
    }

    /// Frees ranges that were written and that no line came to refer to, because a step failed.
    pub(super) fn drop_unreferenced(&mut self) {
        for first in std::mem::take(&mut self.unreferenced) {
            if let Some(range) = self.ranges.remove(&first) {
                self.free.give(first, count_of(&range.slots));
            }
        }
    }

    /// Notes a step that succeeded.
    pub(super) fn applied(&mut self, step: &Step) {
        match step {
            Step::Put(row) => self.put(row),
            Step::Remove(key) => self.removed(key),
        }
    }

    fn put(&mut self, row: &Row) {
        match row {
            Row::Service(id, row) => self.put_service(*id, row),
            Row::Backend(key, row) => {
                if let Some(held) = self.services.get_mut(&key.service) {
                    held.members.insert(*key, *row);
                }
            }
            Row::Frontend(key, row) => {
                if let Some((old, _)) = self.frontends.insert(*key, (row.service, row.line))
                    && let Some(held) = self.services.get_mut(&old)
                {
                    held.frontends.remove(key);
                }
                if let Some(held) = self.services.get_mut(&row.service) {
                    held.frontends.insert(*key);
                }
            }
            Row::Slots(first, slots) => {
                self.free.take(*first, count_of(slots));
                self.ranges.insert(*first, Range { slots: slots.clone(), lines: 0 });
                self.unreferenced.insert(*first);
            }
            Row::Line(number, line) => {
                self.index.occupy(*number, &key_of(line));
                self.generations.insert(*number, line.generation);
                self.lines.insert(*number, *line);
                self.refer(line.set);
            }
            Row::Set(number, set) => {
                if let Some(line) = self.lines.get_mut(number) {
                    let old = std::mem::replace(&mut line.set, *set);
                    self.refer(*set);
                    self.unrefer(old);
                }
            }
            Row::Heir(number, id) => self.line(*number, |line| line.heir = *id),
            Row::Owner(number, id) => self.line(*number, |line| line.service = *id),
            Row::Traits(number, flags, affinity) => self.line(*number, |line| {
                line.flags = *flags;
                line.affinity_seconds = *affinity;
            }),
            Row::Generation(number, generation) => {
                self.generations.insert(*number, *generation);
                self.line(*number, |line| line.generation = *generation);
            }
            Row::Reach(number, reach) => {
                self.reaches.insert(*number, *reach);
            }
            Row::Spilled(number, count) => {
                self.spills.insert(*number, *count);
            }
            Row::Meta(meta) => self.meta = *meta,
        }
    }

    fn line(&mut self, number: u32, change: impl FnOnce(&mut Line)) {
        if let Some(line) = self.lines.get_mut(&number) {
            change(line);
        }
    }

    pub(super) fn put_service(&mut self, id: u32, row: &ServiceRow) {
        if let Some(held) = self.services.get_mut(&id) {
            held.row = *row;
            return;
        }
        let Some(key) = service_of(row) else { return };
        self.ids.insert(key.clone(), id);
        self.of_object.entry(key.object.clone()).or_default().insert(id);
        let held = Held { key, row: *row, members: BTreeMap::new(), frontends: BTreeSet::new() };
        self.services.insert(id, held);
    }

    fn removed(&mut self, key: &Key) {
        match key {
            Key::Service(id) => {
                if let Some(held) = self.services.remove(id) {
                    self.ids.remove(&held.key);
                    if let Some(ids) = self.of_object.get_mut(&held.key.object) {
                        ids.remove(id);
                        if ids.is_empty() {
                            self.of_object.remove(&held.key.object);
                        }
                    }
                }
            }
            Key::Backend(key) => {
                if let Some(held) = self.services.get_mut(&key.service) {
                    held.members.remove(key);
                }
            }
            Key::Frontend(key) => {
                if let Some((id, _)) = self.frontends.remove(key)
                    && let Some(held) = self.services.get_mut(&id)
                {
                    held.frontends.remove(key);
                }
            }
            Key::Line(number) => {
                if let Some(line) = self.lines.remove(number) {
                    self.index.empty(*number);
                    self.resting.lines.push(*number);
                    self.unrefer(line.set);
                }
            }
        }
    }

    pub(super) fn refer(&mut self, set: Set) {
        if let Some(range) = self.ranges.get_mut(&set.first)
            && set.count != 0
        {
            range.lines += 1;
            self.unreferenced.remove(&set.first);
        }
    }

    fn unrefer(&mut self, set: Set) {
        if set.count == 0 {
            return;
        }
        let Some(range) = self.ranges.get_mut(&set.first) else { return };
        range.lines -= 1;
        if range.lines == 0 {
            self.ranges.remove(&set.first);
            self.resting.ranges.push((set.first, set.count));
            self.resting_slots += u64::from(set.count);
        }
    }
}

/// The frontend that lies in a line.
pub(super) fn key_of(line: &Line) -> FrontendKey {
    FrontendKey {
        address: line.address,
        port: line.port,
        protocol: line.protocol,
        scope: line.scope,
        _pad: 0,
    }
}

/// How many slots.
pub(super) fn count_of(slots: &[Slot]) -> u32 {
    u32::try_from(slots.len()).unwrap_or(u32::MAX)
}
