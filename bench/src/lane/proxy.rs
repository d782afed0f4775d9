//! kube-proxy in a lane, and the cluster that it follows.

use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use svclb_tests::cluster::{ControlPlane, Process, Reference, Relay, component};
use svclb_tests::{Tcp, World};

use super::Peer;
use super::content::Content;

/// The node, and the address that clients dial from.
pub(crate) const NODE: &str = "node-1";
const SOURCE: &str = "10.244.255.1";

/// How long a start may take over a large cluster, and how often it is looked after.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(10);

/// A cluster with some content.
pub(crate) struct Cluster {
    plane: ControlPlane,
}

impl Cluster {
    /// Starts it and fills it.
    ///
    /// # Errors
    /// The API server does not take it.
    ///
    /// # Panics
    /// When a component is not built, or does not get ready: with its log.
    pub(crate) fn start(content: &Content) -> anyhow::Result<Self> {
        Self::with(content.objects())
    }

    /// The same with these objects.
    pub(crate) fn with(objects: Vec<Value>) -> anyhow::Result<Self> {
        // More than one priority level's worth of requests at once is not what this is about.
        let plane = ControlPlane::builder("bench")
            .without_controllers()
            .api_server_args(["--enable-priority-and-fairness=false"])
            .start();
        // kube-proxy waits for its own node.
        plane.api().apply_all(&[json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE },
        })]);
        let address = json!({ "type": "InternalIP", "address": SOURCE });
        let status = json!({ "status": { "addresses": [address] } });
        let patched = plane.api().patch_status(&Reference::node(NODE), &status);
        if let Err(error) = patched {
            bail!("cannot write the status of {NODE}: {error}");
        }
        plane.api().create_all(objects);
        Ok(Self { plane })
    }

    /// The control plane.
    pub(crate) fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// Starts kube-proxy, and waits until it serves the last of the content's Services. Servers listen.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn proxy(
        &self,
        world: &World,
        peer: Peer,
        content: &Content,
    ) -> anyhow::Result<Proxy> {
        let mut proxy = self.launch(world, peer)?;
        if let Some(last) = content.places(super::servers::PLAIN).pop() {
            let serves = || Ok(world.dial(Tcp, last).is_ok());
            proxy.wait(serves).with_context(|| format!("{} and {last}", peer.name()))?;
        }
        Ok(proxy)
    }

    /// Starts kube-proxy, and does not wait.
    ///
    /// # Errors
    /// The world's routes cannot be changed.
    pub(crate) fn launch(&self, world: &World, peer: Peer) -> anyhow::Result<Proxy> {
        // Its rules see what has a route. What they leave alone stays on the loopback.
        let mut route = Command::new("ip");
        route.args(["route", "replace", "local", "10.96.0.0/16", "dev", "lo"]);
        route.args(["src", SOURCE]);
        let mut old = Command::new("ip");
        old.args(["route", "delete", "prohibit", "10.96.0.0/16"]);
        for command in [old, route] {
            let output = world.output(command);
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "ip: {}", said.trim());
        }
        // It refuses by ICMP messages, of which the kernel sends only so many a second.
        let unlimited = world.inside(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratemask", "0"));
        unlimited.context("cannot lift the limit of ICMP messages")?;
        let relay = Arc::new(self.plane.relay(world));
        let mode = if peer == Peer::Iptables { "iptables" } else { "nftables" };
        let begin = Instant::now();
        Ok(Proxy { process: self.plane.kube_proxy(world, mode, NODE), relay, begin })
    }
}

/// What kube-proxy says of its version, such as `Kubernetes v1.37.2`; nothing where it cannot be asked.
///
/// # Panics
/// When it is not built.
pub(crate) fn version() -> Option<String> {
    let said = Command::new(component("kube-proxy")).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// A running kube-proxy.
pub(crate) struct Proxy {
    // In the order of their ends.
    process: Process,
    relay: Arc<Relay>,
    begin: Instant,
}

impl Proxy {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The way by which it follows the cluster.
    pub(crate) fn relay(&self) -> Arc<Relay> {
        Arc::clone(&self.relay)
    }

    /// Waits until it serves what this asks for, among however many Services. Gives how long that is after
    /// its process began, seconds.
    ///
    /// # Errors
    /// It does not in time, or has ended, with what it said; or that cannot be asked.
    pub(crate) fn wait(
        &mut self,
        mut serves: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<f64> {
        while !serves()? {
            self.process.check().map_err(anyhow::Error::msg)?;
            let said = || format!("kube-proxy does not serve after {PATIENCE:?}: {}", self.said());
            ensure!(self.begin.elapsed() < PATIENCE, said());
            thread::sleep(LOOK);
        }
        Ok(self.begin.elapsed().as_secs_f64())
    }

    /// The end of what it said.
    pub(crate) fn said(&self) -> String {
        self.process.log_tail()
    }
}
