//! A BPF program of another owner on a hook of a world's cgroup, which allows every call.

use std::cell::UnsafeCell;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::world::World;

// Numbers of include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_PROG_TYPE_CGROUP_SOCK: u32 = 9;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_INET4_CONNECT: u32 = 10;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// `r0 = 1; exit`, as instructions of 8 bytes.
const ALLOW: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];

/// The first part of `union bpf_attr` for a load.
#[derive(Default)]
#[repr(C)]
struct Load {
    kind: u32,
    instructions: u32,
    program: u64,
    licence: u64,
    log: [u32; 2],
    log_buffer: u64,
    version_and_flags: [u32; 2],
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

/// The first part of `union bpf_attr` for attaching and detaching.
#[derive(Default)]
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    hook: u32,
    flags: u32,
}

/// The first part of `union bpf_attr` for a query.
#[derive(Default)]
#[repr(C)]
struct Query {
    target: u32,
    hook: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    _pad: u32,
}

/// The first part of `union bpf_attr` for opening a pin.
#[derive(Default)]
#[repr(C)]
struct Pin {
    path: u64,
    _unused: [u32; 2],
}

/// The first part of `union bpf_attr` for replacing the program of a link.
#[derive(Default)]
#[repr(C)]
struct Update {
    link: u32,
    program: u32,
    _unused: [u32; 2],
}

/// Maximum number of program ids in a query; no test attaches as many.
const MAX_PROGRAMS: usize = 16;

/// Raises the limit of locked memory: before Linux 5.11 a user's maps and programs count as locked
/// memory, and the agent's are root's too. If the limit cannot be raised, the load reports it.
fn lock_any_memory() {
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit lives through the call.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all) };
}

/// The context that a program of a hook gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgramKind {
    /// A socket, on the hook sock_release.
    Socket,
    /// A socket and an address, on every other hook.
    Address,
}

/// The attached program, which is detached on drop.
#[derive(Debug)]
pub struct ThirdPartyProgram {
    cgroup: File,
    program: OwnedFd,
    hook: u32,
}

impl ThirdPartyProgram {
    /// Attaches to the hook connect4 of a cgroup, exclusively or beside other programs.
    pub fn attach(cgroup: &Path, is_exclusive: bool) -> Self {
        Self::attach_to(cgroup, ProgramKind::Address, BPF_CGROUP_INET4_CONNECT, is_exclusive)
    }

    /// Attaches a program with this name, such as that of one of svclb's, to the hook connect4 of a
    /// cgroup, beside other programs.
    pub fn attach_by_name(cgroup: &Path, name: &str) -> Self {
        let (kind, hook) = (ProgramKind::Address, BPF_CGROUP_INET4_CONNECT);
        Self::attach_named(cgroup, name, kind, hook, false)
    }

    /// As [`Self::attach`], for another hook (`enum bpf_attach_type`) and its kind of program.
    pub fn attach_to(cgroup: &Path, kind: ProgramKind, hook: u32, is_exclusive: bool) -> Self {
        Self::attach_named(cgroup, "", kind, hook, is_exclusive)
    }

    fn attach_named(
        cgroup: &Path,
        text: &str,
        kind: ProgramKind,
        hook: u32,
        is_exclusive: bool,
    ) -> Self {
        let mut name = [0; 16];
        name[..text.len()].copy_from_slice(text.as_bytes());
        let load = Load {
            kind: match kind {
                ProgramKind::Socket => BPF_PROG_TYPE_CGROUP_SOCK,
                ProgramKind::Address => BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
            },
            instructions: 2,
            program: ALLOW.as_ptr() as u64,
            licence: c"MIT".as_ptr() as u64,
            expected_attach_type: hook,
            name,
            ..Load::default()
        };
        lock_any_memory();
        let program = bpf(BPF_PROG_LOAD, &load).expect("a trivial program loads");
        // SAFETY: the kernel made it for this process.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let cgroup = File::open(cgroup).expect("the cgroup is there");
        let attached = Self { cgroup, program, hook };
        let flags = if is_exclusive { 0 } else { BPF_F_ALLOW_MULTI };
        bpf(BPF_PROG_ATTACH, &attached.attachment(flags)).expect("a program can be attached");
        attached
    }

    /// The ids of all programs on the hook of its cgroup, in the order in which the kernel runs them.
    pub fn all(&self) -> Vec<u32> {
        let mut ids = [0_u32; MAX_PROGRAMS];
        let Attach { target, hook, .. } = self.attachment(0);
        // The kernel writes the count into it.
        let query = UnsafeCell::new(Query {
            target,
            hook,
            ids: ids.as_mut_ptr() as u64,
            count: u32::try_from(MAX_PROGRAMS).expect("a small number"),
            ..Query::default()
        });
        bpf(BPF_PROG_QUERY, &query).expect("a cgroup's programs can be queried");
        // Program ids are never 0.
        std::hint::black_box(ids).into_iter().take_while(|id| *id != 0).collect()
    }

    /// Puts its program behind the pinned link of a world's hook, in place of the agent's.
    pub fn replace(&self, world: &World, hook: &str) {
        let path = world.pinned("links", hook);
        let link = world.inside(move || {
            let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
            bpf(BPF_OBJ_GET, &Pin { path: path.as_ptr() as u64, ..Pin::default() })
        });
        // SAFETY: the kernel made it for this process.
        let link = unsafe { OwnedFd::from_raw_fd(link.expect("the link is pinned")) };
        let program = self.attachment(0).program;
        let link = u32::try_from(link.as_raw_fd()).expect("a descriptor is not negative");
        bpf(BPF_LINK_UPDATE, &Update { link, program, ..Update::default() })
            .expect("a program can be put behind a link");
    }

    /// Detaches the program. Returns false if it was not attached any more.
    pub fn detach(self) -> bool {
        bpf(BPF_PROG_DETACH, &self.attachment(0)).is_ok()
    }

    fn attachment(&self, flags: u32) -> Attach {
        let number = |fd: RawFd| u32::try_from(fd).expect("a descriptor is not negative");
        Attach {
            target: number(self.cgroup.as_raw_fd()),
            program: number(self.program.as_raw_fd()),
            hook: self.hook,
            flags,
        }
    }
}

impl Drop for ThirdPartyProgram {
    fn drop(&mut self) {
        // The call fails if the program has been detached already.
        let _ = bpf(BPF_PROG_DETACH, &self.attachment(0));
    }
}

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<RawFd> {
    // SAFETY: the attributes have the kernel's layout for this command, and this size.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    match RawFd::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
