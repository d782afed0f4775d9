//! A process in the cgroup that makes sockets and hands them over.
//!
//! What counts for the hooks is the cgroup (and the network namespace) in which a socket was made,
//! also after it was passed on. So a test stays one process that can be read from top to bottom, and
//! its sockets are those of a pod.
//!
//! The process is forked without exec from a process with threads: until its end it makes system
//! calls only, no allocation and no lock.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::Mutex;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::cgroup::Cgroup;
use super::client::{Kind, Socket};
use super::namespace::Namespace;
use super::passing::{self, BATCH};

/// What is asked of the process.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Order {
    /// First argument of socket(2).
    pub(crate) domain: i32,
    /// Second.
    pub(crate) kind: i32,
    /// Third.
    pub(crate) protocol: i32,
    /// How many, at most [`BATCH`].
    pub(crate) count: u32,
}

/// The process.
pub(crate) struct Factory {
    line: Mutex<OwnedFd>,
    process: Pid,
}

impl Factory {
    /// Starts the process in the namespace and the cgroup.
    pub(crate) fn start(namespace: &Namespace, cgroup: &Cgroup) -> Self {
        let entrance = cgroup.entrance();
        namespace.run(move || {
            let (ours, theirs) = passing::line();
            // SAFETY: the child calls `work`, which makes system calls only and never returns.
            match unsafe { libc::fork() } {
                0 => work(theirs.as_raw_fd(), entrance.as_raw_fd()),
                -1 => panic!("fork: {}", io::Error::last_os_error()),
                process => {
                    let factory = Self { line: Mutex::new(ours), process: Pid::from_raw(process) };
                    // The first answer says that the process is in the cgroup.
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

    /// Makes so many sockets of a client.
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

    /// Makes sockets.
    pub(crate) fn make(&self, order: Order) -> io::Result<Vec<OwnedFd>> {
        let line = self.line.lock().unwrap();
        let bytes = (&raw const order).cast();
        // SAFETY: an order is plain bytes.
        let sent = unsafe { libc::send(line.as_raw_fd(), bytes, size_of::<Order>(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        passing::receive(line.as_raw_fd())
    }
}

impl Drop for Factory {
    fn drop(&mut self) {
        // The end of the line ends the process.
        let line = match self.line.get_mut() {
            Ok(line) => line.as_raw_fd(),
            Err(broken) => broken.into_inner().as_raw_fd(),
        };
        // SAFETY: no memory is involved.
        unsafe { libc::shutdown(line, libc::SHUT_RDWR) };
        if let Err(error) = waitpid(self.process, None) {
            eprintln!("cannot wait for the process that makes sockets: {error}");
        }
    }
}

/// The process: system calls only.
fn work(line: RawFd, entrance: RawFd) -> ! {
    // SAFETY: descriptors and memory of this process, which has no other thread.
    unsafe {
        if libc::write(entrance, c"0".as_ptr().cast(), 1) != 1 {
            libc::_exit(1);
        }
        // It must not keep open what others close: only the line stays, as descriptor 0.
        if libc::dup2(line, 0) != 0 || libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) != 0 {
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

/// Makes the sockets of an order and sends them: system calls only.
fn serve(order: &Order) {
    let mut sockets = [-1; BATCH];
    let mut error = 0_i32;
    let wanted = (order.count as usize).min(BATCH);
    let mut made = 0;
    while made < wanted && error == 0 {
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
    passing::send(0, if error == 0 { &sockets[..made] } else { &[] }, error);
    for socket in &sockets[..made] {
        // SAFETY: a descriptor of this process.
        unsafe { libc::close(*socket) };
    }
}
