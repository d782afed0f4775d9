//! The mapped arrays of the hot path: index line, slot, origin; and the overflow of origins.
//!
//! One access of each of the first three translates a connection: three cache lines.

use super::{Address, FrontendKey};

/// A line number that no line has.
pub const NO_LINE: u32 = u32::MAX;
/// A hash in [`Overflow::dialled`] that nothing has.
pub const NO_TAG: u32 = u32::MAX;

/// The slots of a set in `svclb_slots`. Replaced as one 64-bit word, so that a reader sees
/// the old range or the new one and never a mixture.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(C, align(8))]
pub struct Set {
    /// First slot of the range.
    pub first: u32,
    /// Number of slots. 0 with [`Set::REFUSE`]'s `first` means: no backend, refuse.
    pub count: u32,
}

impl Set {
    /// The set of an empty line: what was not yet written is no Service.
    pub const ABSENT: Self = Self { first: 0, count: 0 };
    /// The set without a backend: clients are refused.
    pub const REFUSE: Self = Self { first: u32::MAX, count: 0 };

    /// The set as the word that is loaded and stored at once, in this machine's order.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        let (f, c) = (self.first.to_ne_bytes(), self.count.to_ne_bytes());
        u64::from_ne_bytes([f[0], f[1], f[2], f[3], c[0], c[1], c[2], c[3]])
    }

    /// The set of such a word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let b = word.to_ne_bytes();
        Self {
            first: u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            count: u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
        }
    }
}

/// One place of `svclb_index`, 64 bytes: a frontend and what its clients get, or empty.
///
/// `reach` and `marks` belong to the *place* (to everything whose hash names this line), all other fields to
/// the frontend that lies here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Line {
    /// Frontend address.
    pub address: Address,
    /// Frontend port, host order.
    pub port: u16,
    /// IANA protocol number; 0 means that the line is empty. Written last, with `port` and `scope`
    /// as one 32-bit word ([`Line::key_word`]).
    pub protocol: u8,
    /// [`super::Scope`] as a number.
    pub scope: u8,
    /// Service id, the owner of the slots in `set`. 0 in an empty line; no service has id 0.
    pub service: u32,
    /// The set of this frontend.
    pub set: Set,
    /// Counts the changes that may have taken a backend away, and each reuse of the line. Moves last.
    pub generation: u32,
    /// While a change is under way after which the generation has to move, so that it moves even if the
    /// agent dies: the id of the service that takes the frontend over, whose slots are accepted too, or
    /// the line's own service. Otherwise 0.
    pub heir: u32,
    /// [`LineFlags`].
    pub flags: u16,
    /// Distance from this home line to its farthest frontend (0: none lies behind it).
    pub reach: u8,
    /// Zero.
    pub _pad0: [u8; 5],
    /// Session affinity in seconds; 0: none.
    pub affinity_seconds: u32,
    /// Zero.
    pub _pad1: u32,
    /// A bit for each backend, of any service and time, whose hash says this line
    /// ([`crate::index::Wanted::mark`]). A bit stays while a socket may remember the backend, as long as it
    /// lives ([`crate::index::keep_marks`]). A direct connect to what has no bit here needs no look at the origins.
    pub marks: u64,
}

/// Bits of [`Line::flags`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineFlags;

impl LineFlags {
    /// The frontend uses the service's external set (else the internal one).
    pub const EXTERNAL: u16 = 1;
    /// The frontend belongs to the API server's own Service, `default/kubernetes`: a connect from the
    /// agent's own cgroup is left alone (docs/decisions/0017-the-way-to-the-api-server.md).
    pub const API_SERVER: u16 = 1 << 1;
}

impl Line {
    /// Port, protocol and scope as the word that publishes a line, in this machine's order.
    #[inline(always)]
    pub const fn key_word(port: u16, protocol: u8, scope: u8) -> u32 {
        let p = port.to_ne_bytes();
        u32::from_ne_bytes([p[0], p[1], protocol, scope])
    }

    /// The frontend that lies in it, as a key of `svclb_frontends`.
    pub const fn frontend(&self) -> FrontendKey {
        FrontendKey {
            address: self.address,
            port: self.port,
            protocol: self.protocol,
            scope: self.scope,
            _pad: 0,
        }
    }
}

/// One place of `svclb_slots`, 32 bytes: what a draw can hit.
///
/// A draw takes a place of the range evenly and then either it or its alias (Vose's alias method,
/// IEEE TSE 17(9), 1991): exact weights, one random number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Slot {
    /// Backend address.
    pub address: Address,
    /// Backend port, host order.
    pub port: u16,
    /// [`SlotFlags`].
    pub flags: u16,
    /// Id of the service whose slot this is. A reader that finds another owner draws again.
    pub owner: u32,
    /// The slot itself is taken when the draw's fraction, in units of 2^-32, is at most this.
    pub threshold: u32,
    /// Otherwise this slot is taken, counted from the set's first.
    pub alias: u32,
}

/// Bits of [`Slot::flags`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotFlags;

impl SlotFlags {
    /// A draw that hits this slot refuses the client.
    pub const REFUSE: u16 = 1;
}

/// One place of `svclb_origins`, 64 bytes; a socket's place is its cookie's low bits.
///
/// The record is the socket's own only while `cookie` is the socket's cookie, which is written last
/// and never cleared by a release. A reader of the whole array skips places whose `count`
/// is 0 (docs/maps.md: one way for all kernels).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Origin {
    /// Cookie of the socket that holds the place.
    pub cookie: u64,
    /// Claims: 0 free, 1 held; more only while a claim fails.
    pub count: u32,
    /// Number of live sockets of this place with an entry in `svclb_overflow`.
    pub spilled: u32,
    /// The holder's record.
    pub record: Record,
}

/// The address that a socket dialled and the backend that it was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Record {
    /// The dialled address.
    pub dialled: Address,
    /// The backend that it was given.
    pub given: Address,
    /// Port that the socket dialled, host order.
    pub dialled_port: u16,
    /// Port of the backend, host order.
    pub given_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// [`RecordFlags`].
    pub flags: u8,
    /// Zero.
    pub _pad: u16,
    /// Index line of the frontend.
    pub line: u32,
    /// That line's generation when the backend was last known to be a member.
    pub generation: u32,
}

/// Bits of [`Record::flags`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordFlags;

impl RecordFlags {
    /// Made by connect: the peer of the socket. Otherwise by a send on an unconnected socket.
    pub const CONNECTED: u8 = 1;
    /// Another record of the socket was given the same backend, so that a reply's source alone does
    /// not tell what was dialled.
    pub const SHARED: u8 = 2;
    /// The socket sent to this record last, among those that share a backend.
    pub const LATEST: u8 = 4;
}

/// The most origins of one socket in the overflow. When all are in use the oldest is replaced.
pub const OVERFLOW_RECORDS: usize = 8;

/// A value of `svclb_overflow`, whose key is the socket's cookie: the origins of a socket whose
/// place is another's, and further frontends of an unconnected UDP socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(8))]
pub struct Overflow {
    /// A hash of what each record's socket dialled, to find it by that; [`NO_TAG`] where there is no
    /// record. Not its line: a record outlives the index that it was made with.
    pub dialled: [u32; OVERFLOW_RECORDS],
    /// A hash of each record's backend, to find it by the source of a reply.
    pub given: [u32; OVERFLOW_RECORDS],
    /// The record to replace next.
    pub next: u32,
    /// The client whose share of the overflow this entry is counted in: a key of `svclb_clients`.
    pub client: u32,
    /// The records.
    pub records: [Record; OVERFLOW_RECORDS],
}

impl Overflow {
    /// An entry without records.
    pub const EMPTY: Self = Self {
        dialled: [NO_TAG; OVERFLOW_RECORDS],
        given: [0; OVERFLOW_RECORDS],
        next: 0,
        client: 0,
        records: [Record {
            dialled: Address::UNSPECIFIED,
            given: Address::UNSPECIFIED,
            dialled_port: 0,
            given_port: 0,
            protocol: 0,
            flags: 0,
            _pad: 0,
            line: NO_LINE,
            generation: 0,
        }; OVERFLOW_RECORDS],
    };
}
