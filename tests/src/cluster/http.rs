//! A web server for `curl`, which answers each request with the same text and closes the connection.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::thread::{self, JoinHandle};

use crate::World;
use crate::harness::client::PATIENCE;

/// A web server that stops on drop.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts the server on a local address of the world, outside the cgroup.
    ///
    /// # Panics
    /// If the address is in use.
    pub fn start(world: &World, address: SocketAddr, text: &str) -> Self {
        let listener = world
            .inside(move || TcpListener::bind(address))
            .unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"));
        let accepting = listener.try_clone().expect("a descriptor can be duplicated");
        let response = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        );
        let serve = move || {
            for client in accepting.incoming().map_while(Result::ok) {
                // A client that has closed its connection must not affect the others.
                let _ = serve(client, &response);
            }
        };
        let thread = thread::Builder::new().name(format!("http {address}")).spawn(serve);
        Self { listener, thread: Some(thread.expect("a thread can be started")) }
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // SAFETY: no memory is involved. The shutdown ends the accept.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

fn serve(mut client: TcpStream, response: &str) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match client.read(&mut part)? {
            0 => return Ok(()),
            size => request.extend_from_slice(&part[..size]),
        }
    }
    client.write_all(response.as_bytes())
}
