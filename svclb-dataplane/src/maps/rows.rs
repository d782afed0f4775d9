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
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    /// A map of the real kernel's, with room for so many rows.
    fn map(rows: u32) -> Rows<u32, u64> {
        let kind = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH as u32;
        let object = aya_obj::Map::new_from_params(kind, 4, 8, rows, 0);
        let made = MapData::create(object, "svclb_test", None);
        Rows::new(MapName::Services, made.expect("a map can be made: run this as root")).unwrap()
    }

    fn sorted(mut rows: Vec<(u32, u64)>) -> Vec<(u32, u64)> {
        rows.sort_unstable();
        rows
    }

    #[test]
    fn rows_that_are_buffered_are_all_there_in_the_end() {
        let rows: Vec<(u32, u64)> = (0..10_000).map(|key| (key, u64::from(key) * 3)).collect();
        let mut map = map(20_000);
        map.buffer_rows();
        rows.iter().for_each(|(key, value)| map.put(key, value).unwrap());
        let before = map.all().unwrap().len();
        assert!(before < rows.len() && before >= rows.len() - batch::ROWS, "{before} are written");
        map.flush().unwrap();
        assert_eq!(sorted(map.all().unwrap()), rows);
        // From here on each is written at once.
        map.put(&7, &0).unwrap();
        map.remove(&8).unwrap();
        let changed = sorted(map.all().unwrap());
        assert_eq!((changed.len(), changed[7], changed[8]), (rows.len() - 1, (7, 0), (9, 27)));
    }

    #[test]
    fn a_row_that_does_not_fit_is_refused_at_once_also_where_rows_are_buffered() {
        let mut map = map(5_000);
        map.buffer_rows();
        (0..5_000).for_each(|key| map.put(&key, &1).unwrap());
        let refused = map.put(&5_000, &1);
        assert!(matches!(refused, Err(TableError::Full { capacity: 5_000, .. })), "{refused:?}");
        assert_eq!(map.all().unwrap().len(), 5_000);
    }

    #[test]
    fn a_row_that_goes_after_it_was_buffered_is_gone() {
        let mut map = map(100);
        map.buffer_rows();
        map.put(&1, &1).unwrap();
        map.put(&2, &2).unwrap();
        map.remove(&1).unwrap();
        map.flush().unwrap();
        assert_eq!(map.all().unwrap(), [(2, 2)]);
    }

    #[test]
    fn rows_that_the_kernel_gives_together_are_made_room_for() {
        assert_eq!(map(10).all().unwrap(), []);
        let mut map = map(1_000);
        (0..1_000).for_each(|key| map.put(&key, &1).unwrap());
        // There are buckets with more than one.
        let mut rows = Vec::new();
        let mut see = |key: &u32, value: &u64| rows.push((*key, *value));
        batch::read(1, map.fd.as_fd(), &mut see).unwrap();
        assert_eq!(sorted(rows), (0..1_000).map(|key| (key, 1)).collect::<Vec<_>>());
    }

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
