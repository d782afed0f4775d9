//! Rows of a map, with errors that the table speaks.

use std::io;
use std::mem::{take, zeroed};
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Result, ensure};
use aya::maps::{MapData, MapType};
use aya_obj::generated::bpf_cmd;
use svclb_core::table::{MapName, TableError};

use crate::bpf::batch;
use crate::bpf::sys;
use crate::bpf::value::MapValue;
use crate::pins::places::Places;

/// A hash map or an array, which is read and written row by row, or many rows in a call.
pub(crate) struct Rows<K, V> {
    name: MapName,
    is_hash: bool,
    pub(crate) capacity: u32,
    map: MapData,
    /// Rows that are not written yet.
    keys: Vec<K>,
    values: Vec<V>,
    /// Rows wait above until there are as many as a call takes.
    buffers: bool,
    /// Number of rows since [`Self::buffer_rows`].
    buffered: usize,
}

impl<K: MapValue, V: MapValue> Rows<K, V> {
    /// Opens a map by its pin.
    pub(crate) fn open(name: MapName, places: &Places) -> Result<Self> {
        Self::new(name, places.open(name)?)
    }

    pub(crate) fn new(name: MapName, map: MapData) -> Result<Self> {
        let info = map.info()?;
        let (kind, sizes) = (info.map_type()?, [info.key_size(), info.value_size()]);
        // The calls below copy as many bytes as the kernel's map has.
        let fits = sizes.map(|size| size as usize) == [size_of::<K>(), size_of::<V>()];
        ensure!(
            fits && matches!(kind, MapType::Array | MapType::Hash),
            "{name} has another type or other sizes ({kind:?}, {sizes:?})"
        );
        Ok(Self {
            name,
            is_hash: kind == MapType::Hash,
            capacity: info.max_entries(),
            map,
            keys: Vec::new(),
            values: Vec::new(),
            buffers: false,
            buffered: 0,
        })
    }

    /// The map's descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    /// Lets rows of a map that is empty be written many at a time, until [`Self::flush`].
    pub(crate) fn buffer_rows(&mut self) {
        (self.buffers, self.buffered) = (true, 0);
    }

    /// Writes what was buffered, and each row at once from here on.
    pub(crate) fn flush(&mut self) -> Result<(), TableError> {
        self.buffers = false;
        let (keys, values) = (take(&mut self.keys), take(&mut self.values));
        if keys.is_empty() {
            return Ok(());
        }
        batch::write(self.fd(), &keys, &values).map_err(|error| self.failed(error))
    }

    /// Every row, in no order.
    pub(crate) fn all(&self) -> Result<Vec<(K, V)>, TableError> {
        let mut rows = Vec::new();
        self.each(&mut |key, value| rows.push((*key, *value)))?;
        Ok(rows)
    }

    /// Shows every row, in no order.
    pub(crate) fn each(&self, see: &mut dyn FnMut(&K, &V)) -> Result<(), TableError> {
        batch::read(batch::ROWS, self.fd(), see).map_err(|error| self.failed(error))
    }

    pub(crate) fn put(&mut self, key: &K, value: &V) -> Result<(), TableError> {
        self.put_all([*key], &[*value])
    }

    /// Writes rows together, as many keys as values.
    pub(crate) fn put_all(
        &mut self,
        keys: impl IntoIterator<Item = K>,
        values: &[V],
    ) -> Result<(), TableError> {
        self.keys.extend(keys);
        self.values.extend_from_slice(values);
        self.buffered += values.len();
        // A map that is full refuses a row at once.
        let buffers = self.buffers && self.buffered < self.capacity as usize;
        if buffers && self.keys.len() < batch::ROWS {
            return Ok(());
        }
        self.flush()?;
        self.buffers = buffers;
        Ok(())
    }

    /// The value of a key.
    pub(crate) fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        // SAFETY: any bit pattern is a value (`MapValue`).
        let mut value = unsafe { zeroed() };
        // SAFETY: as above, and `new` compared the sizes.
        let done =
            unsafe { sys::element(bpf_cmd::BPF_MAP_LOOKUP_ELEM, self.fd(), key, Some(&mut value)) };
        match done.map_err(|error| self.failed(error)) {
            Ok(()) => Ok(Some(value)),
            Err(TableError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
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
        // SAFETY: `new` compared the sizes.
        let done =
            unsafe { sys::element(bpf_cmd::BPF_MAP_DELETE_ELEM, self.fd(), key, None::<&mut V>) };
        done.map_err(|error| self.failed(error))
    }

    /// Translates the kernel's answer.
    fn failed(&self, source: io::Error) -> TableError {
        failed(self.name, self.is_hash, self.capacity, source)
    }
}

pub(crate) fn invalid(map: MapName, what: String) -> TableError {
    TableError::Invalid { map, what }
}

/// Translates an error of the kernel. An array has all of its entries from the start and is never full.
fn failed(map: MapName, is_hash: bool, capacity: u32, source: io::Error) -> TableError {
    match source.raw_os_error() {
        Some(libc::E2BIG) if is_hash => TableError::Full { map, capacity },
        Some(libc::ENOENT) => TableError::Missing { map },
        _ => TableError::System { map, source },
    }
}

#[cfg(test)]
mod as_root_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_hash_map_can_be_full() {
        let error = io::Error::from_raw_os_error;
        let hash = failed(MapName::Services, true, 7, error(libc::E2BIG));
        assert!(matches!(hash, TableError::Full { capacity: 7, .. }), "{hash:?}");
        let array = failed(MapName::Meta, false, 1, error(libc::E2BIG));
        assert!(matches!(array, TableError::System { .. }), "{array:?}");
        let memory = failed(MapName::Services, true, 7, error(libc::ENOMEM));
        assert!(matches!(memory, TableError::System { .. }), "{memory:?}");
    }
}
