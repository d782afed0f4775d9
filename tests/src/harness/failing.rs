//! System calls of the agent that fail on request, as the kernel would fail them.
//!
//! The agent is started under a seccomp filter (seccomp_unotify(2)) that stops each bpf(2) and each
//! shared mapping until a thread of the test says what becomes of it: the kernel does it, or it fails
//! with an error number and was never done. Nothing of the agent knows of it.

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

use super::passing;

/// Commands for many values at a time.
const LOOKUP_BATCH: u64 = 24;
const UPDATE_BATCH: u64 = 26;

/// What is asked of the kernel. The numbers of bpf(2)'s commands are include/uapi/linux/bpf.h's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Operation {
    /// A new map.
    CreateMap,
    /// A value of a map, read, or many.
    Lookup,
    /// A value of a map, written, or many.
    Update,
    /// A value of a map, removed.
    Delete,
    /// A program, loaded.
    LoadProgram,
    /// A pin, made.
    Pin,
    /// A pin, opened.
    OpenPin,
    /// A program, attached by a new link.
    CreateLink,
    /// A program, put behind a link.
    UpdateLink,
    /// A map, mapped into the agent's memory (mmap(2)).
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

/// Something that the agent asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// What.
    pub operation: Operation,
    /// Of what: the name of a map, a program or a pin; empty where none can be told.
    pub name: String,
    /// The error number that it was given instead.
    pub failed: Option<i32>,
    /// When.
    pub at: Instant,
}

/// Which calls fail.
struct Rule {
    operation: Operation,
    /// Empty: any.
    name: String,
    error: i32,
    /// So many are let through first.
    skip: usize,
    /// So many fail.
    count: usize,
}

#[derive(Default)]
struct Shared {
    rules: Vec<Rule>,
    calls: Vec<Call>,
    names: HashMap<u32, String>,
}

/// Decides over the calls of agents that were started under it.
#[derive(Clone, Default)]
pub struct Faults {
    shared: Arc<Mutex<Shared>>,
}

impl Faults {
    /// Nothing fails yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next `count` calls like this fail with an error number. An empty name means any.
    pub fn fail(&self, operation: Operation, name: &str, error: i32, count: usize) {
        self.fail_after(0, operation, name, error, count);
    }

    /// The same, after `skip` of them.
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

    /// Lets nothing fail any more, and forgets what was asked. Gives the calls that failed.
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

    /// Prepares a command to run under this. The answer must be kept while it runs.
    pub(crate) fn over(&self, command: &mut Command) -> Supervisor {
        let (near, far) = passing::line();
        let filter = filter();
        // SAFETY: system calls only between fork and exec, on memory that was made before.
        unsafe {
            command.pre_exec(move || {
                let listener = install(&filter)?;
                // The listener itself goes at the exec, as the line does.
                if passing::send(far.as_raw_fd(), &[listener.as_raw_fd()], 0) < 0 {
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
                // The child sends one, or came to nothing.
                let Some(listener) = first(&near, &ended) else { return };
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

    /// Takes one call and says what becomes of it.
    fn answer(&self, listener: BorrowedFd<'_>) {
        // SAFETY: plain integers.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: the structure is what the request fills.
        let got =
            unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked) };
        if got != 0 {
            // The process was killed meanwhile.
            return;
        }
        let error = self.decide(&asked);
        let mut reply = libc::seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error: error.map_or(0, |error| -error),
            flags: if error.is_none() { CONTINUE } else { 0 },
        };
        // SAFETY: the structure is what the request reads. It fails when the process was killed.
        unsafe { libc::ioctl(listener.as_raw_fd(), SECCOMP_IOCTL_NOTIF_SEND, &raw mut reply) };
    }

    fn decide(&self, asked: &libc::seccomp_notif) -> Option<i32> {
        let (pid, data) = (asked.pid, &asked.data);
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

/// Answers until it is dropped, or the process has ended.
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
            // A panic in it has been told.
            let _ = thread.join();
        }
    }
}

/// The name of what a call is about: a map's, a program's, the last part of a pin's.
fn name_of(
    names: &mut HashMap<u32, String>,
    pid: u32,
    operation: Operation,
    data: &libc::seccomp_data,
) -> Option<String> {
    let attr = |offset: u64, size: usize| read(pid, data.args[1] + offset, size);
    let number = |offset| Some(u32::from_ne_bytes(attr(offset, 4)?.try_into().ok()?));
    match operation {
        // The places of these fields in `union bpf_attr`.
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

/// Memory of a process: as much of it as there is.
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

/// The name of the map behind a descriptor of a process.
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
/// SECCOMP_USER_NOTIF_FLAG_CONTINUE: the kernel does what was asked.
const CONTINUE: u32 = 1;

/// Lets all calls pass but bpf(2) and mmap(2) of what is shared.
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

/// Puts the calling process under the filter, and gives what tells of its calls. System calls only.
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

/// What a process that is about to exec sends; none when it never does.
fn first(line: &OwnedFd, ended: &AtomicBool) -> Option<OwnedFd> {
    while !ended.load(Ordering::Relaxed) {
        match readable(line.as_fd()) {
            Readable::Now => return passing::receive(line.as_raw_fd()).ok()?.pop(),
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
    // SAFETY: one descriptor, as said.
    match unsafe { libc::poll(&raw mut polled, 1, A_WHILE) } {
        1 if polled.revents & libc::POLLIN != 0 => Readable::Now,
        1 => Readable::Never,
        _ => Readable::NotYet,
    }
}
