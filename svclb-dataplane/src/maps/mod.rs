//! The real maps, as a [`Table`].
//!
//! The index is written through a mapping: the stores of a line are ordered as svclb-common's `index`
//! promises its readers.
//!
//! * `rows`: hash maps, row by row or many in a call; `slots`: sets of backends.
//! * [`sockets`]: what each live socket dialled and was given.
//! * [`shares`], [`expiry`]: entries of clients in shared maps, counted and removed.
//! * [`usage`]: how much of each map is used.
//! * [`rehearsal`]: what the connect hook would answer to a client, without a connect.

pub mod expiry;
pub mod rehearsal;
mod rows;
pub mod shares;
mod slots;
pub mod sockets;
pub mod usage;

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use svclb_common::index;
use svclb_common::layout::{
    BackendKey, BackendRow, Counters, FrontendKey, FrontendRow, Line, Meta, Protocol, ServiceRow,
    WayKind,
};
use svclb_common::shared::Shared;
use svclb_core::compile::{is_api_server, service_of};
use svclb_core::number::{Generation, LineNumber, ServiceId, SlotNumber};
use svclb_core::table::{Dump, Key, MapName, Row, Table, TableError, ranges};

use crate::bpf::mapping::Mapping;
use crate::bpf::value::{MapValue, Plain};
use crate::maps::rows::{Rows, invalid};
use crate::maps::slots::Slots;
use crate::pins::Pins;
use crate::pins::places::{self, Places};
use crate::shapes;

/// The maps of one folder of pins.
pub struct Maps {
    index: Mapping<Line>,
    slots: Slots,
    frontends: Rows<FrontendKey, FrontendRow>,
    services: Rows<u32, ServiceRow>,
    backends: Rows<BackendKey, BackendRow>,
    counters: PerCpuArray<MapData, Plain<Counters>>,
    meta: Rows<u32, Meta>,
    /// The meta row as it was last read or written: how the index is hashed.
    geometry: Meta,
    /// While marks are being reviewed: those that are needed, a word for each line.
    needed: Option<Vec<u64>>,
    /// Number of marks that the last review left.
    marks_of_review: u64,
}

/// A review begins when this many marks per line were added since the last one. Of a line's 64 marks, each
/// that is set in vain makes one of 64 direct connects look at the origins.
const MORE_MARKS: u64 = 2;

impl Maps {
    /// Opens the maps in use for reading.
    ///
    /// # Errors
    /// When a map is not there or has another layout.
    pub fn read(pins: &Pins) -> Result<Self> {
        pins.check_installed(pins.is_readable()?)?;
        Self::open(&Places::current(pins), false)
    }

    /// Opens maps whose shape was looked at; `writable` only for the agent.
    ///
    /// # Errors
    /// When a map is not there.
    pub fn open(places: &Places, writable: bool) -> Result<Self> {
        let meta = Rows::open(MapName::Meta, places)?;
        let counters = Map::from_map_data(places.open(MapName::Counters)?)?;
        Ok(Self {
            index: places.map_values(MapName::Index, writable)?,
            slots: Rows::open(MapName::Slots, places)?,
            frontends: Rows::open(MapName::Frontends, places)?,
            services: Rows::open(MapName::Services, places)?,
            backends: Rows::open(MapName::Backends, places)?,
            counters: counters.try_into()?,
            geometry: read_meta(&meta)?,
            meta,
            needed: None,
            marks_of_review: 0,
        })
    }

    /// Buffers rows until [`Table::flush`], so that many are written in a call: these maps are new, and no
    /// program reads them yet.
    pub fn buffer_rows(&mut self) {
        self.slots.buffer_rows();
        self.frontends.buffer_rows();
        self.services.buffer_rows();
        self.backends.buffer_rows();
    }

    /// The meta row.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn meta(&self) -> Result<Meta> {
        Ok(read_meta(&self.meta)?)
    }

    /// The counters, summed over CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Counters> {
        let mut sum = Counters::default();
        for cpu in self.counters.get(&0, 0).context("cannot read svclb_counters")?.iter() {
            sum.add(&cpu.0);
        }
        Ok(sum)
    }

    fn line(&self, number: u32) -> Result<Shared<'_, Line>, TableError> {
        let capacity = self.index.length();
        self.index.get(number).ok_or(TableError::Full { map: MapName::Index, capacity })
    }

    /// A line that holds a frontend.
    fn held(&self, number: u32) -> Result<Shared<'_, Line>, TableError> {
        let line = self.line(number)?;
        if line.key_word() != 0 {
            return Ok(line);
        }
        Err(invalid(MapName::Index, format!("line {number} holds no frontend")))
    }

    /// Takes note of how the index is hashed, before the meta row says it.
    pub const fn set_geometry(&mut self, meta: Meta) {
        self.geometry = meta;
    }

    /// Sets a backend's mark at its homes, before a client can be given it, and for clients that were.
    ///
    /// # Errors
    /// When the meta row describes other maps.
    pub fn mark(&mut self, key: &BackendKey) -> Result<(), TableError> {
        let Meta { seed, index_lines, .. } = self.geometry;
        if let Some(needed) = &mut self.needed {
            index::need_marks(needed, key, seed);
        }
        let can = index_lines.is_power_of_two()
            && index::mark(key, seed, index_lines, |number| self.index.get(number));
        if can { Ok(()) } else { Err(invalid(MapName::Meta, "it describes other maps".to_owned())) }
    }

    /// Begins a review of the marks (docs/decisions/0007), if many were added since the last one: notes those
    /// of all members. Returns true if it has begun. Until it is finished or begun again, the marks of each
    /// new member are noted too.
    ///
    /// # Errors
    /// When the members cannot be read.
    pub fn begin_marks(&mut self) -> Result<bool, TableError> {
        let lines = u64::from(self.geometry.index_lines);
        if self.marks() < self.marks_of_review + MORE_MARKS * lines {
            return Ok(false);
        }
        let (seed, mut needed) = (self.geometry.seed, vec![0; self.geometry.index_lines as usize]);
        self.backends.each(&mut |key, _| index::need_marks(&mut needed, key, seed))?;
        self.needed = Some(needed);
        Ok(true)
    }

    /// Finishes the review: takes every mark away but those that were noted, and those of the backends that
    /// sockets remember, which were read after a grace period. Returns their number before and after.
    pub fn finish_marks(&mut self, remembered: &[BackendKey]) -> Option<(u64, u64)> {
        let (before, mut needed) = (self.marks(), self.needed.take()?);
        for key in remembered {
            index::need_marks(&mut needed, key, self.geometry.seed);
        }
        index::keep_marks(&needed, |number| self.index.get(number));
        self.marks_of_review = self.marks();
        Some((before, self.marks_of_review))
    }

    /// Number of marks.
    fn marks(&self) -> u64 {
        let lines = (0..self.geometry.index_lines).map_while(|number| self.index.get(number));
        lines.map(|line| u64::from(line.marks().count_ones())).sum()
    }

    fn put_line(&self, number: u32, line: &Line) -> Result<(), TableError> {
        let place = self.line(number)?;
        if place.key_word() != 0 {
            return Err(invalid(MapName::Index, format!("line {number} holds a frontend already")));
        }
        index::publish(place, line);
        Ok(())
    }
}

impl Table for Maps {
    fn load(&mut self) -> Result<Dump, TableError> {
        let mut backends = Vec::new();
        let dump = self.scan(&mut |key, row| backends.push((*key, *row)))?;
        Ok(Dump { backends, ..dump })
    }

    fn scan(&mut self, see: &mut dyn FnMut(&BackendKey, &BackendRow)) -> Result<Dump, TableError> {
        self.flush()?;
        let lines: Vec<(u32, Line)> = (0..self.index.length())
            .filter_map(|number| Some((number, self.index.get(number)?.read())))
            .filter(|(_, line)| *line != Line::default())
            .collect();
        let meta = read_meta(&self.meta)?;
        let mut slots = self.slots.reader();
        // A line that another program wrote may name any slot.
        let ranges = ranges(&lines, |number| slots.slot(number));
        slots.end()?;
        self.backends.each(see)?;
        Ok(Dump {
            meta,
            services: self.services.all()?,
            backends: Vec::new(),
            frontends: self.frontends.all()?,
            ranges,
            lines,
        })
    }

    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        match row {
            Row::Service(ServiceId(id), row) => self.services.put(id, row)?,
            Row::Backend(key, row) => {
                self.mark(key)?;
                self.backends.put(key, row)?;
            }
            Row::Frontend(key, row) => self.frontends.put(key, row)?,
            Row::Slots(SlotNumber(first), slots) => self.slots.put_set(*first, slots)?,
            Row::Line(LineNumber(number), line) => self.put_line(*number, line)?,
            Row::Set(LineNumber(number), set) => self.held(*number)?.set_set_word(set.word()),
            Row::Heir(LineNumber(number), ServiceId(id)) => self.held(*number)?.set_heir(*id),
            Row::Owner(LineNumber(number), ServiceId(id)) => self.held(*number)?.set_service(*id),
            Row::Traits(LineNumber(number), flags, affinity) => {
                let line = self.held(*number)?;
                line.set_flags(*flags);
                line.set_affinity_seconds(*affinity);
            }
            Row::Generation(LineNumber(number), Generation(generation)) => {
                self.line(*number)?.set_generation(*generation);
            }
            Row::Reach(LineNumber(number), reach) => self.line(*number)?.set_reach(*reach),
            Row::Meta(meta) => {
                self.meta.put(&0, meta)?;
                self.geometry = *meta;
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        match key {
            Key::Service(ServiceId(id)) => self.services.remove(id),
            Key::Backend(key) => self.backends.remove(key),
            Key::Frontend(key) => self.frontends.remove(key),
            Key::Line(LineNumber(number)) => self.held(*number).map(index::empty),
        }
    }

    fn flush(&mut self) -> Result<(), TableError> {
        self.slots.flush()?;
        self.frontends.flush()?;
        self.services.flush()?;
        self.backends.flush()
    }
}

/// The row of svclb_meta.
fn read_meta(meta: &Rows<u32, Meta>) -> Result<Meta, TableError> {
    meta.get(&0)?.ok_or(TableError::Missing { map: MapName::Meta })
}

/// Opens a map that these programs can use, of this version or another; none where there is no such map.
fn usable<K: MapValue, V: MapValue>(pins: &Pins, name: MapName) -> Result<Option<Rows<K, V>>> {
    let Some(pin) = pins.usable(shapes::of(name))? else { return Ok(None) };
    Rows::new(name, places::open_map(&pin)?).map(Some)
}

/// The rows of services that the maps here have, of this version or another; none where they cannot be
/// read by us.
///
/// # Errors
/// When a map is there and cannot be read.
pub fn services(pins: &Pins) -> Result<Option<Vec<(u32, ServiceRow)>>> {
    let map = usable::<u32, ServiceRow>(pins, MapName::Services)?;
    Ok(map.map(|map| map.all()).transpose()?)
}

/// The endpoints of the API server that the maps here name, of this version or another, as far as they can
/// be read by us: those of `default/kubernetes`, and the one that an agent was connected to last.
///
/// # Errors
/// When a map is there and cannot be read.
pub fn api_servers(pins: &Pins) -> Result<Vec<SocketAddr>> {
    let services = services(pins)?.unwrap_or_default().into_iter();
    let own = services.filter(|(_, row)| {
        service_of(row).is_some_and(|it| is_api_server(&it.object) && it.protocol == Protocol::Tcp)
    });
    let own: Vec<u32> = own.map(|(id, _)| id).collect();
    let mut found = Vec::new();
    if !own.is_empty()
        && let Some(backends) = usable::<BackendKey, BackendRow>(pins, MapName::Backends)?
    {
        backends.each(&mut |key, _| {
            if own.contains(&key.service) {
                found.push(SocketAddr::new(key.address.ip(), key.port));
            }
        })?;
    }
    if pins.usable(shapes::of(MapName::Meta))?.is_some() {
        let row = pins.meta()?;
        let endpoints = row.sources.iter().filter(|it| it.way == WayKind::Endpoint as u8);
        found.extend(endpoints.map(|it| SocketAddr::new(it.address.ip(), it.port)));
    }
    Ok(found)
}
