//! A process in the cgroup that creates sockets and passes them to the test.
//!
//! The hooks see the cgroup and the network namespace in which a socket was created, also after it was
//! passed on. So a test stays one process that can be read from top to bottom, while its sockets are
//! those of a pod.
//!
//! The process is forked without exec from a process with threads, so until it exits it may only make
//! system calls: no allocation, no lock.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::Mutex;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::cgroup::Cgroup;
use super::client::{Kind, Socket};
use super::fd_passing::{self, BATCH};
use super::namespace::Namespace;

/// An order for sockets.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Order {
    /// First argument of socket(2).
    pub(crate) domain: i32,
    /// Second argument of socket(2), without flags.
    pub(crate) kind: i32,
    /// Third argument of socket(2).
    pub(crate) protocol: i32,
    /// Number of sockets, at most [`BATCH`].
    pub(crate) count: u32,
}

/// The process that creates sockets.
pub(crate) struct Factory {
    channel: Mutex<OwnedFd>,
    process: Pid,
}

impl Factory {
    /// Starts the process in the namespace and the cgroup.
    pub(crate) fn start(namespace: &Namespace, cgroup: &Cgroup) -> Self {
        let procs_file = cgroup.procs_file();
        namespace.run(move || {
            let (ours, theirs) = fd_passing::channel();
            // SAFETY: the child calls `work`, which makes system calls only and never returns.
            match unsafe { libc::fork() } {
                0 => work(theirs.as_raw_fd(), procs_file.as_raw_fd()),
                -1 => panic!("fork: {}", io::Error::last_os_error()),
                process => {
                    let factory =
                        Self { channel: Mutex::new(ours), process: Pid::from_raw(process) };
                    // The first answer shows that the process has joined the cgroup.
                    let first = Order {
                        domain: libc::AF_INET,
                        kind: libc::SOCK_DGRAM,
                        protocol: 0,
                        count: 1,
                    };
                    factory.make(first).expect("the process that makes sockets joined its cgroup");
                    factory
                }
            }
        })
    }

    /// Creates sockets of a client.
    pub(crate) fn sockets(&self, kind: Kind, count: usize) -> Vec<Socket> {
        let mut sockets = Vec::with_capacity(count);
        while sockets.len() < count {
            let batch = u32::try_from((count - sockets.len()).min(BATCH)).unwrap();
            let made = self.make(kind.order(batch));
            let made = made.unwrap_or_else(|error| panic!("cannot make {kind:?} sockets: {error}"));
            sockets.extend(made.into_iter().map(Socket::from));
        }
        sockets
    }

    /// Sends an order to the process and returns its sockets.
    pub(crate) fn make(&self, order: Order) -> io::Result<Vec<OwnedFd>> {
        let channel = self.channel.lock().unwrap();
        let bytes = (&raw const order).cast();
        // SAFETY: an order is plain bytes.
        let sent = unsafe { libc::send(channel.as_raw_fd(), bytes, size_of::<Order>(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        fd_passing::receive(channel.as_raw_fd())
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        // The end of the channel ends the process.
        let channel = match self.channel.get_mut() {
            Ok(channel) => channel.as_raw_fd(),
            Err(broken) => broken.into_inner().as_raw_fd(),
        };
        // SAFETY: no memory is involved.
        unsafe { libc::shutdown(channel, libc::SHUT_RDWR) };
        if let Err(error) = waitpid(self.process, None) {
            eprintln!("cannot wait for the process that makes sockets: {error}");
        }
    }
}

/// The body of the process, which may only make system calls.
fn work(channel: RawFd, procs_file: RawFd) -> ! {
    // SAFETY: descriptors and memory of this process, which has no other thread.
    unsafe {
        if libc::write(procs_file, c"0".as_ptr().cast(), 1) != 1 {
            libc::_exit(1);
        }
        // The process must not keep descriptors of the test open: only the channel stays, as descriptor
        // 0.
        if libc::dup2(channel, 0) != 0 || libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) != 0
        {
            libc::_exit(2);
        }
        loop {
            let mut order = MaybeUninit::<Order>::zeroed();
            if libc::recv(0, order.as_mut_ptr().cast(), size_of::<Order>(), 0) <= 0 {
                libc::_exit(0);
            }
            serve(&order.assume_init());
        }
    }
}

/// Creates the sockets of an order and sends them, by system calls only.
fn serve(order: &Order) {
    let mut sockets = [-1; BATCH];
    let mut error = 0_i32;
    let count = (order.count as usize).min(BATCH);
    let mut made = 0;
    while made < count && error == 0 {
        // SAFETY: plain numbers; errno is this thread's.
        unsafe {
            sockets[made] =
                libc::socket(order.domain, order.kind | libc::SOCK_CLOEXEC, order.protocol);
            if sockets[made] < 0 {
                error = *libc::__errno_location();
                break;
            }
        }
        made += 1;
    }
    fd_passing::send(0, if error == 0 { &sockets[..made] } else { &[] }, error);
    for socket in &sockets[..made] {
        // SAFETY: a descriptor of this process.
        unsafe { libc::close(*socket) };
    }
}
