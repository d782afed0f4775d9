//! Clients that connect without pause while something else happens, to show that no connect fails.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::client::ToAddress;
use super::world::World;
use crate::Protocol;

/// A client that connects to one Service again and again, and the results that it accepts.
#[derive(Clone, Copy, Debug)]
pub struct ContinuousClient<'a> {
    /// Protocol of the Service's port.
    pub protocol: Protocol,
    /// The Service's address and port.
    pub to: SocketAddr,
    /// Names of the backends that may answer; any other backend belongs to a wrong Service.
    pub names: &'a [&'a str],
    /// If true, getpeername(2) must return `to` as soon as the socket is connected. False where the maps
    /// of origins are replaced during the test.
    pub is_peer_checked: bool,
}

impl<'a> ContinuousClient<'a> {
    /// A TCP client for which getpeername(2) must return the dialled address.
    pub fn tcp(to: &str, names: &'a [&'a str]) -> Self {
        Self { protocol: Protocol::Tcp, to: to.to_address(), names, is_peer_checked: true }
    }

    /// Connects once and checks the peer's address and the backend. Returns the first deviation.
    fn once(&self, world: &World) -> Result<(), String> {
        let socket = world.dial(self.protocol, self.to).map_err(|error| error.to_string())?;
        if self.is_peer_checked {
            let peer = socket.peer().map_err(|error| format!("getpeername: {error}"))?;
            if peer != self.to {
                return Err(format!("getpeername returned {peer}, expected {}", self.to));
            }
        }
        match socket.request() {
            Ok(name) if self.names.contains(&name.as_str()) => Ok(()),
            Ok(name) => Err(format!("backend {name} answered, expected one of {:?}", self.names)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Connects until `done` is set, and returns the number of connects.
    fn until(&self, done: &AtomicBool, world: &World) -> Result<u32, String> {
        let mut rounds = 0;
        while !done.load(Ordering::Relaxed) {
            let outcome = self.once(world);
            outcome.map_err(|error| format!("{} after {rounds} connects: {error}", self.to))?;
            rounds += 1;
        }
        Ok(rounds)
    }
}

impl World {
    /// Connects to an address again and again while `task` runs, and asserts that each connect is
    /// answered by one of the named backends. Returns the number of connects and the result of the task.
    ///
    /// # Panics
    /// If a single connect fails or is answered by any other backend, or the task panics.
    pub fn assert_uninterrupted<R>(
        &self,
        protocol: Protocol,
        to: impl ToAddress,
        names: &[&str],
        task: impl FnOnce() -> R,
    ) -> (u32, R) {
        let client =
            ContinuousClient { protocol, to: to.to_address(), names, is_peer_checked: false };
        let ([rounds], result) = self.assert_all_uninterrupted([client], task);
        (rounds, result)
    }

    /// As [`Self::assert_uninterrupted`], with several clients at once.
    ///
    /// # Panics
    /// If a single connect of any client fails or is answered by a wrong backend, or the task panics.
    pub fn assert_all_uninterrupted<const N: usize, R>(
        &self,
        clients: [ContinuousClient<'_>; N],
        task: impl FnOnce() -> R,
    ) -> ([u32; N], R) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let done = &done;
            let clients = clients.map(|client| scope.spawn(move || client.until(done, self)));
            let result = catch_unwind(AssertUnwindSafe(task));
            done.store(true, Ordering::Relaxed);
            let rounds = clients.map(|client| client.join().unwrap().unwrap());
            (rounds, result.unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }
}
