//! Processes of one workload that open very many UDP sockets, use each once, and hold them.
//!
//! Each process makes a network namespace of its own with nothing in it that is up: what the hooks do
//! happens, and then every connect and send fails for want of a route. The calls are made by tasks in the
//! workload's cgroup, unlike those of [`super::client::Socket`], which the test itself makes.
//!
//! The processes are forked without exec from a process with threads: until their end they make system
//! calls only, no allocation and no lock.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::client::Place;
use super::passing;
use super::world::World;

/// What a process does with each socket, for each address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// connect(2), one address after the other.
    Connect,
    /// sendto(2).
    Send,
}

/// The processes. Their sockets are closed when this is dropped.
#[derive(Debug)]
pub struct Crowd(Vec<(Pid, OwnedFd)>);

/// Sockets of a process: fewer than a container may usually have open.
const EACH: usize = 16_000;
/// How long a process may take.
const PATIENCE: Duration = Duration::from_secs(200);

impl World {
    /// Opens so many sockets in a cgroup below the world's, which is made where it is not there, and
    /// does something with each for every one of these IPv4 addresses. Waits until that is done.
    ///
    /// # Panics
    /// When the cgroup cannot be made, or a process cannot do as it should.
    pub fn crowd(&self, workload: &str, sockets: usize, deed: Deed, to: &[&str]) -> Crowd {
        let rest = sockets % EACH;
        let rest = (rest > 0).then_some(rest);
        let each: Vec<usize> = std::iter::repeat_n(EACH, sockets / EACH).chain(rest).collect();
        self.crowd_of(workload, &each, deed, to)
    }

    /// The same by processes with so many sockets each.
    ///
    /// # Panics
    /// As there.
    pub fn crowd_of(&self, workload: &str, each: &[usize], deed: Deed, to: &[&str]) -> Crowd {
        let folder = self.cgroup().join(workload);
        fs::create_dir_all(&folder).expect("a cgroup can be made below the world's");
        let entrance = File::options().write(true).open(folder.join("cgroup.procs"));
        let entrance = entrance.expect("a cgroup has a file that takes processes");
        let to: Vec<libc::sockaddr_in> = to.iter().map(|to| address(to.place())).collect();
        let fork = |count: &usize| (fork(&entrance, *count, deed, &to), *count);
        let processes: Vec<_> = each.iter().map(fork).collect();
        for ((process, line), count) in &processes {
            let mut made = 0_u64;
            // SAFETY: the number lives here and has this size.
            let got = unsafe {
                libc::recv(line.as_raw_fd(), (&raw mut made).cast(), size_of::<u64>(), 0)
            };
            let wanted = (8, *count as u64);
            assert_eq!((got, made), wanted, "process {process}: {}", io::Error::last_os_error());
        }
        Crowd(processes.into_iter().map(|(process, _)| process).collect())
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

fn fork(entrance: &File, count: usize, deed: Deed, to: &[libc::sockaddr_in]) -> (Pid, OwnedFd) {
    let (ours, theirs) = passing::line();
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
        0 => work(theirs.as_raw_fd(), entrance.as_raw_fd(), count, deed, to),
        -1 => panic!("fork: {}", io::Error::last_os_error()),
        process => (Pid::from_raw(process), ours),
    }
}

/// A process: system calls only.
fn work(line: RawFd, entrance: RawFd, count: usize, deed: Deed, to: &[libc::sockaddr_in]) -> ! {
    #[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
    let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: descriptors and memory of this process, which has no other thread.
    unsafe {
        // It ends with the test, and is in no network from which a packet could leave.
        let lives = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0
            && libc::write(entrance, c"0".as_ptr().cast(), 1) == 1
            && libc::unshare(libc::CLONE_NEWNET) == 0
            && libc::dup2(line, 0) == 0
            && libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) == 0;
        if !lives {
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
                match deed {
                    Deed::Connect => libc::connect(socket, at, size),
                    Deed::Send => {
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

impl Drop for Crowd {
    fn drop(&mut self) {
        for (_, line) in &self.0 {
            // The end of the line ends the process.
            // SAFETY: no memory is involved.
            unsafe { libc::shutdown(line.as_raw_fd(), libc::SHUT_RDWR) };
        }
        for (process, _) in &self.0 {
            if let Err(error) = waitpid(*process, None) {
                eprintln!("cannot wait for a process of a crowd: {error}");
            }
        }
    }
}
