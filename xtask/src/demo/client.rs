//! Clients in addition to curl: this program again, in the demonstration's cgroup.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Subcommand;

use crate::shell::print;

/// Time limit for one request.
const PATIENCE: Duration = Duration::from_secs(2);

/// Task of a client, which prints its result to standard output.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientTask {
    /// Send one request; print the result of getpeername and the backend that answered
    Peer {
        /// Address to connect to
        dial: SocketAddr,
    },
    /// Send one datagram by an unconnected socket; print the backend that answered and its address
    Udp {
        /// Address to send to
        dial: SocketAddr,
    },
    /// Send one request after the other; print the time and the backend of each
    Follow {
        /// Address to connect to
        dial: SocketAddr,
        /// Duration in milliseconds
        milliseconds: u64,
    },
}

/// One answered connection.
pub(super) struct Sighting {
    /// Time before the connect, since the epoch.
    pub(super) begun: Duration,
    /// Name of the backend that answered.
    pub(super) backend: String,
}

/// Runs a client's task.
///
/// # Errors
/// A request was not answered.
pub(crate) fn run(task: &ClientTask) -> Result<()> {
    match task {
        ClientTask::Peer { dial } => {
            let (peer, backend) = get(*dial)?;
            print(&format!("{peer} {backend}"));
        }
        ClientTask::Udp { dial } => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(b"?", dial).with_context(|| format!("cannot send to {dial}"))?;
            let mut answer = [0; 512];
            let (length, source) =
                socket.recv_from(&mut answer).with_context(|| format!("{dial} did not answer"))?;
            print(&format!("{} {source}", String::from_utf8_lossy(&answer[..length])));
        }
        ClientTask::Follow { dial, milliseconds } => {
            let end = now()? + Duration::from_millis(*milliseconds);
            loop {
                let begun = now()?;
                if begun > end {
                    break;
                }
                let (_, backend) = get(*dial)?;
                print(&format!("{} {backend}", begun.as_nanos()));
            }
        }
    }
    Ok(())
}

/// Returns the time since the epoch, which is comparable between processes.
pub(super) fn now() -> Result<Duration> {
    SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")
}

/// Sends a request over a new connection. Returns the result of getpeername, and the backend that answered.
fn get(dial: SocketAddr) -> Result<(SocketAddr, String)> {
    let mut stream = TcpStream::connect_timeout(&dial, PATIENCE)
        .with_context(|| format!("cannot connect to {dial}"))?;
    let peer = stream.peer_addr()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // In one write, as the server answers the first part that it reads, and closes.
    let request = format!("GET / HTTP/1.1\r\nHost: {dial}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("{dial} did not answer"))?;
    match hostname(&answer) {
        Some(backend) => Ok((peer, backend.to_owned())),
        None => bail!("{dial} answered without a hostname: {answer:?}"),
    }
}

/// Returns the host name in an answer.
pub(super) fn hostname(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.strip_prefix("Hostname: "))
}

/// Parses the output of `follow`.
pub(super) fn sightings(output: &str) -> Result<Vec<Sighting>> {
    let parse = |line: &str| {
        let (begun, backend) = line.split_once(' ')?;
        let begun = Duration::from_nanos(begun.parse().ok()?);
        Some(Sighting { begun, backend: backend.to_owned() })
    };
    let found: Option<Vec<Sighting>> = output.lines().map(parse).collect();
    let found = found.with_context(|| format!("the client printed {output:?}"))?;
    ensure!(!found.is_empty(), "the client made no connection");
    Ok(found)
}
