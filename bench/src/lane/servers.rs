//! Who answers in a lane: sockets that are made before the process joins the cgroup, so that no
//! program runs for them.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::Context as _;

/// The port at which connections are made and closed, and datagrams are answered.
pub(crate) const PLAIN: u16 = 8080;
/// The port at which everything is read.
pub(crate) const SINK: u16 = 8081;
/// The port at which each byte is said again.
pub(crate) const ECHO: u16 = 8082;
/// A port at which nobody listens.
pub(crate) const CLOSED: u16 = 8083;

/// The sockets that the client's own thread asks. The others are their threads' own.
#[derive(Debug)]
pub(crate) struct Servers {
    sockets: Vec<UdpSocket>,
    /// Nobody sleeps in these: waking somebody on another processor takes longer than a connect does.
    listeners: Vec<TcpListener>,
}

impl Servers {
    /// Listens on each of these addresses. Its threads are on this thread's processor.
    pub(crate) fn start(addresses: &[IpAddr]) -> anyhow::Result<Self> {
        let (mut sockets, mut listeners) = (Vec::new(), Vec::new());
        for ip in addresses {
            let at = |port| SocketAddr::new(*ip, port);
            let socket = UdpSocket::bind(at(PLAIN))
                .with_context(|| format!("cannot listen on {}", at(PLAIN)))?;
            socket.set_nonblocking(true)?;
            sockets.push(socket);
            let listen = |port| {
                TcpListener::bind(at(port))
                    .with_context(|| format!("cannot listen on {}", at(port)))
            };
            let listener = listen(PLAIN)?;
            listener.set_nonblocking(true)?;
            listeners.push(listener);
            for (port, serve) in [(SINK, sink as fn(TcpStream)), (ECHO, echo)] {
                let listener = listen(port)?;
                thread::spawn(move || accept(&listener, serve));
            }
        }
        Ok(Self { sockets, listeners })
    }

    /// Finds the connection that was just made, and takes it.
    pub(crate) fn accepted(&self) -> anyhow::Result<TcpStream> {
        let found = self.listeners.iter().find_map(|listener| listener.accept().ok());
        found.map(|(stream, _)| stream).context("no server got the connection")
    }

    /// Finds the server that has just got a datagram, and takes it.
    pub(crate) fn receiver(&self) -> anyhow::Result<&UdpSocket> {
        let mut buffer = [0; 16];
        let mut all = self.sockets.iter();
        all.find(|socket| socket.recv_from(&mut buffer).is_ok())
            .context("no server got the datagram")
    }
}

/// Answers the datagram that has just come.
pub(crate) fn answer(server: &UdpSocket) -> io::Result<()> {
    let mut buffer = [0; 16];
    let (size, from) = server.recv_from(&mut buffer)?;
    server.send_to(&buffer[..size], from).map(drop)
}

fn accept(listener: &TcpListener, serve: fn(TcpStream)) {
    for stream in listener.incoming().flatten() {
        serve(stream);
    }
}

fn sink(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 16];
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 1];
    // Without it neither side would be measured, but the delay of small packets.
    let _ = stream.set_nodelay(true);
    while matches!(stream.read(&mut buffer), Ok(1..)) && stream.write_all(&buffer).is_ok() {}
}
