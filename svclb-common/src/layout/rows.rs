//! The readable hashes (frontends, services, backends), session affinity, the counters and the meta row.
//!
//! An operator with nothing but bpftool reads these; docs/maps.md shows how.

use super::Address;
use crate::cookie::NetnsCookie;

/// Longest namespace, Service name and port name: a DNS label (RFC 1123), 63 bytes, and a final zero.
pub const MAX_NAME: usize = 64;

/// Defines an enum that the maps hold as a number.
macro_rules! numbered {
    ($(#[$doc:meta])* $type:ident {
        $($(#[$of:meta])* $variant:ident = $number:literal $name:literal,)+
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum $type { $($(#[$of])* $variant = $number,)+ }

        impl $type {
            /// The variant with this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// Its name in output and logs.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

/// A key of `svclb_frontends`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C, align(8))]
pub struct FrontendKey {
    /// The dialled address.
    pub address: Address,
    /// Its port, host order.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// [`super::Scope`] as a number.
    pub scope: u8,
    /// Zero.
    pub _pad: u32,
}

/// A value of `svclb_frontends`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct FrontendRow {
    /// Service id, a key of `svclb_services`.
    pub service: u32,
    /// The frontend's line in `svclb_index`.
    pub line: u32,
}

/// A key of `svclb_backends`: a backend as a member of one service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C, align(8))]
pub struct BackendKey {
    /// Backend address.
    pub address: Address,
    /// Backend port, host order.
    pub port: u16,
    /// Zero.
    pub _pad: u16,
    /// Service id.
    pub service: u32,
}

/// A value of `svclb_backends`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct BackendRow {
    /// In which of the service's sets it is: [`Policy::bit`]s. Never 0.
    pub sets: u8,
    /// [`BackendState`] as a number.
    pub state: u8,
    /// Zero.
    pub _pad: u16,
    /// Relative weight of a draw; 1 unless said otherwise.
    pub weight: u32,
}

/// The sets of a service: each frontend uses one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Policy {
    /// `internalTrafficPolicy`: ClusterIPs.
    Internal = 0,
    /// `externalTrafficPolicy`: node ports, external IPs, load balancer IPs.
    External = 1,
}

impl Policy {
    /// This set's bit in [`BackendRow::sets`].
    #[inline(always)]
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }
}

numbered! {
    /// The reason for which a backend is in its sets.
    BackendState {
        /// Ready.
        Ready = 1 "ready",
        /// Terminating and still serving, used because nothing is ready.
        Terminating = 2 "terminating",
    }
}

/// A key of `svclb_affinity`: one client of one service, in one family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
#[repr(C)]
pub struct AffinityKey {
    /// Cookie of the client's network namespace: the pod's, or the host's.
    pub client: u64,
    /// Service id.
    pub service: u32,
    /// 4 or 6, of what was dialled: a service's families have backends of their own.
    pub family: u32,
}

/// A value of `svclb_affinity`: the backend that a client keeps.
///
/// The kernel may give the memory of an entry to another key while it is read: `seal` tells what belongs
/// together. In place only `used` is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct AffinityRow {
    /// Backend address.
    pub address: Address,
    /// Backend port, host order.
    pub port: u16,
    /// Zero.
    pub _pad: u16,
    /// Index line of the frontend that was dialled when the entry was written.
    pub line: u32,
    /// That line's generation when the backend was last known to be a member.
    pub generation: u32,
    /// A mix of the key, of all of the above, and of `counted_for`.
    pub seal: u32,
    /// When the client made its latest new connection: nanoseconds of the kernel's monotonic clock.
    pub used: u64,
    /// The client whose share of the map this entry is counted in: a key of `svclb_clients`.
    pub counted_for: u32,
    /// Zero.
    pub _pad1: u32,
}

/// Keys of `svclb_clients`: 32 bits that name a client whose entries are counted.
///
/// A client is a pod's cgroup, or that of a Guaranteed pod's container, where the node's cgroups tell pods
/// apart, otherwise a network namespace (docs/decisions/0020-shares-of-clients.md).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientKey;

impl ClientKey {
    /// The row that counts the entries of all clients.
    pub const ALL: u32 = 0;
    /// Set in the key of a network namespace. Clear in a cgroup's: the low half of a cgroup id is a
    /// positive `int` (`idr_alloc_cyclic` in fs/kernfs/dir.c), different among cgroups that exist.
    pub const NAMESPACE: u32 = 1 << 31;

    /// The key of a cgroup, by its id.
    #[inline(always)]
    pub const fn of_cgroup(id: u64) -> u32 {
        (id & 0x7fff_ffff) as u32
    }

    /// The key of a network namespace, by its cookie.
    #[inline(always)]
    pub const fn of_namespace(cookie: NetnsCookie) -> u32 {
        (cookie.0 & 0x7fff_ffff) as u32 | Self::NAMESPACE
    }
}

/// A value of `svclb_clients`: how many entries of the shared maps a client has. Signed: an entry that is
/// counted by one program and removed by another may take a count below zero for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct ClientRow {
    /// Entries in `svclb_overflow`.
    pub overflow: i32,
    /// Entries in `svclb_affinity`.
    pub affinity: i32,
}

/// Text of at most `N - 1` bytes, filled with zeros. Signed, because that is what makes bpftool show
/// it as text (the agent's build script marks signed bytes as characters in the object's BTF).
pub type Text<const N: usize> = [i8; N];

/// A value of `svclb_services`, whose key is the service id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct ServiceRow {
    /// Namespace of the Service object.
    pub namespace: Text<MAX_NAME>,
    /// Name of the Service object.
    pub name: Text<MAX_NAME>,
    /// Name of the port, empty where a Service has a single port without a name.
    pub port_name: Text<MAX_NAME>,
    /// `TCP` or `UDP`.
    pub protocol: Text<8>,
    /// `Cluster` or `Local`.
    pub internal_policy: Text<8>,
    /// `Cluster` or `Local`.
    pub external_policy: Text<8>,
    /// Number of its frontends.
    pub frontends: u32,
    /// Number of backends in its internal set.
    pub internal_backends: u32,
    /// Number of backends in its external set.
    pub external_backends: u32,
    /// [`ServiceNotes`]: why it is not served just as its objects say.
    pub notes: u32,
}

/// Bits of [`ServiceRow::notes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceNotes;

impl ServiceNotes {
    /// Its load balancer addresses are left alone: `loadBalancerSourceRanges` ask for the client's
    /// source address, which is not known before the connection.
    pub const SOURCE_RANGES: u32 = 1;
    /// The object has SCTP ports too, which have no frontend.
    pub const SCTP: u32 = 1 << 1;
    /// Another Service owns one of the frontends that it claims: its claim is of a better kind, or it is
    /// older.
    pub const CONFLICT: u32 = 1 << 2;
    /// Nothing can be served at some of its addresses (multicast, loopback, ...): those are ignored.
    pub const UNUSABLE_ADDRESSES: u32 = 1 << 3;
    /// Some endpoints of its EndpointSlices have an address that no pod has: those are ignored.
    pub const UNUSABLE_ENDPOINTS: u32 = 1 << 4;
    /// Some ports of its EndpointSlices have no number, or one that no port can have: those are ignored.
    pub const PORTS_WITHOUT_NUMBER: u32 = 1 << 5;
    /// A part of it was rejected; what was known of that before is served, and claims frontends last.
    pub const RETAINED: u32 = 1 << 6;
}

/// The most sources of an agent.
pub const SOURCES: usize = 3;

/// When a source of the agent was last heard, and through which way: an element of [`Meta::sources`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct SourceRow {
    /// Seconds since the epoch; 0: not since the agent started.
    pub heard: u64,
    /// Address of whom it was last heard from; unspecified where there is none, as for files.
    pub address: Address,
    /// Its port, host order.
    pub port: u16,
    /// [`SourceKind`] as a number; 0: there is no such source.
    pub kind: u8,
    /// [`WayKind`] as a number; 0: not known.
    pub way: u8,
    /// Number of its objects that are rejected now, or of rejected parts of files.
    pub rejected: u32,
}

numbered! {
    /// The objects of a source. Their names are those of the API server.
    SourceKind {
        /// The API server's Services.
        Services = 1 "services",
        /// The API server's EndpointSlices.
        EndpointSlices = 2 "endpointslices",
        /// The API server's Nodes, of which the own one is watched.
        Nodes = 3 "nodes",
        /// All kinds of objects, from files.
        Files = 4 "files",
    }
}

numbered! {
    /// The origin of a way to the API server.
    WayKind {
        /// The kubeconfig, or the environment of a pod: mostly the ClusterIP of `default/kubernetes`.
        Configuration = 1 "configuration",
        /// An endpoint of `default/kubernetes`.
        Endpoint = 2 "endpoint",
        /// `--api-server`.
        ApiServer = 3 "api-server",
    }
}

/// The one value of `svclb_meta`: what an adopting agent, a reading command or a person must know
/// before reading the other maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C, align(8))]
pub struct Meta {
    /// [`super::LAYOUT_VERSION`] of the maps; 0 while they have not been filled for the first time.
    pub layout: u32,
    /// Number of lines of the index: a power of two.
    pub index_lines: u32,
    /// Zero.
    pub _pad: u32,
    /// Number of slots.
    pub slots: u32,
    /// Number of places of `svclb_origins`: a power of two.
    pub origins: u32,
    /// The next service id. Ids are never used twice, over restarts either.
    pub next_service: u32,
    /// Seed of the index's hash.
    pub seed: u64,
    /// Number of passes that changed something.
    pub passes: u64,
    /// 1 once every source has synced and the first pass is written.
    pub synced: u32,
    /// Process id of the agent that wrote last, in its own pid namespace.
    pub agent: u32,
    /// When that agent started, seconds since the epoch.
    pub agent_started: u64,
    /// 1 once that agent saw a connection of its own translated.
    pub proved: u32,
    /// The generation that a line counts as having before it is used for the first time. Maps that take
    /// the place of others begin above all generations of those, so that no record of a socket names
    /// a line and a generation of both.
    pub first_generation: u32,
    /// Number of an agent's writes and reads that failed, over restarts too. Each was tried again.
    pub failures: u64,
    /// Number of services that keep an earlier state because they do not fit.
    pub short: u32,
    /// Number of Service objects that are not served because they exceed a budget.
    pub refused: u32,
    /// The sources of the agent; those that there are not have kind 0.
    pub sources: [SourceRow; SOURCES],
}

/// The one value, per CPU, of `svclb_counters`: what the hooks did. Sums over CPUs are the counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Counters {
    /// Connects and first sends to a frontend that were given a backend by a draw.
    pub translated: u64,
    /// Connects and sends to what is no frontend.
    pub not_service: u64,
    /// Refused: the service has no usable backend.
    pub refused: u64,
    /// Origins that went to `svclb_overflow`.
    pub overflowed: u64,
    /// Translated without an origin, because the overflow is full or the client has its share of it.
    pub unrecorded: u64,
    /// Draws repeated because a slot had another owner.
    pub redrawn: u64,
    /// Refused because every repeated draw met slots of other owners: a fault worth a report.
    pub torn: u64,
    /// Sends on unconnected sockets that kept their backend.
    pub kept: u64,
    /// Replies whose source was put back to what was dialled.
    pub replies: u64,
    /// Peer names put back to what was dialled.
    pub names: u64,
    /// Connects and first sends that kept the backend of their client by session affinity.
    pub affine: u64,
    /// Translated without an origin, because the client has its share of the overflow already. Also
    /// counted in `unrecorded`.
    pub over_share: u64,
    /// Given a backend of a service with session affinity without being remembered, because the client
    /// has its share of `svclb_affinity` or the map is full.
    pub affinity_unrecorded: u64,
}

macro_rules! counters {
    ($($field:ident),+ $(,)?) => {
        impl Counters {
            /// Adds another CPU's counts.
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)+
            }

            /// Returns every count with its name.
            pub fn named(&self) -> [(&'static str, u64); size_of::<Self>() / 8] {
                [$((stringify!($field), self.$field)),+]
            }
        }
    };
}

counters! {
    translated, not_service, refused, overflowed, unrecorded, redrawn, torn, kept, replies, names, affine,
    over_share, affinity_unrecorded,
}
