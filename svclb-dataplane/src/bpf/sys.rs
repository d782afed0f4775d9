//! The bpf(2) commands and the socket options that aya 0.14 and std have no call for, and single elements of a
//! map by its descriptor, which aya has for typed maps only.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type, bpf_prog_type};
use svclb_common::cookie::{NetnsCookie, SocketCookie};

/// The cookie of this process's network namespace; 0 on kernels before 5.14, which have none.
pub(crate) fn netns_cookie() -> io::Result<NetnsCookie> {
    let cookie = match cookie(UnixDatagram::unbound()?.as_fd(), libc::SO_NETNS_COOKIE) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => 0,
        cookie => cookie?,
    };
    Ok(NetnsCookie(cookie))
}

/// The cookie of a socket.
pub(crate) fn socket_cookie(socket: BorrowedFd<'_>) -> io::Result<SocketCookie> {
    cookie(socket, libc::SO_COOKIE).map(SocketCookie)
}

/// A cookie, which is an option of 64 bits of a socket.
fn cookie(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut size = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    let (fd, at) = (socket.as_raw_fd(), (&raw mut cookie).cast());
    // SAFETY: the value and its size live through the call.
    let got = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, at, &raw mut size) };
    if got == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Calls bpf(2).
///
/// # Safety
/// `attr` is what `command` expects, and what it points to lives through the call.
pub(crate) unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    let size = size_of::<bpf_attr>();
    // SAFETY: by this function's contract; the kernel accepts any size whose excess is zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Returns none where the error is that there is no such file.
pub(crate) fn if_found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// All zero, as every command begins.
pub(crate) fn empty() -> bpf_attr {
    // SAFETY: every field of the union is plain integers; all zero is a value of each.
    unsafe { std::mem::zeroed() }
}

/// A descriptor that a command made.
pub(crate) fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the command just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens a pinned object.
pub(crate) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    descriptor(at_pin(bpf_cmd::BPF_OBJ_GET, path, 0)?)
}

/// Pins an object.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    at_pin(bpf_cmd::BPF_OBJ_PIN, path, fd(object)?).map(drop)
}

fn at_pin(command: bpf_cmd, path: &Path, object: u32) -> io::Result<libc::c_long> {
    let name = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut attr = empty();
    attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = object;
    // SAFETY: `command` is BPF_OBJ_GET or BPF_OBJ_PIN, and the path lives through the call.
    unsafe { bpf(command, &mut attr) }
}

/// Attaches a program to a hook of a cgroup by a new link, which is attached as long as anything holds
/// it. The link of an iterator's program is attached to no cgroup.
pub(crate) fn create_link(
    program: BorrowedFd<'_>,
    cgroup: Option<BorrowedFd<'_>>,
    hook: u32,
) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.link_create.__bindgen_anon_1.prog_fd = fd(program)?;
    attr.link_create.__bindgen_anon_2.target_fd = cgroup.map_or(Ok(0), fd)?;
    attr.link_create.attach_type = hook;
    // SAFETY: nothing is pointed to.
    descriptor(unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr) }?)
}

/// Puts another program behind a link. Every run of the hook runs either the old or the new one.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_update.link_fd = fd(link)?;
    attr.link_update.__bindgen_anon_1.new_prog_fd = fd(program)?;
    // SAFETY: both descriptors are open.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches a link at once, although other descriptors of it may be open.
pub(crate) fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_detach.link_fd = fd(link)?;
    // SAFETY: the descriptor is open.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Loads a program that an iterator over the kernel's objects runs: `function` is the id of the kernel's
/// `bpf_iter_KIND`.
pub(crate) fn load_iterator(code: &[[u8; 8]], function: u32) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: these are the fields of the command.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_TRACING as u32;
    load.expected_attach_type = bpf_attach_type::BPF_TRACE_ITER as u32;
    load.attach_btf_id = function;
    load.insns = code.as_ptr() as u64;
    load.insn_cnt = u32::try_from(code.len()).map_err(io::Error::other)?;
    // The helper that it calls is for programs of a GPL-compatible licence.
    load.license = c"Dual MIT/GPL".as_ptr() as u64;
    // SAFETY: code and licence live through the call, and the code is as long as said.
    descriptor(unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) }?)
}

/// Makes an iterator of its link: reading it runs the program once for each object.
pub(crate) fn create_iterator(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.iter_create.link_fd = fd(link)?;
    // SAFETY: the descriptor is open.
    descriptor(unsafe { bpf(bpf_cmd::BPF_ITER_CREATE, &mut attr) }?)
}

/// Makes an array of one element: of a 32-bit integer, or, with `inner`, of maps like that one.
pub(crate) fn make_array(inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: these are the fields of the command.
    let create = unsafe { &mut attr.__bindgen_anon_1 };
    create.map_type = match inner {
        None => bpf_map_type::BPF_MAP_TYPE_ARRAY,
        Some(_) => bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS,
    } as u32;
    create.key_size = 4;
    create.value_size = 4;
    create.max_entries = 1;
    create.inner_map_fd = inner.map_or(Ok(0), fd)?;
    // SAFETY: nothing is pointed to.
    descriptor(unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr) }?)
}

/// Reads (BPF_MAP_LOOKUP_ELEM), writes (BPF_MAP_UPDATE_ELEM) or removes (BPF_MAP_DELETE_ELEM, which has no
/// value) the element of a key.
///
/// # Safety
/// `K` and `V` have the sizes of the map's keys and values, and any bit pattern is a value of `V`.
pub(crate) unsafe fn element<K, V>(
    command: bpf_cmd,
    map: BorrowedFd<'_>,
    key: &K,
    value: Option<&mut V>,
) -> io::Result<()> {
    let mut attr = empty();
    // SAFETY: these are the fields of the commands.
    let element = unsafe { &mut attr.__bindgen_anon_2 };
    element.map_fd = fd(map)?;
    element.key = std::ptr::from_ref(key) as u64;
    element.__bindgen_anon_1.value = value.map_or(0, |value| std::ptr::from_mut(value) as u64);
    // SAFETY: key and value live through the call and have the map's sizes.
    unsafe { bpf(command, &mut attr) }.map(drop)
}

/// Loads a program of the kind that most hooks have.
#[cfg(test)]
pub(crate) fn load_for_test(code: &[[u8; 8]], name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: these are the fields of the command.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_CGROUP_SOCK_ADDR as u32;
    load.expected_attach_type = bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32;
    for (to, from) in load.prog_name.iter_mut().zip(name.to_bytes()) {
        *to = from.cast_signed();
    }
    load.insns = code.as_ptr() as u64;
    load.insn_cnt = u32::try_from(code.len()).map_err(io::Error::other)?;
    load.license = c"Dual MIT/GPL".as_ptr() as u64;
    // SAFETY: code and licence live through the call, and the code is as long as said.
    descriptor(unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) }?)
}

/// A descriptor as commands take it.
pub(crate) fn fd(of: BorrowedFd<'_>) -> io::Result<u32> {
    u32::try_from(of.as_raw_fd()).map_err(io::Error::other)
}
