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

/// The node, and the source address of clients.
pub(crate) const NODE: &str = "node-1";
const SOURCE: &str = "10.244.255.1";

/// Time limit for a start with a large cluster, and interval of checks.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(10);

/// A cluster with some content.
pub(crate) struct Cluster {
    plane: ControlPlane,
}

impl Cluster {
    /// Starts a cluster with this content.
    ///
    /// # Errors
    /// The API server rejects an object.
    ///
    /// # Panics
    /// A component is not built, or does not become ready: with its log.
    pub(crate) fn start(content: &Content) -> anyhow::Result<Self> {
        Self::with(content.objects())
    }

    /// Starts a cluster with these objects.
    pub(crate) fn with(objects: Vec<Value>) -> anyhow::Result<Self> {
        // Without limits for concurrent requests, which are not what the benches measure.
        let plane = ControlPlane::builder("bench")
            .without_controllers()
            .api_server_args(["--enable-priority-and-fairness=false"])
            .start();
        // kube-proxy does not start without its node.
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

    /// Starts kube-proxy, and waits until it serves the last of the content's Services. The servers must listen
    /// already.
    ///
    /// # Errors
    /// It does not serve in time.
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

    /// Starts kube-proxy without waiting.
    ///
    /// # Errors
    /// The world's routes cannot be changed.
    pub(crate) fn launch(&self, world: &World, peer: Peer) -> anyhow::Result<Proxy> {
        // Its rules apply only to packets with a route. Those that they do not change stay on the loopback.
        let mut route = Command::new("ip");
        route.args(["route", "replace", "local", "10.96.0.0/16", "dev", "lo"]);
        route.args(["src", SOURCE]);
        let mut old = Command::new("ip");
        old.args(["route", "delete", "prohibit", "10.96.0.0/16"]);
        for command in [old, route] {
            let output = world.output(command);
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "ip: {}", errors.trim());
        }
        // It refuses connects by ICMP messages, which the kernel would limit.
        let unlimited = world.inside(|| std::fs::write("/proc/sys/net/ipv4/icmp_ratemask", "0"));
        unlimited.context("cannot remove the limit for ICMP messages")?;
        let relay = Arc::new(self.plane.relay(world));
        let mode = if peer == Peer::Iptables { "iptables" } else { "nftables" };
        let begin = Instant::now();
        Ok(Proxy { process: self.plane.kube_proxy(world, mode, NODE), relay, begin })
    }
}

/// Returns the version of kube-proxy, such as `Kubernetes v1.37.2`. None if it does not run.
///
/// # Panics
/// It is not built.
pub(crate) fn version() -> Option<String> {
    let output = Command::new(component("kube-proxy")).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A running kube-proxy.
pub(crate) struct Proxy {
    // They are dropped in this order.
    process: Process,
    relay: Arc<Relay>,
    begin: Instant,
}

impl Proxy {
    /// Returns its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the relay of its connection to the API server.
    pub(crate) fn relay(&self) -> Arc<Relay> {
        Arc::clone(&self.relay)
    }

    /// Waits until `serves` returns true. Returns the seconds since the start of the process.
    ///
    /// # Errors
    /// `serves` fails, is not true in time, or kube-proxy has ended: with the end of its log.
    pub(crate) fn wait(
        &mut self,
        mut serves: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<f64> {
        while !serves()? {
            self.process.check().map_err(anyhow::Error::msg)?;
            let late = || format!("kube-proxy does not serve after {PATIENCE:?}: {}", self.log());
            ensure!(self.begin.elapsed() < PATIENCE, late());
            thread::sleep(LOOK);
        }
        Ok(self.begin.elapsed().as_secs_f64())
    }

    /// Returns the end of its log.
    pub(crate) fn log(&self) -> String {
        self.process.log_tail()
    }
}
