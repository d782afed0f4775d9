//! A web server for `curl`: it answers each request with the same text and closes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread::{self, JoinHandle};

use crate::World;
use crate::harness::client::PATIENCE;

/// A web server. It ends when this is dropped.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts it on a local address of the world, outside the cgroup.
    ///
    /// # Panics
    /// When something else listens there.
    pub fn start(world: &World, address: SocketAddr, text: &str) -> Self {
        let listener = world
            .inside(move || TcpListener::bind(address))
            .unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"));
        let accepting = listener.try_clone().expect("a descriptor can be duplicated");
        let answer = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        let serve = move || {
            for client in accepting.incoming().map_while(Result::ok) {
                // One that went away is no concern of the others.
                let _ = serve(client, &answer);
            }
        };
        let thread = thread::Builder::new().name(format!("http {address}")).spawn(serve);
        Self { listener, thread: Some(thread.expect("a thread can be started")) }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // Ends the accept.
        // SAFETY: no memory is involved.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        if let Some(thread) = self.thread.take() {
            // It has said what went wrong.
            let _ = thread.join();
        }
    }
}

fn serve(mut client: TcpStream, answer: &str) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match client.read(&mut part)? {
            0 => return Ok(()),
            size => request.extend_from_slice(&part[..size]),
        }
    }
    client.write_all(answer.as_bytes())
}
