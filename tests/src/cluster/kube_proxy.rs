//! kube-proxy, started with arguments that suit a namespace that cannot set limits of connection
//! tracking.

use std::path::Path;
use std::process::Command;

use super::components::component;
use super::{ControlPlane, Process};
use crate::World;

impl ControlPlane {
    /// Starts kube-proxy for this node in a world that has a [`Relay`](super::Relay), in this mode
    /// (`nftables`, `iptables`). It waits until the Node exists.
    ///
    /// # Panics
    /// If it is not built or cannot be started.
    pub fn kube_proxy(&self, world: &World, mode: &str, node: &str) -> Process {
        let host = ["--hostname-override", node];
        let command = kube_proxy(&self.kubeconfig(), mode, &host);
        self.spawn_into(world.namespace(), &format!("kube-proxy-{mode}"), command)
    }
}

/// The command line of kube-proxy, with additional arguments.
pub(crate) fn kube_proxy(kubeconfig: &Path, mode: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(component("kube-proxy"));
    command.arg("--kubeconfig").arg(kubeconfig);
    command.arg(format!("--proxy-mode={mode}"));
    command.args(["--detect-local-mode=ClusterCIDR", "--cluster-cidr=10.244.0.0/16,fd00:244::/32"]);
    // Limits of 0 are left unchanged: this namespace cannot set them.
    command.args(["--conntrack-max-per-core=0", "--conntrack-min=0"]);
    command
        .args(["--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s"]);
    command.args(["--conntrack-udp-timeout=0s", "--conntrack-udp-timeout-stream=0s"]);
    command
        .args(["--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249"]);
    command.args(arguments);
    command
}
