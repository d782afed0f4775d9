//! Returns memory to the system that is not needed any more.

/// Buffers of this size in bytes are mapped one by one, and unmapped as soon as they are freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;

/// Keeps large buffers out of the allocator's heap, where those of an audit or a list would leave holes. (By
/// default glibc maps the first one, and takes later ones of its size from the heap.)
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
