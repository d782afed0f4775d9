//! `svclb_slots`: each set is written by one call before a line names it, or many together while no program
//! reads the array. (Mapping a page of it takes longer than writing it.) It is read through windows.

use std::io;

use svclb_common::layout::Slot;
use svclb_core::table::{MapName, TableError};

use crate::bpf::mapping::Mapping;
use crate::maps::rows::Rows;

const NAME: MapName = MapName::Slots;

/// The array of slots.
pub(crate) type Slots = Rows<u32, Slot>;

impl Slots {
    /// Writes a set from its first slot on.
    pub(crate) fn put_set(&mut self, first: u32, slots: &[Slot]) -> Result<(), TableError> {
        let end = u32::try_from(slots.len()).ok().and_then(|count| first.checked_add(count));
        match end.filter(|end| *end <= self.capacity) {
            Some(end) => self.put_all(first..end, slots),
            None => Err(TableError::Full { map: NAME, capacity: self.capacity }),
        }
    }

    /// Reads what is written.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { slots: self, window: None, failed: None }
    }
}

/// Number of slots that are mapped at a time: 1 MiB.
const WINDOW: u32 = 1 << 15;

/// Reads slots, until one cannot be. What is mapped counts as resident memory of this process, used or not, so
/// only a window of the array is.
pub(crate) struct Reader<'a> {
    slots: &'a Slots,
    window: Option<Mapping<Slot>>,
    failed: Option<io::Error>,
}

impl Reader<'_> {
    /// A slot by its number; none where there is no such slot, and from the first that cannot be read on.
    pub(crate) fn slot(&mut self, number: u32) -> Option<Slot> {
        if let Some(slot) = self.window.as_ref().and_then(|window| window.get(number)) {
            return Some(slot.read());
        }
        if self.failed.is_some() || number >= self.slots.capacity {
            return None;
        }
        // The window before is closed first.
        self.window = None;
        let first = number - number % WINDOW;
        let end = first.saturating_add(WINDOW).min(self.slots.capacity);
        match Mapping::part(self.slots.fd(), first..end, false) {
            Ok(window) => self.window.insert(window).get(number).map(|slot| slot.read()),
            Err(error) => {
                self.failed = Some(error);
                None
            }
        }
    }

    /// Returns the error that ended the reading, if one did.
    pub(crate) fn end(self) -> Result<(), TableError> {
        self.failed.map_or(Ok(()), |source| Err(TableError::System { map: NAME, source }))
    }
}

#[cfg(test)]
mod as_root_tests;
