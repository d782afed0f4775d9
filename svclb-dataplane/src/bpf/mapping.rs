//! A mapped array: its values, or a part of them, as memory of this process.

use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

use aya::maps::MapData;
use svclb_common::shared::Shared;

use crate::bpf::value::MapValue;

/// Values of an array map (BPF_F_MMAPABLE) in this process's memory.
#[derive(Debug)]
pub(crate) struct Mapping<T> {
    /// Begin of the mapping, at a page.
    base: NonNull<u8>,
    /// Length of the mapping, bytes.
    bytes: usize,
    /// Numbers of the values that are mapped.
    numbers: Range<u32>,
    /// Offset of the first of them from `base`, bytes.
    skip: usize,
    values: PhantomData<T>,
}

// SAFETY: the memory is the map's, not a thread's; access is by whole words (`Shared`).
unsafe impl<T> Send for Mapping<T> {}

impl<T: MapValue> Mapping<T> {
    /// Maps all values of an array whose value size is `size_of::<T>()`, a multiple of 8.
    ///
    /// The descriptor must be open for reading and writing even when only read
    /// (a descriptor that is read-only cannot be mapped).
    pub(crate) fn new(map: &MapData, writable: bool) -> io::Result<Self> {
        let length = map.info().map_err(io::Error::other)?.max_entries();
        Self::part(map.fd().as_fd(), 0..length, writable)
    }

    /// Maps the values with these numbers, and what else is on their pages.
    pub(crate) fn part(
        map: BorrowedFd<'_>,
        numbers: Range<u32>,
        writable: bool,
    ) -> io::Result<Self> {
        let first = numbers.start as usize * size_of::<T>();
        let skip = first % usize::try_from(procfs::page_size()).map_err(io::Error::other)?;
        let bytes = skip + numbers.len() * size_of::<T>();
        let offset = libc::off_t::try_from(first - skip).map_err(io::Error::other)?;
        let protection =
            if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe {
            let anywhere = std::ptr::null_mut();
            libc::mmap(anywhere, bytes, protection, libc::MAP_SHARED, map.as_raw_fd(), offset)
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { base, bytes, numbers, skip, values: PhantomData })
    }

    /// Number of mapped values.
    pub(crate) fn length(&self) -> u32 {
        self.numbers.end - self.numbers.start
    }

    /// A value by its number in the array; none when it is not mapped.
    pub(crate) fn get(&self, number: u32) -> Option<Shared<'_, T>> {
        if !self.numbers.contains(&number) {
            return None;
        }
        let at = self.skip + (number - self.numbers.start) as usize * size_of::<T>();
        // SAFETY: inside the mapping, which lives as long as `self`, and aligned as the array's values
        // are. A mapping that is not writable is only read, by the types that hand it out.
        Some(unsafe { Shared::new(self.base.as_ptr().add(at).cast()) })
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `part` made, and no `Shared` outlives `self`.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
