//! Maps in memory, which refuse what the kernel would refuse, and what no plan may contain.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::hash::Hash;

use svclb_common::index;
use svclb_common::layout::{
    BackendKey, BackendRow, FrontendKey, FrontendRow, Line, Meta, ServiceRow, Set, Slot,
};
use svclb_common::shared::Shared;

use super::{Dump, Key, MapName, Row, Table, TableError};
use crate::number::{LineNumber, ServiceId, SlotNumber};

/// Maps in memory, as large as their meta row says.
#[derive(Debug)]
pub struct MemoryTable {
    meta: Meta,
    lines: Vec<UnsafeCell<Line>>,
    slots: Vec<UnsafeCell<Slot>>,
    services: HashMap<u32, ServiceRow>,
    backends: HashMap<BackendKey, BackendRow>,
    frontends: HashMap<FrontendKey, FrontendRow>,
}

fn cells<T: Default>(count: u32) -> Vec<UnsafeCell<T>> {
    (0..count).map(|_| UnsafeCell::default()).collect()
}

fn shared<T>(cells: &[UnsafeCell<T>], number: u32) -> Option<Shared<'_, T>> {
    // SAFETY: the cell lives as long as the borrow, and all accesses to it are made by `Shared`.
    cells.get(number as usize).map(|cell| unsafe { Shared::new(cell.get()) })
}

impl MemoryTable {
    /// Empty maps of the sizes that `meta` says.
    pub fn new(meta: Meta) -> Self {
        Self {
            meta: Meta { layout: 0, ..meta },
            lines: cells(meta.index_lines),
            slots: cells(meta.slots),
            services: HashMap::new(),
            backends: HashMap::new(),
            frontends: HashMap::new(),
        }
    }

    /// A line of the index.
    pub fn line(&self, number: u32) -> Option<Shared<'_, Line>> {
        shared(&self.lines, number)
    }

    /// A slot.
    pub fn slot(&self, number: u32) -> Option<Shared<'_, Slot>> {
        shared(&self.slots, number)
    }

    /// A row of `svclb_frontends`.
    pub fn frontend(&self, key: &FrontendKey) -> Option<FrontendRow> {
        self.frontends.get(key).copied()
    }

    /// A row of `svclb_backends`.
    pub fn backend(&self, key: &BackendKey) -> Option<BackendRow> {
        self.backends.get(key).copied()
    }

    /// The meta row.
    pub fn meta(&self) -> Meta {
        self.meta
    }

    fn place(&self, LineNumber(number): LineNumber) -> Result<Shared<'_, Line>, TableError> {
        let capacity = self.meta.index_lines;
        self.line(number).ok_or(TableError::Full { map: MapName::Index, capacity })
    }

    fn filled(&self, LineNumber(number): LineNumber) -> Result<Shared<'_, Line>, TableError> {
        let line = self.place(LineNumber(number))?;
        if line.key_word() == 0 {
            return Err(invalid(MapName::Index, format!("line {number} holds no frontend")));
        }
        Ok(line)
    }

    fn is_referred_to(&self, first: u32, count: u32) -> bool {
        let mut sets = (0..).map_while(|number| self.line(number)).map(Shared::set);
        sets.any(|set| set.count != 0 && set.first < first + count && first < set.first + set.count)
    }

    fn put_slots(&self, first: u32, slots: &[Slot]) -> Result<(), TableError> {
        let count = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        if first.checked_add(count).is_none_or(|end| end > self.meta.slots) {
            return Err(TableError::Full { map: MapName::Slots, capacity: self.meta.slots });
        }
        if self.is_referred_to(first, count) {
            return Err(invalid(MapName::Slots, format!("slots from {first} are in use")));
        }
        if slots.iter().any(|slot| !self.services.contains_key(&slot.owner)) {
            return Err(invalid(MapName::Slots, "an owner has no row".to_owned()));
        }
        for (number, slot) in (first..).zip(slots) {
            if let Some(place) = self.slot(number) {
                place.write(slot);
            }
        }
        Ok(())
    }

    /// A set may be given to a line only when all its slots are written and owned by those that the
    /// line accepts.
    fn check_set(&self, set: Set, accepted: [u32; 2]) -> Result<(), TableError> {
        for number in set.first..set.first.saturating_add(set.count) {
            let owner = self.slot(number).map_or(0, Shared::owner);
            if owner == 0 || !accepted.contains(&owner) {
                return Err(invalid(MapName::Index, format!("slot {number} belongs to {owner}")));
            }
        }
        Ok(())
    }

    fn put_line(&self, number: LineNumber, line: &Line) -> Result<(), TableError> {
        let place = self.place(number)?;
        if place.key_word() != 0 {
            return Err(invalid(MapName::Index, format!("line {} holds a frontend", number.0)));
        }
        self.check_set(line.set, [line.service, line.heir])?;
        index::publish(place, line);
        Ok(())
    }
}

fn invalid(map: MapName, what: String) -> TableError {
    TableError::Invalid { map, what }
}

fn insert<K: Eq + Hash, V>(
    rows: &mut HashMap<K, V>,
    map: MapName,
    capacity: u32,
    key: K,
    value: V,
) -> Result<(), TableError> {
    if rows.len() >= capacity as usize && !rows.contains_key(&key) {
        return Err(TableError::Full { map, capacity });
    }
    rows.insert(key, value);
    Ok(())
}

fn take<K: Eq + Hash, V>(
    rows: &mut HashMap<K, V>,
    map: MapName,
    key: &K,
) -> Result<(), TableError> {
    rows.remove(key).map(drop).ok_or(TableError::Missing { map })
}

impl Table for MemoryTable {
    fn load(&mut self) -> Result<Dump, TableError> {
        let lines: Vec<(u32, Line)> = (0..)
            .map_while(|number| Some((number, self.line(number)?.read())))
            .filter(|(_, line)| *line != Line::default())
            .collect();
        Ok(Dump {
            meta: self.meta,
            services: self.services.iter().map(|(id, row)| (*id, *row)).collect(),
            backends: self.backends.iter().map(|(key, row)| (*key, *row)).collect(),
            frontends: self.frontends.iter().map(|(key, row)| (*key, *row)).collect(),
            ranges: super::ranges(&lines, |number| Some(self.slot(number)?.read())),
            lines,
        })
    }

    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        let lines = self.meta.index_lines;
        match row {
            Row::Service(ServiceId(id), row) => {
                insert(&mut self.services, MapName::Services, lines, *id, *row)
            }
            Row::Backend(key, row) => {
                if row.sets == 0 || !self.services.contains_key(&key.service) {
                    return Err(invalid(MapName::Backends, "of no set or no service".to_owned()));
                }
                let Meta { seed, index_lines, .. } = self.meta;
                index::mark(key, seed, index_lines, |number| self.line(number));
                insert(&mut self.backends, MapName::Backends, self.meta.slots, *key, *row)
            }
            Row::Frontend(key, row) => {
                insert(&mut self.frontends, MapName::Frontends, lines, *key, *row)
            }
            Row::Slots(SlotNumber(first), slots) => self.put_slots(*first, slots),
            Row::Line(number, line) => self.put_line(*number, line),
            Row::Set(number, set) => {
                let line = self.filled(*number)?;
                self.check_set(*set, [line.service(), line.heir()])?;
                line.set_set_word(set.word());
                Ok(())
            }
            Row::Heir(number, ServiceId(id)) => {
                let line = self.filled(*number)?;
                self.check_set(line.set(), [line.service(), *id])?;
                line.set_heir(*id);
                Ok(())
            }
            Row::Owner(number, ServiceId(id)) => {
                let line = self.filled(*number)?;
                self.check_set(line.set(), [*id, line.heir()])?;
                line.set_service(*id);
                Ok(())
            }
            Row::Traits(number, flags, affinity) => self.filled(*number).map(|line| {
                line.set_flags(*flags);
                line.set_affinity_seconds(*affinity);
            }),
            Row::Generation(number, generation) => {
                self.place(*number).map(|line| line.set_generation(generation.0))
            }
            Row::Reach(number, reach) => self.place(*number).map(|line| line.set_reach(*reach)),
            Row::Meta(meta) => {
                self.meta = *meta;
                Ok(())
            }
        }
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        match key {
            Key::Service(ServiceId(id)) => take(&mut self.services, MapName::Services, id),
            Key::Backend(key) => take(&mut self.backends, MapName::Backends, key),
            Key::Frontend(key) => take(&mut self.frontends, MapName::Frontends, key),
            Key::Line(number) => {
                index::empty(self.filled(*number)?);
                Ok(())
            }
        }
    }
}
