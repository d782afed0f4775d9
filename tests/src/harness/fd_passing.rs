//! Passing descriptors over a Unix socket (unix(7), SCM_RIGHTS), and a forked child that inherits a
//! socket.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use socket2::{SockAddr, SockAddrStorage};

use super::client::Socket;

/// Maximum number of descriptors per message; the kernel allows 253 (SCM_MAX_FD).
pub(crate) const BATCH: usize = 250;
/// Buffer for the control message of a batch, aligned as `cmsghdr` is.
type Control = [u64; (BATCH * size_of::<RawFd>() + 64) / 8];

/// Creates a pair of connected SOCK_SEQPACKET sockets.
pub(crate) fn channel() -> (OwnedFd, OwnedFd) {
    let mut pair = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the array has room for the two descriptors.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) };
    assert_eq!(made, 0, "socketpair: {}", io::Error::last_os_error());
    // SAFETY: nothing else owns them.
    unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) }
}

fn message(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: plain integers and null pointers.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>();
    message
}

/// Sends at most [`BATCH`] descriptors, or an error number instead, by system calls only.
pub(crate) fn send(channel: RawFd, descriptors: &[RawFd], mut error: i32) -> isize {
    let mut control: Control = [0; _];
    let mut part = libc::iovec { iov_base: (&raw mut error).cast(), iov_len: size_of::<i32>() };
    let mut message = message(&mut part, &mut control);
    if descriptors.is_empty() {
        message.msg_control = std::ptr::null_mut();
        message.msg_controllen = 0;
    } else {
        let size = size_of_val(descriptors);
        // SAFETY: `control` has room for BATCH descriptors; the header is its first bytes.
        #[expect(clippy::cast_possible_truncation, reason = "BATCH descriptors are few bytes")]
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(size as u32) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size as u32) as usize;
            let data = libc::CMSG_DATA(header);
            descriptors.as_ptr().cast::<u8>().copy_to_nonoverlapping(data, size);
        }
    }
    // SAFETY: the message points to memory that lives here.
    unsafe { libc::sendmsg(channel, &raw const message, libc::MSG_NOSIGNAL) }
}

/// Receives the descriptors of one message, or the error number in it.
pub(crate) fn receive(channel: RawFd) -> io::Result<Vec<OwnedFd>> {
    let mut error = 0_i32;
    let mut control: Control = [0; _];
    let mut part = libc::iovec { iov_base: (&raw mut error).cast(), iov_len: size_of::<i32>() };
    let mut message = message(&mut part, &mut control);
    // SAFETY: the message points to memory that lives here.
    match unsafe { libc::recvmsg(channel, &raw mut message, libc::MSG_CMSG_CLOEXEC) } {
        -1 => return Err(io::Error::last_os_error()),
        0 => return Err(io::Error::other("the other end of the channel is closed")),
        _ if error != 0 => return Err(io::Error::from_raw_os_error(error)),
        _ => {}
    }
    // SAFETY: the kernel has filled the message; a header that it gives lies in `control`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let header = header.ok_or_else(|| io::Error::other("the message has no descriptor"))?;
    // SAFETY: as above; only arithmetic.
    let (data, empty) = unsafe { (libc::CMSG_DATA(header), libc::CMSG_LEN(0) as usize) };
    let count = (header.cmsg_len - empty) / size_of::<RawFd>();
    // SAFETY: the kernel has put that many descriptors there, and only this process owns them.
    let take =
        |number| unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(number).read_unaligned()) };
    Ok((0..count).map(take).collect())
}

/// A socket whose only descriptor lies in a message in the queue of a Unix socket.
#[derive(Debug)]
pub struct SocketInFlight {
    far: OwnedFd,
    /// Keeps the queue alive.
    _near: OwnedFd,
}

impl SocketInFlight {
    /// Sends the socket's descriptor and closes the test's own.
    pub fn of(socket: Socket) -> Self {
        let (near, far) = channel();
        let sent = send(near.as_raw_fd(), &[socket.raw().as_raw_fd()], 0);
        assert!(sent > 0, "cannot send a descriptor: {}", io::Error::last_os_error());
        drop(socket);
        Self { far, _near: near }
    }

    /// Receives the socket.
    pub fn take(self) -> Socket {
        let mut sockets = receive(self.far.as_raw_fd()).expect("the queue must return the socket");
        sockets.pop().expect("one socket was sent").into()
    }
}

/// A child process, outside the world's cgroup, that inherited a socket by fork.
#[derive(Debug)]
pub struct ForkedChild {
    channel: OwnedFd,
    process: Pid,
}

/// The child's answer: the address that getpeername(2) returned, or its error number.
#[repr(C)]
struct PeerAnswer {
    error: i32,
    size: libc::socklen_t,
    address: libc::sockaddr_storage,
}

impl ForkedChild {
    /// Forks a child that keeps no other descriptor of this process than the socket.
    pub fn of(socket: &Socket) -> Self {
        let (near, far) = channel();
        let inherited = socket.raw().as_raw_fd();
        // SAFETY: the child calls `inherit`, which makes system calls only and never returns.
        match unsafe { libc::fork() } {
            0 => inherit(far.as_raw_fd(), inherited),
            -1 => panic!("fork: {}", io::Error::last_os_error()),
            process => Self { channel: near, process: Pid::from_raw(process) },
        }
    }

    /// getpeername(2) of the child's socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        let channel = self.channel.as_raw_fd();
        let mut answer = MaybeUninit::<PeerAnswer>::zeroed();
        // SAFETY: one byte is sent, and the buffer has the size of the answer.
        let got = unsafe {
            libc::send(channel, c"?".as_ptr().cast(), 1, libc::MSG_NOSIGNAL);
            libc::recv(channel, answer.as_mut_ptr().cast(), size_of::<PeerAnswer>(), 0)
        };
        assert_eq!(
            usize::try_from(got),
            Ok(size_of::<PeerAnswer>()),
            "the forked child must answer"
        );
        // SAFETY: the child wrote all of it.
        let answer = unsafe { answer.assume_init() };
        if answer.error != 0 {
            return Err(io::Error::from_raw_os_error(answer.error));
        }
        // SAFETY: the kernel wrote this address; both types are `sockaddr_storage`.
        let address = unsafe {
            let storage: SockAddrStorage = std::mem::transmute(answer.address);
            SockAddr::new(storage, answer.size)
        };
        Ok(address.as_socket().expect("an internet address"))
    }
}

impl Drop for ForkedChild {
    fn drop(&mut self) {
        // SAFETY: no memory is involved. The end of the channel ends the child.
        unsafe { libc::shutdown(self.channel.as_raw_fd(), libc::SHUT_RDWR) };
        if let Err(error) = waitpid(self.process, None) {
            eprintln!("cannot wait for the forked child: {error}");
        }
    }
}

/// The body of the child, which may only make system calls.
fn inherit(channel: RawFd, socket: RawFd) -> ! {
    const CHANNEL: RawFd = 1000;
    const SOCKET: RawFd = 1001;
    /// Size of `sockaddr_storage` (_K_SS_MAXSIZE).
    const SIZE: libc::socklen_t = 128;
    // SAFETY: descriptors and memory of this process, which has no other thread.
    unsafe {
        // High numbers first: either descriptor may have the number that the other needs.
        if libc::dup2(channel, CHANNEL) < 0 || libc::dup2(socket, SOCKET) < 0 {
            libc::_exit(1);
        }
        close_all_but(CHANNEL, SOCKET);
        loop {
            let mut request = 0_u8;
            if libc::recv(CHANNEL, (&raw mut request).cast(), 1, 0) <= 0 {
                libc::_exit(0);
            }
            let mut answer: PeerAnswer = MaybeUninit::zeroed().assume_init();
            answer.size = SIZE;
            if libc::getpeername(SOCKET, (&raw mut answer.address).cast(), &raw mut answer.size)
                != 0
            {
                answer.error = *libc::__errno_location();
            }
            libc::send(
                CHANNEL,
                (&raw const answer).cast(),
                size_of::<PeerAnswer>(),
                libc::MSG_NOSIGNAL,
            );
        }
    }
}

/// Closes every descriptor but two adjacent ones, so that the child keeps nothing open that others
/// close.
fn close_all_but(first: RawFd, second: RawFd) {
    // SAFETY: numbers only.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, first - 1, 0);
        libc::syscall(libc::SYS_close_range, second + 1, u32::MAX, 0);
    }
}
