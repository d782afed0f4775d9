//! Session affinity: the new connections of a client to a service keep their backend, whichever of its
//! frontends is dialled, while the backend is eligible and the last of them is not too long ago
//! (docs/decisions/0008-session-affinity.md, 0020-shares-of-clients.md).

use core::hint::cold_path;

use super::draw::{Draw, draw_by};
use super::record::FoundLine;
use super::share::{self, SharedMap};
use super::{Caller, Counter, Lookup, Peer, is_member, origins};
use crate::cookie::SocketCookie;
use crate::layout::{Address, AffinityKey, AffinityRow, Line};
use crate::shared::Shared;

const NANOSECONDS: u64 = 1_000_000_000;

/// A request: client, frontend and line. Without padding: it crosses a call between two frames of the kernel's.
struct Asked {
    key: AffinityKey,
    line: u32,
    generation: u32,
    /// The client that the row is counted for, once it is known.
    counted_for: u32,
    /// 1: there is no row yet.
    is_new: u32,
}

/// The backend that is found or drawn, without padding for the same reason.
struct Outcome {
    /// A backend, where there is one.
    address: [u64; 2],
    /// Its port; or the random number to draw by.
    port_or_random: u32,
    what: u32,
    /// The client that the row which was found is counted for; 0 where that is not known.
    counted_for: u32,
    /// 1: the backend stayed while the line changed.
    is_stale: u32,
}

/// This backend.
const BACKEND: u32 = 0;
/// The caller has an entry that is void: too old, its backend gone, or another key's.
const VOID: u32 = 1;
/// It has none.
const NONE: u32 = 2;
/// The service has no backend for it.
const REFUSE: u32 = 3;
/// The line is no frontend yet, or none any more.
const NOTHING: u32 = 4;

/// The backend that the caller keeps by affinity; or a draw, which is what it keeps from now on. And
/// what to count.
///
/// Without affinity the draw goes apart from what the socket with the cookie `apart` uses otherwise.
#[inline(always)]
pub(super) fn choose<L: Lookup>(
    maps: &L,
    caller: &impl Caller,
    dialled: &Peer,
    found: FoundLine<'_>,
    apart: Option<SocketCookie>,
) -> (Draw, Counter) {
    let FoundLine { line, number, generation } = found;
    if line.affinity_seconds() == 0 {
        let drawn = match apart {
            None => draw_by(maps, line, maps.random()),
            Some(cookie) => origins::draw_apart(maps, cookie, dialled, line),
        };
        return (drawn, Counter::Translated);
    }
    cold_path();
    let family = if Address::from_words(dialled.address).is_v4() { 4 } else { 6 };
    let key = AffinityKey { client: caller.client().0, service: line.service(), family };
    let mut asked = Asked { key, line: number, generation, counted_for: 0, is_new: 0 };
    let known = look(maps, line, &asked);
    if known.what == BACKEND {
        if known.is_stale != 0 {
            // The next connection need not ask for the members again. The row is replaced: a write into
            // it could come too late, and fall into another client's.
            asked.counted_for = known.counted_for;
            store(maps, &asked, known.address, known.port());
        }
        return (known.draw(), Counter::Affine);
    }
    let drawn = redraw(maps, line, known.port_or_random);
    if drawn.what == BACKEND {
        asked.is_new = (known.what == NONE) as u32;
        // A row that takes the place of another is counted for the same client.
        asked.counted_for = match known.counted_for {
            0 => caller.client_key(),
            counted_for => counted_for,
        };
        if let Some(first) = remember(maps, line, &asked, &drawn) {
            return (first, Counter::Affine);
        }
    }
    (drawn.draw(), Counter::Translated)
}

/// Gives the backend that was drawn to the client from now on; or finds the one that another connection
/// was given meanwhile. Where the client has its share, or there is no room, it goes on without affinity.
#[inline(always)]
fn remember<L: Lookup>(
    maps: &L,
    line: Shared<'_, Line>,
    asked: &Asked,
    drawn: &Outcome,
) -> Option<Draw> {
    let is_new = asked.is_new != 0;
    if is_new
        && !share::claim(maps, asked.counted_for, SharedMap::Affinity, maps.affinity_capacity())
    {
        maps.count(Counter::AffinityUnrecorded);
        return None;
    }
    if store(maps, asked, drawn.address, drawn.port()) {
        return None;
    }
    if is_new {
        share::release(maps, asked.counted_for, SharedMap::Affinity);
        // Two connects at once may both have found nothing: the first has its own, and so has this one.
        let first = look(maps, line, asked);
        if first.what == BACKEND {
            return Some(first.draw());
        }
    }
    maps.count(Counter::AffinityUnrecorded);
    None
}

impl Outcome {
    #[inline(always)]
    fn port(&self) -> u16 {
        (self.port_or_random & 0xffff) as u16
    }

    #[inline(always)]
    fn draw(&self) -> Draw {
        match self.what {
            BACKEND => Draw::Backend(Peer { address: self.address, port: self.port() }),
            REFUSE => Draw::Refuse,
            _ => Draw::Nothing,
        }
    }

    #[inline(always)]
    fn without(what: u32, random: u32) -> Self {
        Self { address: [0, 0], port_or_random: random, what, counted_for: 0, is_stale: 0 }
    }

    #[inline(always)]
    fn with(given: &Peer) -> Self {
        let (address, port_or_random) = (given.address, given.port as u32);
        Self { address, port_or_random, what: BACKEND, counted_for: 0, is_stale: 0 }
    }
}

/// Draws, in a function of its own: a second copy in the hooks would be in the way of the first.
#[inline(never)]
fn redraw<L: Lookup>(maps: &L, line: Shared<'_, Line>, random: u32) -> Outcome {
    match draw_by(maps, line, random) {
        Draw::Backend(given) => Outcome::with(&given),
        Draw::Refuse => Outcome::without(REFUSE, 0),
        Draw::Nothing => Outcome::without(NOTHING, 0),
    }
}

/// Reads the client's entry. If it gives a backend, this connection counts as the client's latest.
///
/// A function of its own in the kernel too: the frames of a program have 512 bytes together. (Not
/// `cold`: that moves it to another section, where aya's linker takes it for another function.)
#[inline(never)]
fn look<L: Lookup>(maps: &L, line: Shared<'_, Line>, asked: &Asked) -> Outcome {
    let Some(entry) = maps.affinity(&asked.key) else {
        return Outcome::without(NONE, maps.random());
    };
    let row = entry.read();
    // Asked for after `used` was read. Another processor may have written it since the entry was found.
    let now = maps.now();
    let age = now.saturating_sub(row.used);
    let is_late = age >= line.affinity_seconds() as u64 * NANOSECONDS;
    let is_whole = row.seal == seal(&asked.key, &row);
    if is_late || !is_whole || !is_eligible(maps, line, asked, &row) {
        // Two connects at once that find the same entry void draw the same backend.
        let random = again(maps.seed(), &asked.key, &row);
        // A row that is not whole may be another client's.
        let counted_for = if is_whole { row.counted_for } else { 0 };
        return Outcome { counted_for, ..Outcome::without(VOID, random) };
    }
    let kept = Outcome::with(&backend_of(&row));
    if row.line == asked.line && row.generation != asked.generation {
        return Outcome { counted_for: row.counted_for, is_stale: 1, ..kept };
    }
    entry.set_used(now);
    kept
}

/// Returns true if the backend of an entry may have clients of this line.
#[inline(always)]
fn is_eligible<L: Lookup>(
    maps: &L,
    line: Shared<'_, Line>,
    asked: &Asked,
    row: &AffinityRow,
) -> bool {
    (row.line == asked.line && row.generation == asked.generation)
        || is_member(maps, line, asked.key.service, &backend_of(row))
}

#[inline(always)]
fn backend_of(row: &AffinityRow) -> Peer {
    Peer { address: row.address.words(), port: row.port }
}

/// Stores a row with this backend; false when there is no room, where there was no row and now is one, or
/// where there was one and the agent has removed it.
#[inline(never)]
fn store<L: Lookup>(maps: &L, asked: &Asked, address: [u64; 2], port: u16) -> bool {
    let mut row = AffinityRow {
        address: Address::from_words(address),
        port,
        _pad: 0,
        line: asked.line,
        generation: asked.generation,
        seal: 0,
        used: maps.now(),
        counted_for: asked.counted_for,
        _pad1: 0,
    };
    row.seal = seal(&asked.key, &row);
    maps.store_affinity(&asked.key, &row, asked.is_new != 0)
}

/// The seal that tells that a row is this key's, and whole.
#[inline(always)]
pub(super) fn seal(key: &AffinityKey, row: &AffinityRow) -> u32 {
    let [first, second] = row.address.words();
    let mut mixed = mix(0x9e37_79b9_7f4a_7c15, key.client);
    mixed = mix(mixed, join(key.service, key.family));
    mixed = mix(mixed, first);
    mixed = mix(mixed, second);
    mixed = mix(mixed, join(row.line, row.port as u32));
    mixed = mix(mixed, join(row.generation, row.counted_for));
    (mixed >> 32) as u32
}

/// 32 bits that are equal on every processor that reads the same row of the same client.
#[inline(always)]
fn again(seed: u64, key: &AffinityKey, row: &AffinityRow) -> u32 {
    let mixed = mix(mix(mix(seed, row.used), row.seal as u64), key.client);
    (mix(mixed, join(key.service, key.family)) >> 32) as u32
}

/// A round of splitmix64's finaliser.
#[inline(always)]
const fn mix(state: u64, word: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 29)
}

#[inline(always)]
const fn join(low: u32, high: u32) -> u64 {
    (high as u64) << 32 | low as u64
}
