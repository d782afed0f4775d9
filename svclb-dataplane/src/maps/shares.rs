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
        self.overflow.each(&mut |_, entry| {
            // An entry that is being made is not counted yet.
            if entry.client != ClientKey::ALL {
                counts.entry(entry.client).or_default().overflow += 1;
                counts.entry(ClientKey::ALL).or_default().overflow += 1;
            }
        })?;
        self.affinity.each(&mut |_, row| {
            if row.counted_for != ClientKey::ALL {
                counts.entry(row.counted_for).or_default().affinity += 1;
                counts.entry(ClientKey::ALL).or_default().affinity += 1;
            }
        })?;
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
mod tests {
    use aya::maps::MapData;
    use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH;

    use super::*;

    fn map(name: &'static str, key: u32, value: usize) -> MapData {
        let value = u32::try_from(value).unwrap();
        let kind = BPF_MAP_TYPE_HASH as u32;
        let object = aya_obj::Map::new_from_params(kind, key, value, 64, 1);
        MapData::create(object, name, None).expect("a map can be made: run this as root")
    }

    fn shares() -> Shares {
        let clients = map("clients", 4, size_of::<ClientRow>());
        let overflow = map("overflow", 8, size_of::<Overflow>());
        let affinity = map("affinity", 16, size_of::<AffinityRow>());
        Shares {
            clients: Rows::new(MapName::Clients, clients).unwrap(),
            overflow: Rows::new(MapName::Overflow, overflow).unwrap(),
            affinity: Rows::new(MapName::Affinity, affinity).unwrap(),
        }
    }

    fn row(overflow: i32) -> ClientRow {
        ClientRow { overflow, affinity: 0 }
    }

    #[test]
    fn rows_of_affinity_count_for_the_client_that_made_them() {
        let mut shares = shares();
        for (service, counted_for) in [(1, 7), (2, 7), (3, 8), (4, ClientKey::ALL)] {
            let key = AffinityKey { client: 100, service, family: 4 };
            let row = AffinityRow { counted_for, ..AffinityRow::default() };
            shares.affinity.put(&key, &row).unwrap();
        }
        let of = |affinity| ClientRow { overflow: 0, affinity };
        let expected = [(ClientKey::ALL, of(3)), (7, of(2)), (8, of(1))];
        assert_eq!(shares.count().unwrap(), expected.into());
    }

    #[test]
    fn counts_become_what_the_entries_say_and_idle_clients_lose_their_rows() {
        let mut shares = shares();
        for (cookie, client) in [(1, 7), (2, 7), (3, 8), (4, ClientKey::ALL)] {
            shares.overflow.put(&cookie, &Overflow { client, ..Overflow::EMPTY }).unwrap();
        }
        // Too many, missing, below zero, and right with nothing.
        for (client, count) in [(ClientKey::ALL, 900), (7, 40), (9, -3), (10, 0)] {
            shares.clients.put(&client, &row(count)).unwrap();
        }
        let once = |shares: &mut Shares| {
            let (before, counted) = (shares.counts().unwrap(), shares.count().unwrap());
            shares.write(&changes(&before, &counted, &before)).unwrap()
        };
        assert_eq!(once(&mut shares), 4);
        let expected = [(ClientKey::ALL, row(3)), (7, row(2)), (8, row(1))];
        assert_eq!(shares.counts().unwrap(), expected.into());
        assert_eq!(once(&mut shares), 0, "a second look finds nothing");
        (1..=4).for_each(|cookie| shares.overflow.remove(&cookie).unwrap());
        once(&mut shares);
        assert_eq!(shares.counts().unwrap(), [(ClientKey::ALL, row(0))].into());
    }

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
