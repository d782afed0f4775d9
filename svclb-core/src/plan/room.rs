//! Room for slots: what is free, and what will be once what rests has rested.
//!
//! Both are kept up to date. Who finds no room asks whether there will be some, and among many of them
//! nobody has the time to add up all that rests.

use super::outcome::Why;
use crate::ranges::Ranges;

/// Which slots are free now, and which will be.
#[derive(Clone, Debug)]
pub(super) struct Room {
    free: Ranges,
    /// These and what rests.
    later: Ranges,
}

impl Room {
    pub(super) fn new(slots: u32) -> Self {
        Self { free: Ranges::new(slots), later: Ranges::new(slots) }
    }

    /// First slots of ranges for so many slots each; nothing is taken yet.
    pub(super) fn find(&self, counts: &[u32]) -> Result<Vec<u32>, Why> {
        if counts.is_empty() {
            return Ok(Vec::new());
        }
        self.free.find_all(counts).ok_or_else(|| match self.later.find_all(counts) {
            Some(_) => Why::WaitsForRest,
            None => Why::NoSlots,
        })
    }

    pub(super) fn is_free(&self, first: u32, count: u32) -> bool {
        self.free.is_free(first, count)
    }

    pub(super) fn take(&mut self, first: u32, count: u32) {
        self.free.take(first, count);
        self.later.take(first, count);
    }

    /// Takes what is free of a range: the pieces, each with its first slot and length.
    pub(super) fn take_free(&mut self, first: u32, count: u32) -> Vec<(u32, u32)> {
        let pieces = self.free.take_free(first, count);
        for (first, count) in &pieces {
            self.later.take(*first, *count);
        }
        pieces
    }

    /// Gives back what no running program can have met.
    pub(super) fn give(&mut self, first: u32, count: u32) {
        self.free.give(first, count);
        self.later.give(first, count);
    }

    /// A range that was taken rests from now on.
    pub(super) fn rest(&mut self, first: u32, count: u32) {
        self.later.give(first, count);
    }

    /// A range that was free rests.
    pub(super) fn withhold(&mut self, first: u32, count: u32) {
        self.free.take(first, count);
    }

    /// It has rested.
    pub(super) fn rested(&mut self, first: u32, count: u32) {
        self.free.give(first, count);
    }

    /// What is free, and what will be.
    #[cfg(test)]
    pub(super) const fn both(&self) -> (&Ranges, &Ranges) {
        (&self.free, &self.later)
    }
}
