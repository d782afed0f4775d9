//! The origins of live sockets: the address that each dialled and the backend that it was given, read from
//! the origins array and its overflow.

use std::collections::HashSet;

use anyhow::Result;
use svclb_common::cookie::SocketCookie;
use svclb_common::layout::{BackendKey, NO_TAG, Origin, Overflow, Record};
use svclb_core::table::MapName;

use crate::bpf::mapping::Mapping;
use crate::maps::rows::Rows;
use crate::pins::places::Places;

/// One origin of one socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketOrigin {
    /// The socket's cookie.
    pub cookie: SocketCookie,
    /// The dialled address and the given backend.
    pub record: Record,
    /// Found in the overflow.
    pub overflow: bool,
}

/// The maps that hold origins.
pub struct Origins {
    places: Mapping<Origin>,
    overflow: Rows<u64, Overflow>,
}

impl Origins {
    /// Opens the maps for reading.
    ///
    /// # Errors
    /// When a map cannot be opened.
    pub fn open(maps: &Places) -> Result<Self> {
        let overflow = Rows::open(MapName::Overflow, maps)?;
        Ok(Self { places: maps.map_values(MapName::Origins, false)?, overflow })
    }

    /// Number of places in the origins array.
    pub fn places(&self) -> u32 {
        self.places.length()
    }

    /// Number of places of the origins array that are in use.
    pub fn used(&self) -> u64 {
        let places = (0..self.places.length()).filter_map(|number| self.places.get(number));
        places.map(|place| u64::from(place.count() != 0)).sum()
    }

    /// Every origin of every live socket, as of now. A socket that is being translated meanwhile may
    /// be shown half old and half new.
    ///
    /// # Errors
    /// When the overflow cannot be read.
    pub fn read(&self) -> Result<Vec<SocketOrigin>> {
        let mut found = Vec::new();
        let mut add = |cookie, record, overflow| {
            found.push(SocketOrigin { cookie: SocketCookie(cookie), record, overflow });
        };
        for place in (0..self.places.length()).filter_map(|number| self.places.get(number)) {
            // A released place keeps its cookie.
            if place.count() != 0 && place.cookie() != 0 {
                add(place.cookie(), place.record().read(), false);
            }
        }
        let add_all = &mut |cookie: &u64, entry: &Overflow| {
            let records =
                entry.dialled.iter().zip(entry.records).filter(|(tag, _)| **tag != NO_TAG);
            records.for_each(|(_, record)| add(*cookie, record, true));
        };
        self.overflow.each(add_all)?;
        Ok(found)
    }

    /// Every backend that a live socket remembers, once.
    ///
    /// # Errors
    /// When the overflow cannot be read.
    pub fn backends(&self) -> Result<Vec<BackendKey>> {
        let key = |record: Record| BackendKey {
            address: record.given,
            port: record.given_port,
            ..BackendKey::default()
        };
        let all: HashSet<_> = self.read()?.iter().map(|origin| key(origin.record)).collect();
        Ok(all.into_iter().collect())
    }

    /// Number of entries of the overflow, including those that are no record.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn overflow_entries(&self) -> Result<usize> {
        let mut entries = 0;
        self.overflow.each(&mut |_, _| entries += 1)?;
        Ok(entries)
    }
}
