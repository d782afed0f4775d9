//! How much of each map is used, and its small rows, for metrics. It reads no row of a backend, and keeps none of
//! a service.

use std::collections::BTreeMap;

use anyhow::Result;
use svclb_common::layout::{ClientKey, ClientRow, Counters, Meta, ServiceRow};
use svclb_core::table::MapName;

use crate::maps::Maps;
use crate::maps::rows::Rows;
use crate::maps::sockets::Origins;
use crate::pins::Pins;
use crate::pins::places::Places;
use crate::shapes::{self, MAPS};

/// The use of the maps at one moment, each by itself.
#[derive(Clone, Debug)]
pub struct Usage {
    /// The meta row.
    pub meta: Meta,
    /// The counters, summed over CPUs.
    pub counters: Counters,
    /// Each map that can be full, with the entries that it can have.
    pub capacities: Vec<(MapName, u32)>,
    /// The entries that are used, of the maps where this takes no walk over all of a hash map's.
    pub used: Vec<(MapName, u64)>,
}

impl Usage {
    /// Reads the maps in use, and shows `see` the row of each service.
    ///
    /// # Errors
    /// When a map is not there, cannot be read, or has another layout.
    pub fn read(pins: &Pins, see: &mut dyn FnMut(&ServiceRow)) -> Result<Self> {
        let maps = Maps::read(pins)?;
        let places = Places::current(pins);
        let clients: Rows<u32, ClientRow> = Rows::open(MapName::Clients, &places)?;
        let clients = clients.get(&ClientKey::ALL)?.unwrap_or_default();
        let (mut services, mut frontends) = (0, 0);
        maps.services.each(&mut |_, row| {
            services += 1;
            frontends += u64::from(row.frontends);
            see(row);
        })?;
        let (lines, slots) = maps.lines_and_slots();
        // A count may be below zero for a while.
        let count = |count: i32| u64::try_from(count).unwrap_or(0);
        Ok(Self {
            meta: maps.meta()?,
            counters: maps.counters()?,
            capacities: capacities(&places)?,
            used: vec![
                (MapName::Index, lines),
                (MapName::Slots, slots),
                (MapName::Origins, Origins::open(&places)?.used()),
                (MapName::Overflow, count(clients.overflow)),
                (MapName::Frontends, frontends),
                (MapName::Services, services),
                (MapName::Affinity, count(clients.affinity)),
            ],
        })
    }
}

fn capacities(places: &Places) -> Result<Vec<(MapName, u32)>> {
    let can_be_full = |name: &MapName| !matches!(name, MapName::Counters | MapName::Meta);
    let names = MAPS.iter().map(|shape| shape.name).filter(can_be_full);
    names.map(|name| Ok((name, shapes::info_of(places.of(name))?.max_entries()))).collect()
}

impl Maps {
    /// The number of lines that hold a frontend, and that of slots in their sets.
    fn lines_and_slots(&self) -> (u64, u64) {
        let mut sets = BTreeMap::new();
        let mut lines = 0;
        for line in (0..self.index.length()).filter_map(|number| self.index.get(number)) {
            if line.key_word() != 0 {
                let set = line.set();
                lines += 1;
                // Lines of one service share a set.
                sets.insert(set.first, set.count);
            }
        }
        (lines, sets.into_values().map(u64::from).sum())
    }
}
