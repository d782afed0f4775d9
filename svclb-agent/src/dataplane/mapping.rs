//! A mapped array: its values as memory of this process.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

use svclb_common::shared::Shared;

/// A type whose any bit pattern is a value, as all of `svclb_common::layout`.
///
/// # Safety
/// `repr(C)` or `repr(transparent)` over plain integers, no uninitialised padding, alignment at most 8.
pub(super) unsafe trait MapValue: Copy + 'static {}

/// An array map (BPF_F_MMAPABLE) in this process's memory.
#[derive(Debug)]
pub(super) struct Mapping<T> {
    at: NonNull<T>,
    length: u32,
    values: PhantomData<T>,
}

// SAFETY: the memory is the map's, not a thread's; access is by whole words (`Shared`).
unsafe impl<T> Send for Mapping<T> {}

impl<T: MapValue> Mapping<T> {
    /// Maps `length` values of an array whose value size is `size_of::<T>()`, a multiple of 8.
    ///
    /// The descriptor must be open for reading and writing even when only read
    /// (a descriptor that is read-only cannot be mapped).
    pub(super) fn new(map: BorrowedFd<'_>, length: u32, writable: bool) -> io::Result<Self> {
        let protection =
            if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at an address that the kernel chooses.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::bytes(length),
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let at = NonNull::new(at.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { at, length, values: PhantomData })
    }

    fn bytes(length: u32) -> usize {
        length as usize * size_of::<T>()
    }

    /// How many values there are.
    pub(super) fn length(&self) -> u32 {
        self.length
    }

    /// A value by number.
    pub(super) fn get(&self, number: u32) -> Option<Shared<'_, T>> {
        if number >= self.length {
            return None;
        }
        // SAFETY: inside the mapping, which lives as long as `self`. A mapping that is not writable is
        // only read, by the types that hand it out.
        Some(unsafe { Shared::new(self.at.as_ptr().add(number as usize)) })
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        let bytes = self.length as usize * size_of::<T>();
        // SAFETY: this is the mapping that `new` made, and nobody holds a `Shared` longer than `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), bytes) };
    }
}
