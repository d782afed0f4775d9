//! Many rows of a hash map, or values of an array, in one call: bpf(2)'s batches (5.6), for which aya 0.14
//! has none.

use std::io;
use std::mem::zeroed;
use std::os::fd::BorrowedFd;

use aya_obj::generated::bpf_cmd;

use crate::bpf::sys;
use crate::bpf::value::MapValue;

/// Rows of one call.
pub(crate) const ROWS: usize = 4096;

/// Shows every row, in no order: so many at a time, or more where the kernel gives more together. One that
/// changes meanwhile is shown as it was or as it is.
pub(crate) fn read<K: MapValue, V: MapValue>(
    room: usize,
    map: BorrowedFd<'_>,
    see: &mut dyn FnMut(&K, &V),
) -> io::Result<()> {
    let map = sys::fd(map)?;
    // The cursor of the next call, which only the kernel can interpret.
    let (mut from, mut to) = (None::<u32>, 0_u32);
    // SAFETY: any bit pattern is a value of either type.
    let rows = |count| unsafe { (vec![zeroed::<K>(); count], vec![zeroed::<V>(); count]) };
    let (mut keys, mut values) = rows(room);
    loop {
        let mut attr = sys::empty();
        attr.batch.in_batch = from.as_ref().map_or(0, |from| std::ptr::from_ref(from) as u64);
        attr.batch.out_batch = (&raw mut to) as u64;
        attr.batch.keys = keys.as_mut_ptr() as u64;
        attr.batch.values = values.as_mut_ptr() as u64;
        attr.batch.count = u32::try_from(keys.len()).map_err(io::Error::other)?;
        attr.batch.map_fd = map;
        // SAFETY: the buffers live through the call and hold as many as it says, of the map's sizes.
        let done = unsafe { sys::bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
        // SAFETY: the field that this command writes.
        let count = unsafe { attr.batch.count } as usize;
        let refused = done.as_ref().err().and_then(io::Error::raw_os_error);
        // Some rows are given together or not at all.
        if refused == Some(libc::ENOSPC) {
            (keys, values) = rows(keys.len() * 2);
            continue;
        }
        let are_last = refused == Some(libc::ENOENT);
        if !are_last {
            done?;
        }
        keys.iter().zip(&values).take(count).for_each(|(key, value)| see(key, value));
        if are_last {
            return Ok(());
        }
        from = Some(to);
    }
}

/// Writes rows, as many keys as values. When one is refused, those before it are written.
pub(crate) fn write<K: MapValue, V: MapValue>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    let mut attr = sys::empty();
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = u32::try_from(keys.len().min(values.len())).map_err(io::Error::other)?;
    attr.batch.map_fd = sys::fd(map)?;
    // SAFETY: the rows live through the call, are as many as it says, and have the map's sizes.
    unsafe { sys::bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr) }.map(drop)
}
