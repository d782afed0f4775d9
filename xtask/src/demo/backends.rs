//! The pods: small servers in this process, in the demonstration's network namespace and outside of its
//! cgroup.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// A server that answers with its name.
pub(super) struct Pod {
    /// Its name, which its answers give as the host.
    pub(super) name: &'static str,
    /// The version in its answers; empty for UDP.
    version: &'static str,
    /// The addresses on which it listens.
    addresses: &'static [&'static str],
}

const fn pod(name: &'static str, version: &'static str, addresses: &'static [&'static str]) -> Pod {
    Pod { name, version, addresses }
}

/// Every pod of the demonstration.
pub(super) const PODS: [Pod; 6] = [
    pod("hello-1", "1.0.0", &["10.244.0.11:8080", "[fd00:244::11]:8080"]),
    pod("hello-2", "1.0.0", &["10.244.0.12:8080", "[fd00:244::12]:8080"]),
    pod("hello2-1", "2.0.0", &["10.244.0.21:8080"]),
    pod("hello2-2", "2.0.0", &["10.244.0.22:8080"]),
    pod("clock-1", "", &["10.244.0.31:8123"]),
    pod("clock-2", "", &["10.244.0.32:8123"]),
];

impl Pod {
    /// Describes the addresses on which it listens.
    pub(super) fn listens(&self) -> String {
        let protocol = if self.version.is_empty() { "UDP" } else { "HTTP" };
        format!("{protocol} {}", self.addresses.join(", "))
    }

    /// Parses its addresses.
    pub(super) fn addresses(&self) -> Result<Vec<SocketAddr>> {
        let parse = |text: &&str| text.parse().with_context(|| format!("{text} is no address"));
        self.addresses.iter().map(parse).collect()
    }

    /// Listens, and answers until this process ends.
    pub(super) fn start(&'static self) -> Result<()> {
        for address in self.addresses()? {
            let what = || format!("{} cannot listen on {address}", self.name);
            if self.version.is_empty() {
                let socket = UdpSocket::bind(address).with_context(what)?;
                thread::spawn(move || self.answer_datagrams(&socket));
            } else {
                let listener = TcpListener::bind(address).with_context(what)?;
                thread::spawn(move || self.answer_requests(&listener));
            }
        }
        Ok(())
    }

    fn answer_datagrams(&self, socket: &UdpSocket) {
        let mut datagram = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut datagram) {
            // An error here means that the client has ended.
            let _ = socket.send_to(self.name.as_bytes(), from);
        }
    }

    fn answer_requests(&self, listener: &TcpListener) {
        let body = format!("Hello, world!\nVersion: {}\nHostname: {}\n", self.version, self.name);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n";
        let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            // Requests and answers are small, so one thread is enough.
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            let mut request = [0; 2048];
            if stream.read(&mut request).is_ok_and(|length| length > 0) {
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    }
}
