//! The share that one client may have of a map that all clients use
//! (docs/decisions/0020-shares-of-clients.md).
//!
//! A client may have as many entries as an eighth of the places that are free now. So however many
//! entries a client makes it leaves eight ninths of the map to others, and while the number of greedy
//! clients is finite some of the map is free. (Known from switches as dynamic thresholds: Choudhury and
//! Hahne, IEEE/ACM ToN 6(2), 1998.)
//!
//! An entry is claimed before it is made: its client's count and the count of all clients are raised,
//! read back, and lowered again where the client has too much. Two that race may both be refused at the
//! edge of a share, which costs a record. Counts that went wrong are corrected by the agent's audit.

use super::Lookup;
use crate::layout::{ClientKey, ClientRow};
use crate::shared::Shared;

/// A map whose entries are counted: the place of its count in [`ClientRow`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(super) enum SharedMap {
    /// `svclb_overflow`.
    Overflow,
    /// `svclb_affinity`.
    Affinity,
}

/// A client may have one entry for so many that are free.
const FREE_PER_ENTRY: u32 = 8;

/// Counts one more entry of a client in a map of this capacity; false, with nothing counted, when the
/// client has its share already.
#[inline(never)]
pub(super) fn claim<L: Lookup>(maps: &L, client: u32, map: SharedMap, capacity: u32) -> bool {
    let at = map as usize;
    let (Some(all), Some(own)) = (row(maps, ClientKey::ALL), row(maps, client)) else {
        return false;
    };
    all.add(at, 1);
    own.add(at, 1);
    let used = all.count(at).max(0).cast_unsigned();
    let share = capacity.saturating_sub(used) / FREE_PER_ENTRY;
    if own.count(at) <= share.cast_signed() {
        return true;
    }
    own.add(at, -1);
    all.add(at, -1);
    false
}

/// Counts one entry less.
#[inline(never)]
pub(super) fn release<L: Lookup>(maps: &L, client: u32, map: SharedMap) {
    // An entry that another party wrote counts for no client.
    if client == ClientKey::ALL {
        return;
    }
    if let (Some(all), Some(own)) = (maps.client(ClientKey::ALL), maps.client(client)) {
        own.add(map as usize, -1);
        all.add(map as usize, -1);
    }
}

/// The row of a client.
#[inline(always)]
fn row<L: Lookup>(maps: &L, client: u32) -> Option<Shared<'_, ClientRow>> {
    if let Some(row) = maps.client(client) {
        return Some(row);
    }
    maps.add_client(client);
    maps.client(client)
}
