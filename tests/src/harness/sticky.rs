//! Sockets and a client that have a backend already, to show that restarts and new maps do not move
//! them.

use super::backend::Backend;
use super::client::{Kind, Socket, at};
use super::world::World;
use crate::{Tcp, Udp};

const DNS: &str = "10.96.0.11:53";
const AFFINITY: &str = "10.96.0.12:80";

/// Two UDP sockets and a TCP client with affinity, with the backends that they were given.
pub struct StickyClients {
    connected: Socket,
    unconnected: Socket,
    /// Backend that answers the unconnected socket.
    unconnected_backend: String,
    /// Backend that answers new connections of this client to the Service with affinity.
    affinity_backend: String,
}

impl StickyClients {
    /// Address of the Service with affinity, over TCP.
    pub const AFFINITY: &str = AFFINITY;
    /// Address of the Service without affinity, over UDP.
    pub const DNS: &str = DNS;

    /// Creates the Service `default/hello` at 10.96.0.10:80 over TCP with the backend `a` at
    /// 10.244.0.1:8080, and the two Services of [`Self::DNS`] and [`Self::AFFINITY`]. Returns their
    /// backends.
    ///
    /// # Panics
    /// If they cannot be created or are not written.
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

    /// Opens the sockets and sends one request for each.
    ///
    /// # Panics
    /// If a request is not answered.
    pub fn of(world: &World) -> Self {
        let unconnected = world.socket(Kind::Udp4);
        Self {
            connected: world.dial(Udp, DNS).unwrap(),
            unconnected_backend: unconnected.request_to(DNS).unwrap().backend,
            unconnected,
            affinity_backend: world.request(Tcp, AFFINITY).unwrap(),
        }
    }

    /// Asserts that the sockets keep their peer's address and their backend.
    ///
    /// # Panics
    /// If they do not.
    pub fn assert_sockets_keep_backend(&self) {
        assert_eq!(self.connected.peer().unwrap(), at(DNS));
        for _ in 0..20 {
            let answer = self.unconnected.request_to(DNS).unwrap();
            assert_eq!((answer.backend, answer.from), (self.unconnected_backend.clone(), at(DNS)));
        }
    }

    /// Asserts that the client keeps its backend.
    ///
    /// # Panics
    /// If it does not.
    pub fn assert_client_keeps_backend(&self, world: &World) {
        for _ in 0..20 {
            assert_eq!(world.request(Tcp, AFFINITY).unwrap(), self.affinity_backend);
        }
    }
}
