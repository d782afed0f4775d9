//! One record: what a socket dialled and what it was given, wherever it lies.

use super::{Peer, Socket};
use crate::layout::{Line, Record};
use crate::shared::Shared;

/// The line of a frontend, as it was found for this call.
#[derive(Clone, Copy)]
pub(super) struct FoundLine<'a> {
    pub(super) line: Shared<'a, Line>,
    pub(super) number: u32,
    /// Read before the set.
    pub(super) generation: u32,
}

/// The part of a record that is kept beside the dialled address.
pub(super) struct Kept {
    /// Number of the frontend's line.
    pub(super) number: u32,
    /// Generation of the line, read before the draw.
    pub(super) generation: u32,
    /// The backend.
    pub(super) given: Peer,
}

/// Writes a record.
#[inline(always)]
pub(super) fn write(
    record: Shared<'_, Record>,
    socket: &Socket,
    dialled: &Peer,
    kept: &Kept,
    flags: u8,
) {
    record.set_dialled(dialled.address);
    record.set_dialled_port(dialled.port);
    record.set_given(kept.given.address);
    record.set_given_port(kept.given.port);
    record.set_protocol(socket.protocol as u8);
    record.set_flags(flags);
    record.set_line(kept.number);
    record.set_generation(kept.generation);
}

#[inline(always)]
pub(super) fn dialled_of(record: Shared<'_, Record>) -> Peer {
    Peer { address: record.dialled(), port: record.dialled_port() }
}

#[inline(always)]
pub(super) fn given_of(record: Shared<'_, Record>) -> Peer {
    Peer { address: record.given(), port: record.given_port() }
}

#[inline(always)]
pub(super) fn is_given(record: Shared<'_, Record>, peer: &Peer) -> bool {
    peer.is(record.given(), record.given_port())
}

#[inline(always)]
pub(super) fn is_dialled(record: Shared<'_, Record>, peer: &Peer) -> bool {
    peer.is(record.dialled(), record.dialled_port())
}
