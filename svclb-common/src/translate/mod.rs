//! The datapath as plain functions, generic over the maps: what a hook decides, without the hook.
//!
//! Each function takes what the hook was told and answers what the hook must do. The hooks
//! (svclb-ebpf) read the context, call one of these and write the answer back; tests call them on
//! memory. Nothing here can fail an operation that has nothing to do with a Service: whatever the
//! maps hold, what is no frontend gets [`Verdict::Leave`].
//!
//! The kernel holds the socket's lock around the connect, sendmsg, recvmsg and getpeername hooks of
//! one socket, and release runs after the last of them: what is kept by cookie has one writer.

mod affinity;
mod draw;
mod origins;
mod overflow;
mod record;
mod share;

use crate::cookie::{NetnsCookie, SocketCookie};
use crate::index::{self, Wanted};
use crate::layout::{
    Address, AffinityKey, AffinityRow, BackendKey, BackendRow, ClientRow, Line, LineFlags, Origin,
    Overflow, Policy, Protocol, Slot,
};
use crate::shared::Shared;

use draw::Draw;
use record::{FoundLine, Kept};

/// The maps and helpers that the datapath uses. Implemented over the real maps in svclb-ebpf, over
/// memory in tests.
pub trait Lookup {
    /// Seed of the index's hash.
    fn seed(&self) -> u64;
    /// Number of lines that a hash can name: a power of two.
    fn index_lines(&self) -> u32;
    /// Number of places of the origins: a power of two.
    fn origins(&self) -> u32;
    /// A line of the index.
    fn line(&self, number: u32) -> Option<Shared<'_, Line>>;
    /// A slot.
    fn slot(&self, number: u32) -> Option<Shared<'_, Slot>>;
    /// A place of the origins.
    fn origin(&self, place: u32) -> Option<Shared<'_, Origin>>;
    /// A row of `svclb_backends`.
    fn backend(&self, key: &BackendKey) -> Option<BackendRow>;
    /// The overflow entry of a socket.
    fn overflow(&self, cookie: SocketCookie) -> Option<Shared<'_, Overflow>>;
    /// Makes an empty overflow entry where there is none; false when the map is full.
    fn add_overflow(&self, cookie: SocketCookie) -> bool;
    /// Removes an overflow entry; false when there is none.
    fn remove_overflow(&self, cookie: SocketCookie) -> bool;
    /// Number of entries that the overflow can hold.
    fn overflow_capacity(&self) -> u32;
    /// A row of `svclb_clients`. The agent may replace it, and the kernel may give its memory to another
    /// key then: a count may be off by a few until the agent's next audit.
    fn client(&self, key: u32) -> Option<Shared<'_, ClientRow>>;
    /// Makes such a row, with nothing counted, where there is none.
    fn add_client(&self, key: u32);
    /// A row of `svclb_affinity`. The kernel may give its memory to another key at any time.
    fn affinity(&self, key: &AffinityKey) -> Option<Shared<'_, AffinityRow>>;
    /// Number of rows that `svclb_affinity` can hold.
    fn affinity_capacity(&self) -> u32;
    /// Stores such a row: a new one, or in the place of the one that is there. False when there is one
    /// already where a new one was to be, none where one was to be replaced, or no room.
    fn store_affinity(&self, key: &AffinityKey, row: &AffinityRow, is_new: bool) -> bool;
    /// Cookie of the host's network namespace.
    fn host(&self) -> NetnsCookie;
    /// The kernel's monotonic clock, nanoseconds.
    fn now(&self) -> u64;
    /// 32 random bits.
    fn random(&self) -> u32;
    /// Adds one to a counter.
    fn count(&self, what: Counter);
}

/// The fields of [`crate::layout::Counters`], in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
#[expect(missing_docs, reason = "each is the field of that name, documented there")]
pub enum Counter {
    Translated,
    NotService,
    Refused,
    Overflowed,
    Unrecorded,
    Redrawn,
    Torn,
    Kept,
    Replies,
    Names,
    Affine,
    OverShare,
    AffinityUnrecorded,
}

/// An address and port that a socket names or meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// [`Address::words`].
    pub address: [u64; 2],
    /// Port, host order.
    pub port: u16,
}

impl Peer {
    #[inline(always)]
    fn is(&self, address: [u64; 2], port: u16) -> bool {
        self.port == port && self.address[0] == address[0] && self.address[1] == address[1]
    }
}

/// The socket that a hook runs for, before anything costly is asked of it: giving a new socket its
/// cookie takes the kernel as long as half of a translation, and most sockets dial no Service.
pub trait Caller {
    /// Its protocol.
    fn protocol(&self) -> Protocol;
    /// Its cookie.
    fn cookie(&self) -> SocketCookie;
    /// Cookie of the network namespace in which it was made: which client it is.
    fn client(&self) -> NetnsCookie;
    /// The client that entries of shared maps are counted for: a key of `svclb_clients`.
    fn client_key(&self) -> u32;
    /// False when it is known that no release will come for it: a socket of the kernel's own, such as a
    /// subflow of an MPTCP socket.
    fn is_released(&self) -> bool;
    /// True when it is a UDP socket that is connected to this peer.
    fn is_connected_to(&self, peer: &Peer) -> bool;
    /// True when its own address is a loopback one, by bind or by an earlier connect: the kernel keeps it,
    /// and sends nothing from there to another host.
    fn is_on_loopback(&self) -> bool;
    /// Returns true if it has [`crate::layout::AGENT_PRIORITY`]: a connection of the agent's to the API server.
    fn has_agent_priority(&self) -> bool {
        false
    }
    /// Returns true if the calling task is in the cgroup of the agent that loaded the programs, as an exec plugin
    /// is. False where that cgroup is the root, which every process may be in.
    fn is_in_agent_cgroup(&self) -> bool {
        false
    }
}

/// The socket that a hook runs for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    /// Its cookie.
    pub cookie: SocketCookie,
    /// Its protocol.
    pub protocol: Protocol,
}

/// The verdict on a connect or a send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing: it is no Service's.
    Leave,
    /// Go to this backend instead.
    Rewrite(Peer),
    /// Fail with ECONNREFUSED.
    Refuse,
}

/// Decides a connect.
#[inline(always)]
pub fn connect<L: Lookup>(maps: &L, caller: &impl Caller, dialled: &Peer) -> Verdict {
    let (line, number) = match find(maps, caller, dialled) {
        Ok(found) => found,
        Err(marked) => {
            // The socket may have been given this very backend before (connect, AF_UNSPEC, connect),
            // and must not be shown as connected to a Service now.
            if marked {
                origins::forget(maps, caller.cookie());
            }
            maps.count(Counter::NotService);
            return Verdict::Leave;
        }
    };
    // The agent must reach the API server whatever the maps say of it: what they say may be out of date,
    // and only the API server can correct it (docs/decisions/0017-the-way-to-the-api-server.md).
    let is_exempt = caller.has_agent_priority()
        || line.flags() & LineFlags::API_SERVER != 0 && caller.is_in_agent_cgroup();
    if is_exempt {
        return Verdict::Leave;
    }
    // Before the set: a generation that is newer than the set would let the socket settle on a
    // backend that is going.
    let generation = line.generation();
    let (drawn, counter) =
        affinity::choose(maps, caller, dialled, FoundLine { line, number, generation }, None);
    match drawn {
        Draw::Backend(given) => {
            let kept = Kept { number, generation, given };
            // A record that is never given up would be in the way of others for ever.
            if caller.is_released() {
                let socket = Socket { cookie: caller.cookie(), protocol: caller.protocol() };
                origins::connected(maps, caller, &socket, dialled, &kept);
            }
            maps.count(counter);
            Verdict::Rewrite(given)
        }
        // The socket keeps the peer, and the record, that it had.
        Draw::Refuse => {
            maps.count(Counter::Refused);
            Verdict::Refuse
        }
        Draw::Nothing => Verdict::Leave,
    }
}

/// Decides a send to an explicit address.
#[inline(always)]
pub fn sendmsg<L: Lookup>(maps: &L, caller: &impl Caller, dialled: &Peer) -> Verdict {
    // On a v6 socket that is connected to a mapped address every plain send comes here with the peer as
    // its destination. To what is no frontend it leaves the records alone. To a frontend it goes on to
    // its peer: that is the backend that the socket was given, and a frontend too, or a frontend that
    // the socket was connected to without a translation, which kube-proxy goes on to serve.
    let found = find(maps, caller, dialled).ok().filter(|_| !caller.is_connected_to(dialled));
    let Some((line, number)) = found else {
        maps.count(Counter::NotService);
        return Verdict::Leave;
    };
    let cookie = caller.cookie();
    let generation = line.generation();
    let found = FoundLine { line, number, generation };
    if let Some(given) = origins::current(maps, cookie, dialled, found) {
        maps.count(Counter::Kept);
        return Verdict::Rewrite(given);
    }
    // Without a record each datagram would go to another backend, and no answer be shown as coming from
    // what was dialled: kube-proxy does both for the kernel's own.
    if !caller.is_released() {
        maps.count(Counter::NotService);
        return Verdict::Leave;
    }
    let (drawn, counter) = affinity::choose(maps, caller, dialled, found, Some(cookie));
    match drawn {
        Draw::Backend(given) => {
            let kept = Kept { number, generation, given };
            let socket = Socket { cookie, protocol: caller.protocol() };
            origins::sent(maps, caller, &socket, dialled, &kept);
            maps.count(counter);
            Verdict::Rewrite(given)
        }
        Draw::Refuse => {
            maps.count(Counter::Refused);
            Verdict::Refuse
        }
        Draw::Nothing => Verdict::Leave,
    }
}

/// Returns the source to show: the address that the socket dialled, if `source` is a backend that it was given.
#[inline(always)]
pub fn recvmsg<L: Lookup>(maps: &L, cookie: SocketCookie, source: &Peer) -> Option<Peer> {
    let dialled = origins::dialled(maps, cookie, source)?;
    maps.count(Counter::Replies);
    Some(dialled)
}

/// Returns the address that the socket dialled, if it is connected to the backend that it was given.
#[inline(always)]
pub fn getpeername<L: Lookup>(maps: &L, cookie: SocketCookie, peer: &Peer) -> Option<Peer> {
    let dialled = origins::connected_to(maps, cookie, peer)?;
    maps.count(Counter::Names);
    Some(dialled)
}

/// Gives up what is kept for a socket that is closed for good.
#[inline(always)]
pub fn release<L: Lookup>(maps: &L, cookie: SocketCookie) {
    origins::release(maps, cookie);
}

/// The low half of a word.
#[inline(always)]
const fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

/// The line of a frontend; or whether what was dialled has a mark, as every backend has.
#[inline(always)]
fn find<'a, L: Lookup>(
    maps: &'a L,
    caller: &impl Caller,
    dialled: &Peer,
) -> Result<(Shared<'a, Line>, u32), bool> {
    let wanted = Wanted::destination(dialled.address, dialled.port, caller.protocol());
    let found = index::find(&wanted, maps.seed(), maps.index_lines(), |at| maps.line(at))?;
    // A pod's loopback is its own, and from loopback no packet reaches a backend. Whether it is marked was
    // not looked at: better once in vain.
    if wanted.is_for_host() && (caller.client() != maps.host() || caller.is_on_loopback()) {
        return Err(true);
    }
    Ok(found)
}

/// True while a service's backend may keep the clients that it has: it is in the set that this line uses.
#[inline(always)]
fn is_member<L: Lookup>(maps: &L, line: Shared<'_, Line>, service: u32, given: &Peer) -> bool {
    let policy =
        if line.flags() & LineFlags::EXTERNAL != 0 { Policy::External } else { Policy::Internal };
    let row = maps.backend(&BackendKey {
        address: Address::from_words(given.address),
        port: given.port,
        _pad: 0,
        service,
    });
    matches!(row, Some(row) if row.sets & policy.bit() != 0)
}

#[cfg(test)]
mod tests;
