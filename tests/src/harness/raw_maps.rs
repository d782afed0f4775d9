//! Direct access to the pinned maps: reads that no command offers, and damage such as a broken line, or
//! rows of sockets and clients that do not exist.

use std::collections::BTreeMap;
use std::ops::Range;

use svclb_common::layout::{AffinityKey, AffinityRow, ClientRow, Line, Origin, Overflow, Set};

use super::content::{Plain, array, hash};
use super::world::World;

/// Cookies from this one on belong to no socket and no network namespace.
const UNUSED_COOKIES: u64 = 1 << 60;

impl World {
    /// Makes each set of the index begin past the last slot, and returns the number of changed lines.
    ///
    /// # Panics
    /// If the index cannot be read or written.
    pub fn corrupt_sets(&self) -> usize {
        let maps = self.maps_folder();
        self.inside(move || {
            let mut index = array::<Line>(&maps, "svclb_index");
            let mut changed = 0;
            for number in 0..index.len() {
                let line = index.get(&number, 0).expect("a line within the index").0;
                if line.set.count > 0 {
                    let set = Set { first: u32::MAX / 2, ..line.set };
                    let line = Plain(Line { set, ..line });
                    index.set(number, line, 0).expect("a line can be written");
                    changed += 1;
                }
            }
            changed
        })
    }

    /// Returns how many marks of backends are set in the index, and how many there could be.
    ///
    /// # Panics
    /// If the index cannot be read.
    pub fn marks(&self) -> (u32, u32) {
        let (maps, hashed) = (self.maps_folder(), self.status()["index_lines"].as_u64());
        let hashed = hashed.and_then(|lines| u32::try_from(lines).ok()).expect("index_lines");
        self.inside(move || {
            let index = array::<Line>(&maps, "svclb_index");
            let line = |number| index.get(&number, 0).expect("a line within the index").0;
            let set = (0..hashed).map(|number| line(number).marks.count_ones()).sum();
            (set, hashed * u64::BITS)
        })
    }

    /// Returns the number of a socket's place in the origins array, and its content.
    ///
    /// # Panics
    /// If the array cannot be read.
    pub fn place_of(&self, cookie: u64) -> (u32, Origin) {
        let maps = self.maps_folder();
        self.inside(move || {
            let places = array::<Origin>(&maps, "svclb_origins");
            let number = u32::try_from(cookie % u64::from(places.len())).expect("a place");
            (number, places.get(&number, 0).expect("a place within the array").0)
        })
    }

    /// Adds affinity rows that never expire for clients that do not exist, one for each number.
    ///
    /// # Panics
    /// If a row cannot be written.
    pub fn add_clients(&self, numbers: Range<u64>) {
        let maps = self.maps_folder();
        self.inside(move || {
            let mut rows = hash::<AffinityKey, AffinityRow>(&maps, "svclb_affinity");
            for number in numbers {
                let key = AffinityKey { client: UNUSED_COOKIES + number, service: 1, family: 4 };
                let row = Plain(AffinityRow { used: u64::MAX, ..AffinityRow::default() });
                rows.insert(Plain(key), row, 0).expect("the map is not full");
            }
        });
    }

    /// Adds empty overflow entries for sockets that do not exist, one for each number.
    ///
    /// # Panics
    /// If an entry cannot be written.
    pub fn add_overflow(&self, numbers: Range<u64>) {
        let maps = self.maps_folder();
        self.inside(move || {
            let mut entries = hash::<u64, Overflow>(&maps, "svclb_overflow");
            for number in numbers {
                let entry = Plain(Overflow::EMPTY);
                entries
                    .insert(Plain(UNUSED_COOKIES + number), entry, 0)
                    .expect("the map is not full");
            }
        });
    }

    /// Removes those entries.
    ///
    /// # Panics
    /// If one does not exist.
    pub fn remove_overflow(&self, numbers: Range<u64>) {
        let maps = self.maps_folder();
        self.inside(move || {
            let mut entries = hash::<u64, Overflow>(&maps, "svclb_overflow");
            for number in numbers {
                entries.remove(&Plain(UNUSED_COOKIES + number)).expect("the entry is there");
            }
        });
    }

    /// The counted overflow entries of each client, and of all clients under 0.
    ///
    /// # Panics
    /// If the counts cannot be read.
    pub fn counted_entries(&self) -> BTreeMap<u32, i32> {
        let maps = self.maps_folder();
        self.inside(move || {
            let rows = hash::<u32, ClientRow>(&maps, "svclb_clients");
            let row = |row: Result<(Plain<u32>, Plain<ClientRow>), _>| {
                let (Plain(client), Plain(row)) = row.expect("a row can be read");
                (client, row.overflow)
            };
            rows.iter().map(row).collect()
        })
    }

    /// The number of pairs of a client and a service with affinity.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn affinity_rows(&self) -> usize {
        let maps = self.maps_folder();
        self.inside(move || {
            let rows = hash::<AffinityKey, AffinityRow>(&maps, "svclb_affinity");
            rows.keys().inspect(|key| assert!(key.is_ok(), "a key can be read")).count()
        })
    }

    /// Overwrites a client's counted overflow entries.
    ///
    /// # Panics
    /// If the count cannot be written.
    pub fn put_counted_entries(&self, client: u32, overflow: i32) {
        let maps = self.maps_folder();
        self.inside(move || {
            let mut rows = hash::<u32, ClientRow>(&maps, "svclb_clients");
            let row = Plain(ClientRow { overflow, affinity: 0 });
            rows.insert(Plain(client), row, 0).expect("a count can be written");
        });
    }

    /// Overwrites a place of the origins array.
    ///
    /// # Panics
    /// If the place cannot be written.
    pub fn put_origin(&self, place: u32, origin: Origin) {
        let maps = self.maps_folder();
        self.inside(move || {
            let mut places = array::<Origin>(&maps, "svclb_origins");
            places.set(place, Plain(origin), 0).expect("a place can be written");
        });
    }
}
