//! The memory of a node that svclb takes at most where its budgets are used up: what the limit in the
//! manifest is made of (docs/operating.md).

use std::mem::size_of;

use svclb_common::layout::{Line, Slot};

use super::{Amount, Resource};
use crate::size::{Sizes, sizes};

/// A bucket of a hash map, and the kernel's allocation for an element with its key and value
/// (kernel/bpf/hashtab.c `struct bucket`, `struct htab_elem`; kernel/bpf/memalloc.c `sizes`).
const BUCKET: u64 = 16;
const FRONTEND: u64 = 96;
const SERVICE: u64 = 512;
const BACKEND: u64 = 96;
/// Memory that does not depend on the size of a cluster: origins, overflow and affinity, the programs, and the
/// agent's own program, runtime and buffers.
const FIXED: u64 = 128 << 20;
/// The agent's memory for a service with one frontend: its claim, its mirror, and its part in a pass over all
/// services.
const KNOWN_FRONTEND: u64 = 2_048;
/// The agent's memory for a backend, apart from its object.
const KNOWN_BACKEND: u64 = 32;

/// Bytes of the maps that hold so much: `svclb_index`, `svclb_slots`, and the three hash maps with as many
/// entries. Each frontend may be a service.
fn maps(frontends: u64, backends: u64, sizes: Sizes) -> u64 {
    let lines = u64::from(sizes.index_lines);
    let slots = u64::from(sizes.slots);
    let buckets = |entries: u64| entries.next_power_of_two() * BUCKET;
    lines * size_of::<Line>() as u64
        + slots * size_of::<Slot>() as u64
        + 2 * buckets(lines)
        + buckets(slots)
        + frontends * (FRONTEND + SERVICE)
        + backends * BACKEND
}

/// The most bytes of objects that an agent keeps: half of it what all that are served may take, and half for
/// those that are not. As long as no namespace takes more than is free, each may take half of all that is
/// served, which is its share of that.
pub const fn kept(cluster: &Amount) -> usize {
    cluster.of(Resource::Memory).saturating_mul(2)
}

/// The most bytes that an agent and its maps take with so much in use, while larger maps take the place of
/// others: both have their entries then, and the agent knows both.
pub fn most(cluster: &Amount) -> u64 {
    let of = |resource| cluster.of(resource) as u64;
    let (frontends, backends) = (of(Resource::Frontends), of(Resource::Backends));
    let large = sizes(cluster.of(Resource::Frontends), cluster.of(Resource::Backends));
    let small = sizes(cluster.of(Resource::Frontends) / 2, cluster.of(Resource::Backends) / 2);
    let maps = maps(frontends, backends, large) + maps(frontends, backends, small);
    let known = 2 * (frontends * KNOWN_FRONTEND + backends * KNOWN_BACKEND);
    FIXED + maps + known + kept(cluster) as u64
}
