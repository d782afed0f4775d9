//! The maps, and `Lookup` over them.
//!
//! The sizes here are the smallest; the agent sets the real ones when it loads the object, and says
//! them in the read-only globals below, so that the verifier knows them and drops what is switched off.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_EXIST, BPF_NOEXIST};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_ktime_get_ns};
use aya_ebpf::macros::btf_map;
use svclb_common::cookie::{NetnsCookie, SocketCookie};
use svclb_common::layout::{
    AffinityKey, AffinityRow, BackendKey, BackendRow, ClientRow, Counters, FrontendKey,
    FrontendRow, Line, Meta, Origin, Overflow, ServiceRow, Slot,
};
use svclb_common::shared::Shared;
use svclb_common::translate::{Counter, Lookup};

/// The agent maps the array into its memory.
const MMAPABLE: usize = 1024;
/// Entries are allocated as they come, so that room for many costs nothing.
const NO_PREALLOC: usize = 1;

#[btf_map(name = "svclb_index")]
static INDEX: Array<Line, 4096, MMAPABLE> = Array::new();
#[btf_map(name = "svclb_slots")]
static SLOTS: Array<Slot, 65536, MMAPABLE> = Array::new();
#[btf_map(name = "svclb_origins")]
static ORIGINS: Array<Origin, 65536, MMAPABLE> = Array::new();
#[btf_map(name = "svclb_overflow")]
static OVERFLOW: HashMap<u64, Overflow, 65536, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "svclb_frontends")]
static FRONTENDS: HashMap<FrontendKey, FrontendRow, 65536, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "svclb_services")]
static SERVICES: HashMap<u32, ServiceRow, 65536, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "svclb_backends")]
static BACKENDS: HashMap<BackendKey, BackendRow, 65536, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "svclb_affinity")]
static AFFINITY: HashMap<AffinityKey, AffinityRow, 65536, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "svclb_clients")]
static CLIENTS: HashMap<u32, ClientRow, 16384, NO_PREALLOC> = HashMap::new();
#[btf_map(name = "svclb_counters")]
static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();
#[btf_map(name = "svclb_meta")]
static META: Array<Meta, 1> = Array::new();

/// Seed of the index's hash, as in `svclb_meta`.
#[unsafe(no_mangle)]
static SEED: Global<u64> = Global::new(0);
/// Number of lines of the index.
#[unsafe(no_mangle)]
static INDEX_LINES: Global<u32> = Global::new(4096);
/// Number of places of the origins.
#[unsafe(no_mangle)]
static ORIGIN_PLACES: Global<u32> = Global::new(65536);
/// Number of entries that the overflow can hold.
#[unsafe(no_mangle)]
static OVERFLOW_ENTRIES: Global<u32> = Global::new(65536);
/// Number of entries that the affinity can hold.
#[unsafe(no_mangle)]
static AFFINITY_ENTRIES: Global<u32> = Global::new(65536);
/// Cookie of the host's network namespace, which is the agent's; 0 where the kernel does not say it
/// (SO_NETNS_COOKIE, 5.14).
#[unsafe(no_mangle)]
static HOST_NETNS: Global<u64> = Global::new(0);

/// The template of a client's new row.
static NEW_CLIENT: ClientRow = ClientRow { overflow: 0, affinity: 0 };
/// The template of a new overflow entry, which is too large for a program's stack.
static EMPTY_OVERFLOW: Overflow = Overflow::EMPTY;

/// The real maps.
pub(crate) struct HookMaps;

impl Lookup for HookMaps {
    #[inline(always)]
    fn seed(&self) -> u64 {
        SEED.load()
    }

    #[inline(always)]
    fn index_lines(&self) -> u32 {
        INDEX_LINES.load()
    }

    #[inline(always)]
    fn origins(&self) -> u32 {
        ORIGIN_PLACES.load()
    }

    #[inline(always)]
    fn line(&self, number: u32) -> Option<Shared<'_, Line>> {
        // SAFETY: an array's values live as long as the program, are aligned to 8, and are accessed
        // by whole words everywhere.
        INDEX.get_ptr_mut(number).map(|at| unsafe { Shared::new(at) })
    }

    #[inline(always)]
    fn slot(&self, number: u32) -> Option<Shared<'_, Slot>> {
        // SAFETY: as for `line`.
        SLOTS.get_ptr_mut(number).map(|at| unsafe { Shared::new(at) })
    }

    #[inline(always)]
    fn origin(&self, place: u32) -> Option<Shared<'_, Origin>> {
        // SAFETY: as for `line`.
        ORIGINS.get_ptr_mut(place).map(|at| unsafe { Shared::new(at) })
    }

    #[inline(always)]
    fn backend(&self, key: &BackendKey) -> Option<BackendRow> {
        // SAFETY: the value is copied at once. A row that is reused under us is one that was just
        // removed: the line's generation moves after that, and the socket asks again.
        unsafe { BACKENDS.get(key) }.copied()
    }

    #[inline(always)]
    fn overflow(&self, cookie: SocketCookie) -> Option<Shared<'_, Overflow>> {
        // SAFETY: only this socket's hooks remove the entry, one at a time.
        OVERFLOW.get_ptr_mut(cookie.0).map(|at| unsafe { Shared::new(at) })
    }

    #[inline(always)]
    fn add_overflow(&self, cookie: SocketCookie) -> bool {
        OVERFLOW.insert(&cookie.0, &EMPTY_OVERFLOW, BPF_NOEXIST.into()).is_ok()
    }

    #[inline(always)]
    fn remove_overflow(&self, cookie: SocketCookie) -> bool {
        OVERFLOW.remove(&cookie.0).is_ok()
    }

    #[inline(always)]
    fn overflow_capacity(&self) -> u32 {
        OVERFLOW_ENTRIES.load()
    }

    #[inline(always)]
    fn client(&self, key: u32) -> Option<Shared<'_, ClientRow>> {
        // SAFETY: the memory stays the map's, aligned to 8, and is accessed by whole words.
        CLIENTS.get_ptr_mut(key).map(|at| unsafe { Shared::new(at) })
    }

    #[inline(always)]
    fn add_client(&self, key: u32) {
        // Another processor may be first, and a full map takes no more: the caller looks again.
        let _ = CLIENTS.insert(&key, &NEW_CLIENT, BPF_NOEXIST.into());
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Shared<'_, AffinityRow>> {
        // SAFETY: the memory stays the map's, aligned to 8, and is accessed by whole words; whose row
        // lies in it the seal tells.
        AFFINITY.get_ptr_mut(key).map(|at| unsafe { Shared::new(at) })
    }

    #[inline(always)]
    fn affinity_capacity(&self) -> u32 {
        AFFINITY_ENTRIES.load()
    }

    #[inline(always)]
    fn store_affinity(&self, key: &AffinityKey, row: &AffinityRow, is_new: bool) -> bool {
        let how = if is_new { BPF_NOEXIST } else { BPF_EXIST };
        AFFINITY.insert(key, row, how.into()).is_ok()
    }

    #[inline(always)]
    fn host(&self) -> NetnsCookie {
        NetnsCookie(match HOST_NETNS.load() {
            // SAFETY: without a context the helper tells of the initial namespace.
            0 => unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) },
            cookie => cookie,
        })
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: no pointer is passed.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no pointer is passed.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn count(&self, what: Counter) {
        if let Some(counters) = COUNTERS.get_ptr_mut(0) {
            // SAFETY: `Counters` is as many u64 as `Counter` has variants, in that order. Another
            // hook on this CPU may come between load and store: a count may be missed, rarely.
            unsafe { *counters.cast::<u64>().add(what as usize) += 1 };
        }
    }
}
