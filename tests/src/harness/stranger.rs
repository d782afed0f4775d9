//! A program of someone else on the connect4 hook of a world's cgroup. It lets everything go on.

use std::cell::UnsafeCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

// Numbers of include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_QUERY: libc::c_int = 16;
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

/// How many programs are asked for: no test attaches so many.
const MOST: usize = 16;

/// Before 5.11 what a user's maps and programs take counts as locked memory, and an agent's are root's too.
/// Where that is so and the limit cannot be raised, the load says so.
fn lock_any_memory() {
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit lives through the call.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all) };
}

/// The attached program, detached when dropped.
#[derive(Debug)]
pub struct Stranger {
    cgroup: File,
    program: OwnedFd,
}

impl Stranger {
    /// Attaches to a cgroup: as the only one that may, or beside others.
    pub fn attach(cgroup: &Path, is_exclusive: bool) -> Self {
        let load = Load {
            kind: BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
            instructions: 2,
            program: ALLOW.as_ptr() as u64,
            licence: c"MIT".as_ptr() as u64,
            expected_attach_type: BPF_CGROUP_INET4_CONNECT,
            ..Load::default()
        };
        lock_any_memory();
        let program = bpf(BPF_PROG_LOAD, &load).expect("a trivial program loads");
        // SAFETY: the kernel made it for this process.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let stranger = Self { cgroup: File::open(cgroup).expect("the cgroup is there"), program };
        let flags = if is_exclusive { 0 } else { BPF_F_ALLOW_MULTI };
        bpf(BPF_PROG_ATTACH, &stranger.attachment(flags)).expect("a program can be attached");
        stranger
    }

    /// Ids of all programs on the hook of its cgroup, in the order in which the kernel runs them.
    pub fn all(&self) -> Vec<u32> {
        let mut ids = [0_u32; MOST];
        let Attach { target, hook, .. } = self.attachment(0);
        // The kernel writes into it.
        let query = UnsafeCell::new(Query {
            target,
            hook,
            ids: ids.as_mut_ptr() as u64,
            count: u32::try_from(MOST).expect("a small number"),
            ..Query::default()
        });
        bpf(BPF_PROG_QUERY, &query).expect("a cgroup's programs can be asked for");
        // No id is 0.
        std::hint::black_box(ids).into_iter().take_while(|id| *id != 0).collect()
    }

    /// Detaches it; false when it was not attached any more.
    pub fn detach(self) -> bool {
        bpf(BPF_PROG_DETACH, &self.attachment(0)).is_ok()
    }

    fn attachment(&self, flags: u32) -> Attach {
        let number = |fd: RawFd| u32::try_from(fd).expect("a descriptor is not negative");
        Attach {
            target: number(self.cgroup.as_raw_fd()),
            program: number(self.program.as_raw_fd()),
            hook: BPF_CGROUP_INET4_CONNECT,
            flags,
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        // It may have been detached before.
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
