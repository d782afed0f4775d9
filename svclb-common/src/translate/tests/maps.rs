//! Maps in memory, small enough that places and lines collide.

use std::net::SocketAddr;
use std::vec::Vec;

use super::super::*;
use crate::index::NEIGHBOURHOOD;
use crate::layout::{BackendState, ClientKey, Record, Set};
use crate::memory::Limits;
pub(super) use crate::memory::{HOST, MemoryMaps};

pub(super) const LINES: u32 = 64;
pub(super) const PLACES: u32 = 8;
const OVERFLOW_ENTRIES: usize = 16;

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

impl MemoryMaps {
    /// Maps so small that places and lines collide.
    pub(super) fn small() -> Self {
        let limits = Limits {
            overflow_entries: OVERFLOW_ENTRIES,
            overflow_capacity: 1000,
            affinity_rows: 1000,
            affinity_capacity: 16_000,
        };
        Self::new(LINES, 4096, PLACES, limits)
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

    /// The same, in the last line of the neighbourhood of its home.
    pub(super) fn distant_service(&self, id: u32, frontend: &str, backends: &[&str]) -> u32 {
        let dialled = peer(frontend);
        let wanted = Wanted::destination(dialled.address, dialled.port, Protocol::Tcp);
        let (home, last) = (wanted.home(self.seed(), LINES), NEIGHBOURHOOD - 1);
        self.line(home).unwrap().set_reach(u8::try_from(last).unwrap());
        self.fill((home + last) % LINES, id, &wanted, backends)
    }

    fn fill(&self, number: u32, id: u32, wanted: &Wanted, backends: &[&str]) -> u32 {
        let line = self.line(number).unwrap();
        line.set_address(wanted.address);
        line.set_service(id);
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

    pub(super) fn held_places(&self) -> usize {
        (0..PLACES).filter(|place| self.origin(*place).unwrap().count() != 0).count()
    }

    pub(super) fn spilled_sockets(&self) -> u32 {
        (0..PLACES).map(|place| self.origin(place).unwrap().spilled()).sum()
    }

    /// Every client with entries that are counted, and how many in the overflow or the affinity.
    pub(super) fn counted_clients(&self, at: usize) -> Vec<(u32, i32)> {
        let rows = self.clients().into_iter().map(|key| (key, self.client(key).unwrap().count(at)));
        rows.filter(|(_, count)| *count != 0).collect()
    }

    pub(super) fn record(&self, cookie: u64) -> Option<Record> {
        let place = self.origin(low(cookie) % PLACES)?;
        (place.cookie() == cookie && place.count() != 0).then(|| place.record().read())
    }
}
