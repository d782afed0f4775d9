//! Session affinity: the new connections of a client to a service keep their backend, whichever of its
//! frontends is dialled, while the backend is eligible and the last of them is not too long ago
//! (docs/decisions/0008-session-affinity.md).

use core::hint::cold_path;

use super::draw::{Draw, draw_by};
use super::{Caller, Counter, Lookup, Peer, is_member, origins};
use crate::layout::{Address, AffinityKey, AffinityRow, Line};
use crate::shared::Shared;

const NANOSECONDS: u64 = 1_000_000_000;

/// Who asks for what. Without padding: it crosses a call between two frames of the kernel's.
struct Asked {
    key: AffinityKey,
    line: u32,
    generation: u32,
}

/// What is found or drawn, without padding for the same reason.
struct Outcome {
    /// A backend, where there is one.
    address: [u64; 2],
    /// Its port; or the random number to draw by.
    port_or_random: u32,
    what: u32,
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
/// what to count. `number` and `generation` are the line's.
///
/// Without affinity the draw goes apart from what the socket with the cookie `apart` uses otherwise.
#[inline(always)]
pub(super) fn choose<L: Lookup>(
    maps: &L,
    caller: &impl Caller,
    dialled: &Peer,
    line: Shared<'_, Line>,
    (number, generation): (u32, u32),
    apart: Option<u64>,
) -> (Draw, Counter) {
    if line.affinity_seconds() == 0 {
        let drawn = match apart {
            None => draw_by(maps, line, maps.random()),
            Some(cookie) => origins::draw_apart(maps, cookie, dialled, line),
        };
        return (drawn, Counter::Translated);
    }
    cold_path();
    let family = if Address::from_words(dialled.address).is_v4() { 4 } else { 6 };
    let key = AffinityKey { client: caller.client(), service: line.service(), family };
    let asked = Asked { key, line: number, generation };
    let known = look(maps, line, &asked);
    if known.what == BACKEND {
        return (known.draw(), Counter::Affine);
    }
    let drawn = redraw(maps, line, known.port_or_random);
    if drawn.what == BACKEND
        && !store(maps, &asked, drawn.address, drawn.port(), known.what)
        && known.what == NONE
    {
        // Two connects at once may both have found nothing: the first has its own, and so has this one.
        // Or there is no room: then the client goes on without.
        let first = look(maps, line, &asked);
        if first.what == BACKEND {
            return (first.draw(), Counter::Affine);
        }
    }
    (drawn.draw(), Counter::Translated)
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
        Self { address: [0, 0], port_or_random: random, what }
    }

    #[inline(always)]
    fn with(given: &Peer) -> Self {
        Self { address: given.address, port_or_random: given.port as u32, what: BACKEND }
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

/// What the caller's entry gives. If it is a backend, this connection counts as the client's latest.
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
    if is_late || row.seal != seal(&asked.key, &row) || !is_eligible(maps, line, asked, entry, &row)
    {
        // Two connects at once that find the same entry void draw the same backend.
        return Outcome::without(VOID, again(maps.seed(), &asked.key, &row));
    }
    entry.set_used(now);
    Outcome::with(&backend_of(&row))
}

/// Whether the backend of an entry may have the clients of this line.
#[inline(always)]
fn is_eligible<L: Lookup>(
    maps: &L,
    line: Shared<'_, Line>,
    asked: &Asked,
    entry: Shared<'_, AffinityRow>,
    row: &AffinityRow,
) -> bool {
    let is_own = row.line == asked.line;
    if is_own && row.generation == asked.generation {
        return true;
    }
    if !is_member(maps, line, asked.key.service, &backend_of(row)) {
        return false;
    }
    if is_own {
        // The line has changed and this backend stayed: the next connection need not ask again.
        let current = AffinityRow { generation: asked.generation, ..*row };
        entry.set_generation_and_seal(current.generation, seal(&asked.key, &current));
    }
    true
}

#[inline(always)]
fn backend_of(row: &AffinityRow) -> Peer {
    Peer { address: row.address.words(), port: row.port }
}

/// Gives the backend to the client from now on; false when there is no room, or where there was no entry
/// and now is one.
#[inline(never)]
fn store<L: Lookup>(maps: &L, asked: &Asked, address: [u64; 2], port: u16, what: u32) -> bool {
    let mut row = AffinityRow {
        address: Address::from_words(address),
        port,
        _pad: 0,
        line: asked.line,
        generation: asked.generation,
        seal: 0,
        used: maps.now(),
    };
    row.seal = seal(&asked.key, &row);
    maps.store_affinity(&asked.key, &row, what == NONE)
}

/// What tells that a row is this key's, and whole.
#[inline(always)]
pub(super) fn seal(key: &AffinityKey, row: &AffinityRow) -> u32 {
    let [first, second] = row.address.words();
    let mut mixed = mix(0x9e37_79b9_7f4a_7c15, key.client);
    mixed = mix(mixed, join(key.service, key.family));
    mixed = mix(mixed, first);
    mixed = mix(mixed, second);
    mixed = mix(mixed, join(row.line, row.port as u32));
    mixed = mix(mixed, row.generation as u64);
    (mixed >> 32) as u32
}

/// 32 bits that are the same for everybody who sees the same row of the same client.
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
