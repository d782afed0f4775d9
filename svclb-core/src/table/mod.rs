//! The maps as `plan` sees them: rows that are loaded, put and removed.
//!
//! Implementations: the real maps (svclb-dataplane); [`MemoryTable`], which refuses what the kernel would refuse;
//! [`FailingTable`], which fails on request; and [`RecordingTable`], which keeps the steps of a dry run.
//!
//! Every row is written whole and a concurrent reader sees it as one step, so a plan has to think about the
//! order of steps only.

mod failing;
mod memory;
mod name;
mod recording;

use crate::digest::Digest;
use crate::number::{Generation, LineNumber, ServiceId, SlotNumber};
pub use failing::{FailingTable, Failure};
pub use memory::MemoryTable;
pub use name::MapName;
pub use recording::RecordingTable;
use svclb_common::layout::{
    BackendKey, BackendRow, FrontendKey, FrontendRow, Line, Meta, ServiceRow, Set, Slot,
};

/// One operation on a table.
#[derive(Clone, PartialEq, Debug)]
#[expect(clippy::large_enum_variant, reason = "steps live for one service's change only")]
pub enum Step {
    /// Write a row.
    Put(Row),
    /// Remove a row.
    Remove(Key),
}

/// Something to write.
#[derive(Clone, PartialEq, Debug)]
pub enum Row {
    /// A value of `svclb_services`.
    Service(ServiceId, ServiceRow),
    /// A value of `svclb_backends`.
    Backend(BackendKey, BackendRow),
    /// A value of `svclb_frontends`.
    Frontend(FrontendKey, FrontendRow),
    /// A range of `svclb_slots` that no line refers to, from its first slot.
    Slots(SlotNumber, Vec<Slot>),
    /// A frontend into an empty line, published by its key word last. Leaves the line's `reach`, which belongs
    /// to the place, alone.
    Line(LineNumber, Line),
    /// The set of a line that holds a frontend: the flip.
    Set(LineNumber, Set),
    /// The successor of a line's service, [`ServiceId::NONE`] for none.
    Heir(LineNumber, ServiceId),
    /// The service of a line that holds a frontend.
    Owner(LineNumber, ServiceId),
    /// The flags and affinity seconds of a line that holds a frontend.
    Traits(LineNumber, u16, u32),
    /// The generation of a line.
    Generation(LineNumber, Generation),
    /// The reach of a home line.
    Reach(LineNumber, u8),
    /// The value of `svclb_meta`.
    Meta(Meta),
}

/// Something to remove.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// A value of `svclb_services`.
    Service(ServiceId),
    /// A value of `svclb_backends`.
    Backend(BackendKey),
    /// A value of `svclb_frontends`.
    Frontend(FrontendKey),
    /// The frontend of a line: its key word goes to 0, then service, set, heir, flags and affinity do.
    /// `generation` and `reach` stay.
    Line(LineNumber),
}

/// Everything the maps hold, as it was loaded. Lines and slots by number; empty lines are left out.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Dump {
    /// The meta row.
    pub meta: Meta,
    /// `svclb_services`, in no order.
    pub services: Vec<(u32, ServiceRow)>,
    /// `svclb_backends`, in no order.
    pub backends: Vec<(BackendKey, BackendRow)>,
    /// `svclb_frontends`, in no order.
    pub frontends: Vec<(FrontendKey, FrontendRow)>,
    /// Every line of `svclb_index` that is not all zero (an empty line with a generation or a reach is here
    /// too), by rising number.
    pub lines: Vec<(u32, Line)>,
    /// Every range of slots that a line of `lines` refers to, by rising first. A range beyond the end
    /// of the map is left out.
    pub ranges: Vec<Written>,
}

impl Dump {
    /// The line of this number, unless it is empty.
    pub fn line(&self, number: u32) -> Option<&Line> {
        let at = self.lines.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(&self.lines[at].1)
    }
}

/// A range of slots as it was found, without the slots: a large cluster has many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// First slot.
    pub first: u32,
    /// The number of slots.
    pub count: u32,
    /// Id of the service that owns the first of them.
    pub owner: u32,
    /// Digest of their contents.
    pub slots: Digest,
}

impl Written {
    /// A range that begins at `first` and holds these slots.
    pub fn of(first: u32, slots: impl IntoIterator<Item = Slot>) -> Self {
        let (mut count, mut owner) = (0, 0);
        let seen = slots.into_iter().inspect(|slot| {
            if count == 0 {
                owner = slot.owner;
            }
            count += 1;
        });
        let slots = Digest::of_slots(seen);
        Self { first, count, owner, slots }
    }
}

/// The ranges that lines refer to, each once, as [`Dump::ranges`] has them; `slot` reads one.
pub fn ranges(lines: &[(u32, Line)], mut slot: impl FnMut(u32) -> Option<Slot>) -> Vec<Written> {
    let mut sets: Vec<Set> =
        lines.iter().map(|(_, line)| line.set).filter(|set| set.count != 0).collect();
    sets.sort_by_key(|set| (set.first, set.count));
    sets.dedup();
    let mut written = |set: Set| {
        let end = set.first.checked_add(set.count)?;
        // The last is there if the others are.
        slot(end - 1)?;
        Some(Written::of(set.first, (set.first..end).filter_map(&mut slot)))
    };
    sets.into_iter().filter_map(&mut written).collect()
}

/// The reason why a row could not be loaded, written or removed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A map is full: E2BIG, or a number beyond a mapped array's end.
    #[error("{map} is full: it holds {capacity} entries")]
    Full {
        /// The map.
        map: MapName,
        /// The number of its entries.
        capacity: u32,
    },
    /// A row that was to be removed is not there (ENOENT).
    #[error("{map} has no such row")]
    Missing {
        /// The map.
        map: MapName,
    },
    /// A row is not in the state that the step needs.
    #[error("{map}: {what}")]
    Invalid {
        /// The map.
        map: MapName,
        /// The expected and the found state.
        what: String,
    },
    /// The kernel, or a test, refused the operation.
    #[error("{map}: {source}")]
    System {
        /// The map.
        map: MapName,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// The maps, or what stands in for them.
pub trait Table {
    /// Reads everything.
    ///
    /// # Errors
    /// When a map cannot be read.
    fn load(&mut self) -> Result<Dump, TableError>;

    /// Reads everything, but passes each row of `svclb_backends` to `see` instead of keeping it, so that the
    /// dump has none: they are nearly all that a large cluster has.
    ///
    /// # Errors
    /// As of [`Self::load`].
    fn scan(&mut self, see: &mut dyn FnMut(&BackendKey, &BackendRow)) -> Result<Dump, TableError> {
        let mut dump = self.load()?;
        std::mem::take(&mut dump.backends).iter().for_each(|(key, row)| see(key, row));
        Ok(dump)
    }

    /// Writes a row, replacing what was there.
    ///
    /// # Errors
    /// When the map is full, the number is beyond its end, or the kernel refuses; nothing is written then,
    /// but perhaps some slots of a range.
    fn put(&mut self, row: &Row) -> Result<(), TableError>;

    /// Removes a row.
    ///
    /// # Errors
    /// When it is not there or the kernel refuses.
    fn remove(&mut self, key: &Key) -> Result<(), TableError>;

    /// Writes the rows that [`Self::put`] buffered: only maps that no program reads yet may buffer.
    ///
    /// # Errors
    /// As of [`Self::put`].
    fn flush(&mut self) -> Result<(), TableError> {
        Ok(())
    }
}
