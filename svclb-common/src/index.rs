//! How a frontend finds its line in `svclb_index`.
//!
//! Open addressing: a frontend's hash names its home line, and it lies there or in one of the next
//! [`NEIGHBOURHOOD`] - 1 lines (wrapping around). A home line holds the distance of its farthest frontend, so
//! that looking up a non-Service destination mostly costs one line. A frontend that finds no free line there
//! makes the agent create larger maps, long before they are half full (docs/decisions/0028).
//!
//! The reader here runs in the kernel; the writer (svclb-core's `index`) uses the same hash and the
//! same neighbourhood. Rules that the writer keeps and the reader relies on:
//!
//! 1. A line is published by its key word, stored after everything else, and `reach` is raised after
//!    that. A reader that misses it meanwhile answers as of before.
//! 2. A line is emptied by its key word first. It is reused only after every program that was running
//!    then has ended (an RCU grace period), so no reader ever sees two frontends in one line.
//! 3. A frontend never moves to another line while it exists.

use crate::layout::{Address, BackendKey, Line, Protocol, Scope, Set};
use crate::shared::Shared;

/// Number of lines in which a frontend may lie: its home line and those behind it. With 32, maps are nearly
/// half full before a frontend finds no line (docs/decisions/0028).
pub const NEIGHBOURHOOD: u32 = 32;

/// The key of a lookup: a frontend, as words in this machine's order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// [`crate::layout::Address::words`].
    pub address: [u64; 2],
    /// [`Line::key_word`].
    pub key: u32,
}

impl Wanted {
    /// The frontend with this address, port (host order), protocol and scope.
    #[inline(always)]
    pub const fn new(address: [u64; 2], port: u16, protocol: Protocol, scope: Scope) -> Self {
        Self { address, key: Line::key_word(port, protocol as u8, scope as u8) }
    }

    /// Returns the key of a destination: loopback as its one address, for clients in the host's network
    /// namespace; every other address as it is, for every client.
    ///
    /// 127.0.0.0/8, v4-mapped too, is 127.0.0.1 (RFC 1122 3.2.1.3); `::1` is `::1` (RFC 4291 2.5.3).
    #[inline(always)]
    pub const fn destination(address: [u64; 2], port: u16, protocol: Protocol) -> Self {
        // Neither has a bit in its first word: most IPv6 destinations are done here.
        if address[0] == 0 {
            if address[1] & LOOPBACK_V4_MASK == LOOPBACK_V4 {
                let address = Address::from_v4([127, 0, 0, 1]).words();
                return Self::new(address, port, protocol, Scope::Host);
            }
            if address[1] == LOOPBACK_V6 {
                return Self::new(address, port, protocol, Scope::Host);
            }
        }
        Self::new(address, port, protocol, Scope::Any)
    }

    /// True for a frontend that is only for clients in the host's network namespace.
    #[inline(always)]
    pub const fn is_for_host(&self) -> bool {
        self.key.to_ne_bytes()[3] == Scope::Host as u8
    }

    /// True when it lies in this line.
    #[inline(always)]
    pub fn is_in(&self, line: Shared<'_, Line>) -> bool {
        let address = line.address();
        line.key_word() == self.key
            && address[0] == self.address[0]
            && address[1] == self.address[1]
    }

    /// Its home among `lines` lines, which must be a power of two.
    ///
    /// Four rounds of multiply and shift with the odd constants of splitmix64's finaliser; the seed
    /// keeps tenants who may choose addresses from choosing neighbourhoods that collide.
    #[inline(always)]
    pub const fn home(&self, seed: u64, lines: u32) -> u32 {
        home_of(self.hash(seed), lines)
    }

    /// Its bit among [`Line::marks`] of its home, if it is a backend.
    #[inline(always)]
    pub const fn mark(&self, seed: u64) -> u64 {
        mark_of(self.hash(seed))
    }

    #[inline(always)]
    const fn hash(&self, seed: u64) -> u64 {
        const A: u64 = 0xbf58_476d_1ce4_e5b9;
        const B: u64 = 0x94d0_49bb_1331_11eb;
        let mut h = (seed ^ self.address[0]).wrapping_mul(A);
        h = (h ^ (h >> 29) ^ self.address[1]).wrapping_mul(B);
        h = (h ^ (h >> 32) ^ self.key as u64).wrapping_mul(A);
        // Without this round the ports of one address have homes at equal distances, and those of consecutive
        // addresses pile up.
        (h ^ (h >> 32)).wrapping_mul(B)
    }
}

/// True for an address of loopback: 127.0.0.0/8, v4-mapped too, or `::1`.
#[inline(always)]
pub const fn is_loopback(address: [u64; 2]) -> bool {
    address[0] == 0 && (address[1] & LOOPBACK_V4_MASK == LOOPBACK_V4 || address[1] == LOOPBACK_V6)
}

/// The bits of an address's second word that tell 127.0.0.0/8, in this machine's order.
const LOOPBACK_V4_MASK: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]);
/// The value of these bits for 127.0.0.0/8.
const LOOPBACK_V4: u64 = u64::from_ne_bytes([0, 0, 0xff, 0xff, 127, 0, 0, 0]);
/// The second word of `::1`.
const LOOPBACK_V6: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1]);

#[inline(always)]
const fn home_of(hash: u64, lines: u32) -> u32 {
    ((hash >> 26) & 0xffff_ffff) as u32 & (lines - 1)
}

#[inline(always)]
const fn mark_of(hash: u64) -> u64 {
    1 << (hash >> 58)
}

/// Looks a frontend up among `lines` lines (a power of two), which `line` gives by number. Returns its line
/// and the number of that.
///
/// # Errors
/// No frontend has this address: returns whether it has a mark, as every backend has.
#[inline(always)]
pub fn find<'a>(
    wanted: &Wanted,
    seed: u64,
    lines: u32,
    line: impl Fn(u32) -> Option<Shared<'a, Line>>,
) -> Result<(Shared<'a, Line>, u32), bool> {
    let hash = wanted.hash(seed);
    let home = home_of(hash, lines);
    // A missing line means that the maps are smaller than `lines`: any destination may have a mark then.
    let Some(at_home) = line(home) else { return Err(true) };
    if wanted.is_in(at_home) {
        return Ok((at_home, home));
    }
    let reach = at_home.reach() as u32;
    let mut step = 1;
    // The second bound is for the verifier, and for a byte that another program wrote.
    while step <= reach && step < NEIGHBOURHOOD {
        let number = (home + step) & (lines - 1);
        let Some(next) = line(number) else { return Err(true) };
        if wanted.is_in(next) {
            return Ok((next, number));
        }
        step += 1;
    }
    Err(at_home.marks() & mark_of(hash) != 0)
}

/// Puts a frontend into an empty line: the key word, which publishes it, comes last. `reach` and `marks`
/// belong to the place and stay.
pub fn publish(place: Shared<'_, Line>, line: &Line) {
    place.set_address(line.address.words());
    place.set_service(line.service);
    place.set_heir(line.heir);
    place.set_flags(line.flags);
    place.set_affinity_seconds(line.affinity_seconds);
    place.set_generation(line.generation);
    place.set_set_word(line.set.word());
    place.set_key_word(Line::key_word(line.port, line.protocol, line.scope));
}

/// Takes the frontend out of a line: the key word first. What belongs to the place stays, and so does the
/// generation.
pub fn empty(place: Shared<'_, Line>) {
    place.set_key_word(0);
    place.set_set_word(Set::ABSENT.word());
    place.set_service(0);
    place.set_heir(0);
    place.set_flags(0);
    place.set_affinity_seconds(0);
}

/// The homes of a backend's marks, of either protocol, and the marks.
fn marks_of(backend: &BackendKey, seed: u64, lines: u32) -> [(u32, u64); 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| {
        // As a connect straight to it looks it up.
        let wanted = Wanted::destination(backend.address.words(), backend.port, protocol);
        (wanted.home(seed, lines), wanted.mark(seed))
    })
}

/// Leaves a backend's marks at its homes, of either protocol, before a client can be given it. False when
/// a home is not there.
pub fn mark<'a>(
    backend: &BackendKey,
    seed: u64,
    lines: u32,
    line: impl Fn(u32) -> Option<Shared<'a, Line>>,
) -> bool {
    marks_of(backend, seed, lines).into_iter().all(|(number, mark)| {
        let Some(home) = line(number) else { return false };
        home.set_marks(home.marks() | mark);
        true
    })
}

/// Notes that a backend's marks are needed, in words of which each is a line's. Their number is a power of
/// two, that of the lines a hash can name.
pub fn need_marks(needed: &mut [u64], backend: &BackendKey, seed: u64) {
    let Ok(lines) = u32::try_from(needed.len()) else { return };
    for (number, mark) in marks_of(backend, seed, lines) {
        if let Some(word) = needed.get_mut(number as usize) {
            *word |= mark;
        }
    }
}

/// Takes every mark away that is not needed.
///
/// A socket may remember a backend for as long as it lives, and a hook that runs may be about to make it
/// remember one. So what is needed is: the marks of all that were members at a moment, and of all that
/// became members since; and those of all that sockets remember, read after every hook has ended that ran
/// at that moment.
pub fn keep_marks<'a>(needed: &[u64], line: impl Fn(u32) -> Option<Shared<'a, Line>>) {
    for (number, needed) in (0..).zip(needed) {
        let Some(line) = line(number) else { return };
        let marks = line.marks();
        if marks & !needed != 0 {
            line.set_marks(marks & needed);
        }
    }
}
