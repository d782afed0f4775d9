//! `svclb_slots`: each set is written by one call before a line names it, or many together while no program
//! reads the array. (Mapping a page of it takes longer than writing it.) It is read through windows.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Result;
use aya::maps::MapData;
use svclb_common::layout::Slot;
use svclb_core::table::{MapName, TableError};

use crate::bpf::batch;
use crate::bpf::mapping::Window;

const NAME: MapName = MapName::Slots;

/// The array of slots.
pub(crate) struct Slots {
    map: OwnedFd,
    length: u32,
    numbers: Vec<u32>,
    values: Vec<Slot>,
    /// Sets wait above until there are as many slots as a call takes.
    keeps: bool,
}

impl Slots {
    pub(crate) fn new(data: &MapData) -> Result<Self> {
        let (map, length) = (data.fd().as_fd().try_clone_to_owned()?, data.info()?.max_entries());
        Ok(Self { map, length, numbers: Vec::new(), values: Vec::new(), keeps: false })
    }

    /// Buffers the sets of an array that no program reads until [`Self::flush`].
    pub(crate) fn buffer_sets(&mut self) {
        self.keeps = true;
    }

    /// Writes what was buffered, and each set at once from here on.
    pub(crate) fn flush(&mut self) -> Result<(), TableError> {
        let was_keeping = std::mem::take(&mut self.keeps);
        self.write()?;
        if was_keeping {
            (self.numbers, self.values) = (Vec::new(), Vec::new());
        }
        Ok(())
    }

    /// Writes a set from its first slot on.
    pub(crate) fn put(&mut self, first: u32, slots: &[Slot]) -> Result<(), TableError> {
        let end = u32::try_from(slots.len()).ok().and_then(|count| first.checked_add(count));
        let Some(end) = end.filter(|end| *end <= self.length) else {
            return Err(TableError::Full { map: NAME, capacity: self.length });
        };
        self.numbers.extend(first..end);
        self.values.extend_from_slice(slots);
        if self.keeps && self.numbers.len() < batch::ROWS { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> Result<(), TableError> {
        if self.numbers.is_empty() {
            return Ok(());
        }
        let done = batch::write(self.map.as_fd(), &self.numbers, &self.values);
        self.numbers.clear();
        self.values.clear();
        done.map_err(failed)
    }

    /// Reads what is written.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { window: Window::new(self.map.as_fd(), self.length), failed: None }
    }
}

/// Reads slots, until one cannot be.
pub(crate) struct Reader<'a> {
    window: Window<'a, Slot>,
    failed: Option<io::Error>,
}

impl Reader<'_> {
    /// A slot by its number; none where there is no such slot, and from the first that cannot be read on.
    pub(crate) fn slot(&mut self, number: u32) -> Option<Slot> {
        if self.failed.is_some() {
            return None;
        }
        match self.window.get(number) {
            Ok(slot) => slot.map(|slot| slot.read()),
            Err(error) => {
                self.failed = Some(error);
                None
            }
        }
    }

    /// Returns the error that ended the reading, if one did.
    pub(crate) fn end(self) -> Result<(), TableError> {
        self.failed.map_or(Ok(()), |error| Err(failed(error)))
    }
}

fn failed(source: io::Error) -> TableError {
    TableError::System { map: NAME, source }
}

#[cfg(test)]
mod as_root_tests;
