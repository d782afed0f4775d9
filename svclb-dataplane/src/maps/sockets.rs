//! The origins of live sockets: the address that each dialled and the backend that it was given, read from
//! the origins array and its overflow.

use std::collections::HashSet;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use svclb_common::cookie::SocketCookie;
use svclb_common::layout::{BackendKey, NO_TAG, Origin, Overflow, Record};
use svclb_core::table::MapName;

use crate::bpf::mapping::Mapping;
use crate::bpf::value::Plain;
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
    overflow: HashMap<MapData, Plain<u64>, Plain<Overflow>>,
}

impl Origins {
    /// Opens the maps for reading.
    ///
    /// # Errors
    /// When a map cannot be opened.
    pub fn open(maps: &Places) -> Result<Self> {
        let places = maps.open(MapName::Origins)?;
        Ok(Self {
            places: Mapping::new(places.fd().as_fd(), places.info()?.max_entries(), false)
                .context("cannot map svclb_origins")?,
            overflow: Map::from_map_data(maps.open(MapName::Overflow)?)?.try_into()?,
        })
    }

    /// Number of places in the origins array.
    pub fn places(&self) -> u32 {
        self.places.length()
    }

    /// Every origin of every live socket, as of now. A socket that is being translated meanwhile may
    /// be shown half old and half new.
    ///
    /// # Errors
    /// When the overflow cannot be read.
    pub fn read(&self) -> Result<Vec<SocketOrigin>> {
        let mut found = Vec::new();
        for number in 0..self.places.length() {
            let Some(place) = self.places.get(number) else { break };
            // A released place keeps its cookie.
            if place.count() != 0 && place.cookie() != 0 {
                let record = place.record().read();
                let cookie = SocketCookie(place.cookie());
                found.push(SocketOrigin { cookie, record, overflow: false });
            }
        }
        for entry in self.overflow.iter() {
            let (Plain(cookie), entry) = entry.context("cannot read svclb_overflow")?;
            for (tag, record) in entry.0.dialled.iter().zip(entry.0.records) {
                if *tag != NO_TAG {
                    let cookie = SocketCookie(cookie);
                    found.push(SocketOrigin { cookie, record, overflow: true });
                }
            }
        }
        Ok(found)
    }

    /// Every backend that a live socket remembers, once.
    ///
    /// # Errors
    /// When the overflow cannot be read.
    pub fn backends(&self) -> Result<Vec<BackendKey>> {
        let all = self.read()?.into_iter().map(|origin| origin.record);
        let all: HashSet<_> = all.map(|record| (record.given, record.given_port)).collect();
        let keys = all.into_iter().map(|(address, port)| BackendKey {
            address,
            port,
            ..BackendKey::default()
        });
        Ok(keys.collect())
    }

    /// Number of entries of the overflow, including those that are no record.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn overflow_entries(&self) -> Result<usize> {
        let keys: Result<Vec<_>, _> = self.overflow.keys().collect();
        Ok(keys.context("cannot read svclb_overflow")?.len())
    }
}
