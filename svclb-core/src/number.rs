//! Numbers of services, lines and slots, and generations: each a type of its own, so that no two of them can
//! be swapped. The map layout (svclb-common) has plain integers; rows are converted where a
//! [`Table`](crate::table::Table) reads or writes them.

use svclb_common::layout::Set;

/// Id of a service, a key of `svclb_services`. Ids are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceId(pub u32);

impl ServiceId {
    /// The id that no service has.
    pub const NONE: Self = Self(0);
}

/// Number of a line of `svclb_index`, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LineNumber(pub u32);

/// Generation of a line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(pub u32);

/// Number of a slot of `svclb_slots`, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotNumber(pub u32);

/// Slots in a row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotRange {
    /// The first slot.
    pub first: SlotNumber,
    /// The number of slots.
    pub count: u32,
}

impl SlotRange {
    /// `count` slots from number `first` on.
    pub const fn new(first: u32, count: u32) -> Self {
        Self { first: SlotNumber(first), count }
    }

    /// The slots of a set; none without a backend.
    pub fn of(set: Set) -> Option<Self> {
        (set.count != 0).then_some(Self::new(set.first, set.count))
    }

    /// The number behind the last slot; `u32::MAX` where there is no such number.
    pub const fn end(self) -> u32 {
        self.first.0.saturating_add(self.count)
    }
}

impl From<SlotRange> for Set {
    fn from(range: SlotRange) -> Self {
        Self { first: range.first.0, count: range.count }
    }
}
