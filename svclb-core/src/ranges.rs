//! The allocator of slots: best fit, with neighbours joined again.

use std::collections::{BTreeMap, BTreeSet};

use crate::number::{SlotNumber, SlotRange};

/// The free ranges of a map of slots.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ranges {
    /// Length of each free range, by its first slot.
    free: BTreeMap<u32, u32>,
    /// The same by length: (length, first).
    by_length: BTreeSet<(u32, u32)>,
}

impl Ranges {
    /// A map of `slots` slots, all free.
    pub fn new(slots: u32) -> Self {
        let mut ranges = Self::default();
        ranges.add(0, slots);
        ranges
    }

    fn add(&mut self, first: u32, length: u32) {
        if length > 0 {
            self.free.insert(first, length);
            self.by_length.insert((length, first));
        }
    }

    fn take_out(&mut self, first: u32, length: u32) {
        self.free.remove(&first);
        self.by_length.remove(&(length, first));
    }

    /// The first slot of the smallest free range that holds `count` slots; nothing is taken yet.
    pub fn find(&self, count: u32) -> Option<SlotNumber> {
        self.by_length.range((count, 0)..).next().map(|(_, first)| SlotNumber(*first))
    }

    /// First slots for several ranges at once; nothing is taken yet. In one piece where there is one,
    /// else the largest first, each where it fits best.
    pub fn find_all(&self, counts: &[u32]) -> Option<Vec<SlotNumber>> {
        let all = counts.iter().try_fold(0_u32, |sum, count| sum.checked_add(*count))?;
        if let Some(SlotNumber(mut first)) = self.find(all) {
            let next = |count: &u32| {
                let own = SlotNumber(first);
                first += count;
                own
            };
            return Some(counts.iter().map(next).collect());
        }
        // The remainders of free ranges that the counts so far use, and the ranges themselves.
        let (mut pieces, mut used) = (BTreeSet::new(), BTreeSet::new());
        let mut firsts = vec![SlotNumber(0); counts.len()];
        let mut by_size: Vec<(usize, u32)> = counts.iter().copied().enumerate().collect();
        by_size.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (at, count) in by_size {
            let whole = self.by_length.range((count, 0)..).find(|range| !used.contains(*range));
            let piece = pieces.range((count, 0)..).next();
            let (length, first) = whole.into_iter().chain(piece).min().copied()?;
            if !pieces.remove(&(length, first)) {
                used.insert((length, first));
            }
            if length > count {
                pieces.insert((length - count, first + count));
            }
            firsts[at] = SlotNumber(first);
        }
        Some(firsts)
    }

    /// The free range that contains this one: its first slot and length.
    fn around(&self, range: SlotRange) -> Option<(u32, u32)> {
        let SlotRange { first: SlotNumber(first), count } = range;
        let (&start, &length) = self.free.range(..=first).next_back()?;
        let fits = count > 0 && first.checked_add(count)? <= start + length;
        fits.then_some((start, length))
    }

    /// Returns whether a range can be taken.
    pub fn is_free(&self, range: SlotRange) -> bool {
        self.around(range).is_some()
    }

    /// Takes a range. Returns false when a part of it is taken already.
    pub fn take(&mut self, range: SlotRange) -> bool {
        let Some((start, length)) = self.around(range) else { return false };
        self.take_out(start, length);
        self.add(start, range.first.0 - start);
        self.add(range.end(), start + length - range.end());
        true
    }

    /// Takes the free parts of a range and returns them.
    pub fn take_free(&mut self, range: SlotRange) -> Vec<SlotRange> {
        let (first, end) = (range.first.0, range.end());
        let overlapping = self.free.range(..end).rev();
        let overlapping = overlapping.take_while(|(start, length)| *start + *length > first);
        let mut pieces: Vec<SlotRange> = overlapping
            .map(|(start, length)| {
                let from = first.max(*start);
                SlotRange::new(from, end.min(*start + *length) - from)
            })
            .collect();
        pieces.retain(|piece| piece.count > 0);
        for piece in &pieces {
            self.take(*piece);
        }
        pieces
    }

    /// Gives a range back that was taken.
    pub fn give(&mut self, range: SlotRange) {
        let (mut first, mut end) = (range.first.0, range.end());
        if let Some((&start, &length)) = self.free.range(..first).next_back()
            && start + length == first
        {
            self.take_out(start, length);
            first = start;
        }
        if let Some(&length) = self.free.get(&end) {
            self.take_out(end, length);
            end += length;
        }
        self.add(first, end - first);
    }

    /// The number of free slots.
    #[cfg(test)]
    pub fn free_slots(&self) -> u64 {
        self.free.values().map(|length| u64::from(*length)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_never_overlap_and_nothing_is_lost(
            deeds in proptest::collection::vec((any::<bool>(), 1..40_u32), 1..300),
        ) {
            let mut ranges = Ranges::new(256);
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (takes, number) in deeds {
                if takes {
                    if let Some(SlotNumber(first)) = ranges.find(number) {
                        prop_assert!(ranges.take(SlotRange::new(first, number)));
                        for (other, count) in &held {
                            prop_assert!(first + number <= *other || other + count <= first);
                        }
                        prop_assert!(first + number <= 256);
                        held.push((first, number));
                    }
                } else if !held.is_empty() {
                    let (first, count) = held.swap_remove(number as usize % held.len());
                    prop_assert!(!ranges.take(SlotRange::new(first, count)));
                    ranges.give(SlotRange::new(first, count));
                }
                let taken: u64 = held.iter().map(|(_, count)| u64::from(*count)).sum();
                prop_assert_eq!(ranges.free_slots() + taken, 256);
            }
            for (first, count) in held {
                ranges.give(SlotRange::new(first, count));
            }
            prop_assert_eq!(ranges.find(256), Some(SlotNumber(0)));
        }
    }

    /// Ranges of which just these pieces are free.
    fn free(pieces: &[(u32, u32)]) -> Ranges {
        let mut ranges = Ranges::default();
        pieces.iter().for_each(|(first, count)| ranges.give(SlotRange::new(*first, *count)));
        ranges
    }

    #[test]
    fn several_ranges_are_found_where_there_is_room_for_each() {
        type Row = (&'static str, &'static [(u32, u32)], &'static [u32], Option<&'static [u32]>);
        let rows: [Row; 7] = [
            ("in one piece", &[(10, 14)], &[3, 5, 6], Some(&[10, 13, 18])),
            (
                "the smallest first would take the room of the largest",
                &[(0, 9), (20, 5)],
                &[3, 5, 6],
                Some(&[6, 20, 0]),
            ),
            ("two in what is left of one", &[(0, 4), (10, 8)], &[4, 4, 4], Some(&[0, 10, 14])),
            ("enough in all, and too little in one piece", &[(0, 4), (10, 4)], &[5], None),
            ("one too many", &[(0, 4), (10, 4)], &[4, 4, 1], None),
            ("nothing free", &[], &[1], None),
            ("more than a number can say", &[(0, 9)], &[u32::MAX, 2], None),
        ];
        for (name, pieces, counts, expected) in rows {
            let found = free(pieces).find_all(counts);
            let found: Option<Vec<u32>> =
                found.map(|firsts| firsts.iter().map(|first| first.0).collect());
            assert_eq!(found.as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn of_a_range_only_what_is_free_is_taken() {
        type Row = (&'static str, u32, u32, &'static [(u32, u32)]);
        let rows: [Row; 5] = [
            ("within one", 2, 2, &[(2, 2)]),
            ("over several", 3, 9, &[(10, 2), (6, 2), (3, 1)]),
            ("beyond the end", 11, u32::MAX, &[(11, 3)]),
            ("what is taken", 4, 2, &[]),
            ("nothing", 1, 0, &[]),
        ];
        for (name, first, count, expected) in rows {
            let mut ranges = free(&[(0, 4), (6, 2), (10, 4)]);
            let taken = ranges.take_free(SlotRange::new(first, count));
            let taken: Vec<(u32, u32)> = taken.iter().map(|it| (it.first.0, it.count)).collect();
            assert_eq!(taken, expected, "{name}");
            let taken: u64 = expected.iter().map(|(_, count)| u64::from(*count)).sum();
            assert_eq!(ranges.free_slots(), 10 - taken, "{name}");
        }
    }

    #[test]
    fn what_is_taken_or_beyond_the_end_cannot_be_taken() {
        let mut ranges = Ranges::new(10);
        assert!(ranges.take(SlotRange::new(4, 2)));
        for (first, count) in
            [(4, 2), (5, 1), (3, 2), (0, 10), (9, 2), (10, 1), (u32::MAX, 2), (0, 0)]
        {
            assert!(!ranges.take(SlotRange::new(first, count)), "{first} {count}");
        }
        assert!(ranges.take(SlotRange::new(6, 4)));
        assert_eq!(ranges.find(5), None);
    }
}
