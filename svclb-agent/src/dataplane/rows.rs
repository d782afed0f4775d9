//! A hash map's rows, with errors that the table speaks.

use std::io;

use anyhow::Result;
use aya::Pod;
use aya::maps::{HashMap, Map, MapData, MapError};
use svclb_common::layout::{
    BackendKey, BackendRow, Counters, FrontendKey, FrontendRow, Line, Meta, Origin, Overflow,
    ServiceRow, Slot,
};
use svclb_core::table::TableError;

use super::mapping::MapValue;

/// A layout type as aya wants it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: a layout type is plain data (`MapValue`).
unsafe impl<T: MapValue> Pod for Plain<T> {}

macro_rules! map_values {
    ($($type:ty),+) => {
        // SAFETY: integers, or `repr(C)` over integers with explicit padding (svclb_common::layout).
        $(unsafe impl MapValue for $type {})+
    };
}

map_values!(
    u32,
    u64,
    Line,
    Slot,
    Origin,
    Overflow,
    FrontendKey,
    FrontendRow,
    ServiceRow,
    BackendKey,
    BackendRow,
    Meta,
    Counters
);

/// A hash map.
pub(super) struct Rows<K, V> {
    name: &'static str,
    capacity: u32,
    map: HashMap<MapData, Plain<K>, Plain<V>>,
}

impl<K: MapValue, V: MapValue> Rows<K, V> {
    pub(super) fn new(name: &'static str, data: MapData) -> Result<Self> {
        let capacity = data.info()?.max_entries();
        Ok(Self { name, capacity, map: Map::from_map_data(data)?.try_into()? })
    }

    /// Every row, in no order.
    pub(super) fn all(&self) -> Result<Vec<(K, V)>, TableError> {
        let rows = self.map.iter().map(|row| row.map(|(key, value)| (key.0, value.0)));
        rows.collect::<Result<_, _>>().map_err(|error| failed(self.name, self.capacity, error))
    }

    pub(super) fn put(&mut self, key: &K, value: &V) -> Result<(), TableError> {
        let done = self.map.insert(Plain(*key), Plain(*value), 0);
        done.map_err(|error| failed(self.name, self.capacity, error))
    }

    pub(super) fn remove(&mut self, key: &K) -> Result<(), TableError> {
        let done = self.map.remove(&Plain(*key));
        done.map_err(|error| failed(self.name, self.capacity, error))
    }
}

pub(super) fn invalid(map: &'static str, what: String) -> TableError {
    TableError::Invalid { map, what }
}

/// What a failed call on a map of `capacity` entries means.
pub(super) fn failed(map: &'static str, capacity: u32, error: MapError) -> TableError {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => TableError::Missing { map },
        MapError::SyscallError(call) => match call.io_error.raw_os_error() {
            Some(libc::E2BIG) => TableError::Full { map, capacity },
            Some(libc::ENOENT) => TableError::Missing { map },
            _ => TableError::System { map, source: call.io_error },
        },
        other => TableError::System { map, source: io::Error::other(other) },
    }
}
