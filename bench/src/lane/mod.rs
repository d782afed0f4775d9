//! A lane: one peer with a separate client, servers, network namespace and cgroup.
//!
//! All lanes have the same client and servers, in one process; only the peer between them differs. A round
//! measures all lanes one after the other, so that other activity of the machine affects all of them.
//!
//! * [`order`]: the requests to a lane's process and its answers.
//! * [`client`]: that process. [`mod@servers`]: its servers.
//! * [`processors`]: the processors on which both run.
//! * [`content`]: the Services, in the format for each peer.
//! * [`programs`]: the time of the programs on a lane's cgroup.

pub(crate) mod client;
pub(crate) mod content;
pub(crate) mod order;
mod processors;
pub(crate) mod programs;
pub(crate) mod proxy;
pub(crate) mod servers;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use svclb_tests::World;

use content::{Content, backends, servers};
use order::{Answer, Order};
use programs::{Empty, Programs};
use proxy::{Cluster, Proxy};

/// The load balancer between a client and the servers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// None: the client connects to a server's own address.
    Direct,
    /// An empty program on each hook. The client connects to a server's own address.
    Empty,
    /// svclb.
    Svclb,
    /// kube-proxy by nftables.
    Nftables,
    /// kube-proxy by iptables.
    Iptables,
}

impl Peer {
    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Empty => "empty programs",
            Self::Svclb => "svclb",
            Self::Nftables => "kube-proxy nftables",
            Self::Iptables => "kube-proxy iptables",
        }
    }

    /// True if clients connect to Services.
    pub(crate) fn serves(self) -> bool {
        !matches!(self, Self::Direct | Self::Empty)
    }
}

/// A running lane.
pub(crate) struct Lane {
    peer: Peer,
    // They are dropped in this order.
    client: Client,
    _proxy: Option<Proxy>,
    _empty: Option<Empty>,
    world: World,
}

impl Lane {
    /// Starts a lane whose peer serves this content. kube-proxy reads it from the cluster.
    ///
    /// # Errors
    /// A process cannot be started.
    pub(crate) fn start(
        peer: Peer,
        content: &Content,
        cluster: Option<&Cluster>,
    ) -> anyhow::Result<Self> {
        let builder = World::builder(&format!("bench-{peer:?}"));
        // All Services are in one namespace.
        let world = builder.agent_args(["--namespace-share", "100"]).without_agent().start();
        if peer == Peer::Svclb {
            world.write_file("content.yaml", &content.yaml());
            world.start_agent();
        }
        let empty = (peer == Peer::Empty).then(|| Empty::attach(world.cgroup())).transpose()?;
        // Before the proxy, whose readiness is checked by a connect to a server.
        let client = Client::start(&world)?;
        let proxy = match (peer, cluster) {
            (Peer::Nftables | Peer::Iptables, Some(cluster)) => {
                Some(cluster.proxy(&world, peer, content)?)
            }
            (Peer::Nftables | Peer::Iptables, None) => {
                anyhow::bail!("{} needs a cluster", peer.name())
            }
            _ => None,
        };
        Ok(Self { peer, client, _proxy: proxy, _empty: empty, world })
    }

    /// The peer.
    pub(crate) fn peer(&self) -> Peer {
        self.peer
    }

    /// Returns the addresses to which a client of this lane connects: those of the Services, or of the servers.
    pub(crate) fn places(&self, services: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
        match self.peer.serves() {
            true => services.to_vec(),
            false => servers(port),
        }
    }

    /// Executes an order.
    ///
    /// # Errors
    /// The client fails. Its standard error has the reason.
    pub(crate) fn execute(&mut self, order: &Order) -> anyhow::Result<Answer> {
        self.client.execute(order).with_context(|| self.peer.name())
    }

    /// Executes an order, and returns the time of each program on the cgroup too.
    ///
    /// # Errors
    /// As [`Self::execute`]; or the kernel does not count.
    pub(crate) fn execute_counted(&mut self, order: &Order) -> anyhow::Result<(Answer, Programs)> {
        let counting = programs::count()?;
        let before = Programs::read(self.world.cgroup())?;
        let answer = self.execute(order)?;
        let taken = Programs::read(self.world.cgroup())?.since(&before);
        drop(counting);
        Ok((answer, taken))
    }
}

/// The process of a lane.
struct Client {
    process: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Client {
    fn start(world: &World) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("lane").arg("--cgroup").arg(world.cgroup());
        command.args(backends().iter().map(ToString::to_string));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = world.spawn(command);
        let orders = process.stdin.take();
        let Some(answers) = process.stdout.take() else {
            // Its input is closed, so it ends at once.
            process.wait()?;
            anyhow::bail!("a lane's process has no output");
        };
        Ok(Self { process, orders, answers: BufReader::new(answers) })
    }

    fn execute(&mut self, order: &Order) -> anyhow::Result<Answer> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        let orders = self.orders.as_mut().context("a lane's process has no input")?;
        orders.write_all(line.as_bytes()).and_then(|()| orders.flush()).context("it has ended")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        serde_json::from_str(&answer).context("it has ended")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Both fail only if it has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
