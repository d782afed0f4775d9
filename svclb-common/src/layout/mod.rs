//! The map types, byte for byte. What is here is what `bpftool map dump` shows.
//!
//! Rules that hold for every type of this module:
//!
//! * `repr(C)`, plain integers, explicit padding that is always zero: any bit pattern is a value.
//! * Addresses are 16 bytes in network order, IPv4 as v4-mapped (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2).
//! * Ports are in *host* order, so that a dump reads `80` and not `20480`. The hooks convert at the
//!   edge, once (docs/decisions/0001-ports-in-host-order.md).
//! * Sizes and offsets are asserted in `tests` below and, against the object's BTF, by the agent.

mod address;
mod hot;
mod rows;

pub use address::Address;
pub use hot::{
    Line, LineFlags, NO_LINE, NO_TAG, OVERFLOW_RECORDS, Origin, Overflow, Record, RecordFlags, Set,
    Slot, SlotFlags,
};
pub use rows::{
    AffinityKey, AffinityRow, BackendKey, BackendRow, BackendState, ClientKey, ClientRow, Counters,
    FrontendKey, FrontendRow, MAX_NAME, Meta, Policy, SOURCES, ServiceNotes, ServiceRow,
    SourceKind, SourceRow, Text, WayKind,
};

/// Version of everything in this module. Pins live in a folder of this name, so that a program never
/// reads a map of another layout.
pub const LAYOUT_VERSION: u32 = 1;

/// The priority (`SO_PRIORITY`) of a socket that the hooks leave alone: the agent's connections to the API
/// server. Part of the layout, since the programs of an agent that has ended must recognize the sockets of
/// the next one, whatever their versions.
///
/// Setting a priority above 6 requires CAP_NET_ADMIN in the socket's network namespace, or on newer kernels
/// CAP_NET_RAW (6.18: measured). Queueing disciplines use its low four bits, or take all of it for the
/// number of a class: the bits are 0, best effort, and no class has the number 5356:4c30.
pub const AGENT_PRIORITY: u32 = 0x5356_4c30;

/// Transport protocol of a frontend, as in the IP header (IANA protocol numbers).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// Transmission Control Protocol.
    Tcp = 6,
    /// User Datagram Protocol.
    Udp = 17,
}

impl Protocol {
    /// The protocol with this IANA number, if svclb translates it.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// The name Kubernetes uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// The clients that a frontend is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum Scope {
    /// Every client on the node.
    #[default]
    Any = 0,
    /// Only clients in the host's network namespace: node ports on loopback.
    Host = 1,
}

impl Scope {
    /// The scope with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Any),
            1 => Some(Self::Host),
            _ => None,
        }
    }
}

/// Asserts, when compiled, a type's size and the offset of each of its fields.
#[cfg(test)]
macro_rules! assert_layout {
    ($type:ty, $size:literal, { $($field:ident : $offset:literal),+ $(,)? }) => {
        assert_eq!(core::mem::size_of::<$type>(), $size, concat!(stringify!($type), " size"));
        $(assert_eq!(
            core::mem::offset_of!($type, $field), $offset,
            concat!(stringify!($type), ".", stringify!($field)),
        );)+
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_type_has_its_documented_layout() {
        assert_layout!(Set, 8, { first: 0, count: 4 });
        assert_layout!(Line, 64, {
            address: 0, port: 16, protocol: 18, scope: 19, service: 20, set: 24, generation: 32,
            heir: 36, flags: 40, reach: 42, _pad0: 43, affinity_seconds: 48, _pad1: 52, marks: 56,
        });
        assert_layout!(Slot, 32, { address: 0, port: 16, flags: 18, owner: 20, threshold: 24, alias: 28 });
        assert_layout!(Origin, 64, { cookie: 0, count: 8, spilled: 12, record: 16 });
        assert_layout!(Record, 48, {
            dialled: 0, given: 16, dialled_port: 32, given_port: 34, protocol: 36, flags: 37,
            _pad: 38, line: 40, generation: 44,
        });
        assert_layout!(Overflow, 456, { dialled: 0, given: 32, next: 64, client: 68, records: 72 });
        assert_layout!(FrontendKey, 24, { address: 0, port: 16, protocol: 18, scope: 19, _pad: 20 });
        assert_layout!(FrontendRow, 8, { service: 0, line: 4 });
        assert_layout!(BackendKey, 24, { address: 0, port: 16, _pad: 18, service: 20 });
        assert_layout!(BackendRow, 8, { sets: 0, state: 1, _pad: 2, weight: 4 });
        assert_layout!(ServiceRow, 232, {
            namespace: 0, name: 64, port_name: 128, protocol: 192, internal_policy: 200,
            external_policy: 208, frontends: 216, internal_backends: 220, external_backends: 224,
            notes: 228,
        });
        assert_layout!(SourceRow, 32, {
            heard: 0, address: 8, port: 24, kind: 26, way: 27, rejected: 28,
        });
        assert_layout!(Meta, 176, {
            layout: 0, index_lines: 4, _pad: 8, slots: 12, origins: 16, next_service: 20,
            seed: 24, passes: 32, synced: 40, agent: 44, agent_started: 48, proved: 56, first_generation: 60,
            failures: 64, short: 72, refused: 76, sources: 80,
        });
        assert_layout!(AffinityKey, 16, { client: 0, service: 8, family: 12 });
        assert_layout!(AffinityRow, 48, {
            address: 0, port: 16, _pad: 18, line: 20, generation: 24, seal: 28, used: 32,
            counted_for: 40, _pad1: 44,
        });
        assert_layout!(ClientRow, 8, { overflow: 0, affinity: 4 });
        assert_layout!(Counters, 104, {
            translated: 0, not_service: 8, refused: 16, overflowed: 24, unrecorded: 32, redrawn: 40,
            torn: 48, kept: 56, replies: 64, names: 72, affine: 80,
            over_share: 88, affinity_unrecorded: 96,
        });
    }

    #[test]
    fn lines_and_slots_never_straddle_a_cache_line() {
        assert_eq!(64 % core::mem::size_of::<Slot>(), 0);
        assert_eq!(core::mem::align_of::<Line>(), 8);
        assert_eq!(core::mem::align_of::<Slot>(), 8);
        assert_eq!(core::mem::align_of::<Origin>(), 8);
    }

    #[test]
    fn protocols_and_scopes_survive_their_numbers() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            assert_eq!(Protocol::from_number(protocol as u32), Some(protocol));
        }
        assert_eq!(Protocol::from_number(132), None);
        for scope in [Scope::Any, Scope::Host] {
            assert_eq!(Scope::from_number(scope as u8), Some(scope));
        }
        assert_eq!(Scope::from_number(2), None);
        for number in 0..=u8::MAX {
            assert!(SourceKind::from_number(number).is_none_or(|it| it as u8 == number));
            assert!(WayKind::from_number(number).is_none_or(|it| it as u8 == number));
        }
    }
}
