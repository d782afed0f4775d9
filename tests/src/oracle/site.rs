//! A node with one of the proxies on it: its network, its hosts, and sockets of its clients.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;

use super::address_block::{NODE, host_source, pod_source};
use super::answers::Side;
use super::dial::{Answer, Call, dial};
use super::frontend::{Client, Frontend, Kind};
use super::network::Network;
use super::server::Server;
use crate::Agent;
use crate::cluster::kube_proxy::kube_proxy;
use crate::cluster::{ControlPlane, Process, Relay};
use crate::harness::cgroup::{Cgroup, PREFIX};
use crate::harness::factory::Factory;
use crate::harness::program;

/// The running proxy.
enum Proxy {
    KubeProxy(#[expect(dead_code, reason = "it runs until this is dropped")] Process),
    Svclb(#[expect(dead_code, reason = "it runs until this is dropped")] Agent),
}

/// A node. Everything on it ends on drop.
pub(crate) struct Site {
    side: Side,
    // Fields are dropped in this order.
    _proxy: Proxy,
    _relay: Relay,
    pod: Factory,
    host: Factory,
    _server: Server,
    _cgroups: [Cgroup; 3],
    _network: Network,
}

impl Site {
    /// Creates the node and starts its proxy, which watches this control plane. The arguments are added
    /// to those of svclb's agent.
    pub(crate) fn start(side: Side, plane: &ControlPlane, arguments: &[&str]) -> Self {
        let folder = plane.folder().join(format!("{side:?}"));
        std::fs::create_dir(&folder).expect("a folder can be made in a temporary one");
        let network = Network::make(&folder);
        let name = format!("{PREFIX}{}-oracle-{side:?}", std::process::id());
        let cgroup = |path: &str| Cgroup::make(&format!("{name}{path}"));
        // Cgroups are created from the root and removed from the leaves.
        let root = cgroup("");
        let cgroups = [cgroup("/pod"), cgroup("/host"), root];
        let pod = Factory::start(&network.pod, &cgroups[0]);
        let host = Factory::start(&network.node, &cgroups[1]);
        let server = Server::start(&network.node);
        let relay = plane.relay_into(&network.node);
        let proxy = match side {
            Side::KubeProxy => {
                let host = ["--hostname-override", NODE];
                let command = kube_proxy(&plane.kubeconfig(), "nftables", &host);
                Proxy::KubeProxy(plane.spawn_into(&network.node, "kube-proxy", command))
            }
            Side::Svclb => {
                let mut command = svclb(plane, cgroups[2].path(), &folder);
                command.args(arguments);
                Proxy::Svclb(Agent::start(&network.node, command, &folder.join("svclb.log")))
            }
        };
        Self {
            side,
            _proxy: proxy,
            _relay: relay,
            pod,
            host,
            _server: server,
            _cgroups: cgroups,
            _network: network,
        }
    }

    /// Dials each of these frontends once.
    pub(crate) fn dial(
        &self,
        client: Client,
        frontends: &[Frontend],
        dice: &mut ChaCha8Rng,
        patience: Duration,
    ) -> Vec<Answer> {
        let call = |frontend: &Frontend| Call {
            protocol: frontend.protocol,
            to: frontend.address,
            from: self.source(client, frontend, dice),
        };
        let calls: Vec<Call> = frontends.iter().map(call).collect();
        let factory = match client {
            Client::Pod => &self.pod,
            Client::Host => &self.host,
        };
        dial(factory, &calls, patience)
    }

    /// Chooses a source address. For kube-proxy a client is an address: with a single one, session
    /// affinity would hide all backends but one.
    fn source(&self, client: Client, frontend: &Frontend, dice: &mut ChaCha8Rng) -> Option<IpAddr> {
        if self.side == Side::Svclb || frontend.kind == Kind::Loopback {
            return None;
        }
        let (family, number) = (frontend.family(), dice.random_range(3..250));
        Some(match client {
            Client::Pod => pod_source(family, number),
            Client::Host => host_source(family, number),
        })
    }
}

fn svclb(plane: &ControlPlane, cgroup: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program::svclb());
    command.arg("agent").arg("--kubeconfig").arg(plane.kubeconfig()).args(["--node", NODE]);
    command.arg("--pins").arg(folder.join("bpffs-node/svclb")).arg("--cgroup").arg(cgroup);
    command
}
