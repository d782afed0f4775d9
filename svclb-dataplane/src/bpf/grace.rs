//! Waiting until no program runs any more that ran before.
//!
//! Hooks run inside an RCU read-side section. When user space replaces an element of a map of maps,
//! the kernel waits for a grace period before the system call returns (`maybe_wait_bpf_programs` in
//! kernel/bpf/syscall.c, since 5.0), which is just this: every hook that was running when the call
//! began has ended. A freed line or range that waited so cannot be seen by any reader, however long
//! it was preempted, so no guess of a time is needed.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya_obj::generated::bpf_cmd;

use crate::bpf::sys;

/// A map of maps that exists to be written.
#[derive(Debug)]
pub struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    /// Makes the maps.
    ///
    /// # Errors
    /// When the kernel refuses a map.
    pub fn new() -> io::Result<Self> {
        let inner = sys::make_array(None)?;
        let outer = sys::make_array(Some(inner.as_fd()))?;
        Ok(Self { outer, inner })
    }

    /// Returns when every hook that was running has ended: some milliseconds, not on the caller's CPU.
    ///
    /// # Errors
    /// When the kernel refuses the write; then nothing is known.
    pub fn wait(&self) -> io::Result<()> {
        let (first, mut inner) = (0_u32, sys::fd(self.inner.as_fd())?);
        let outer = self.outer.as_fd();
        // SAFETY: numbers and maps of an array of maps are 32 bits.
        unsafe { sys::element(bpf_cmd::BPF_MAP_UPDATE_ELEM, outer, &first, Some(&mut inner)) }
    }
}
