//! Reads links and programs from the kernel, and changes nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya::maps::MapInfo;
use aya_obj::generated::{BPF_F_QUERY_EFFECTIVE, bpf_cmd, bpf_link_info, bpf_link_type};

use crate::bpf::sys;
use crate::hooks::Hook;

/// The most programs that are read of one hook.
const PROGRAMS: u32 = 64;

/// A link of a program to a cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Id of the cgroup; 0 once it is detached.
    pub cgroup: u64,
    /// Id of the program behind it.
    pub program: u32,
    /// The hook's number, `enum bpf_attach_type`.
    pub hook: u32,
}

/// Reads a pinned link; none when there is no pin.
pub(crate) fn link_at(pin: &Path) -> io::Result<Option<Link>> {
    sys::if_found(sys::open_pin(pin))?.map(|link| link_of(link.as_fd())).transpose()
}

/// Reads what a link is.
///
/// # Errors
/// When it cannot be read, or is not one to a cgroup.
pub(crate) fn link_of(link: BorrowedFd<'_>) -> io::Result<Link> {
    // SAFETY: plain integers.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = sys::empty();
    attr.info.bpf_fd = sys::fd(link)?;
    attr.info.info_len = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    attr.info.info = (&raw mut info) as u64;
    // SAFETY: `info` lives through the call and has the length that `attr` names. If the descriptor is no link,
    // the kernel fills in something else, and these are plain integers all the same.
    unsafe { sys::bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    if info.type_ != bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        let kind = info.type_;
        return Err(io::Error::other(format!("it is a link of kind {kind}, not one to a cgroup")));
    }
    // SAFETY: the part of the union that a link to a cgroup has.
    let cgroup = unsafe { info.__bindgen_anon_1.cgroup };
    Ok(Link { cgroup: cgroup.cgroup_id, program: info.prog_id, hook: cgroup.attach_type })
}

/// Returns the ids of the programs on a hook in the order in which they run. This needs CAP_NET_ADMIN.
///
/// # Errors
/// When that is not granted, or the cgroup is gone.
pub fn programs(cgroup: &Path, hook: &Hook, whose: Whose) -> io::Result<Vec<u32>> {
    let folder = File::open(cgroup)?;
    let mut ids = vec![0_u32; PROGRAMS as usize];
    let mut attr = sys::empty();
    attr.query.__bindgen_anon_1.target_fd = sys::fd(folder.as_fd())?;
    attr.query.attach_type = hook.number;
    attr.query.query_flags = match whose {
        Whose::Own => 0,
        Whose::Effective => BPF_F_QUERY_EFFECTIVE,
    };
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.prog_cnt = PROGRAMS;
    // SAFETY: the array lives through the call and is as long as said.
    unsafe { sys::bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) }?;
    // SAFETY: the field that this command writes.
    ids.truncate(unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize);
    Ok(ids)
}

/// A choice among the programs of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The programs that are attached to the cgroup itself.
    Own,
    /// The programs that run for the cgroup's sockets, including those of the cgroups above it.
    Effective,
}

/// Id of a pinned map.
///
/// # Errors
/// When the pin cannot be read.
pub fn map_id(pin: &Path) -> io::Result<u32> {
    MapInfo::from_pin(pin).map(|info| info.id()).map_err(io::Error::other)
}
