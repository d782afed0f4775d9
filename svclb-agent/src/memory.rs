//! Memory that was needed once, given back to the system.

/// What is this large, bytes, is got from the system by itself and given back as soon as it is not needed
/// any more.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;

/// Keeps large buffers out of the allocator's heap: what an audit reads, or a list, leaves no hole in it
/// that stays. (By itself the allocator takes them into the heap from the second time on.)
pub(crate) fn keep_large_apart() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes numbers, and no other thread allocates yet (mallopt(3)).
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives back what the allocator holds for later. After much was read at once (all objects of a
/// cluster, all rows of the maps) that is as much as the agent needs to run.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes a number, may be called at any time, and touches free memory only
    // (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
