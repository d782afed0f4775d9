//! The origin of each socket: its place in the origins array, or its overflow entry.
//!
//! A place is claimed by adding 1 to its count and reading it back: 1 means that the place is ours,
//! anything else means that it is another's and the claim is taken back. Two that race both go to
//! the overflow, which is correct. A record is a socket's own while the place carries its cookie.

use super::draw::{Draw, draw_by};
use super::record::{FoundLine, Kept, dialled_of, given_of, is_dialled, is_given, write};
use super::{Caller, Lookup, Peer, Socket, is_member, low, overflow};
use crate::cookie::SocketCookie;
use crate::layout::{Line, Origin, Record, RecordFlags};
use crate::shared::Shared;

#[inline(always)]
fn place<L: Lookup>(maps: &L, cookie: SocketCookie) -> Option<Shared<'_, Origin>> {
    maps.origin(low(cookie.0) & (maps.origins() - 1))
}

/// Takes a free place for a socket, or one that it has: true when it is now the socket's.
#[inline(always)]
fn take(
    place: Shared<'_, Origin>,
    socket: &Socket,
    dialled: &Peer,
    kept: &Kept,
    flags: u8,
) -> bool {
    if place.cookie() != socket.cookie.0 {
        if place.count() != 0 {
            return false;
        }
        place.claim();
        if place.count() != 1 {
            place.unclaim();
            return false;
        }
    }
    write(place.record(), socket, dialled, kept, flags);
    place.set_cookie(socket.cookie.0);
    true
}

/// Records a connect. All that the socket had before is void: a connected socket hears its peer only.
#[inline(always)]
pub(super) fn connected<L: Lookup>(
    maps: &L,
    caller: &impl Caller,
    socket: &Socket,
    dialled: &Peer,
    kept: &Kept,
) {
    let flags = RecordFlags::CONNECTED;
    let Some(place) = place(maps, socket.cookie) else { return };
    if place.spilled() != 0 {
        overflow::remove(maps, place, socket.cookie);
    }
    if !take(place, socket, dialled, kept, flags) {
        overflow::add(maps, place, (caller, socket), dialled, kept, flags);
    }
}

/// Records the first send of an unconnected socket to a frontend.
#[inline(always)]
pub(super) fn sent<L: Lookup>(
    maps: &L,
    caller: &impl Caller,
    socket: &Socket,
    dialled: &Peer,
    kept: &Kept,
) {
    let Some(place) = place(maps, socket.cookie) else { return };
    let record = place.record();
    let others = place.cookie() == socket.cookie.0
        && (record.flags() & RecordFlags::CONNECTED != 0 || !is_dialled(record, dialled));
    let flags = overflow::share(maps, place, socket, dialled, &kept.given);
    if others || !take(place, socket, dialled, kept, flags) {
        overflow::add(maps, place, (caller, socket), dialled, kept, flags);
    }
}

/// The backend that an earlier send to this frontend was given, while it is a member.
///
/// Also for a send with an address on a connected socket: to the same frontend, the same backend.
#[inline(always)]
pub(super) fn current<L: Lookup>(
    maps: &L,
    cookie: SocketCookie,
    dialled: &Peer,
    found: FoundLine<'_>,
) -> Option<Peer> {
    let place = place(maps, cookie)?;
    let record = place.record();
    if place.cookie() == cookie.0 && is_dialled(record, dialled) {
        let kept = keep(maps, place, cookie, record, found);
        // A connected socket whose peer is gone may have been given another by a send.
        if kept.is_some() || record.flags() & RecordFlags::CONNECTED == 0 {
            return kept;
        }
    }
    if place.spilled() == 0 {
        return None;
    }
    let record = overflow::by_dialled(maps, cookie, dialled)?;
    keep(maps, place, cookie, record, found)
}

/// The backend of a record, if it may be kept. The record may be older than the line, or of an index that was
/// in this one's place.
#[inline(always)]
fn keep<L: Lookup>(
    maps: &L,
    place: Shared<'_, Origin>,
    cookie: SocketCookie,
    record: Shared<'_, Record>,
    FoundLine { line, number, generation }: FoundLine<'_>,
) -> Option<Peer> {
    let given = given_of(record);
    if record.line() != number || record.generation() != generation {
        if !is_member(maps, line, line.service(), &given) {
            return None;
        }
        record.set_line(number);
        record.set_generation(generation);
    }
    let flags = record.flags();
    if flags & RecordFlags::SHARED != 0 && flags & RecordFlags::LATEST == 0 {
        overflow::make_latest(maps, place, cookie, record, &given);
    }
    Some(given)
}

/// Draws for a further frontend of a socket, if it can be a backend that none of its other frontends
/// was given: the source of a reply then tells what was dialled.
#[inline(always)]
pub(super) fn draw_apart<L: Lookup>(
    maps: &L,
    cookie: SocketCookie,
    dialled: &Peer,
    line: Shared<'_, Line>,
) -> Draw {
    let mut random = maps.random();
    let Some(place) = place(maps, cookie) else { return draw_by(maps, line, random) };
    let has_others = place.cookie() == cookie.0 || place.spilled() != 0;
    let mut tries = 0;
    loop {
        let drawn = draw_by(maps, line, random);
        let Draw::Backend(given) = drawn else { return drawn };
        tries += 1;
        if !has_others
            || tries == APART_TRIES
            || !overflow::is_given_to_another(maps, place, cookie, dialled, &given)
        {
            return drawn;
        }
        // The next slot of the set, for sets of up to APART_TRIES; larger ones land somewhere else.
        random = random.wrapping_add(u32::MAX / line.set().count.max(1));
    }
}

/// The most slots that are tried before two frontends of a socket share a backend.
const APART_TRIES: u32 = 4;

/// Returns the dialled address for which this source was given.
#[inline(always)]
pub(super) fn dialled<L: Lookup>(maps: &L, cookie: SocketCookie, source: &Peer) -> Option<Peer> {
    let place = place(maps, cookie)?;
    let record = place.record();
    if place.cookie() == cookie.0 && is_given(record, source) {
        let flags = record.flags();
        if flags & RecordFlags::SHARED == 0 || flags & RecordFlags::LATEST != 0 {
            return Some(dialled_of(record));
        }
        // Another record of the overflow was sent to later, or has gone meanwhile.
        let latest = overflow::by_given(maps, cookie, source);
        return Some(dialled_of(latest.unwrap_or(record)));
    }
    if place.spilled() == 0 {
        return None;
    }
    overflow::by_given(maps, cookie, source).map(dialled_of)
}

/// Returns the address dialled by the connect for which this peer was given.
#[inline(always)]
pub(super) fn connected_to<L: Lookup>(maps: &L, cookie: SocketCookie, peer: &Peer) -> Option<Peer> {
    let place = place(maps, cookie)?;
    let is_it = |record: Shared<'_, Record>| {
        record.flags() & RecordFlags::CONNECTED != 0 && is_given(record, peer)
    };
    if place.cookie() == cookie.0 && is_it(place.record()) {
        return Some(dialled_of(place.record()));
    }
    if place.spilled() == 0 {
        return None;
    }
    // A connect makes a new entry, so its record is the first.
    let record = maps.overflow(cookie)?.record(0);
    is_it(record).then(|| dialled_of(record))
}

/// Drops what is kept of a socket that goes on to live.
#[inline(always)]
pub(super) fn forget<L: Lookup>(maps: &L, cookie: SocketCookie) {
    let Some(place) = place(maps, cookie) else { return };
    if place.cookie() == cookie.0 {
        // Unlike a release, this socket may ask again: its cookie must not be there.
        place.set_cookie(0);
        place.unclaim();
    }
    if place.spilled() != 0 {
        overflow::remove(maps, place, cookie);
    }
}

/// Drops what is kept of a socket that is gone. The cookie stays: cookies are never used again, and
/// a place that is not written needs no second look at who wrote it.
#[inline(always)]
pub(super) fn release<L: Lookup>(maps: &L, cookie: SocketCookie) {
    let Some(place) = place(maps, cookie) else { return };
    if place.cookie() == cookie.0 {
        place.unclaim();
    }
    if place.spilled() != 0 {
        overflow::remove(maps, place, cookie);
    }
}
