//! A responder: a thread with a socket outside the cgroup that answers with its name.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Type};

use super::namespace::Namespace;
use crate::Protocol;

/// A responder. Until it is dropped, it answers each request with its name and the request.
#[derive(Debug)]
pub struct Backend {
    name: String,
    protocol: Protocol,
    address: SocketAddr,
    sources: Arc<Mutex<Vec<SocketAddr>>>,
    /// Closing this end stops the thread.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    pub(crate) fn start(
        namespace: &Namespace,
        name: &str,
        protocol: Protocol,
        address: SocketAddr,
    ) -> Self {
        let socket = namespace
            .run(move || bind(protocol, address))
            .unwrap_or_else(|error| panic!("backend {name} cannot listen on {address}: {error}"));
        let (stop, stopped) = UnixStream::pair().expect("a socket pair can be made");
        let sources = Arc::new(Mutex::new(Vec::new()));
        let (own_name, seen) = (name.to_owned(), Arc::clone(&sources));
        let thread = thread::Builder::new()
            .name(format!("backend {name}"))
            .spawn(move || match protocol {
                Protocol::Tcp => serve_tcp(&own_name, &socket.into(), &stopped, &seen),
                Protocol::Udp => serve_udp(&own_name, &socket.into(), &stopped, &seen),
            })
            .expect("a thread can be started");
        let (stop, thread) = (Some(stop), Some(thread));
        Self { name: name.to_owned(), protocol, address, sources, stop, thread }
    }

    /// The name that it answers with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The protocol that it serves.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of accepted connections, or of received datagrams.
    pub fn hits(&self) -> usize {
        self.sources.lock().unwrap().len()
    }

    /// The source address of each connection or datagram.
    pub fn sources(&self) -> Vec<SocketAddr> {
        self.sources.lock().unwrap().clone()
    }

    /// Closes its sockets and joins its thread.
    pub fn stop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the backend's thread did not panic");
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

fn bind(protocol: Protocol, address: SocketAddr) -> io::Result<socket2::Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = socket2::Socket::new(Domain::for_address(address), kind, None)?;
    if protocol == Protocol::Tcp {
        socket.set_reuse_address(true)?;
    } else {
        // A large buffer keeps datagrams that arrive while this thread waits for the processor.
        socket.set_recv_buffer_size(1 << 20)?;
    }
    socket.bind(&SockAddr::from(address))?;
    if protocol == Protocol::Tcp {
        accept_fast_open(&socket)?;
        socket.listen(1024)?;
    }
    Ok(socket)
}

/// Lets clients send with their first packet (tcp(7), TCP_FASTOPEN).
fn accept_fast_open(socket: &socket2::Socket) -> io::Result<()> {
    let queue: libc::c_int = 64;
    let size = libc::socklen_t::try_from(size_of_val(&queue)).unwrap();
    let value = (&raw const queue).cast();
    // SAFETY: the value lives here and has this size.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_FASTOPEN, value, size)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn serve_udp(
    name: &str,
    socket: &UdpSocket,
    stopped: &UnixStream,
    sources: &Mutex<Vec<SocketAddr>>,
) {
    socket.set_nonblocking(true).expect("a socket can be non-blocking");
    let mut buffer = [0; 512];
    while readable(&[stopped.as_fd(), socket.as_fd()])[0] == 0 {
        while let Ok((size, from)) = socket.recv_from(&mut buffer) {
            sources.lock().unwrap().push(from);
            // The send fails if the client has closed its socket meanwhile.
            let _ = socket.send_to(&response(name, &buffer[..size]), from);
        }
    }
}

fn serve_tcp(
    name: &str,
    listener: &TcpListener,
    stopped: &UnixStream,
    sources: &Mutex<Vec<SocketAddr>>,
) {
    listener.set_nonblocking(true).expect("a socket can be non-blocking");
    let mut clients: Vec<TcpStream> = Vec::new();
    loop {
        let mut all = vec![stopped.as_fd(), listener.as_fd()];
        all.extend(clients.iter().map(|client| client.as_fd()));
        let ready = readable(&all);
        if ready[0] != 0 {
            // A child process that is just being started may hold the socket a moment longer, which
            // would keep it listening.
            SockRef::from(listener).shutdown(Shutdown::Both).expect("a listener can be shut down");
            return;
        }
        let mut number = 2;
        clients.retain_mut(|client| {
            number += 1;
            ready[number - 1] == 0 || respond(name, client)
        });
        while let Ok((client, from)) = listener.accept() {
            sources.lock().unwrap().push(from);
            client.set_nonblocking(true).expect("a socket can be non-blocking");
            clients.push(client);
        }
    }
}

/// Answers one request; returns false once the client has closed the connection.
fn respond(name: &str, client: &mut TcpStream) -> bool {
    let mut buffer = [0; 512];
    match client.read(&mut buffer) {
        Ok(0) => false,
        Ok(size) => client.write_all(&response(name, &buffer[..size])).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

fn response(name: &str, request: &[u8]) -> Vec<u8> {
    [name.as_bytes(), b" ", request].concat()
}

/// Polls the sockets for at most a second and returns the `revents` of each.
fn readable(sockets: &[BorrowedFd<'_>]) -> Vec<i16> {
    let mut polled: Vec<libc::pollfd> = sockets
        .iter()
        .map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let patience = i32::try_from(Duration::from_secs(1).as_millis()).unwrap();
    // SAFETY: the pointer and the length are those of one array.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, patience) };
    polled.iter().map(|it| it.revents).collect()
}
