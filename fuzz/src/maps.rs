//! The datapath's maps in memory, for histories of whoever writes them and of sockets: anything may stand
//! anywhere in them.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;

use svclb_common::cookie::{NetnsCookie, SocketCookie};
use svclb_common::layout::{
    AffinityKey, AffinityRow, BackendKey, BackendRow, ClientRow, FrontendKey, FrontendRow, Line,
    Origin, Overflow, Slot,
};
use svclb_common::shared::Shared;
use svclb_common::translate::{Counter, Lookup};

/// Lines that a hash can say.
pub const LINES: u32 = 16;
/// All lines.
pub const ALL_LINES: u32 = LINES + 4;
/// Slots.
pub const SLOTS: u32 = 16;
/// Places of the origins: fewer than sockets.
pub const PLACES: u32 = 4;
/// How many sockets have room in the overflow.
const OVERFLOW_ENTRIES: usize = 3;
/// How many clients have room in the affinity.
const AFFINITY_ROWS: usize = 3;
/// The network namespace of the host.
pub const HOST: u64 = 1;

/// Maps in memory.
pub struct Maps {
    lines: Vec<UnsafeCell<Line>>,
    slots: Vec<UnsafeCell<Slot>>,
    places: Vec<UnsafeCell<Origin>>,
    /// Rows of `svclb_frontends`.
    pub frontends: RefCell<HashMap<FrontendKey, FrontendRow>>,
    /// Rows of `svclb_backends`.
    pub backends: RefCell<HashMap<BackendKey, BackendRow>>,
    // Boxed: they stay where they are. What is removed is kept, since a reader may hold it.
    overflow: RefCell<HashMap<u64, Box<UnsafeCell<Overflow>>>>,
    removed: RefCell<Vec<Box<UnsafeCell<Overflow>>>>,
    clients: RefCell<HashMap<u32, Box<UnsafeCell<ClientRow>>>>,
    affinity: RefCell<HashMap<AffinityKey, Box<UnsafeCell<AffinityRow>>>>,
    replaced: RefCell<Vec<Box<UnsafeCell<AffinityRow>>>>,
    /// The clock, nanoseconds.
    pub clock: Cell<u64>,
    /// The next random number.
    pub random: Cell<u32>,
    /// How many things were counted: more than a few for one call is a loop.
    pub counted: Cell<u32>,
}

fn cells<T: Default>(count: u32) -> Vec<UnsafeCell<T>> {
    (0..count).map(|_| UnsafeCell::default()).collect()
}

fn shared<T>(cells: &[UnsafeCell<T>], number: u32) -> Option<Shared<'_, T>> {
    // SAFETY: the cells live as long as the maps, and one thread uses them.
    cells.get(number as usize).map(|cell| unsafe { Shared::new(cell.get()) })
}

/// Puts bytes into a value, from somewhere in it on.
fn scribble<T>(cell: &UnsafeCell<T>, at: usize, bytes: &[u8]) {
    let at = at % size_of::<T>();
    let count = bytes.len().min(size_of::<T>() - at);
    // SAFETY: inside the value; rows of maps are integers, which may be any; nobody else holds a reference.
    unsafe { cell.get().cast::<u8>().add(at).copy_from_nonoverlapping(bytes.as_ptr(), count) };
}

impl Default for Maps {
    fn default() -> Self {
        Self {
            lines: cells(ALL_LINES),
            slots: cells(SLOTS),
            places: cells(PLACES),
            frontends: RefCell::default(),
            backends: RefCell::default(),
            overflow: RefCell::default(),
            removed: RefCell::default(),
            clients: RefCell::default(),
            affinity: RefCell::default(),
            replaced: RefCell::default(),
            clock: Cell::new(1 << 40),
            random: Cell::new(0),
            counted: Cell::new(0),
        }
    }
}

impl Maps {
    /// Puts bytes into a line.
    pub fn scribble_line(&self, number: u32, at: usize, bytes: &[u8]) {
        scribble(&self.lines[(number % ALL_LINES) as usize], at, bytes);
    }

    /// Puts bytes into a slot.
    pub fn scribble_slot(&self, number: u32, at: usize, bytes: &[u8]) {
        scribble(&self.slots[(number % SLOTS) as usize], at, bytes);
    }

    /// Puts bytes into a place of the origins.
    pub fn scribble_origin(&self, number: u32, at: usize, bytes: &[u8]) {
        scribble(&self.places[(number % PLACES) as usize], at, bytes);
    }

    /// Puts bytes into every entry of the overflow and the affinity, and into the counts of clients.
    pub fn scribble_rest(&self, at: usize, bytes: &[u8]) {
        self.overflow.borrow().values().for_each(|entry| scribble(entry, at, bytes));
        self.affinity.borrow().values().for_each(|row| scribble(row, at, bytes));
        self.clients.borrow().values().for_each(|row| scribble(row, at, bytes));
    }
}

impl Lookup for Maps {
    fn seed(&self) -> u64 {
        42
    }
    fn index_lines(&self) -> u32 {
        LINES
    }
    fn origins(&self) -> u32 {
        PLACES
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
    fn frontend(&self, key: &FrontendKey) -> Option<FrontendRow> {
        self.frontends.borrow().get(key).copied()
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
        if entries.len() >= OVERFLOW_ENTRIES || entries.contains_key(&cookie.0) {
            return false;
        }
        entries.insert(cookie.0, Box::new(UnsafeCell::new(Overflow::EMPTY)));
        true
    }
    fn remove_overflow(&self, cookie: SocketCookie) -> bool {
        let removed = self.overflow.borrow_mut().remove(&cookie.0);
        let some = removed.is_some();
        self.removed.borrow_mut().extend(removed);
        some
    }
    fn overflow_capacity(&self) -> u32 {
        // A client may have two entries, so that shares are met too.
        OVERFLOW_ENTRIES as u32 * 8
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
        AFFINITY_ROWS as u32 * 8
    }
    fn store_affinity(&self, key: &AffinityKey, row: &AffinityRow, is_new: bool) -> bool {
        let mut rows = self.affinity.borrow_mut();
        let has_one = rows.contains_key(key);
        if is_new == has_one || (is_new && rows.len() >= AFFINITY_ROWS) {
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
        let next = self.random.get().wrapping_mul(0x9e37_79b9).wrapping_add(0x7f4a_7c15);
        self.random.set(next);
        next
    }
    fn count(&self, _: Counter) {
        self.counted.set(self.counted.get() + 1);
    }
}
