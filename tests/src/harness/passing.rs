//! Descriptors over a Unix socket (unix(7), SCM_RIGHTS), and a child that inherits one.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use socket2::{SockAddr, SockAddrStorage};

use super::client::Socket;

/// Most descriptors of one message; the kernel allows 253 (SCM_MAX_FD).
pub(crate) const BATCH: usize = 250;
/// Room for the control message of a batch, aligned as `cmsghdr` is.
type Control = [u64; (BATCH * size_of::<RawFd>() + 64) / 8];

/// Both ends of a line whose messages keep their bounds.
pub(crate) fn line() -> (OwnedFd, OwnedFd) {
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

/// Sends at most [`BATCH`] descriptors, or an error number instead. System calls only.
pub(crate) fn send(line: RawFd, descriptors: &[RawFd], mut error: i32) -> isize {
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
    unsafe { libc::sendmsg(line, &raw const message, libc::MSG_NOSIGNAL) }
}

/// Takes the descriptors, or the error, of one message.
pub(crate) fn receive(line: RawFd) -> io::Result<Vec<OwnedFd>> {
    let mut error = 0_i32;
    let mut control: Control = [0; _];
    let mut part = libc::iovec { iov_base: (&raw mut error).cast(), iov_len: size_of::<i32>() };
    let mut message = message(&mut part, &mut control);
    // SAFETY: the message points to memory that lives here.
    match unsafe { libc::recvmsg(line, &raw mut message, libc::MSG_CMSG_CLOEXEC) } {
        -1 => return Err(io::Error::last_os_error()),
        0 => return Err(io::Error::other("the other end of the line is gone")),
        _ if error != 0 => return Err(io::Error::from_raw_os_error(error)),
        _ => {}
    }
    // SAFETY: the kernel has filled the message; a header that it gives lies in `control`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    let header = header.ok_or_else(|| io::Error::other("no descriptor came"))?;
    // SAFETY: as above; only arithmetic.
    let (data, empty) = unsafe { (libc::CMSG_DATA(header), libc::CMSG_LEN(0) as usize) };
    let count = (header.cmsg_len - empty) / size_of::<RawFd>();
    // SAFETY: that many descriptors lie there, each now owned by this process, by nobody else.
    let take =
        |number| unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(number).read_unaligned()) };
    Ok((0..count).map(take).collect())
}

/// A Unix socket that a socket is in.
#[derive(Debug)]
pub struct Passage {
    far: OwnedFd,
    /// Keeps the line open.
    _near: OwnedFd,
}

impl Passage {
    /// Sends the socket and closes it: from now on only the passage has it.
    pub fn of(socket: Socket) -> Self {
        let (near, far) = line();
        let sent = send(near.as_raw_fd(), &[socket.raw().as_raw_fd()], 0);
        assert!(sent > 0, "cannot send a descriptor: {}", io::Error::last_os_error());
        drop(socket);
        Self { far, _near: near }
    }

    /// Receives it.
    pub fn take(self) -> Socket {
        let mut sockets = receive(self.far.as_raw_fd()).expect("the socket comes out again");
        sockets.pop().expect("one socket was sent").into()
    }
}

/// A child process, outside the world's cgroup, that inherited a socket by fork.
#[derive(Debug)]
pub struct Heir {
    line: OwnedFd,
    process: Pid,
}

/// What the heir answers: getpeername's address, or its error number.
#[repr(C)]
struct Said {
    error: i32,
    size: libc::socklen_t,
    address: libc::sockaddr_storage,
}

impl Heir {
    /// Forks. The child has no other descriptor of this process than the socket.
    pub fn of(socket: &Socket) -> Self {
        let (near, far) = line();
        let inherited = socket.raw().as_raw_fd();
        // SAFETY: the child calls `inherit`, which makes system calls only and never returns.
        match unsafe { libc::fork() } {
            0 => inherit(far.as_raw_fd(), inherited),
            -1 => panic!("fork: {}", io::Error::last_os_error()),
            process => Self { line: near, process: Pid::from_raw(process) },
        }
    }

    /// getpeername(2) of the child's socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        let line = self.line.as_raw_fd();
        let mut said = MaybeUninit::<Said>::zeroed();
        // SAFETY: one byte goes, and the answer has this size.
        let got = unsafe {
            libc::send(line, c"?".as_ptr().cast(), 1, libc::MSG_NOSIGNAL);
            libc::recv(line, said.as_mut_ptr().cast(), size_of::<Said>(), 0)
        };
        assert_eq!(usize::try_from(got), Ok(size_of::<Said>()), "the heir answers");
        // SAFETY: the heir wrote all of it.
        let said = unsafe { said.assume_init() };
        if said.error != 0 {
            return Err(io::Error::from_raw_os_error(said.error));
        }
        // SAFETY: an address as the kernel gave it; both are `sockaddr_storage`.
        let address = unsafe {
            let storage: SockAddrStorage = std::mem::transmute(said.address);
            SockAddr::new(storage, said.size)
        };
        Ok(address.as_socket().expect("an internet address"))
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        // The end of the line ends the child.
        // SAFETY: no memory is involved.
        unsafe { libc::shutdown(self.line.as_raw_fd(), libc::SHUT_RDWR) };
        if let Err(error) = waitpid(self.process, None) {
            eprintln!("cannot wait for the heir: {error}");
        }
    }
}

/// The child: system calls only.
fn inherit(line: RawFd, socket: RawFd) -> ! {
    const LINE: RawFd = 1000;
    const SOCKET: RawFd = 1001;
    /// Room for an address: `sockaddr_storage` (_K_SS_MAXSIZE).
    const SIZE: libc::socklen_t = 128;
    // SAFETY: descriptors and memory of this process, which has no other thread.
    unsafe {
        // High numbers first: either may lie where the other goes.
        if libc::dup2(line, LINE) < 0 || libc::dup2(socket, SOCKET) < 0 {
            libc::_exit(1);
        }
        close_all_but(LINE, SOCKET);
        loop {
            let mut question = 0_u8;
            if libc::recv(LINE, (&raw mut question).cast(), 1, 0) <= 0 {
                libc::_exit(0);
            }
            let mut said: Said = MaybeUninit::zeroed().assume_init();
            said.size = SIZE;
            if libc::getpeername(SOCKET, (&raw mut said.address).cast(), &raw mut said.size) != 0 {
                said.error = *libc::__errno_location();
            }
            libc::send(LINE, (&raw const said).cast(), size_of::<Said>(), libc::MSG_NOSIGNAL);
        }
    }
}

/// Closes every descriptor but two neighbours, so that a child keeps nothing open that others close.
fn close_all_but(first: RawFd, second: RawFd) {
    // SAFETY: numbers only.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, first - 1, 0);
        libc::syscall(libc::SYS_close_range, second + 1, u32::MAX, 0);
    }
}
