//! Origins that found no place: one entry per socket, with a few records.
//!
//! Also what concerns several records of one socket: whether two frontends were given one backend.

use super::record::{Kept, dialled_of, is_dialled, is_given, write};
use super::share::{self, SharedMap};
use super::{Caller, Counter, Lookup, Peer, Socket};
use crate::cookie::SocketCookie;
use crate::layout::{NO_TAG, OVERFLOW_RECORDS, Origin, Overflow, Record, RecordFlags};
use crate::shared::Shared;

/// A hash of what was dialled or given; never [`NO_TAG`]. Two that collide cost a comparison.
#[inline(always)]
fn tag(peer: &Peer) -> u32 {
    let mixed = (peer.address[0] ^ peer.address[1]).wrapping_add(peer.port as u64);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32
}

/// Adds a record, or replaces the one of the same frontend. A client that has its share of the overflow
/// already goes on without a record.
#[inline(always)]
pub(super) fn add<L: Lookup>(
    maps: &L,
    place: Shared<'_, Origin>,
    (caller, socket): (&impl Caller, &Socket),
    dialled: &Peer,
    kept: &Kept,
    flags: u8,
) {
    let entry = match maps.overflow(socket.cookie) {
        Some(entry) => entry,
        None => {
            let client = caller.client_key();
            let capacity = maps.overflow_capacity();
            let reserved = if flags & RecordFlags::CONNECTED != 0 { capacity / 4 } else { 0 };
            if !share::claim(maps, client, SharedMap::Overflow, capacity - reserved) {
                maps.count(Counter::OverShare);
                maps.count(Counter::Unrecorded);
                return;
            }
            // Counted first: a reader that sees the count too early looks in vain, once.
            place.spill();
            if !maps.add_overflow(socket.cookie) {
                place.unspill();
                share::release(maps, client, SharedMap::Overflow);
                maps.count(Counter::Unrecorded);
                return;
            }
            let Some(entry) = maps.overflow(socket.cookie) else { return };
            entry.set_client(client);
            entry
        }
    };
    let at = match at_dialled(entry, dialled) {
        Some(at) if entry.record(at).flags() & RecordFlags::CONNECTED == 0 => at,
        _ => {
            let next = entry.next();
            let at = next as usize % OVERFLOW_RECORDS;
            // The record of a connect is always the first, and stays.
            let stays = at == 0 && entry.record(0).flags() & RecordFlags::CONNECTED != 0;
            entry.set_next(next.wrapping_add(1 + stays as u32));
            at + stays as usize
        }
    };
    write(entry.record(at), socket, dialled, kept, flags);
    entry.set_tags(at, tag(dialled), tag(&kept.given));
    maps.count(Counter::Overflowed);
}

/// Removes the entry of a socket, if it has one. In a function of its own: few sockets come here, and a
/// connect would have it twice.
#[inline(never)]
pub(super) fn remove<L: Lookup>(maps: &L, place: Shared<'_, Origin>, cookie: SocketCookie) {
    let Some(entry) = maps.overflow(cookie) else { return };
    // Only this socket's hooks remove the entry, so its memory is still this socket's.
    let client = entry.client();
    if maps.remove_overflow(cookie) {
        place.unspill();
        share::release(maps, client, SharedMap::Overflow);
    }
}

/// Finds the record of a frontend: one made by a send, else the one made by connect.
#[inline(always)]
fn at_dialled(entry: Shared<'_, Overflow>, dialled: &Peer) -> Option<usize> {
    let tag = tag(dialled);
    let mut connected = None;
    let mut at = 0;
    while at < OVERFLOW_RECORDS {
        if entry.dialled(at) == tag {
            let record = entry.record(at);
            if is_dialled(record, dialled) {
                if record.flags() & RecordFlags::CONNECTED == 0 {
                    return Some(at);
                }
                connected = Some(at);
            }
        }
        at += 1;
    }
    connected
}

/// The record of a frontend.
#[inline(always)]
pub(super) fn by_dialled<'a, L: Lookup>(
    maps: &'a L,
    cookie: SocketCookie,
    dialled: &Peer,
) -> Option<Shared<'a, Record>> {
    let entry = maps.overflow(cookie)?;
    at_dialled(entry, dialled).map(|at| entry.record(at))
}

/// The record of a backend; of several, the one that was sent to last.
#[inline(always)]
pub(super) fn by_given<'a, L: Lookup>(
    maps: &'a L,
    cookie: SocketCookie,
    source: &Peer,
) -> Option<Shared<'a, Record>> {
    let entry = maps.overflow(cookie)?;
    let tag = tag(source);
    let mut found = None;
    let mut at = 0;
    while at < OVERFLOW_RECORDS {
        if entry.dialled(at) != NO_TAG && entry.given(at) == tag {
            let record = entry.record(at);
            if is_given(record, source) {
                let flags = record.flags();
                if flags & RecordFlags::SHARED == 0 || flags & RecordFlags::LATEST != 0 {
                    return Some(record);
                }
                found = Some(record);
            }
        }
        at += 1;
    }
    found
}

/// Calls for each record of a socket that was given this backend for another frontend.
#[inline(always)]
fn each_sharer<L: Lookup>(
    maps: &L,
    place: Shared<'_, Origin>,
    cookie: SocketCookie,
    dialled: &Peer,
    given: &Peer,
    mut visit: impl FnMut(Shared<'_, Record>),
) {
    let own = place.record();
    if place.cookie() == cookie.0 && is_given(own, given) && !is_dialled(own, dialled) {
        visit(own);
    }
    if place.spilled() == 0 {
        return;
    }
    let Some(entry) = maps.overflow(cookie) else { return };
    let tag = tag(given);
    let mut at = 0;
    while at < OVERFLOW_RECORDS {
        if entry.dialled(at) != NO_TAG && entry.given(at) == tag {
            let record = entry.record(at);
            if is_given(record, given) && !is_dialled(record, dialled) {
                visit(record);
            }
        }
        at += 1;
    }
}

/// True when another frontend of the socket was given this backend.
#[inline(always)]
pub(super) fn is_given_to_another<L: Lookup>(
    maps: &L,
    place: Shared<'_, Origin>,
    cookie: SocketCookie,
    dialled: &Peer,
    given: &Peer,
) -> bool {
    let mut shared = false;
    each_sharer(maps, place, cookie, dialled, given, |_| shared = true);
    shared
}

/// The flags of a new record with this backend. Where others have it too, all of them say so, and
/// the new one is the latest.
#[inline(always)]
pub(super) fn share<L: Lookup>(
    maps: &L,
    place: Shared<'_, Origin>,
    socket: &Socket,
    dialled: &Peer,
    given: &Peer,
) -> u8 {
    let mut flags = 0;
    each_sharer(maps, place, socket.cookie, dialled, given, |other| {
        other.set_flags((other.flags() | RecordFlags::SHARED) & !RecordFlags::LATEST);
        flags = RecordFlags::SHARED | RecordFlags::LATEST;
    });
    flags
}

/// Makes a record the latest of those with its backend.
#[inline(always)]
pub(super) fn make_latest<L: Lookup>(
    maps: &L,
    place: Shared<'_, Origin>,
    cookie: SocketCookie,
    record: Shared<'_, Record>,
    given: &Peer,
) {
    let dialled = dialled_of(record);
    each_sharer(maps, place, cookie, &dialled, given, |other| {
        other.set_flags(other.flags() & !RecordFlags::LATEST);
    });
    record.set_flags(record.flags() | RecordFlags::LATEST);
}
