//! The servers of a lane. Their sockets are made before the process joins the cgroup, so that no program runs
//! for them.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::Context as _;

/// Port for connections without data, and for datagrams, which are answered.
pub(crate) const PLAIN: u16 = 8080;
/// Port whose server only reads.
pub(crate) const SINK: u16 = 8081;
/// Port whose server echoes each byte.
pub(crate) const ECHO: u16 = 8082;
/// A closed port.
pub(crate) const CLOSED: u16 = 8083;

/// The sockets that the client's own thread serves. The others have threads.
#[derive(Debug)]
pub(crate) struct Servers {
    sockets: Vec<UdpSocket>,
    /// No thread waits in accept(2) for these, as waking it on another processor takes longer than a connect.
    listeners: Vec<TcpListener>,
}

impl Servers {
    /// Listens on each of these addresses. The threads run on this thread's processor.
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

    /// Accepts the connection that was just made.
    pub(crate) fn accepted(&self) -> anyhow::Result<TcpStream> {
        let found = self.listeners.iter().find_map(|listener| listener.accept().ok());
        found.map(|(stream, _)| stream).context("no server received the connection")
    }

    /// Receives the datagram that was just sent, and returns its socket.
    pub(crate) fn receiver(&self) -> anyhow::Result<&UdpSocket> {
        let mut buffer = [0; 16];
        let mut all = self.sockets.iter();
        all.find(|socket| socket.recv_from(&mut buffer).is_ok())
            .context("no server received the datagram")
    }
}

/// Answers the datagram that was just sent.
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
    // Otherwise the bench would measure the delay of small packets.
    let _ = stream.set_nodelay(true);
    while matches!(stream.read(&mut buffer), Ok(1..)) && stream.write_all(&buffer).is_ok() {}
}
