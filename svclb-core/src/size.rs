//! The sizes of the maps, and when others take their place.

use svclb_common::layout::Meta;

use crate::plan::Unplaced;
use crate::table::MapName;

/// Sizes of the maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Lines of the index: a power of two.
    pub index_lines: u32,
    /// Slots.
    pub slots: u32,
    /// Places of the origins: a power of two. They hold the origins of live sockets, so that they are kept when
    /// other maps are replaced.
    pub origins: u32,
}

/// Sizes for four times as many entries as there are now, and for a small cluster at least.
pub fn sizes(frontends: usize, backends: usize) -> Sizes {
    let capacity = |count: usize, least: u32| {
        let wanted = u32::try_from(count.saturating_mul(4)).unwrap_or(MOST);
        wanted.clamp(least, MOST).next_power_of_two()
    };
    Sizes {
        index_lines: capacity(frontends, 4096),
        slots: capacity(backends, 65_536),
        origins: 65_536,
    }
}

/// 2^26 lines are 4 GiB; a cluster that needs more has other limits first.
const MOST: u32 = 1 << 26;

impl Sizes {
    /// The sizes in a meta row.
    pub const fn of(meta: &Meta) -> Self {
        Self { index_lines: meta.index_lines, slots: meta.slots, origins: meta.origins }
    }

    /// A meta row with these sizes.
    pub fn meta(&self) -> Meta {
        Meta {
            index_lines: self.index_lines,
            slots: self.slots,
            origins: self.origins,
            ..Meta::default()
        }
    }

    /// Maps for services that did not fit into these: as large as `wanted`, and twice as large where capacity was
    /// lacking. None when larger maps do not help, or cannot be made.
    pub fn larger(self, wanted: Self, lacking: impl IntoIterator<Item = Unplaced>) -> Option<Self> {
        let mut grown = self;
        for why in lacking {
            let (index, slots) = match why {
                Unplaced::NoLine | Unplaced::MapFull(MapName::Frontends | MapName::Services) => {
                    (true, false)
                }
                Unplaced::NoSlots | Unplaced::MapFull(MapName::Backends) => (false, true),
                Unplaced::Quarantined | Unplaced::MapFull(_) | Unplaced::NoIds => (false, false),
            };
            if index {
                grown.index_lines = doubled(self.index_lines).max(wanted.index_lines);
            }
            if slots {
                grown.slots = doubled(self.slots).max(wanted.slots);
            }
        }
        (grown != self).then_some(grown)
    }

    /// Returns whether maps may become larger than these.
    pub const fn may_grow(&self) -> bool {
        self.index_lines < MOST || self.slots < MOST
    }

    /// Smaller maps, where these are more than four times as large as `wanted`. None when they are not.
    pub fn smaller(self, wanted: Self) -> Option<Self> {
        let is_wasted = |now: u32, wanted: u32| now / 4 > wanted;
        let mut shrunk = self;
        if is_wasted(self.index_lines, wanted.index_lines) {
            shrunk.index_lines = wanted.index_lines;
        }
        if is_wasted(self.slots, wanted.slots) {
            shrunk.slots = wanted.slots;
        }
        (shrunk != self).then_some(shrunk)
    }
}

/// Twice as many, up to the most that are made.
fn doubled(entries: u32) -> u32 {
    entries.saturating_mul(2).min(MOST).max(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_room_for_four_times_what_is_there() {
        assert_eq!(sizes(0, 0), Sizes { index_lines: 4096, slots: 65_536, origins: 65_536 });
        for (frontends, backends) in [(5_000, 250_000), (100_000, 1_000_000)] {
            let found = sizes(frontends, backends);
            assert!(
                found.index_lines as usize >= 4 * frontends && found.index_lines.is_power_of_two()
            );
            assert!(found.slots as usize >= 4 * backends);
        }
        assert_eq!(sizes(usize::MAX, usize::MAX).slots, MOST);
    }

    /// Its name, the sizes now and by need, what lacks, and what is made.
    type Row = (&'static str, Sizes, Sizes, &'static [Unplaced], Option<Sizes>);

    #[test]
    fn maps_grow_where_room_lacks_and_no_further_than_they_can() {
        let small = sizes(0, 0);
        let large = sizes(100_000, 1_000_000);
        let double_index = Sizes { index_lines: 8192, ..small };
        let double_slots = Sizes { slots: 131_072, ..small };
        let most = Sizes { slots: MOST, ..small };
        let rows: [Row; 9] = [
            ("nothing lacks", small, large, &[], None),
            ("it only waits", small, large, &[Unplaced::Quarantined], None),
            ("ids are no room", small, large, &[Unplaced::NoIds], None),
            ("lines", small, small, &[Unplaced::NoLine], Some(double_index)),
            (
                "rows of services",
                small,
                small,
                &[Unplaced::MapFull(MapName::Services)],
                Some(double_index),
            ),
            ("slots", small, small, &[Unplaced::NoSlots, Unplaced::NoSlots], Some(double_slots)),
            (
                "rows of backends",
                small,
                small,
                &[Unplaced::MapFull(MapName::Backends)],
                Some(double_slots),
            ),
            ("both, much", small, large, &[Unplaced::NoSlots, Unplaced::NoLine], Some(large)),
            ("there is no more", most, small, &[Unplaced::NoSlots], None),
        ];
        for (row, now, wanted, lacking, expected) in rows {
            assert_eq!(now.larger(wanted, lacking.iter().copied()), expected, "{row}");
        }
    }

    #[test]
    fn maps_shrink_when_most_of_them_is_wasted() {
        let small = sizes(0, 0);
        let large = sizes(100_000, 1_000_000);
        assert_eq!(large.smaller(small), Some(small));
        assert_eq!(large.smaller(large), None);
        assert_eq!(small.smaller(large), None);
        let wide = Sizes { slots: 65_536 * 8, ..small };
        assert_eq!(wide.smaller(small), Some(small));
        assert_eq!(Sizes { slots: 65_536 * 4, ..small }.smaller(small), None, "room to breathe");
        // Places of origins are never fewer.
        let many = Sizes { origins: 1 << 20, ..large };
        assert_eq!(many.smaller(small), Some(Sizes { origins: 1 << 20, ..small }));
    }
}
