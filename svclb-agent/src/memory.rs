//! Memory that was needed once, given back to the system.

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
