//! Lines and ranges of slots that steps freed, and that a running program may still read.
//!
//! Invariant: an item is in at most one of the two sets, and is not free until it left both.

use std::collections::BTreeSet;

use crate::number::{LineNumber, SlotRange};

/// Lines and ranges that steps freed since the batch before was taken. They stay in quarantine until
/// [`Planner::release`](crate::plan::Planner::release).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[must_use = "what is in quarantine is lost unless it is released"]
pub struct Freed {
    pub(super) lines: BTreeSet<LineNumber>,
    pub(super) ranges: BTreeSet<SlotRange>,
}

impl Freed {
    /// Returns whether nothing was freed.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.ranges.is_empty()
    }
}

/// The quarantine of one kind of items.
#[derive(Clone, Debug)]
pub(super) struct QuarantinedItems<T> {
    /// Freed since it was last taken.
    fresh: BTreeSet<T>,
    /// Taken, and not released yet.
    taken: BTreeSet<T>,
}

impl<T> Default for QuarantinedItems<T> {
    fn default() -> Self {
        Self { fresh: BTreeSet::new(), taken: BTreeSet::new() }
    }
}

impl<T: Ord + Copy> QuarantinedItems<T> {
    pub(super) fn add(&mut self, item: T) {
        self.fresh.insert(item);
    }

    pub(super) fn take(&mut self) -> BTreeSet<T> {
        self.taken.extend(&self.fresh);
        std::mem::take(&mut self.fresh)
    }

    pub(super) fn release(&mut self, item: T) {
        self.taken.remove(&item);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = T> {
        self.fresh.iter().chain(&self.taken).copied()
    }
}
