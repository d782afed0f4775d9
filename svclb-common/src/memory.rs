//! The hooks' maps in memory, for tests and fuzzing. The translation that runs over them is the code that runs
//! in the kernel.
//!
//! Rows are boxed and kept after their removal, since a hook that found one goes on reading it.

use std::boxed::Box;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;
use std::vec::Vec;

use crate::cookie::{NetnsCookie, SocketCookie};
use crate::layout::{
    AffinityKey, AffinityRow, BackendKey, BackendRow, ClientRow, Line, NO_TAG, Origin, Overflow,
    Record, Slot,
};
use crate::shared::Shared;
use crate::translate::{Counter, Lookup};

/// Cookie of the host's network namespace.
pub const HOST: u64 = 1;

/// Capacities of the hash maps.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries that the overflow takes.
    pub overflow_entries: usize,
    /// Capacity of the overflow from which clients' shares are computed.
    pub overflow_capacity: u32,
    /// Rows that the affinity takes.
    pub affinity_rows: usize,
    /// Capacity of the affinity from which clients' shares are computed.
    pub affinity_capacity: u32,
}

/// Rows of a hash map, each of which stays where it is.
type BoxedRows<K, V> = RefCell<HashMap<K, Box<UnsafeCell<V>>>>;

/// Maps in memory, for one thread.
#[derive(Debug)]
#[expect(clippy::vec_box, reason = "removed rows stay where they are")]
pub struct MemoryMaps {
    lines: Vec<UnsafeCell<Line>>,
    slots: Vec<UnsafeCell<Slot>>,
    places: Vec<UnsafeCell<Origin>>,
    /// Rows of `svclb_backends`.
    pub backends: RefCell<HashMap<BackendKey, BackendRow>>,
    overflow: BoxedRows<u64, Overflow>,
    removed: RefCell<Vec<Box<UnsafeCell<Overflow>>>>,
    clients: BoxedRows<u32, ClientRow>,
    affinity: BoxedRows<AffinityKey, AffinityRow>,
    replaced: RefCell<Vec<Box<UnsafeCell<AffinityRow>>>>,
    /// Capacities.
    pub limits: Cell<Limits>,
    /// A row that another processor stores just before the next row of affinity is stored.
    pub rival: Cell<Option<(AffinityKey, AffinityRow)>>,
    /// The clock, nanoseconds.
    pub clock: Cell<u64>,
    /// State of the random numbers, which are the same in each run. Not 0.
    pub random: Cell<u64>,
    /// The first slot that no test has written.
    #[cfg(test)]
    pub(crate) next_slot: Cell<u32>,
    counters: RefCell<[u64; 13]>,
}

fn cells<T: Default>(count: u32) -> Vec<UnsafeCell<T>> {
    (0..count).map(|_| UnsafeCell::default()).collect()
}

fn shared<T>(cells: &[UnsafeCell<T>], number: u32) -> Option<Shared<'_, T>> {
    // SAFETY: the cells live as long as the maps, and only `Shared` accesses them.
    cells.get(number as usize).map(|cell| unsafe { Shared::new(cell.get()) })
}

/// Overwrites the bytes of a value from `at` (modulo its size) on.
fn overwrite<T>(cell: &UnsafeCell<T>, at: usize, bytes: &[u8]) {
    let at = at % size_of::<T>();
    let count = bytes.len().min(size_of::<T>() - at);
    // SAFETY: inside the value; rows of maps are integers, which may have any value; no reference to it exists.
    unsafe { cell.get().cast::<u8>().add(at).copy_from_nonoverlapping(bytes.as_ptr(), count) };
}

impl MemoryMaps {
    /// Maps with so many empty lines, slots, and places of the origins; lines and places are powers of two.
    pub fn new(lines: u32, slots: u32, places: u32, limits: Limits) -> Self {
        Self {
            lines: cells(lines),
            slots: cells(slots),
            places: cells(places),
            backends: RefCell::default(),
            overflow: RefCell::default(),
            removed: RefCell::default(),
            clients: RefCell::default(),
            affinity: RefCell::default(),
            replaced: RefCell::default(),
            limits: Cell::new(limits),
            rival: Cell::default(),
            clock: Cell::new(1_000_000_000_000),
            random: Cell::new(0x1234_5678_9abc_def1),
            #[cfg(test)]
            next_slot: Cell::new(0),
            counters: RefCell::default(),
        }
    }

    /// Changes the capacities.
    pub fn limit(&self, change: impl FnOnce(&mut Limits)) {
        let mut limits = self.limits.get();
        change(&mut limits);
        self.limits.set(limits);
    }

    /// Overwrites bytes of a line.
    pub fn overwrite_line(&self, number: u32, at: usize, bytes: &[u8]) {
        overwrite(&self.lines[number as usize % self.lines.len()], at, bytes);
    }

    /// Overwrites bytes of a slot.
    pub fn overwrite_slot(&self, number: u32, at: usize, bytes: &[u8]) {
        overwrite(&self.slots[number as usize % self.slots.len()], at, bytes);
    }

    /// Overwrites bytes of a place of the origins.
    pub fn overwrite_origin(&self, number: u32, at: usize, bytes: &[u8]) {
        overwrite(&self.places[number as usize % self.places.len()], at, bytes);
    }

    /// Overwrites bytes of every row of overflow, affinity and clients.
    pub fn overwrite_rows(&self, at: usize, bytes: &[u8]) {
        self.overflow.borrow().values().for_each(|row| overwrite(row, at, bytes));
        self.affinity.borrow().values().for_each(|row| overwrite(row, at, bytes));
        self.clients.borrow().values().for_each(|row| overwrite(row, at, bytes));
    }

    /// All rows of the affinity.
    pub fn affinities(&self) -> Vec<(AffinityKey, AffinityRow)> {
        let rows = self.affinity.borrow();
        // SAFETY: boxed, so it stays where it is.
        rows.iter().map(|(key, row)| (*key, unsafe { Shared::new(row.get()) }.read())).collect()
    }

    /// Replaces a row of affinity in its memory, as the kernel does when it gives that to another key.
    ///
    /// Without such a row it does nothing.
    pub fn reuse_affinity(&self, key: &AffinityKey, row: AffinityRow) {
        if let Some(place) = self.affinity.borrow_mut().get_mut(key) {
            *place.get_mut() = row;
        }
    }

    /// Removes the first row of affinity by key, as the agent does when it expired.
    pub fn remove_affinity(&self) -> Option<AffinityKey> {
        let key = self.affinity.borrow().keys().min().copied()?;
        self.affinity.borrow_mut().remove(&key);
        Some(key)
    }

    /// The number of entries of the overflow.
    pub fn overflow_entries(&self) -> usize {
        self.overflow.borrow().len()
    }

    /// All records of the overflow.
    pub fn overflow_records(&self) -> Vec<Record> {
        let entries = self.overflow.borrow();
        // SAFETY: no hook runs now.
        let entries = entries.values().map(|entry| unsafe { *entry.get() });
        let all = entries.flat_map(|entry| entry.dialled.into_iter().zip(entry.records));
        all.filter(|(tag, _)| *tag != NO_TAG).map(|(_, record)| record).collect()
    }

    /// The clients that have rows.
    pub fn clients(&self) -> Vec<u32> {
        self.clients.borrow().keys().copied().collect()
    }

    /// The value of a counter.
    pub fn counted(&self, counter: Counter) -> u64 {
        self.counters.borrow()[counter as usize]
    }

    /// The sum of all counters.
    pub fn counted_in_all(&self) -> u64 {
        self.counters.borrow().iter().sum()
    }
}

impl Lookup for MemoryMaps {
    fn seed(&self) -> u64 {
        42
    }
    fn index_lines(&self) -> u32 {
        u32::try_from(self.lines.len()).unwrap_or(u32::MAX)
    }
    fn origins(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }
    fn line(&self, number: u32) -> Option<Shared<'_, Line>> {
        shared(&self.lines, number)
    }
    fn slot(&self, number: u32) -> Option<Shared<'_, Slot>> {
        shared(&self.slots, number)
    }
    fn origin(&self, place: u32) -> Option<Shared<'_, Origin>> {
        shared(&self.places, place)
    }
    fn backend(&self, key: &BackendKey) -> Option<BackendRow> {
        self.backends.borrow().get(key).copied()
    }
    fn overflow(&self, cookie: SocketCookie) -> Option<Shared<'_, Overflow>> {
        // SAFETY: boxed, and kept when it is removed.
        self.overflow.borrow().get(&cookie.0).map(|entry| unsafe { Shared::new(entry.get()) })
    }
    fn add_overflow(&self, cookie: SocketCookie) -> bool {
        let mut entries = self.overflow.borrow_mut();
        let is_full = entries.len() >= self.limits.get().overflow_entries;
        if is_full || entries.contains_key(&cookie.0) {
            return false;
        }
        entries.insert(cookie.0, Box::new(UnsafeCell::new(Overflow::EMPTY)));
        true
    }
    fn remove_overflow(&self, cookie: SocketCookie) -> bool {
        let removed = self.overflow.borrow_mut().remove(&cookie.0);
        let is_removed = removed.is_some();
        self.removed.borrow_mut().extend(removed);
        is_removed
    }
    fn overflow_capacity(&self) -> u32 {
        self.limits.get().overflow_capacity
    }
    fn client(&self, key: u32) -> Option<Shared<'_, ClientRow>> {
        // SAFETY: boxed, and never removed.
        self.clients.borrow().get(&key).map(|row| unsafe { Shared::new(row.get()) })
    }
    fn add_client(&self, key: u32) {
        self.clients.borrow_mut().entry(key).or_default();
    }
    fn affinity(&self, key: &AffinityKey) -> Option<Shared<'_, AffinityRow>> {
        // SAFETY: boxed, and kept when it is replaced.
        self.affinity.borrow().get(key).map(|row| unsafe { Shared::new(row.get()) })
    }
    fn affinity_capacity(&self) -> u32 {
        self.limits.get().affinity_capacity
    }
    fn store_affinity(&self, key: &AffinityKey, row: &AffinityRow, is_new: bool) -> bool {
        if let Some((rival, first)) = self.rival.take() {
            assert!(self.store_affinity(&rival, &first, true), "the other processor is first");
        }
        let mut rows = self.affinity.borrow_mut();
        let has_one = rows.contains_key(key);
        if is_new == has_one || (is_new && rows.len() >= self.limits.get().affinity_rows) {
            return false;
        }
        let old = rows.insert(*key, Box::new(UnsafeCell::new(*row)));
        self.replaced.borrow_mut().extend(old);
        true
    }
    fn host(&self) -> NetnsCookie {
        NetnsCookie(HOST)
    }
    fn now(&self) -> u64 {
        self.clock.get()
    }
    fn random(&self) -> u32 {
        // xorshift64
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        (x >> 32) as u32
    }
    fn count(&self, counter: Counter) {
        self.counters.borrow_mut()[counter as usize] += 1;
    }
}
