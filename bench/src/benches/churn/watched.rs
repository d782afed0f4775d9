//! A Service whose backend changes, and its clients.

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
/// Its two backends, in turn.
const BACKENDS: [&str; 2] = ["10.244.0.1:8080", "10.244.0.2:8080"];
/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a client looks whether it met a change; a long wait is measured to a hundredth.
const LOOK: Duration = Duration::from_micros(50);
const HUNDREDTH: u32 = 100;
/// So many connects one after the other are sure: a single one may have a port of before, whose flow
/// connection tracking still sends to where it went then.
const SURE: usize = 5;
/// Among others, a change comes so long after the one before was met, at most.
const APART: Duration = Duration::from_secs(1);
/// By chance, and the same for all: whoever writes at most once a second has no phase of its own.
const SEED: u64 = 1;

/// The Service.
pub(super) struct Watched<'a> {
    pub(super) cluster: &'a Cluster,
    /// How often it changed, from one backend to the other, and how often others did beside it.
    changes: u64,
    loads: u64,
}

/// A client of it, and both backends, in one world.
pub(super) struct Client {
    /// By which whoever serves it is told of changes.
    relay: Arc<Relay>,
    socket: svclb_tests::Socket,
    servers: [UdpSocket; 2],
    service: SocketAddr,
}

/// How late a client met a change, nanoseconds.
pub(super) struct Late {
    /// After its watch event was about to be passed on to whoever serves the client.
    pub(super) event: u64,
    /// After the API server was asked for it.
    pub(super) request: u64,
}

impl<'a> Watched<'a> {
    /// Makes the Service.
    pub(super) fn create(cluster: &'a Cluster) -> Self {
        let objects = one_backend("watched", SERVICE, "UDP", BACKENDS[0]);
        cluster.plane().api().create_all(objects.into());
        Self { cluster, changes: 0, loads: 0 }
    }

    /// Moves the Service to its other backend, until this client met that.
    pub(super) fn change(&mut self, client: &Client) -> anyhow::Result<Late> {
        self.changes += 1;
        let backend = usize::from(self.changes % 2 == 1);
        let (ip, _port) = BACKENDS[backend].split_once(':').context("no address")?;
        client.relay.watch_data();
        let asked = Instant::now();
        replace(self.cluster, SLICE, ip)?;
        let met = client.meets(backend, self.changes, asked)?;
        let heard =
            client.relay.first_data().context("a client met a change that nobody was told of")?;
        let since = |when| times::of(met - when);
        Ok(Late { event: since(heard), request: since(asked) })
    }

    /// Moves the Service now and then while others change. Gives how late its own changes were met after
    /// they were asked for (of what the API server says then, nobody knows which is about them), and what
    /// came of the others.
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

    /// When a connect was first given this backend, after the change of this number.
    fn meets(&self, backend: usize, change: u64, begin: Instant) -> anyhow::Result<Instant> {
        let mut met = Vec::with_capacity(SURE);
        while met.len() < SURE {
            if self.dials(change)? == Some(backend) {
                met.push(Instant::now());
                continue;
            }
            met.clear();
            let since = begin.elapsed();
            let pod = BACKENDS[backend];
            ensure!(since < PATIENCE, "no connect to {SERVICE} is given {pod} after {PATIENCE:?}");
            thread::sleep(LOOK.max(since / HUNDREDTH));
        }
        met.first().copied().context("nothing was met")
    }

    /// Which backend a connect after this change is given; none where nobody serves.
    pub(super) fn dials(&self, change: u64) -> anyhow::Result<Option<usize>> {
        // A port of its own each time: kube-proxy leaves a flow where it is.
        self.socket.disconnect()?;
        self.socket.dial(self.service)?;
        let said = change.to_be_bytes();
        match self.socket.raw().send(&said).map_err(|error| error.kind()) {
            // kube-proxy does not know the Service yet: it refused the datagram before, or drops this one.
            Err(ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied) => return Ok(None),
            sent => sent.map_err(io::Error::from).context("cannot send a datagram")?,
        };
        // Some may be late: those of an earlier change say nothing of this one.
        let hears = |server: &UdpSocket| {
            let (mut buffer, mut heard) = ([0; 8], false);
            while server.recv_from(&mut buffer).is_ok() {
                heard |= buffer == said;
            }
            heard
        };
        Ok(self.servers.iter().position(hears))
    }
}
