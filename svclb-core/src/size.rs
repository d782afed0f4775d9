//! How large the maps are made.

/// Sizes of the maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Lines that a hash can say: a power of two.
    pub index_lines: u32,
    /// Lines behind them, for frontends that find no place near their home.
    pub spill_lines: u32,
    /// Slots.
    pub slots: u32,
    /// Places of the origins: a power of two.
    pub origins: u32,
}

/// Room for four times what is there now, and not less than a small cluster needs: growing past it
/// takes new maps.
pub fn sizes(frontends: usize, backends: usize) -> Sizes {
    let room = |count: usize, least: u32| {
        let wanted = u32::try_from(count.saturating_mul(4)).unwrap_or(MOST);
        wanted.clamp(least, MOST).next_power_of_two()
    };
    let index_lines = room(frontends, 4096);
    Sizes {
        index_lines,
        spill_lines: index_lines / 16,
        slots: room(backends, 65_536),
        origins: 65_536,
    }
}

/// 2^26 lines are 4 GiB; a cluster that needs more has other limits first.
const MOST: u32 = 1 << 26;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_room_for_four_times_what_is_there() {
        assert_eq!(
            sizes(0, 0),
            Sizes { index_lines: 4096, spill_lines: 256, slots: 65_536, origins: 65_536 }
        );
        for (frontends, backends) in [(5_000, 250_000), (100_000, 1_000_000)] {
            let found = sizes(frontends, backends);
            assert!(
                found.index_lines as usize >= 4 * frontends && found.index_lines.is_power_of_two()
            );
            assert!(found.slots as usize >= 4 * backends);
        }
        assert_eq!(sizes(usize::MAX, usize::MAX).slots, MOST);
    }
}
