//! A Service whose backend changes, and its client.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use svclb_tests::cluster::Relay;
use svclb_tests::{Kind, World};

use super::super::sync::one_backend;
use super::load::{Load, replace};
use crate::lane::proxy::Cluster;
use crate::times::{self, Times};

const SERVICE: &str = "10.96.0.202:80";
const SLICE: &str = "watched-1";
/// Its two alternating backends.
const BACKENDS: [&str; 2] = ["10.244.0.1:8080", "10.244.0.2:8080"];
/// Time limit for a change.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval of a client's connects. In a long wait it is a hundredth of the time since the change.
const LOOK: Duration = Duration::from_micros(50);
const HUNDREDTH: u32 = 100;
/// Number of successive connects to the new backend after which a change is effective. A single connect may
/// reuse a port whose flow connection tracking still sends to its previous backend.
const SURE: usize = 5;
/// Under load, longest time between the effect of a change and the next change.
const APART: Duration = Duration::from_secs(1);
/// Seed of these times, which are random so that they have no phase relation to a peer that writes once a
/// second. They are the same for all peers.
const SEED: u64 = 1;

/// The Service.
pub(super) struct Watched<'a> {
    pub(super) cluster: &'a Cluster,
    /// Number of changes of its backend, and of loads meanwhile.
    changes: u64,
    loads: u64,
}

/// A client and both backends, in one world.
pub(super) struct Client {
    /// Forwards watch events to svclb or kube-proxy.
    relay: Arc<Relay>,
    socket: svclb_tests::Socket,
    servers: [UdpSocket; 2],
    service: SocketAddr,
}

/// Latency of a change until it was effective for a client, nanoseconds.
pub(super) struct Latency {
    /// From the arrival of its watch event at the relay.
    pub(super) event: u64,
    /// From the request to the API server.
    pub(super) request: u64,
}

impl<'a> Watched<'a> {
    /// Creates the Service.
    pub(super) fn create(cluster: &'a Cluster) -> Self {
        let objects = one_backend("watched", SERVICE, "UDP", BACKENDS[0]);
        cluster.plane().api().create_all(objects.into());
        Self { cluster, changes: 0, loads: 0 }
    }

    /// Switches the Service to its other backend, and waits until this is effective for the client.
    pub(super) fn change(&mut self, client: &Client) -> anyhow::Result<Latency> {
        self.changes += 1;
        let backend = usize::from(self.changes % 2 == 1);
        let (ip, _port) = BACKENDS[backend].split_once(':').context("no address")?;
        client.relay.watch_data();
        let request = Instant::now();
        replace(self.cluster, SLICE, ip)?;
        let effect = client.wait_for(backend, self.changes, request)?;
        let event =
            client.relay.first_data().context("a change was effective without a watch event")?;
        let since = |when| times::of(effect - when);
        Ok(Latency { event: since(event), request: since(request) })
    }

    /// Changes the Service at random times while `others` runs. Returns the latencies of its changes from the
    /// request (under load, the watch event of a change cannot be identified), and the result of `others`.
    pub(super) fn among<T: Send>(
        &mut self,
        client: &Client,
        others: impl FnOnce(&Cluster, u64) -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<(Times, T)> {
        self.loads += 1;
        let (cluster, first) = (self.cluster, self.loads * Load::MOST);
        thread::scope(|scope| {
            let others = scope.spawn(move || others(cluster, first));
            let mut own = Vec::new();
            let mut chance = ChaCha8Rng::seed_from_u64(SEED);
            while !others.is_finished() {
                own.push(self.change(client)?.request);
                thread::sleep(APART.mul_f64(chance.random()));
            }
            let others = others.join().map_err(|_| anyhow!("a thread panicked"))??;
            Ok((Times::of(own), others))
        })
    }
}

impl Client {
    pub(super) fn start(world: &World, relay: Arc<Relay>) -> anyhow::Result<Self> {
        let bind = |address: &'static str| {
            let socket = world.inside(move || UdpSocket::bind(address))?;
            socket.set_nonblocking(true)?;
            Ok::<_, anyhow::Error>(socket)
        };
        let servers = [bind(BACKENDS[0])?, bind(BACKENDS[1])?];
        let (socket, service) = (world.socket(Kind::Udp4), SERVICE.parse()?);
        Ok(Self { relay, socket, servers, service })
    }

    /// Waits until connects are given this backend after the change with this number. Returns the time of the
    /// first one.
    fn wait_for(&self, backend: usize, change: u64, begin: Instant) -> anyhow::Result<Instant> {
        let mut met = Vec::with_capacity(SURE);
        while met.len() < SURE {
            if self.dials(change)? == Some(backend) {
                met.push(Instant::now());
                continue;
            }
            met.clear();
            let since = begin.elapsed();
            let pod = BACKENDS[backend];
            ensure!(
                since < PATIENCE,
                "connects to {SERVICE} are not given {pod} after {PATIENCE:?}"
            );
            thread::sleep(LOOK.max(since / HUNDREDTH));
        }
        met.first().copied().context("there was no connect")
    }

    /// Connects, and returns the backend that is given. None if the Service is not served.
    pub(super) fn dials(&self, change: u64) -> anyhow::Result<Option<usize>> {
        // A new port each time, as kube-proxy does not move existing flows.
        self.socket.disconnect()?;
        self.socket.dial(self.service)?;
        let content = change.to_be_bytes();
        match self.socket.raw().send(&content).map_err(|error| error.kind()) {
            // kube-proxy does not have the Service yet: it has refused the previous datagram, or drops this one.
            Err(ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied) => return Ok(None),
            sent => sent.map_err(io::Error::from).context("cannot send a datagram")?,
        };
        // Datagrams may be late, so those of earlier changes are ignored.
        let receives = |server: &UdpSocket| {
            let (mut buffer, mut is_received) = ([0; 8], false);
            while server.recv_from(&mut buffer).is_ok() {
                is_received |= buffer == content;
            }
            is_received
        };
        Ok(self.servers.iter().position(receives))
    }
}
