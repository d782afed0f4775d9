//! Processes of one workload that open very many UDP sockets, use each once, and keep them open.
//!
//! Each process creates an empty network namespace with no interface up: the hooks run, and then every
//! connect and send fails for want of a route. Unlike those of [`super::client::Socket`], which the test
//! itself makes, the calls are made by tasks in the workload's cgroup.
//!
//! The processes are forked without exec from a process with threads, so until they exit they may only
//! make system calls: no allocation, no lock.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::client::ToAddress;
use super::fd_passing;
use super::world::World;

/// The call that a process makes on each socket, for each address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketUse {
    /// connect(2) to one address after the other.
    Connect,
    /// sendto(2).
    Send,
}

/// The processes, whose sockets are closed on drop.
#[derive(Debug)]
pub struct ManySockets(Vec<(Pid, OwnedFd)>);

/// Sockets per process, fewer than the usual limit of open files of a container.
const EACH: usize = 16_000;
/// Limit for the work of one process.
const PATIENCE: Duration = Duration::from_secs(200);

impl World {
    /// Opens `sockets` sockets in a cgroup below the world's, which is created if it does not exist,
    /// makes the call on each socket for each of these IPv4 addresses, and waits until all is done.
    ///
    /// # Panics
    /// If the cgroup cannot be created, or a process fails.
    pub fn open_many_sockets(
        &self,
        workload: &str,
        sockets: usize,
        usage: SocketUse,
        to: &[&str],
    ) -> ManySockets {
        let rest = sockets % EACH;
        let rest = (rest > 0).then_some(rest);
        let each: Vec<usize> = std::iter::repeat_n(EACH, sockets / EACH).chain(rest).collect();
        self.open_many_sockets_in(workload, &each, usage, to)
    }

    /// As [`Self::open_many_sockets`], with one process for each element of `each`, which is its number
    /// of sockets.
    ///
    /// # Panics
    /// As [`Self::open_many_sockets`].
    pub fn open_many_sockets_in(
        &self,
        workload: &str,
        each: &[usize],
        usage: SocketUse,
        to: &[&str],
    ) -> ManySockets {
        let folder = self.cgroup().join(workload);
        fs::create_dir_all(&folder).expect("a cgroup can be made below the world's");
        let procs_file = File::options().write(true).open(folder.join("cgroup.procs"));
        let procs_file = procs_file.expect("a cgroup has a writable cgroup.procs");
        let to: Vec<libc::sockaddr_in> = to.iter().map(|to| address(to.to_address())).collect();
        let fork = |count: &usize| (fork(&procs_file, *count, usage, &to), *count);
        let processes: Vec<_> = each.iter().map(fork).collect();
        for ((process, channel), count) in &processes {
            let mut made = 0_u64;
            // SAFETY: the number lives here and has this size.
            let got = unsafe {
                libc::recv(channel.as_raw_fd(), (&raw mut made).cast(), size_of::<u64>(), 0)
            };
            let wanted = (8, *count as u64);
            assert_eq!((got, made), wanted, "process {process}: {}", io::Error::last_os_error());
        }
        ManySockets(processes.into_iter().map(|(process, _)| process).collect())
    }
}

fn address(at: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(v4) = at else { panic!("{at} is not an IPv4 address") };
    let v4: SocketAddrV4 = v4;
    libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).unwrap(),
        sin_port: v4.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn fork(
    procs_file: &File,
    count: usize,
    usage: SocketUse,
    to: &[libc::sockaddr_in],
) -> (Pid, OwnedFd) {
    let (ours, theirs) = fd_passing::channel();
    let patience = libc::timeval { tv_sec: PATIENCE.as_secs().cast_signed(), tv_usec: 0 };
    // SAFETY: the value lives here; the child calls `work`, which makes system calls only and never
    // returns.
    let process = unsafe {
        let size = libc::socklen_t::try_from(size_of::<libc::timeval>()).unwrap();
        let value = (&raw const patience).cast();
        libc::setsockopt(ours.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVTIMEO, value, size);
        libc::fork()
    };
    match process {
        0 => work(theirs.as_raw_fd(), procs_file.as_raw_fd(), count, usage, to),
        -1 => panic!("fork: {}", io::Error::last_os_error()),
        process => (Pid::from_raw(process), ours),
    }
}

/// The body of a process, which may only make system calls.
fn work(
    channel: RawFd,
    procs_file: RawFd,
    count: usize,
    usage: SocketUse,
    to: &[libc::sockaddr_in],
) -> ! {
    #[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
    let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: descriptors and memory of this process, which has no other thread.
    unsafe {
        // The process ends with the test, and is in a network namespace that no packet can leave.
        let is_ready = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::write(procs_file, c"0".as_ptr().cast(), 1) == 1
            && libc::unshare(libc::CLONE_NEWNET) == 0
            && libc::dup2(channel, 0) == 0
            && libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) == 0;
        if !is_ready {
            libc::_exit(1);
        }
        let mut made = 0_u64;
        while made < count as u64 {
            let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
            if socket < 0 {
                break;
            }
            for at in to {
                let at = (&raw const *at).cast();
                match usage {
                    SocketUse::Connect => libc::connect(socket, at, size),
                    SocketUse::Send => {
                        let sent = libc::sendto(socket, c"x".as_ptr().cast(), 1, 0, at, size);
                        i32::from(sent == 1)
                    }
                };
            }
            made += 1;
        }
        libc::send(0, (&raw const made).cast(), size_of::<u64>(), libc::MSG_NOSIGNAL);
        libc::recv(0, (&raw mut made).cast(), size_of::<u64>(), 0);
        libc::_exit(0)
    }
}

impl Drop for ManySockets {
    fn drop(&mut self) {
        for (_, channel) in &self.0 {
            // SAFETY: no memory is involved. The end of the channel ends the process.
            unsafe { libc::shutdown(channel.as_raw_fd(), libc::SHUT_RDWR) };
        }
        for (process, _) in &self.0 {
            if let Err(error) = waitpid(*process, None) {
                eprintln!("cannot wait for a process with many sockets: {error}");
            }
        }
    }
}
