//! The ranges of `svclb_slots`: which are written, and which are free.
//!
//! Invariants:
//! * Each slot is free, in a range of `written`, in one of `unrecognized`, or in quarantine.
//! * `free_later` is `free` with all that is in quarantine. Both are kept, since a service that does not fit
//!   asks whether it will, and adding up the quarantine for each of many such services takes too long.
//! * `unreferenced` has the ranges of `written` that no line refers to.

use std::collections::{BTreeSet, HashMap};

use svclb_common::layout::Set;

use super::quarantine::QuarantinedItems;
use crate::digest::Digest;
use crate::number::{ServiceId, SlotNumber, SlotRange};
use crate::plan::unplaced::Unplaced;
use crate::ranges::Ranges;
use crate::table::Written;

/// A range that is written.
#[derive(Clone, Debug)]
struct Range {
    count: u32,
    contents: Digest,
    owner: ServiceId,
    /// The number of lines that refer to it.
    lines: u32,
}

/// All slots.
#[derive(Clone, Debug)]
pub(crate) struct SlotRanges {
    free: Ranges,
    free_later: Ranges,
    written: HashMap<SlotNumber, Range>,
    unreferenced: BTreeSet<SlotNumber>,
    /// Ranges that only unrecognized lines refer to. They go into quarantine when the last of these lines is
    /// emptied.
    unrecognized: Vec<SlotRange>,
    quarantine: QuarantinedItems<SlotRange>,
}

impl SlotRanges {
    pub(super) fn new(slots: u32) -> Self {
        Self {
            free: Ranges::new(slots),
            free_later: Ranges::new(slots),
            written: HashMap::new(),
            unreferenced: BTreeSet::new(),
            unrecognized: Vec::new(),
            quarantine: QuarantinedItems::default(),
        }
    }

    /// Slots of which nothing is known but what is in quarantine.
    pub(super) fn reset(&self, slots: u32) -> Self {
        let mut reset = Self { quarantine: self.quarantine.clone(), ..Self::new(slots) };
        for range in self.quarantine.iter() {
            reset.free.take(range);
        }
        reset
    }

    /// First slots of free ranges with so many slots each; nothing is taken yet.
    pub(crate) fn find(&self, counts: &[u32]) -> Result<Vec<SlotNumber>, Unplaced> {
        if counts.is_empty() {
            return Ok(Vec::new());
        }
        self.free.find_all(counts).ok_or_else(|| match self.free_later.find_all(counts) {
            Some(_) => Unplaced::Quarantined,
            None => Unplaced::NoSlots,
        })
    }

    /// Returns whether a set's range is written and holds just these slots.
    pub(crate) fn holds(&self, set: Set, count: u32, contents: Digest) -> bool {
        self.get(set).is_some_and(|range| range.count == count && range.contents == contents)
    }

    /// The service that owns the slots of a set.
    pub(crate) fn owner(&self, set: Set) -> Option<ServiceId> {
        self.get(set).map(|range| range.owner)
    }

    fn get(&self, set: Set) -> Option<&Range> {
        self.written.get(&SlotRange::of(set)?.first)
    }

    /// Returns whether a set can be that of a line: its range is written with this length, or can be.
    pub(super) fn accepts(&self, set: Set, found: Option<&Written>) -> bool {
        let Some(range) = SlotRange::of(set) else { return true };
        match self.get(set) {
            Some(known) => known.count == range.count,
            None => {
                found.is_some_and(|found| found.count == range.count) && self.free.is_free(range)
            }
        }
    }

    pub(super) fn is_written(&self, set: Set) -> bool {
        self.get(set).is_some()
    }

    /// Notes that a free range was written.
    pub(super) fn write(&mut self, written: &Written) {
        let Written { first, count, owner, slots: contents } = *written;
        self.free.take(SlotRange::new(first, count));
        self.free_later.take(SlotRange::new(first, count));
        let range = Range { count, contents, owner: ServiceId(owner), lines: 0 };
        self.written.insert(SlotNumber(first), range);
        self.unreferenced.insert(SlotNumber(first));
    }

    /// Notes that one more line refers to a set.
    pub(super) fn refer(&mut self, set: Set) {
        let Some(SlotRange { first, .. }) = SlotRange::of(set) else { return };
        if let Some(range) = self.written.get_mut(&first) {
            range.lines += 1;
            self.unreferenced.remove(&first);
        }
    }

    /// Notes that one line less refers to a set.
    pub(super) fn unrefer(&mut self, set: Set) {
        let Some(range) = SlotRange::of(set) else { return };
        let Some(written) = self.written.get_mut(&range.first) else { return };
        written.lines -= 1;
        if written.lines == 0 {
            self.written.remove(&range.first);
            self.quarantine(range);
        }
    }

    fn quarantine(&mut self, range: SlotRange) {
        self.quarantine.add(range);
        self.free_later.give(range);
    }

    /// Takes what is free of the range of an unrecognized line.
    pub(super) fn add_unrecognized(&mut self, set: Set) {
        let pieces =
            self.free.take_free(SlotRange { first: SlotNumber(set.first), count: set.count });
        for piece in &pieces {
            self.free_later.take(*piece);
        }
        self.unrecognized.extend(pieces);
    }

    /// Puts the ranges of unrecognized lines into quarantine: all of these lines are empty.
    pub(super) fn quarantine_unrecognized(&mut self) {
        for range in std::mem::take(&mut self.unrecognized) {
            self.quarantine(range);
        }
    }

    pub(super) fn take_freed(&mut self) -> BTreeSet<SlotRange> {
        self.quarantine.take()
    }

    pub(super) fn release(&mut self, range: SlotRange) {
        self.quarantine.release(range);
        self.free.give(range);
    }

    /// Frees ranges that were written for lines that do not refer to them, because a step failed. No program
    /// has met them.
    pub(crate) fn drop_unreferenced(&mut self) {
        for first in std::mem::take(&mut self.unreferenced) {
            if let Some(range) = self.written.remove(&first) {
                let range = SlotRange { first, count: range.count };
                self.free.give(range);
                self.free_later.give(range);
            }
        }
    }

    pub(super) fn is_referenced(&self) -> bool {
        self.unreferenced.is_empty()
    }

    /// Returns whether a dump has just these ranges.
    pub(super) fn are(&self, dump: &[Written]) -> bool {
        let is_known = |found: &Written| {
            self.written.get(&SlotNumber(found.first)).is_some_and(|range| {
                (range.count, range.owner.0, range.contents)
                    == (found.count, found.owner, found.slots)
            })
        };
        dump.len() == self.written.len() && dump.iter().all(is_known)
    }

    #[cfg(test)]
    pub(crate) const fn free(&self) -> &Ranges {
        &self.free
    }

    /// Free slots and those in quarantine are together `free_later`.
    #[cfg(test)]
    pub(crate) fn assert_quarantine(&self) {
        let mut sum = self.free.clone();
        self.quarantine.iter().for_each(|range| sum.give(range));
        assert_eq!(sum, self.free_later);
    }
}
