//! One backend of a set, by one random number.

use super::{Counter, Lookup, Peer, low};
use crate::layout::{Line, Set, Slot, SlotFlags};
use crate::shared::Shared;

/// The result of a draw.
pub(super) enum Draw {
    /// This backend.
    Backend(Peer),
    /// The service has no backend for this client.
    Refuse,
    /// The line is being written or emptied: it is no frontend yet, or none any more.
    Nothing,
}

/// The most draws when one meets another service's slot.
///
/// A freed range is in quarantine until every program that could still read it has ended, so one look is enough
/// unless a writer broke that rule; then a fresh look at the set finds the new range.
const TRIES: u32 = 3;

/// Draws for the clients of a line, with this random number.
#[inline(always)]
pub(super) fn draw_by<L: Lookup>(maps: &L, line: Shared<'_, Line>, random: u32) -> Draw {
    let mut tries = 0;
    while tries < TRIES {
        let set = line.set();
        if set.count == 0 {
            return if set.first == Set::REFUSE.first { Draw::Refuse } else { Draw::Nothing };
        }
        // The high word is a place, evenly; the low word is how far into the place the draw fell.
        let wide = random as u64 * set.count as u64;
        let (place, fraction) = ((wide >> 32) as u32, low(wide));
        if let Some(slot) = owned(maps, line, set.first.wrapping_add(place)) {
            if fraction <= slot.threshold() {
                return outcome(slot);
            }
            if let Some(alias) = owned(maps, line, set.first.wrapping_add(slot.alias())) {
                return outcome(alias);
            }
        }
        maps.count(Counter::Redrawn);
        tries += 1;
    }
    maps.count(Counter::Torn);
    Draw::Refuse
}

/// A slot, when it belongs to the line's service or to the one that takes the line over.
#[inline(always)]
fn owned<'a, L: Lookup>(
    maps: &'a L,
    line: Shared<'_, Line>,
    number: u32,
) -> Option<Shared<'a, Slot>> {
    let slot = maps.slot(number)?;
    let owner = slot.owner();
    (owner != 0 && (owner == line.service() || owner == line.heir())).then_some(slot)
}

#[inline(always)]
fn outcome(slot: Shared<'_, Slot>) -> Draw {
    if slot.flags() & SlotFlags::REFUSE != 0 {
        return Draw::Refuse;
    }
    Draw::Backend(Peer { address: slot.address(), port: slot.port() })
}
