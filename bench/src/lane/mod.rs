//! A lane: one peer with a client and servers of its own, in a network namespace and cgroup of its own.
//!
//! Every lane has the same clients and servers in one process; what differs is what stands between. A
//! round goes through all lanes one after the other, so that what else the machine does meets all.
//!
//! * [`order`]: what a lane's process is asked.
//! * [`client`]: that process. [`mod@servers`]: who answers in it.
//! * [`processors`]: where both run.
//! * [`content`]: the Services, as each peer wants to read them.
//! * [`programs`]: what the programs on a lane's cgroup cost.

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

/// What stands between a client and the servers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    /// Nothing: the client dials a server's own address.
    Direct,
    /// A program on each hook that does nothing. The client dials a server's own address.
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

    /// Whether clients dial Services.
    pub(crate) fn serves(self) -> bool {
        !matches!(self, Self::Direct | Self::Empty)
    }
}

/// A lane, with everything in it.
pub(crate) struct Lane {
    peer: Peer,
    // In the order of their ends.
    client: Client,
    _proxy: Option<Proxy>,
    _empty: Option<Empty>,
    world: World,
}

impl Lane {
    /// Makes the lane; the peer serves this content. kube-proxy reads it from this cluster, which has it.
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
        // With the servers, by which it is seen whether a proxy serves.
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

    /// Where a client of this lane goes, to reach the servers at this port by these Services.
    pub(crate) fn places(&self, services: &[SocketAddr], port: u16) -> Vec<SocketAddr> {
        match self.peer.serves() {
            true => services.to_vec(),
            false => servers(port),
        }
    }

    /// Has it done.
    ///
    /// # Errors
    /// The client cannot do it as asked. It has said why.
    pub(crate) fn ask(&mut self, order: &Order) -> anyhow::Result<Answer> {
        self.client.ask(order).with_context(|| self.peer.name())
    }

    /// Has it done, and gives what each program on the cgroup took meanwhile.
    ///
    /// # Errors
    /// As [`Self::ask`]; or the kernel does not say what programs take.
    pub(crate) fn ask_programs(&mut self, order: &Order) -> anyhow::Result<(Answer, Programs)> {
        let counting = programs::count()?;
        let before = Programs::read(self.world.cgroup())?;
        let answer = self.ask(order)?;
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
            // It ends at once, without anybody who asks.
            process.wait()?;
            anyhow::bail!("a lane's process has no output");
        };
        Ok(Self { process, orders, answers: BufReader::new(answers) })
    }

    fn ask(&mut self, order: &Order) -> anyhow::Result<Answer> {
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
        // Both fail only when it has ended before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
