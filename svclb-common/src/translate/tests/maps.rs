//! Maps in memory, small enough that places and lines collide.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::vec::Vec;

use super::super::*;
use crate::index::NEIGHBOURHOOD;
use crate::layout::{BackendState, ClientKey, NO_TAG, Record, Set};

pub(super) const LINES: u32 = 64;
const SPILL: u32 = 16;
pub(super) const PLACES: u32 = 8;
const OVERFLOW_ENTRIES: usize = 16;
/// The network namespace of the host.
pub(super) const HOST: u64 = 1;

pub(super) struct TestMaps {
    lines: Vec<UnsafeCell<Line>>,
    slots: Vec<UnsafeCell<Slot>>,
    places: Vec<UnsafeCell<Origin>>,
    frontends: RefCell<HashMap<FrontendKey, FrontendRow>>,
    backends: RefCell<HashMap<BackendKey, BackendRow>>,
    overflow: RefCell<HashMap<u64, std::boxed::Box<UnsafeCell<Overflow>>>>,
    clients: RefCell<HashMap<u32, std::boxed::Box<UnsafeCell<ClientRow>>>>,
    /// Number of entries that the overflow can hold, and number from which shares are computed.
    pub(super) overflow_room: Cell<(usize, u32)>,
    affinity: RefCell<HashMap<AffinityKey, std::boxed::Box<UnsafeCell<AffinityRow>>>>,
    /// Rows that were replaced: a reader that found one goes on to see it.
    #[expect(clippy::vec_box, reason = "they must stay where they are")]
    replaced: RefCell<Vec<std::boxed::Box<UnsafeCell<AffinityRow>>>>,
    /// A row that another processor stores just before the next row is stored here.
    pub(super) rival: Cell<Option<(AffinityKey, AffinityRow)>>,
    /// Capacity of affinity, rows.
    pub(super) affinity_room: Cell<usize>,
    /// For how many shares of it are reckoned.
    pub(super) affinity_capacity: Cell<u32>,
    /// The time, nanoseconds.
    pub(super) clock: Cell<u64>,
    next_slot: Cell<u32>,
    random: Cell<u64>,
    counters: RefCell<[u64; 13]>,
}

pub(super) fn peer(text: &str) -> Peer {
    let address: SocketAddr = text.parse().unwrap();
    Peer { address: Address::from(address.ip()).words(), port: address.port() }
}

pub(super) fn socket(cookie: u64, protocol: Protocol) -> Socket {
    Socket { cookie: SocketCookie(cookie), protocol }
}

impl Caller for Socket {
    fn protocol(&self) -> Protocol {
        self.protocol
    }
    fn cookie(&self) -> SocketCookie {
        self.cookie
    }
    fn client(&self) -> NetnsCookie {
        NetnsCookie(HOST)
    }
    fn client_key(&self) -> u32 {
        ClientKey::of_namespace(self.client())
    }
    fn is_released(&self) -> bool {
        true
    }
    fn is_connected_to(&self, _: &Peer) -> bool {
        false
    }
    fn is_on_loopback(&self) -> bool {
        false
    }
}

/// A socket of a client, which is a network namespace.
pub(super) struct Client {
    pub(super) namespace: u64,
    pub(super) socket: Socket,
}

impl Caller for Client {
    fn protocol(&self) -> Protocol {
        self.socket.protocol
    }
    fn cookie(&self) -> SocketCookie {
        self.socket.cookie
    }
    fn client(&self) -> NetnsCookie {
        NetnsCookie(self.namespace)
    }
    fn client_key(&self) -> u32 {
        ClientKey::of_namespace(self.client())
    }
    fn is_released(&self) -> bool {
        true
    }
    fn is_connected_to(&self, _: &Peer) -> bool {
        false
    }
    fn is_on_loopback(&self) -> bool {
        false
    }
}

/// A socket of the kernel's own.
pub(super) struct Kernels(pub(super) Socket);

impl Caller for Kernels {
    fn protocol(&self) -> Protocol {
        self.0.protocol
    }
    fn cookie(&self) -> SocketCookie {
        self.0.cookie
    }
    fn client(&self) -> NetnsCookie {
        NetnsCookie(HOST)
    }
    fn client_key(&self) -> u32 {
        ClientKey::of_namespace(self.client())
    }
    fn is_released(&self) -> bool {
        false
    }
    fn is_connected_to(&self, _: &Peer) -> bool {
        false
    }
    fn is_on_loopback(&self) -> bool {
        false
    }
}

/// A socket of a client with ends of its own: what it is connected to, and whether it is bound to loopback.
pub(super) struct Placed {
    pub(super) client: Client,
    pub(super) peer: Option<Peer>,
    pub(super) is_on_loopback: bool,
}

impl Caller for Placed {
    fn protocol(&self) -> Protocol {
        self.client.protocol()
    }
    fn cookie(&self) -> SocketCookie {
        self.client.cookie()
    }
    fn client(&self) -> NetnsCookie {
        self.client.client()
    }
    fn client_key(&self) -> u32 {
        ClientKey::of_namespace(self.client())
    }
    fn is_released(&self) -> bool {
        true
    }
    fn is_connected_to(&self, peer: &Peer) -> bool {
        self.peer == Some(*peer)
    }
    fn is_on_loopback(&self) -> bool {
        self.is_on_loopback
    }
}

fn cells<T: Default>(count: u32) -> Vec<UnsafeCell<T>> {
    (0..count).map(|_| UnsafeCell::default()).collect()
}

fn shared<T>(cells: &[UnsafeCell<T>], number: u32) -> Option<Shared<'_, T>> {
    // SAFETY: the cells live as long as the maps, and only `Shared` accesses them.
    cells.get(number as usize).map(|cell| unsafe { Shared::new(cell.get()) })
}

impl TestMaps {
    pub(super) fn new() -> Self {
        Self {
            lines: cells(LINES + SPILL),
            slots: cells(4096),
            places: cells(PLACES),
            frontends: RefCell::default(),
            backends: RefCell::default(),
            overflow: RefCell::default(),
            clients: RefCell::default(),
            overflow_room: Cell::new((OVERFLOW_ENTRIES, 1000)),
            affinity: RefCell::default(),
            replaced: RefCell::default(),
            rival: Cell::default(),
            affinity_room: Cell::new(1000),
            affinity_capacity: Cell::new(16_000),
            clock: Cell::new(1_000_000_000_000),
            next_slot: Cell::new(0),
            random: Cell::new(0x1234_5678_9abc_def1),
            counters: RefCell::default(),
        }
    }

    /// A TCP service with one frontend; gives its line.
    pub(super) fn service(&self, id: u32, frontend: &str, backends: &[&str]) -> u32 {
        self.service_of(id, Protocol::Tcp, frontend, backends)
    }

    pub(super) fn service_of(
        &self,
        id: u32,
        protocol: Protocol,
        frontend: &str,
        backends: &[&str],
    ) -> u32 {
        let dialled = peer(frontend);
        let wanted = Wanted::destination(dialled.address, dialled.port, protocol);
        let home = wanted.home(self.seed(), LINES);
        let step = (0..NEIGHBOURHOOD)
            .find(|step| self.line((home + step) % LINES).unwrap().key_word() == 0)
            .unwrap();
        let at_home = self.line(home).unwrap();
        at_home.set_reach(at_home.reach().max(u8::try_from(step).unwrap()));
        self.fill((home + step) % LINES, id, &wanted, backends)
    }

    pub(super) fn spilled_service(&self, id: u32, frontend: &str, backends: &[&str]) -> u32 {
        let dialled = peer(frontend);
        let wanted = Wanted::destination(dialled.address, dialled.port, Protocol::Tcp);
        self.line(wanted.home(self.seed(), LINES)).unwrap().set_spilled(1);
        self.fill(LINES, id, &wanted, backends)
    }

    fn fill(&self, number: u32, id: u32, wanted: &Wanted, backends: &[&str]) -> u32 {
        let line = self.line(number).unwrap();
        line.set_address(wanted.address);
        line.set_service(id);
        let row = FrontendRow { service: id, line: number };
        self.frontends.borrow_mut().insert(wanted.frontend(), row);
        self.flip(number, backends);
        line.set_key_word(wanted.key);
        number
    }

    /// Gives a line's service these backends, as the agent does: rows, slots, flip, rows, generation.
    pub(super) fn flip(&self, number: u32, backends: &[&str]) {
        let line = self.line(number).unwrap();
        let id = line.service();
        let key = |text: &&str| {
            let given = peer(text);
            let address = Address::from_words(given.address);
            BackendKey { address, port: given.port, _pad: 0, service: id }
        };
        let keys: Vec<BackendKey> = backends.iter().map(key).collect();
        let row = BackendRow { sets: 3, state: BackendState::Ready as u8, _pad: 0, weight: 1 };
        for key in &keys {
            assert!(index::mark(key, self.seed(), LINES, |number| self.line(number)));
        }
        self.backends.borrow_mut().extend(keys.iter().map(|key| (*key, row)));
        let first = self.next_slot.get();
        for (at, key) in keys.iter().enumerate() {
            let at = u32::try_from(at).unwrap();
            self.slot(first + at).unwrap().write(&Slot {
                address: key.address,
                port: key.port,
                flags: 0,
                owner: id,
                threshold: u32::MAX,
                alias: at,
            });
        }
        let count = u32::try_from(keys.len()).unwrap();
        self.next_slot.set(first + count);
        let set = if count == 0 { Set::REFUSE } else { Set { first, count } };
        line.set_set_word(set.word());
        self.backends.borrow_mut().retain(|key, _| key.service != id || keys.contains(key));
        line.set_generation(line.generation() + 1);
    }

    /// The rows of affinity.
    pub(super) fn affinities(&self) -> Vec<(AffinityKey, AffinityRow)> {
        let rows = self.affinity.borrow();
        // SAFETY: boxed, so it stays where it is.
        rows.iter().map(|(key, row)| (*key, unsafe { Shared::new(row.get()) }.read())).collect()
    }

    /// Drops a row, as the agent does when its time is over: its key.
    pub(super) fn evict(&self) -> Option<AffinityKey> {
        let key = self.affinity.borrow().keys().min().copied()?;
        self.affinity.borrow_mut().remove(&key);
        Some(key)
    }

    /// Writes into the memory of a row, as the kernel does that gives it to another key.
    pub(super) fn scribble(&self, key: &AffinityKey, row: AffinityRow) {
        self.affinity.borrow_mut().get_mut(key).unwrap().get_mut().clone_from(&row);
    }

    pub(super) fn counted(&self, what: Counter) -> u64 {
        self.counters.borrow()[what as usize]
    }

    pub(super) fn held_places(&self) -> usize {
        (0..PLACES).filter(|place| self.origin(*place).unwrap().count() != 0).count()
    }

    pub(super) fn spilled_sockets(&self) -> u32 {
        (0..PLACES).map(|place| self.origin(place).unwrap().spilled()).sum()
    }

    pub(super) fn overflow_entries(&self) -> usize {
        self.overflow.borrow().len()
    }

    pub(super) fn overflow_records(&self) -> Vec<Record> {
        let entries = self.overflow.borrow();
        // SAFETY: they are read between calls of hooks.
        let entries = entries.values().map(|entry| unsafe { *entry.get() });
        let all = entries.flat_map(|entry| entry.dialled.into_iter().zip(entry.records));
        all.filter(|(tag, _)| *tag != NO_TAG).map(|(_, record)| record).collect()
    }

    /// Every client with entries that are counted, and how many in the overflow or the affinity.
    pub(super) fn counted_clients(&self, at: usize) -> Vec<(u32, i32)> {
        let keys: Vec<u32> = self.clients.borrow().keys().copied().collect();
        let rows = keys.into_iter().map(|key| (key, self.client(key).unwrap().count(at)));
        rows.filter(|(_, count)| *count != 0).collect()
    }

    pub(super) fn record(&self, cookie: u64) -> Option<Record> {
        let place = self.origin(low(cookie) % PLACES)?;
        (place.cookie() == cookie && place.count() != 0).then(|| place.record().read())
    }
}

impl Lookup for TestMaps {
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
        let entries = self.overflow.borrow();
        // SAFETY: boxed, so it stays where it is; removed only by its own socket's hooks.
        entries.get(&cookie.0).map(|entry| unsafe { Shared::new(entry.get()) })
    }
    fn add_overflow(&self, cookie: SocketCookie) -> bool {
        let mut entries = self.overflow.borrow_mut();
        if entries.len() >= self.overflow_room.get().0 || entries.contains_key(&cookie.0) {
            return false;
        }
        entries.insert(cookie.0, std::boxed::Box::new(UnsafeCell::new(Overflow::EMPTY)));
        true
    }
    fn remove_overflow(&self, cookie: SocketCookie) -> bool {
        self.overflow.borrow_mut().remove(&cookie.0).is_some()
    }
    fn overflow_capacity(&self) -> u32 {
        self.overflow_room.get().1
    }
    fn client(&self, key: u32) -> Option<Shared<'_, ClientRow>> {
        let rows = self.clients.borrow();
        // SAFETY: boxed, so it stays where it is; never removed.
        rows.get(&key).map(|row| unsafe { Shared::new(row.get()) })
    }
    fn add_client(&self, key: u32) {
        self.clients.borrow_mut().entry(key).or_default();
    }
    fn affinity(&self, key: &AffinityKey) -> Option<Shared<'_, AffinityRow>> {
        let rows = self.affinity.borrow();
        // SAFETY: boxed, and kept when it is replaced.
        rows.get(key).map(|row| unsafe { Shared::new(row.get()) })
    }
    fn affinity_capacity(&self) -> u32 {
        self.affinity_capacity.get()
    }
    fn store_affinity(&self, key: &AffinityKey, row: &AffinityRow, is_new: bool) -> bool {
        if let Some((rival, first)) = self.rival.take() {
            assert!(self.store_affinity(&rival, &first, true), "the rival is first");
        }
        let mut rows = self.affinity.borrow_mut();
        let has_one = rows.contains_key(key);
        if is_new == has_one || (is_new && rows.len() >= self.affinity_room.get()) {
            return false;
        }
        let old = rows.insert(*key, std::boxed::Box::new(UnsafeCell::new(*row)));
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
        // xorshift64: fixed, so that no test flakes.
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        (x >> 32) as u32
    }
    fn count(&self, what: Counter) {
        self.counters.borrow_mut()[what as usize] += 1;
    }
}
