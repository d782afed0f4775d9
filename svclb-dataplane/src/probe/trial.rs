//! A connect to a Service that exists, which leaves no trace: a UDP socket is connected, which sends no
//! packet, and the record that the hooks made for it is read before it is closed.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use svclb_common::cookie::SocketCookie;

use crate::bpf::sys;
use crate::maps::sockets::{Origins, SocketOrigin};
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

/// Dials from inside the cgroup: by this process where it is in there, and otherwise by a child.
///
/// # Errors
/// When it cannot be tried.
pub fn run(pins: &Pins, cgroup: &Path, dialled: SocketAddr) -> Result<Trial> {
    let origins = Origins::open(&Places::current(pins))?;
    if cgroups::coverage(cgroup)?.has_us {
        let (_socket, cookie, result) = dial(dialled)?;
        return given(&origins, cookie, result);
    }
    probe::ask_inside(cgroup, Some(dialled), |line| {
        let (cookie, result) = line.split_once(' ').context("the child printed nothing")?;
        let cookie = cookie.parse().context("the child printed no cookie")?;
        given(&origins, SocketCookie(cookie), result.to_owned())
    })
}

/// The child's part: dials, prints `COOKIE RESULT`, and waits for the end of its input.
///
/// # Errors
/// When it has no socket.
pub fn client(dialled: SocketAddr, say: impl FnOnce(&str) -> Result<()>) -> Result<()> {
    let (_socket, cookie, result) = dial(dialled)?;
    say(&format!("{} {result}", cookie.0))?;
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot wait")?;
    Ok(())
}

/// Returns the socket, with which its record goes, its cookie, and the result of the connect. That no route
/// leads to the backend is not a fault of the hooks.
fn dial(to: SocketAddr) -> Result<(UdpSocket, SocketCookie, String)> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).context("cannot make a socket")?;
    let result = match socket.connect(to) {
        Ok(()) => "connected".to_owned(),
        Err(error) => error.to_string(),
    };
    let cookie = sys::socket_cookie(socket.as_fd()).context("cannot tell the socket's cookie")?;
    Ok((socket, cookie, result))
}

fn given(origins: &Origins, cookie: SocketCookie, result: String) -> Result<Trial> {
    let found = origins.read()?.into_iter().find(|origin| origin.cookie == cookie);
    Ok(found.map_or(Trial::LeftAlone(result), |SocketOrigin { record, .. }| {
        Trial::Given(SocketAddr::new(record.given.ip(), record.given_port))
    }))
}
