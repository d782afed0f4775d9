//! The mirror of the maps: what they hold as far as this process knows, kept up to date by each step that
//! succeeds.
//!
//! Each part has an owner with private fields: [`Services`], [`IndexLines`], [`SlotRanges`], [`Ids`] and, here,
//! the meta row. What changes them is visible to this module only: [`Mirror::apply`] takes in a step, [`load`]
//! a dump, both by the same code.

mod audit;
mod ids;
mod lines;
mod load;
mod members;
mod quarantine;
mod services;
mod slots;

use svclb_common::layout::{Meta, ServiceRow};

use crate::model::ObjectName;

use crate::table::{Key, Row, Step, Written};
use ids::Ids;
pub(super) use lines::IndexLines;
pub(super) use members::{MemberPair, pairs};
pub use quarantine::Freed;
pub(super) use services::{InstalledService, Services};
pub(super) use slots::SlotRanges;

/// The number of service ids, and of generations of a line, that are left to the maps in use while staging maps
/// are filled. Those of the staging maps begin behind them.
const AHEAD: u32 = 1 << 16;

/// The mirror of the maps.
#[derive(Clone, Debug)]
pub(super) struct Mirror {
    pub(super) meta: Meta,
    pub(super) ids: Ids,
    pub(super) services: Services,
    pub(super) lines: IndexLines,
    pub(super) slots: SlotRanges,
}

impl Mirror {
    /// The mirror of empty maps of the sizes in `meta`.
    pub(super) fn new(meta: Meta) -> Self {
        Self {
            meta,
            ids: Ids::default(),
            services: Services::default(),
            lines: IndexLines::new(&meta),
            slots: SlotRanges::new(meta.slots),
        }
    }

    /// The mirror of empty maps in which services keep the ids that these rows have.
    pub(super) fn with_ids_of(rows: &[(u32, ServiceRow)], meta: Meta) -> Self {
        let (ids, next) = Ids::of_rows(rows);
        let next_service = meta.next_service.max(next);
        Self { ids, ..Self::new(Meta { next_service, ..meta }) }
    }

    /// The mirror of empty maps of the sizes and the seed in `meta` that are to take the place of these.
    pub(super) fn staging(&self, meta: Meta) -> Self {
        let meta = Meta {
            layout: 0,
            index_lines: meta.index_lines,
            slots: meta.slots,
            seed: meta.seed,
            first_generation: self.lines.highest_generation().0.wrapping_add(AHEAD),
            next_service: self.meta.next_service.saturating_add(AHEAD),
            ..self.meta
        };
        let mut staging = Self::new(meta);
        for (id, service) in self.services.iter() {
            staging.ids.inherit(service.key().clone(), id);
        }
        staging
    }

    /// Lets an object's services have the ids here that they have in other maps.
    pub(super) fn inherit_ids(&mut self, object: &ObjectName, other: &Self) {
        for id in other.services.ids_of(object) {
            if let Some(service) = other.services.get(*id) {
                self.ids.inherit(service.key().clone(), *id);
            }
        }
    }

    pub(super) fn take_freed(&mut self) -> Freed {
        Freed { lines: self.lines.take_freed(), ranges: self.slots.take_freed() }
    }

    pub(super) fn release(&mut self, freed: Freed) {
        freed.lines.into_iter().for_each(|line| self.lines.release(line));
        freed.ranges.into_iter().for_each(|range| self.slots.release(range));
    }

    /// Takes in a step that succeeded.
    pub(super) fn apply(&mut self, step: &Step) {
        match step {
            Step::Put(row) => self.put(row),
            Step::Remove(key) => self.remove(key),
        }
    }

    fn put(&mut self, row: &Row) {
        match row {
            Row::Service(id, row) => {
                self.ids.apply_service(*id);
                self.services.put_service(*id, row);
            }
            Row::Backend(key, row) => self.services.put_backend(key, row),
            Row::Frontend(key, row) => self.services.put_frontend(key, row),
            Row::Slots(first, slots) => {
                self.slots.write(&Written::of(first.0, slots.iter().copied()));
            }
            Row::Line(number, line) => {
                if self.lines.fill(*number, line) {
                    self.slots.refer(line.set);
                }
            }
            Row::Set(number, set) => {
                if let Some(old) = self.lines.get(*number).map(|line| line.set) {
                    self.lines.change(*number, |line| line.set = *set);
                    self.slots.refer(*set);
                    self.slots.unrefer(old);
                }
            }
            Row::Heir(number, id) => self.lines.change(*number, |line| line.heir = id.0),
            Row::Owner(number, id) => self.lines.change(*number, |line| line.service = id.0),
            Row::Traits(number, flags, affinity) => self.lines.change(*number, |line| {
                line.flags = *flags;
                line.affinity_seconds = *affinity;
            }),
            Row::Generation(number, generation) => {
                self.lines.change(*number, |line| line.generation = generation.0);
            }
            Row::Reach(home, reach) => self.lines.change_home(*home, |line| line.reach = *reach),
            Row::Meta(meta) => {
                self.ids.apply_meta(&self.meta, meta);
                self.meta = *meta;
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        match key {
            Key::Service(id) => self.services.remove_service(*id),
            Key::Backend(key) => self.services.remove_backend(key),
            Key::Frontend(key) => self.services.remove_frontend(key),
            Key::Line(number) => {
                if let Some(line) = self.lines.empty(*number) {
                    self.slots.unrefer(line.set);
                } else if !self.lines.has_unrecognized() {
                    self.slots.quarantine_unrecognized();
                }
            }
        }
    }
}
