//! The counts of `svclb_clients` against the entries that they count
//! (docs/decisions/0020-shares-of-clients.md).
//!
//! The hooks count an entry when they make it and when they remove it. A map that was made anew,
//! and a count that was written while the agent replaced its row leave counts behind that are wrong. So
//! each audit counts the entries and corrects what differs. Hooks run meanwhile: a count is taken for
//! wrong only where it lies outside of what it was before and after the entries were counted, and it is
//! corrected by the difference, so that what the hooks added since stays.

use std::collections::BTreeMap;

use anyhow::Result;
use svclb_common::layout::{AffinityKey, AffinityRow, ClientKey, ClientRow, Overflow};
use svclb_core::table::MapName;

use crate::maps::rows::Rows;
use crate::pins::places::Places;

type Counts = BTreeMap<u32, ClientRow>;

/// The maps whose entries are counted, and the counts.
struct Shares {
    clients: Rows<u32, ClientRow>,
    overflow: Rows<u64, Overflow>,
    affinity: Rows<AffinityKey, AffinityRow>,
}

/// Corrects the counts, and removes the rows of clients that have nothing. Returns how many rows were
/// wrong.
///
/// # Errors
/// When a map cannot be read or written.
pub fn correct(maps: &Places) -> Result<usize> {
    let mut shares = Shares {
        clients: Rows::open(MapName::Clients, maps)?,
        overflow: Rows::open(MapName::Overflow, maps)?,
        affinity: Rows::open(MapName::Affinity, maps)?,
    };
    let before = shares.counts()?;
    let counted = shares.count()?;
    let after = shares.counts()?;
    shares.write(&changes(&before, &counted, &after))
}

impl Shares {
    /// Reads the counts in the map.
    fn counts(&self) -> Result<Counts> {
        Ok(self.clients.all()?.into_iter().collect())
    }

    /// Counts the entries.
    fn count(&self) -> Result<Counts> {
        let mut counts = Counts::new();
        let mut add = |client, overflow, affinity| {
            // An entry that is being made is not counted yet.
            if client != ClientKey::ALL {
                for counted in [client, ClientKey::ALL] {
                    let row = counts.entry(counted).or_default();
                    row.overflow += overflow;
                    row.affinity += affinity;
                }
            }
        };
        self.overflow.each(&mut |_, entry| add(entry.client, 1, 0))?;
        self.affinity.each(&mut |_, row| add(row.counted_for, 0, 1))?;
        Ok(counts)
    }

    /// Adds to the counts. A client that has nothing then, and had no entry, loses its row.
    fn write(&mut self, changes: &Counts) -> Result<usize> {
        let mut wrong = 0;
        for (client, change) in changes {
            let now = self.clients.get(client)?.unwrap_or_default();
            let row = ClientRow {
                overflow: now.overflow.wrapping_add(change.overflow),
                affinity: now.affinity.wrapping_add(change.affinity),
            };
            wrong += usize::from(*change != ClientRow::default());
            if row == ClientRow::default() && *client != ClientKey::ALL {
                self.clients.remove_if_there(client)?;
            } else if row != now {
                self.clients.put(client, &row)?;
            }
        }
        Ok(wrong)
    }
}

/// Returns what to add to each count; nothing for a client whose row can be removed.
fn changes(before: &Counts, counted: &Counts, after: &Counts) -> Counts {
    let of = |counts: &Counts, client: &u32| counts.get(client).copied().unwrap_or_default();
    let clients = before.keys().chain(counted.keys()).chain(after.keys());
    let change = |client: &u32| {
        let (before, counted, after) = (of(before, client), of(counted, client), of(after, client));
        let change = ClientRow {
            overflow: excess(before.overflow, counted.overflow, after.overflow),
            affinity: excess(before.affinity, counted.affinity, after.affinity),
        };
        let is_idle = [before, counted, after] == [ClientRow::default(); 3];
        (change != ClientRow::default() || is_idle).then_some((*client, change))
    };
    clients.filter_map(change).collect()
}

/// Returns how far the counted number lies outside of the counts before and after.
fn excess(before: i32, counted: i32, after: i32) -> i32 {
    let (low, high) = (before.min(after), before.max(after));
    counted.wrapping_sub(counted.clamp(low, high))
}

#[cfg(test)]
mod as_root_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hooks_add_while_entries_are_counted_is_no_error() {
        let rows = [
            ("quiet and right", 5, 5, 5, 0),
            ("entries came", 5, 7, 9, 0),
            ("entries went", 9, 5, 5, 0),
            ("too many", 9, 5, 9, -4),
            ("too few", 2, 5, 3, 2),
            ("too many, and entries came", 9, 5, 11, -4),
            ("below zero", -2, 0, -1, 1),
        ];
        for (name, before, counted, after, expected) in rows {
            assert_eq!(excess(before, counted, after), expected, "{name}");
        }
    }
}
