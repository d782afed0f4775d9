//! Failing system calls of the agent on request, with the errors that the kernel would return.
//!
//! The agent runs under a seccomp filter (seccomp_unotify(2)) that stops each bpf(2) call and each
//! shared mapping until a thread of the test decides: the kernel executes the call, or the call fails
//! with an error number and has no effect. The agent cannot tell the difference.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use super::fd_passing;

/// Commands of bpf(2) for many values at a time.
const LOOKUP_BATCH: u64 = 24;
const UPDATE_BATCH: u64 = 26;

/// A kind of system call. The numbers of bpf(2)'s commands are those of include/uapi/linux/bpf.h.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// Creating a map.
    CreateMap,
    /// Reading one or many values of a map.
    Lookup,
    /// Writing one or many values of a map.
    Update,
    /// Deleting a value of a map.
    Delete,
    /// Loading a program.
    LoadProgram,
    /// Creating a pin.
    Pin,
    /// Opening a pin.
    OpenPin,
    /// Attaching a program by a new link.
    CreateLink,
    /// Replacing the program of a link.
    UpdateLink,
    /// Mapping a map into the agent's memory (mmap(2)).
    Map,
}

impl Operation {
    fn of_command(command: u64) -> Option<Self> {
        Some(match command {
            0 => Self::CreateMap,
            1 | LOOKUP_BATCH => Self::Lookup,
            2 | UPDATE_BATCH => Self::Update,
            3 => Self::Delete,
            5 => Self::LoadProgram,
            6 => Self::Pin,
            7 => Self::OpenPin,
            28 => Self::CreateLink,
            29 => Self::UpdateLink,
            _ => return None,
        })
    }
}

/// A recorded call of the agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The kind of call.
    pub operation: Operation,
    /// The name of the map, program or pin; empty if it cannot be found out.
    pub name: String,
    /// The error number with which the call was made to fail.
    pub failed: Option<i32>,
    /// Time of the call.
    pub at: Instant,
}

/// A rule that makes calls fail.
struct Rule {
    operation: Operation,
    /// Name of the map, program or pin; empty for any.
    name: String,
    error: i32,
    /// Number of matching calls that pass first.
    skip: usize,
    /// Number of matching calls that fail after those.
    count: usize,
}

#[derive(Default)]
struct Shared {
    rules: Vec<Rule>,
    calls: Vec<Call>,
    names: HashMap<u32, String>,
}

/// Records the calls of the agents that were started under it, and makes some fail.
#[derive(Clone, Default)]
pub struct Faults {
    shared: Arc<Mutex<Shared>>,
}

impl Faults {
    /// Faults without a rule: nothing fails yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the next `count` calls of this kind fail with `error`. An empty name matches any.
    pub fn fail(&self, operation: Operation, name: &str, error: i32, count: usize) {
        self.fail_after(0, operation, name, error, count);
    }

    /// As [`Self::fail`], after `skip` calls have passed.
    pub fn fail_after(
        &self,
        skip: usize,
        operation: Operation,
        name: &str,
        error: i32,
        count: usize,
    ) {
        let rule = Rule { operation, name: name.to_owned(), error, skip, count };
        self.shared.lock().unwrap().rules.push(rule);
    }

    /// Removes all rules and recorded calls, and returns the calls that failed.
    pub fn clear(&self) -> Vec<Call> {
        let mut shared = self.shared.lock().unwrap();
        shared.rules.clear();
        let calls = std::mem::take(&mut shared.calls);
        calls.into_iter().filter(|call| call.failed.is_some()).collect()
    }

    /// The calls that failed since the last [`Self::clear`].
    pub fn failed(&self) -> Vec<Call> {
        let shared = self.shared.lock().unwrap();
        shared.calls.iter().filter(|call| call.failed.is_some()).cloned().collect()
    }

    /// Every call since the last [`Self::clear`].
    pub fn calls(&self) -> Vec<Call> {
        self.shared.lock().unwrap().calls.clone()
    }

    /// Prepares a command to run under these faults. The supervisor must be kept while it runs.
    pub(crate) fn supervise(&self, command: &mut Command) -> Supervisor {
        let (near, far) = fd_passing::channel();
        let filter = filter();
        // SAFETY: system calls only between fork and exec, on memory that was allocated before.
        unsafe {
            command.pre_exec(move || {
                let listener = install(&filter)?;
                // The exec closes the listener and the channel.
                if fd_passing::send(far.as_raw_fd(), &[listener.as_raw_fd()], 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let done = Arc::new(AtomicBool::new(false));
        let (faults, ended) = (self.clone(), Arc::clone(&done));
        let thread = thread::Builder::new()
            .name("faults".to_owned())
            .spawn(move || {
                // The child sends the listener, or failed before it could.
                let Some(listener) = receive_listener(&near, &ended) else { return };
                while !ended.load(Ordering::Relaxed) {
                    match readable(listener.as_fd()) {
                        Readable::Now => faults.answer(listener.as_fd()),
                        Readable::NotYet => {}
                        Readable::Never => return,
                    }
                }
            })
            .expect("a thread can be started");
        Supervisor { done, thread: Some(thread) }
    }

    /// Receives one stopped call and answers it.
    fn answer(&self, listener: BorrowedFd<'_>) {
        // SAFETY: plain integers.
        let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the request fills this structure.
        let got = unsafe {
            libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification)
        };
        if got != 0 {
            // The process was killed in the meantime.
            return;
        }
        let error = self.decide(&notification);
        let mut reply = libc::seccomp_notif_resp {
            id: notification.id,
            val: 0,
            error: error.map_or(0, |error| -error),
            flags: if error.is_none() { CONTINUE } else { 0 },
        };
        // SAFETY: the request reads this structure. It fails if the process was killed.
        unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &raw mut reply) };
    }

    fn decide(&self, notification: &libc::seccomp_notif) -> Option<i32> {
        let (pid, data) = (notification.pid, &notification.data);
        let is_bpf = i64::from(data.nr) == libc::SYS_bpf;
        let operation = if is_bpf { Operation::of_command(data.args[0])? } else { Operation::Map };
        let mut shared = self.shared.lock().unwrap();
        let name = name_of(&mut shared.names, pid, operation, data).unwrap_or_default();
        let rule = shared.rules.iter_mut().find(|rule| {
            rule.operation == operation
                && (rule.name.is_empty() || rule.name == name)
                && (rule.skip > 0 || rule.count > 0)
        });
        let failed = rule.and_then(|rule| {
            if rule.skip > 0 {
                rule.skip -= 1;
                return None;
            }
            rule.count -= 1;
            Some(rule.error)
        });
        shared.calls.push(Call { operation, name, failed, at: Instant::now() });
        failed
    }
}

/// A thread that answers calls until this is dropped, or the process has exited.
pub(crate) struct Supervisor {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor").finish_non_exhaustive()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

/// The name of the call's object: of a map or a program, or the last component of a pin's path.
fn name_of(
    names: &mut HashMap<u32, String>,
    pid: u32,
    operation: Operation,
    data: &libc::seccomp_data,
) -> Option<String> {
    let attr = |offset: u64, size: usize| read(pid, data.args[1] + offset, size);
    let number = |offset| Some(u32::from_ne_bytes(attr(offset, 4)?.try_into().ok()?));
    match operation {
        // Offsets of these fields in `union bpf_attr`.
        Operation::CreateMap => text(&attr(28, 16)?),
        Operation::LoadProgram => text(&attr(48, 16)?),
        Operation::Lookup | Operation::Update | Operation::Delete => {
            let is_batch = matches!(data.args[0], LOOKUP_BATCH | UPDATE_BATCH);
            map_name(names, pid, number(if is_batch { 36 } else { 0 })?)
        }
        Operation::Pin | Operation::OpenPin => {
            let at = u64::from_ne_bytes(attr(0, 8)?.try_into().ok()?);
            let path = text(&read(pid, at, 512)?)?;
            Some(path.rsplit('/').next()?.to_owned())
        }
        Operation::CreateLink | Operation::UpdateLink => None,
        Operation::Map => map_name(names, pid, u32::try_from(data.args[4]).ok()?),
    }
}

/// Reads memory of a process, up to `size` bytes.
fn read(pid: u32, at: u64, size: usize) -> Option<Vec<u8>> {
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut found = vec![0; size];
    let got = memory.read_at(&mut found, at).ok()?;
    found.truncate(got);
    Some(found)
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// Returns the name of the map behind a descriptor of a process.
fn map_name(names: &mut HashMap<u32, String>, pid: u32, fd: u32) -> Option<String> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    let id = info.lines().find_map(|line| line.strip_prefix("map_id:"))?.trim().parse().ok()?;
    if let Some(name) = names.get(&id) {
        return Some(name.clone());
    }
    let info = aya::maps::MapInfo::from_id(id).ok()?;
    let name = info.name_as_str()?.to_owned();
    names.insert(id, name.clone());
    Some(name)
}

// From include/uapi/linux/seccomp.h: _IOWR('!', 0, struct seccomp_notif) and
// _IOWR('!', 1, struct seccomp_notif_resp), of 80 and 24 bytes.
const SECCOMP_IOCTL_NOTIF_RECV: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
const SECCOMP_IOCTL_NOTIF_SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
/// SECCOMP_USER_NOTIF_FLAG_CONTINUE: the kernel executes the call.
const CONTINUE: u32 = 1;

/// A filter that notifies of bpf(2) and of mmap(2) with MAP_SHARED, and allows all other calls.
fn filter() -> [libc::sock_filter; 7] {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const HAS: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const NUMBER: u32 = 0; // offsetof(struct seccomp_data, nr)
    const FLAGS: u32 = if cfg!(target_endian = "little") { 40 } else { 44 }; // low half of args[3]
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let call = |number: libc::c_long| u32::try_from(number).unwrap();
    [
        step(LOAD, 0, 0, NUMBER),
        step(EQUAL, 4, 0, call(libc::SYS_bpf)),
        step(EQUAL, 0, 2, call(libc::SYS_mmap)),
        step(LOAD, 0, 0, FLAGS),
        step(HAS, 1, 0, u32::try_from(libc::MAP_SHARED).unwrap()),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ]
}

/// Puts the calling process under the filter and returns the listener of its notifications. Makes system
/// calls only.
fn install(filter: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd as _;
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or(0),
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program lives through the call, which copies it.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    match i32::try_from(listener) {
        // SAFETY: the call just made it for us.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Receives the listener from a process that is about to exec, or `None` if it never sends one.
fn receive_listener(channel: &OwnedFd, ended: &AtomicBool) -> Option<OwnedFd> {
    while !ended.load(Ordering::Relaxed) {
        match readable(channel.as_fd()) {
            Readable::Now => return fd_passing::receive(channel.as_raw_fd()).ok()?.pop(),
            Readable::NotYet => {}
            Readable::Never => return None,
        }
    }
    None
}

enum Readable {
    Now,
    NotYet,
    Never,
}

fn readable(fd: BorrowedFd<'_>) -> Readable {
    const A_WHILE: libc::c_int = 100;
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the pointer and the length are those of one descriptor.
    match unsafe { libc::poll(&raw mut polled, 1, A_WHILE) } {
        1 if polled.revents & libc::POLLIN != 0 => Readable::Now,
        1 => Readable::Never,
        _ => Readable::NotYet,
    }
}
