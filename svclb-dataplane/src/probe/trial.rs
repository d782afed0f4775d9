//! A connect to a Service that exists, which leaves no trace: a UDP socket is connected, which sends no
//! packet, and the record that the hooks made for it is read before it is closed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use svclb_common::cookie::SocketCookie;

use crate::bpf::sys;
use crate::maps::sockets::Origins;
use crate::node::cgroups;
use crate::pins::Pins;
use crate::pins::places::Places;
use crate::probe;

/// The outcome of a trial connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// The socket was given this backend.
    Given(SocketAddr),
    /// No hook recorded it; the result of the connect.
    LeftAlone(String),
}

/// A socket that has dialled.
#[derive(Debug)]
struct Dialled {
    /// Held: its record goes with it.
    _socket: UdpSocket,
    cookie: SocketCookie,
    /// Result of the connect. That no route leads to the backend is not a fault of the hooks.
    result: String,
}

/// Dials from inside the cgroup: by this process where it is in there, and otherwise by a child.
///
/// # Errors
/// When it cannot be tried.
pub fn run(pins: &Pins, cgroup: &Path, dialled: SocketAddr) -> Result<Trial> {
    let origins = Origins::open(&Places::current(pins))?;
    if cgroups::coverage(cgroup)?.has_us {
        let socket = dial(dialled)?;
        return given(&origins, socket.cookie, socket.result);
    }
    let home = probe::Home::make(cgroup)?;
    let mut command = home.command();
    command.arg(dialled.to_string()).stdin(Stdio::piped());
    let mut child = command.spawn().context("cannot start a child in the cgroup")?;
    let mut result = String::new();
    let output = child.stdout.take().context("a child has an output")?;
    let read = BufReader::new(output).read_line(&mut result);
    // It holds its socket until its input ends.
    let trial = read.context("cannot read the output of the child").and_then(|_| {
        let (cookie, result) =
            result.trim().split_once(' ').context("the child printed nothing")?;
        let cookie = cookie.parse().context("the child printed no cookie")?;
        given(&origins, SocketCookie(cookie), result.to_owned())
    });
    drop(child.stdin.take());
    child.wait().context("cannot wait for the child")?;
    trial
}

/// The child's part: dials, prints `COOKIE RESULT`, and waits for the end of its input.
///
/// # Errors
/// When it has no socket.
pub fn client(dialled: SocketAddr, say: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let socket = dial(dialled)?;
    say(&format!("{} {}", socket.cookie.0, socket.result))?;
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot wait")?;
    Ok(())
}

fn dial(to: SocketAddr) -> Result<Dialled> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
    };
    let socket = UdpSocket::bind(any).context("cannot make a socket")?;
    let result = match socket.connect(to) {
        Ok(()) => "connected".to_owned(),
        Err(error) => error.to_string(),
    };
    let cookie = sys::socket_cookie(socket.as_fd()).context("cannot tell the socket's cookie")?;
    Ok(Dialled { _socket: socket, cookie, result })
}

fn given(origins: &Origins, cookie: SocketCookie, result: String) -> Result<Trial> {
    let found = origins.read()?.into_iter().find(|origin| origin.cookie == cookie);
    Ok(match found {
        Some(origin) => {
            let record = origin.record;
            Trial::Given(SocketAddr::new(record.given.ip(), record.given_port))
        }
        None => Trial::LeftAlone(result),
    })
}
