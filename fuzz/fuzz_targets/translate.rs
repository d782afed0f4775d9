//! A history of the datapath over maps with arbitrary content: connects, sends, replies, getpeername calls
//! and closes of a few sockets. Between them, lines, slots and rows are written correctly, incompletely or at
//! random. The target checks that no call panics or loops, and that each backend given to a socket was at some
//! time a backend of the dialled service or of its successor. If the first byte is odd, records of sockets,
//! which only the kernel side writes, are overwritten at random too; then only the first check applies.
#![no_main]

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use svclb_common::cookie::{NetnsCookie, SocketCookie};
use svclb_common::index::Wanted;
use svclb_common::layout::{Address, BackendKey, BackendRow, ClientKey, Protocol, Set, Slot};
use svclb_common::memory::{HOST, Limits, MemoryMaps};
use svclb_common::translate::{
    Caller, Lookup as _, Peer, Socket, Verdict, connect, getpeername, recvmsg, release, sendmsg,
};

/// Lines of the index.
const LINES: u32 = 16;
/// Slots.
const SLOTS: u32 = 16;
/// Places of the origins: fewer than sockets.
const PLACES: u32 = 4;
/// Few rows, so that the hash maps are full; shares allow a client two of them.
const LIMITS: Limits =
    Limits { overflow_entries: 3, overflow_capacity: 24, affinity_rows: 3, affinity_capacity: 24 };
/// Limit for the counted events of a call, far above that of any correct call.
const LOOP: u64 = 100;

/// A socket, its network namespace, and true if it is released.
struct Client(Socket, u64, bool);

impl Caller for Client {
    fn protocol(&self) -> Protocol {
        self.0.protocol
    }
    fn cookie(&self) -> SocketCookie {
        self.0.cookie
    }
    fn client(&self) -> NetnsCookie {
        NetnsCookie(self.1)
    }
    fn client_key(&self) -> u32 {
        ClientKey::of_namespace(self.client())
    }
    fn is_released(&self) -> bool {
        self.2
    }
    fn is_connected_to(&self, _: &Peer) -> bool {
        false
    }
    fn is_on_loopback(&self) -> bool {
        false
    }
    // Clients outside of the host's namespace are exempt if the line has the flag.
    fn is_in_agent_cgroup(&self) -> bool {
        self.1 != HOST
    }
}

/// Reads the input byte by byte, and zeros after its end.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }
    fn some(&mut self, count: usize) -> &'a [u8] {
        let count = count.min(self.0.len());
        self.0.split_off(..count).unwrap_or_default()
    }
}

/// Returns one of a few peers, which are used as frontends, as backends, or as both.
fn peer(number: u8) -> Peer {
    let address = match number % 12 {
        0 => IpAddr::from([127, 0, 0, 1]),
        1 => IpAddr::V6(Ipv6Addr::LOCALHOST),
        n @ 2..=4 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into())),
        n => IpAddr::from([10, 96, 0, n]),
    };
    Peer { address: Address::from(address).words(), port: 80 + u16::from(number / 128) }
}

/// The results that would be correct, as they follow from everything that the maps ever contained.
#[derive(Default)]
struct Known {
    /// The services that a destination ever had, and the owners whose slots it ever accepted.
    dialled: HashMap<Wanting, HashSet<u32>>,
    /// The owners that the frontends of a service ever accepted. Affinity can give a backend of one frontend
    /// to clients of another.
    accepted: HashMap<u32, HashSet<u32>>,
    /// The peers in the slots of each owner.
    owned: HashSet<(u32, [u64; 2], u16)>,
}

type Wanting = ([u64; 2], u32);

impl Known {
    fn look(&mut self, maps: &MemoryMaps) {
        for line in (0..LINES).filter_map(|number| maps.line(number)) {
            let (address, service, heir) =
                (line.read().address.words(), line.service(), line.heir());
            let at = self.dialled.entry((address, line.key_word())).or_default();
            at.extend([service, heir]);
            self.accepted.entry(service).or_default().extend([service, heir]);
        }
        for slot in (0..SLOTS).filter_map(|number| maps.slot(number)) {
            self.owned.insert((slot.owner(), slot.address(), slot.port()));
        }
    }

    fn allows(&self, dialled: &Peer, protocol: Protocol, given: &Peer) -> bool {
        let wanted = Wanted::destination(dialled.address, dialled.port, protocol);
        let Some(services) = self.dialled.get(&(wanted.address, wanted.key)) else { return false };
        let owners = services.iter().filter_map(|service| self.accepted.get(service)).flatten();
        let mut owners = owners.chain(services);
        owners.any(|owner| *owner != 0 && self.owned.contains(&(*owner, given.address, given.port)))
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let maps = MemoryMaps::new(LINES, SLOTS, PLACES, LIMITS);
    let wild = bytes.byte() & 1 == 1;
    // Never 0, of which only zeros follow.
    maps.random.set((u64::from(bytes.byte()) << 32) + 1);
    let mut known = Known::default();
    let mut steps = 0;
    while !bytes.0.is_empty() && steps < 400 {
        steps += 1;
        let counted = maps.counted_in_all();
        let (action, client_bits) = (bytes.byte(), bytes.byte());
        let protocol = if client_bits & 1 == 0 { Protocol::Tcp } else { Protocol::Udp };
        let socket = Socket { cookie: SocketCookie(u64::from(client_bits % 16)), protocol };
        let namespace = if client_bits & 32 == 0 { HOST } else { HOST + 1 };
        let client = Client(socket, namespace, client_bits & 64 == 0);
        match action % 12 {
            what @ 0..=2 => {
                let dialled = peer(bytes.byte());
                let verdict = match what {
                    0 => connect(&maps, &client, &dialled),
                    _ => sendmsg(&maps, &client, &dialled),
                };
                if let (Verdict::Rewrite(given), false) = (verdict, wild) {
                    // A send of a connected socket has its backend as destination.
                    let plain = what != 0 && given == dialled;
                    assert!(
                        plain || known.allows(&dialled, protocol, &given),
                        "{dialled:?} {given:?}"
                    );
                }
            }
            3 => drop(recvmsg(&maps, socket.cookie, &peer(bytes.byte()))),
            4 => drop(getpeername(&maps, socket.cookie, &peer(bytes.byte()))),
            5 => release(&maps, socket.cookie),
            6 => publish(&maps, &mut bytes, protocol),
            7 => {
                let (number, given) = (bytes.byte(), peer(bytes.byte()));
                let [owner, flags, threshold, alias] = [(); 4].map(|()| bytes.byte());
                if let Some(slot) = maps.slot(u32::from(number) % SLOTS) {
                    slot.write(&Slot {
                        address: Address::from_words(given.address),
                        port: given.port,
                        flags: u16::from(flags & 1),
                        owner: u32::from(owner % 6),
                        threshold: u32::from(threshold) << 24,
                        alias: u32::from(alias),
                    });
                }
            }
            8 => {
                let (given, service, sets) = (peer(bytes.byte()), bytes.byte() % 6, bytes.byte());
                let address = Address::from_words(given.address);
                let key =
                    BackendKey { address, port: given.port, _pad: 0, service: service.into() };
                let row = BackendRow { sets: sets & 3, state: sets, _pad: 0, weight: 1 };
                // The agent writes rows of members only for existing slots.
                if wild || known.owned.contains(&(service.into(), given.address, given.port)) {
                    maps.backends.borrow_mut().insert(key, row);
                }
            }
            9 => maps.clock.set(maps.clock.get() + (u64::from(client_bits) << 32)),
            _ => {
                let (number, at) = (u32::from(client_bits), usize::from(bytes.byte()));
                let count = usize::from(bytes.byte() % 32);
                match (action / 12 % 4, wild) {
                    (0, _) => maps.overwrite_slot(number, at, bytes.some(count)),
                    (1, true) => maps.overwrite_origin(number, at, bytes.some(count)),
                    (2, true) => maps.overwrite_rows(number as usize, bytes.some(count)),
                    _ => maps.overwrite_line(number, at, bytes.some(count)),
                }
            }
        }
        let counted = maps.counted_in_all() - counted;
        assert!(counted < LOOP, "a call counted {counted} events");
        known.look(&maps);
    }
});

/// Fills a line as the agent does, for one of the peers.
fn publish(maps: &MemoryMaps, bytes: &mut Bytes<'_>, protocol: Protocol) {
    let (dialled, step) = (peer(bytes.byte()), bytes.byte());
    let [service, heir, first, count, flags, affinity] = [(); 6].map(|()| bytes.byte());
    let wanted = Wanted::destination(dialled.address, dialled.port, protocol);
    let home = wanted.home(maps.seed(), LINES);
    let step = step % 16;
    let number = (home + u32::from(step)) % LINES;
    let (Some(at_home), Some(line)) = (maps.line(home), maps.line(number)) else { return };
    line.set_address(wanted.address);
    line.set_service(u32::from(service % 6));
    line.set_heir(u32::from(heir % 6));
    let set = match count {
        0 => Set::REFUSE,
        count => Set { first: u32::from(first) % 20, count: u32::from(count) % 20 },
    };
    line.set_set_word(set.word());
    line.set_flags(u16::from(flags & 1));
    line.set_affinity_seconds(u32::from(affinity & 15));
    line.set_generation(line.generation().wrapping_add(u32::from(affinity >> 7)));
    at_home.set_reach(at_home.reach().max(step));
    line.set_key_word(wanted.key);
}
