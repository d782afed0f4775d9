//! The small clients beside curl: this program again, in the demonstration's cgroup.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Subcommand;

use crate::shell::print;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a client does; each prints its result on standard output.
#[derive(Debug, Subcommand)]
pub(crate) enum ClientTask {
    /// One request: what getpeername says, and who answered
    Peer {
        /// Address to dial
        dial: SocketAddr,
    },
    /// One datagram of an unconnected socket: who answered, and from where
    Udp {
        /// Address to send to
        dial: SocketAddr,
    },
    /// One request after the other: when each began, and who answered
    Follow {
        /// Address to dial
        dial: SocketAddr,
        /// For how long, in milliseconds
        milliseconds: u64,
    },
}

/// One answered connection.
pub(super) struct Sighting {
    /// When the connect began, since the epoch.
    pub(super) begun: Duration,
    /// Who answered.
    pub(super) who: String,
}

/// Does a client's task.
///
/// # Errors
/// It was not answered.
pub(crate) fn run(task: &ClientTask) -> Result<()> {
    match task {
        ClientTask::Peer { dial } => {
            let (peer, who) = get(*dial)?;
            print(&format!("{peer} {who}"));
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
                let (_, who) = get(*dial)?;
                print(&format!("{} {who}", begun.as_nanos()));
            }
        }
    }
    Ok(())
}

/// Time since the epoch: comparable between processes.
pub(super) fn now() -> Result<Duration> {
    SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")
}

/// One request over a new connection: the peer's name, and who answered.
fn get(dial: SocketAddr) -> Result<(SocketAddr, String)> {
    let mut stream = TcpStream::connect_timeout(&dial, PATIENCE)
        .with_context(|| format!("cannot connect to {dial}"))?;
    let peer = stream.peer_addr()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // In one piece: the server answers the first that it reads, and closes.
    let request = format!("GET / HTTP/1.1\r\nHost: {dial}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("{dial} did not answer"))?;
    match hostname(&answer) {
        Some(who) => Ok((peer, who.to_owned())),
        None => bail!("{dial} answered without a hostname: {answer:?}"),
    }
}

/// The host that an answer names.
pub(super) fn hostname(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.strip_prefix("Hostname: "))
}

/// Reads back what `follow` printed.
pub(super) fn sightings(said: &str) -> Result<Vec<Sighting>> {
    let parse = |line: &str| {
        let (begun, who) = line.split_once(' ')?;
        Some(Sighting { begun: Duration::from_nanos(begun.parse().ok()?), who: who.to_owned() })
    };
    let found: Option<Vec<Sighting>> = said.lines().map(parse).collect();
    let found = found.with_context(|| format!("the client said {said:?}"))?;
    ensure!(!found.is_empty(), "the client made no connection");
    Ok(found)
}
