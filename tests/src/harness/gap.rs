//! Clients that connect all the time while something else happens.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::client::Place;
use super::world::World;
use crate::Protocol;

/// What a client dials all the time, and what it must meet there.
#[derive(Clone, Copy, Debug)]
pub struct Dialling<'a> {
    /// How.
    pub protocol: Protocol,
    /// The Service's address and port.
    pub to: SocketAddr,
    /// The backends that may answer there; every other is a wrong Service's.
    pub names: &'a [&'a str],
    /// Whether getpeername(2) tells `to` as soon as it is connected: not where origins are made anew.
    pub is_named: bool,
}

impl<'a> Dialling<'a> {
    /// Over TCP, and getpeername(2) tells this address.
    pub fn tcp(to: &str, names: &'a [&'a str]) -> Self {
        Self { protocol: Protocol::Tcp, to: to.place(), names, is_named: true }
    }

    /// Connects, and looks who is there. Says what is wrong.
    fn once(&self, world: &World) -> Result<(), String> {
        let socket = world.dial(self.protocol, self.to).map_err(|error| error.to_string())?;
        if self.is_named {
            let peer = socket.peer().map_err(|error| format!("getpeername: {error}"))?;
            if peer != self.to {
                return Err(format!("getpeername tells {peer}"));
            }
        }
        match socket.ask() {
            Ok(name) if self.names.contains(&name.as_str()) => Ok(()),
            Ok(name) => Err(format!("{name} answered, and not one of {:?}", self.names)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Connects until it is enough. Gives how often.
    fn until(&self, done: &AtomicBool, world: &World) -> Result<u32, String> {
        let mut rounds = 0;
        while !done.load(Ordering::Relaxed) {
            let met = self.once(world);
            met.map_err(|error| format!("{} after {rounds} connects: {error}", self.to))?;
            rounds += 1;
        }
        Ok(rounds)
    }
}

impl World {
    /// Connects to an address all the time while `task` runs, and looks that one of these backends
    /// answers each time. Gives how often, and what the task gave.
    ///
    /// # Panics
    /// When a single connect failed or was not answered by one of them, or the task panics.
    pub fn without_a_gap<R>(
        &self,
        protocol: Protocol,
        to: impl Place,
        names: &[&str],
        task: impl FnOnce() -> R,
    ) -> (u32, R) {
        let dialling = Dialling { protocol, to: to.place(), names, is_named: false };
        let ([rounds], result) = self.without_gaps([dialling], task);
        (rounds, result)
    }

    /// The same with several clients at once.
    ///
    /// # Panics
    /// When a single connect of any failed or met what it must not, or the task panics.
    pub fn without_gaps<const N: usize, R>(
        &self,
        clients: [Dialling<'_>; N],
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
