//! A hash map's rows, with errors that the table speaks.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Result;
use aya::maps::{HashMap, Map, MapData, MapError};
use svclb_core::table::{MapName, TableError};

use crate::bpf::batch;
use crate::bpf::value::{MapValue, Plain};
use crate::pins::places::Places;

/// A hash map.
pub(crate) struct Rows<K, V> {
    name: MapName,
    capacity: u32,
    map: HashMap<MapData, Plain<K>, Plain<V>>,
    /// The same map: aya's type does not show its own.
    fd: OwnedFd,
    buffered: Option<Buffered<K, V>>,
}

/// Rows that are not written yet.
struct Buffered<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    /// Number of rows before them.
    written: usize,
}

impl<K, V> Default for Buffered<K, V> {
    fn default() -> Self {
        Self { keys: Vec::new(), values: Vec::new(), written: 0 }
    }
}

impl<K: MapValue, V: MapValue> Rows<K, V> {
    /// Opens a map by its pin.
    pub(crate) fn open(name: MapName, places: &Places) -> Result<Self> {
        Self::new(name, places.open(name)?)
    }

    pub(crate) fn new(name: MapName, data: MapData) -> Result<Self> {
        let capacity = data.info()?.max_entries();
        let fd = data.fd().as_fd().try_clone_to_owned()?;
        Ok(Self { name, capacity, map: Map::from_map_data(data)?.try_into()?, fd, buffered: None })
    }

    /// Lets rows of a map that is empty be written many at a time, until [`Self::flush`].
    pub(crate) fn buffer_rows(&mut self) {
        self.buffered = Some(Buffered::default());
    }

    /// Writes what was buffered, and each row at once from here on.
    pub(crate) fn flush(&mut self) -> Result<(), TableError> {
        let buffered = self.buffered.take().filter(|buffered| !buffered.keys.is_empty());
        let Some(Buffered { keys, values, .. }) = buffered else { return Ok(()) };
        batch::write(self.fd.as_fd(), &keys, &values)
            .map_err(|error| refused(self.name, self.capacity, error))
    }

    /// Every row, in no order.
    pub(crate) fn all(&self) -> Result<Vec<(K, V)>, TableError> {
        let mut rows = Vec::new();
        self.each(&mut |key, value| rows.push((*key, *value)))?;
        Ok(rows)
    }

    /// Shows every row, in no order.
    pub(crate) fn each(&self, see: &mut dyn FnMut(&K, &V)) -> Result<(), TableError> {
        batch::read(batch::ROWS, self.fd.as_fd(), see)
            .map_err(|error| refused(self.name, self.capacity, error))
    }

    pub(crate) fn put(&mut self, key: &K, value: &V) -> Result<(), TableError> {
        let Some(buffered) = &mut self.buffered else {
            let done = self.map.insert(Plain(*key), Plain(*value), 0);
            return done.map_err(|error| failed(self.name, self.capacity, error));
        };
        buffered.keys.push(*key);
        buffered.values.push(*value);
        let all = buffered.written + buffered.keys.len();
        let has_room = all < self.capacity as usize;
        if buffered.keys.len() < batch::ROWS && has_room {
            return Ok(());
        }
        self.flush()?;
        // A map that is full refuses a row at once.
        self.buffered = has_room.then(|| Buffered { written: all, ..Buffered::default() });
        Ok(())
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        match self.map.get(&Plain(*key), 0) {
            Ok(Plain(value)) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(failed(self.name, self.capacity, error)),
        }
    }

    /// Removes a row that another party may have removed.
    pub(crate) fn remove_if_there(&mut self, key: &K) -> Result<(), TableError> {
        match self.remove(key) {
            Ok(()) | Err(TableError::Missing { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Result<(), TableError> {
        self.flush()?;
        let done = self.map.remove(&Plain(*key));
        done.map_err(|error| failed(self.name, self.capacity, error))
    }
}

pub(crate) fn invalid(map: MapName, what: String) -> TableError {
    TableError::Invalid { map, what }
}

/// Translates a failed call on a hash map of `capacity` entries.
fn failed(map: MapName, capacity: u32, error: MapError) -> TableError {
    match failed_in_array(map, error) {
        TableError::System { source, .. } => refused(map, capacity, source),
        other => other,
    }
}

/// Translates an error of the kernel on a hash map of `capacity` entries.
fn refused(map: MapName, capacity: u32, source: io::Error) -> TableError {
    match source.raw_os_error() {
        Some(libc::E2BIG) => TableError::Full { map, capacity },
        _ => TableError::System { map, source },
    }
}

/// Translates a failed call on an array, which has all of its entries from the start and is never full.
pub(crate) fn failed_in_array(map: MapName, error: MapError) -> TableError {
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
mod as_root_tests;

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
        let hash = failed(MapName::Services, 7, error(libc::E2BIG));
        assert!(matches!(hash, TableError::Full { capacity: 7, .. }), "{hash:?}");
        let array = failed_in_array(MapName::Meta, error(libc::E2BIG));
        assert!(matches!(array, TableError::System { .. }), "{array:?}");
        let memory = failed(MapName::Services, 7, error(libc::ENOMEM));
        assert!(matches!(memory, TableError::System { .. }), "{memory:?}");
    }
}
