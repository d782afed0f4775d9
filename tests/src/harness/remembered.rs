//! What sockets and clients remember of Services, which survives restarts and other maps.

use super::backend::Backend;
use super::client::{Kind, Socket, at};
use super::world::World;
use crate::{Tcp, Udp};

const DNS: &str = "10.96.0.11:53";
const KEPT: &str = "10.96.0.12:80";

/// Two sockets and a client, and what they were given.
pub struct Remembered {
    connected: Socket,
    unconnected: Socket,
    /// Who answers the unconnected one.
    answers: String,
    /// Who answers new connections of this client to a Service with affinity.
    kept: String,
}

impl Remembered {
    /// Where a Service with affinity, one of those that are remembered, is dialled over TCP.
    pub const KEPT: &str = KEPT;
    /// Where one without is, over UDP.
    pub const DNS: &str = DNS;

    /// Gives a world `default/hello` at 10.96.0.10:80 over TCP, answered by `a` at 10.244.0.1:8080, and
    /// the Services that are remembered. Gives their backends.
    ///
    /// # Panics
    /// When they cannot be made or are not written.
    pub fn prepare(world: &World) -> Vec<Backend> {
        let a = world.backend("a", Tcp, "10.244.0.1:8080");
        world
            .service("default/hello")
            .cluster_ip("10.96.0.10")
            .port(80, Tcp)
            .backends([&a])
            .apply();
        let mut backends = world.backends("dns", Udp, 8);
        let service = world.service("default/dns").cluster_ip("10.96.0.11");
        service.port(53, Udp).backends(&backends).apply();
        let kept = world.backends("kept", Tcp, 8);
        let service = world.service("default/kept").cluster_ip("10.96.0.12").affinity(10_000);
        service.port(80, Tcp).backends(&kept).apply();
        backends.extend(kept);
        backends.push(a);
        backends
    }

    /// Opens the sockets, and asks once each.
    ///
    /// # Panics
    /// When nobody answers.
    pub fn of(world: &World) -> Self {
        let unconnected = world.socket(Kind::Udp4);
        Self {
            connected: world.dial(Udp, DNS).unwrap(),
            answers: unconnected.ask_at(DNS).unwrap().backend,
            unconnected,
            kept: world.ask(Tcp, KEPT).unwrap(),
        }
    }

    /// The sockets keep their name and their backend.
    ///
    /// # Panics
    /// When they do not.
    pub fn sockets_do(&self) {
        assert_eq!(self.connected.peer().unwrap(), at(DNS));
        for _ in 0..20 {
            let answer = self.unconnected.ask_at(DNS).unwrap();
            assert_eq!((answer.backend, answer.from), (self.answers.clone(), at(DNS)));
        }
    }

    /// The client keeps its backend.
    ///
    /// # Panics
    /// When it does not.
    pub fn clients_do(&self, world: &World) {
        for _ in 0..20 {
            assert_eq!(world.ask(Tcp, KEPT).unwrap(), self.kept);
        }
    }
}
