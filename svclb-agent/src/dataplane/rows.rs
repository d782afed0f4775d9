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

/// What a failed call on a hash map of `capacity` entries means.
fn failed(map: &'static str, capacity: u32, error: MapError) -> TableError {
    match failed_in_array(map, error) {
        TableError::System { map, source } if source.raw_os_error() == Some(libc::E2BIG) => {
            TableError::Full { map, capacity }
        }
        other => other,
    }
}

/// What a failed call on an array means. It has all of its entries from the start, and is never full.
pub(super) fn failed_in_array(map: &'static str, error: MapError) -> TableError {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => TableError::Missing { map },
        MapError::SyscallError(call) => match call.io_error.raw_os_error() {
            Some(libc::ENOENT) => TableError::Missing { map },
            _ => TableError::System { map, source: call.io_error },
        },
        other => TableError::System { map, source: io::Error::other(other) },
    }
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn only_a_hash_map_can_be_full() {
        let error = |number| {
            let io_error = io::Error::from_raw_os_error(number);
            MapError::SyscallError(SyscallError { call: "bpf_map_update_elem", io_error })
        };
        let hash = failed("svclb_services", 7, error(libc::E2BIG));
        assert!(matches!(hash, TableError::Full { capacity: 7, .. }), "{hash:?}");
        let array = failed_in_array("svclb_meta", error(libc::E2BIG));
        assert!(matches!(array, TableError::System { .. }), "{array:?}");
        let memory = failed("svclb_services", 7, error(libc::ENOMEM));
        assert!(matches!(memory, TableError::System { .. }), "{memory:?}");
    }
}
