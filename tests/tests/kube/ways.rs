//! An agent that reaches its API server through the Service `default/kubernetes`, which it serves
//! itself. Whatever happens to that Service's endpoints, the agent reconnects, and no client is misled.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use svclb_tests::cluster::{ControlPlane, Process, Relay, documents};
use svclb_tests::{Tcp, World, at, within};

use super::stage::{NODE, Stage, backends, service, slice};

/// The ClusterIP of `default/kubernetes`.
const CLUSTER_IP: &str = "10.96.0.1:443";
/// The address of the API server after a move.
const MOVED: &str = "10.244.255.253";
/// Flags with which an API server has an endpoint, which it removes before it ends. Watches go on for a
/// moment, as behind the load balancers that this is for.
const HAS_ENDPOINT: [&str; 2] =
    ["--endpoint-reconciler-type=lease", "--shutdown-delay-duration=2s"];
/// Limit for the agent to reconnect: twice its longest backoff (jitter), and a busy machine.
const FOLLOWS: Duration = Duration::from_secs(90);

/// A world whose kubeconfig has the ClusterIP of the API server.
struct Ways {
    stage: Stage,
    /// A relay that does what kube-proxy's rules would do.
    proxy: Option<Relay>,
    /// A relay at the endpoint of the API server.
    endpoint: Relay,
    kubeconfig: PathBuf,
}

impl Ways {
    fn new(name: &str) -> Self {
        let plane = ControlPlane::builder(name).without_controllers();
        let stage = Stage::on(name, plane.api_server_args(HAS_ENDPOINT).start());
        let kubeconfig = stage.plane.kubeconfig_at(at(CLUSTER_IP));
        let endpoint = stage.plane.relay_at(&stage.world, stage.plane.advertised());
        stage.api().apply_all(&[service("hello", "10.96.0.10"), slice("hello", &["10.244.0.1"])]);
        Self { stage, proxy: None, endpoint, kubeconfig }
    }

    /// With a relay that stands in for kube-proxy.
    fn with_relay(name: &str) -> Self {
        let mut ways = Self::new(name);
        ways.world().add_local_address(at(CLUSTER_IP).ip());
        ways.proxy = Some(ways.stage.plane.relay_at(&ways.stage.world, at(CLUSTER_IP)));
        ways
    }

    /// With the real kube-proxy in the world, whose rules lead clients to the ClusterIP.
    fn with_kube_proxy(name: &str) -> (Self, Process) {
        let ways = Self::new(name);
        // The namespace needs a route to the ClusterIP, and a source address of the pods' range.
        let setup =
            ["address add 10.244.200.1/32 dev lo", "route add 10.96.0.1 dev lo src 10.244.200.1"];
        for arguments in setup {
            let mut ip = Command::new("ip");
            ip.args(arguments.split(' '));
            let output = ways.world().output(ip);
            assert!(output.status.success(), "ip {arguments}: {output:?}");
        }
        let mut kube_proxy = ways.stage.plane.kube_proxy(ways.world(), "nftables", NODE);
        let reaches = within(FOLLOWS, || {
            kube_proxy.check()?;
            ways.world().dial(Tcp, CLUSTER_IP).map_err(|error| error.to_string())
        });
        reaches.unwrap_or_else(|last| {
            panic!(
                "kube-proxy must serve {CLUSTER_IP}: {last}; its log:\n{}",
                kube_proxy.log_tail()
            )
        });
        (ways, kube_proxy)
    }

    fn world(&self) -> &World {
        &self.stage.world
    }

    fn start_agent(&self, more: &[&str]) {
        self.stage.start_agent_as(&self.kubeconfig, more);
    }

    /// Restarts the API server, which removes its endpoint before it ends. Clients are refused until it
    /// is back.
    fn restart_api_server(&self, meanwhile: impl FnOnce()) {
        self.wait_for_endpoints(&["10.244.255.254"]);
        self.stage.plane.terminate_api_server();
        self.wait_for_endpoints(&[]);
        let refused = self.world().dial(Tcp, CLUSTER_IP).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED));
        meanwhile();
        self.stage.plane.start_api_server();
    }

    /// Waits until clients of the ClusterIP are given these endpoints.
    fn wait_for_endpoints(&self, expected: &[&str]) {
        let found = within(FOLLOWS, || {
            let found = backends(self.world(), "kubernetes");
            let is_it = found.iter().map(String::as_str).eq(expected.iter().copied());
            if is_it { Ok(()) } else { Err(format!("{found:?}")) }
        });
        found.unwrap_or_else(|last| {
            panic!(
                "expected the endpoints {expected:?}: {last}; the log:\n{}",
                self.world().agent_log()
            )
        });
    }

    /// Asserts that the agent applies changes again within the limit, and that clients reach the API
    /// server.
    fn assert_follows(&self, row: &str) {
        let start = Instant::now();
        self.stage.api().apply_all(&[slice("hello", &["10.244.0.2"])]);
        let found = within(FOLLOWS, || match backends(self.world(), "hello") {
            found if found.iter().eq(["10.244.0.2"]) => Ok(()),
            found => Err(format!("{found:?}")),
        });
        found
            .unwrap_or_else(|last| panic!("{row}: {last}; the log:\n{}", self.world().agent_log()));
        eprintln!("{row}: follows again {:?} after the API server is back", start.elapsed());
        let served = within(FOLLOWS, || match self.world().dial(Tcp, CLUSTER_IP) {
            Ok(socket) => Ok(socket),
            Err(error) => Err(error.to_string()),
        });
        served.unwrap_or_else(|last| {
            panic!("{row}: clients must reach the API server again: {last}")
        });
        self.stage.api().apply_all(&[slice("hello", &["10.244.0.1"])]);
        self.stage.wait_for(&["10.244.0.1"]);
    }

    /// The way by which the agent last read its Services.
    fn way(&self) -> String {
        let status = self.world().status();
        status["sources"][0]["way"].as_str().unwrap_or_default().to_owned()
    }
}

#[test]
fn agent_reconnects_to_a_single_api_server_that_restarts_gracefully() {
    let ways = Ways::with_relay("way-restart");
    let proxy = ways.proxy.as_ref().unwrap();
    ways.start_agent(&[]);
    // First by kube-proxy's path alone, then by the endpoint alone.
    ways.endpoint.cut();
    ways.restart_api_server(|| {});
    ways.endpoint.open(ways.world());
    ways.assert_follows("by kube-proxy's path");
    proxy.cut();
    ways.restart_api_server(|| {});
    ways.assert_follows("by the last endpoint known");
    assert_eq!(ways.way(), "endpoint");
    proxy.open(ways.world());
    // The agent restarts while the maps have no endpoint.
    ways.restart_api_server(|| {
        ways.world().take_agent().kill();
        ways.start_agent(&[]);
        assert_eq!(ways.world().status()["synced"], false);
    });
    ways.assert_follows("after a restart of the agent");
}

#[test]
fn agent_finds_an_api_server_that_moved_while_it_was_down_or_cut_off() {
    let mut ways = Ways::with_relay("way-moved");
    ways.start_agent(&[]);
    ways.wait_for_endpoints(&["10.244.255.254"]);
    // The API server moves while the agent is down.
    ways.world().take_agent().kill();
    ways.stage.plane.stop_api_server();
    ways.endpoint.cut();
    let moved = ip(MOVED);
    ways.stage.plane.advertise(moved);
    ways.stage.plane.start_api_server();
    ways.endpoint = ways.stage.plane.relay_at(ways.world(), SocketAddr::new(moved, 6443));
    ways.start_agent(&[]);
    ways.assert_follows("moved while the agent was down");
    ways.wait_for_endpoints(&[MOVED]);
    // The API server moves while the agent is cut off, and only kube-proxy's path leads back.
    let proxy = ways.proxy.as_ref().unwrap();
    proxy.cut();
    ways.endpoint.cut();
    ways.stage.plane.stop_api_server();
    let back = ip("10.244.255.254");
    ways.stage.plane.advertise(back);
    ways.stage.plane.start_api_server();
    proxy.open(ways.world());
    ways.endpoint = ways.stage.plane.relay_at(ways.world(), SocketAddr::new(back, 6443));
    ways.assert_follows("moved while the agent was cut off");
}

#[test]
fn each_configured_address_is_tried_and_a_failing_one_delays_no_other() {
    // Nothing listens at the ClusterIP: there is neither kube-proxy nor a stand-in.
    let ways = Ways::new("way-given");
    let refused = "https://10.244.250.1:7443";
    let another = "10.244.250.2:7443";
    // A server without a certificate of the cluster.
    let impostor = ways.world().backend("impostor", Tcp, "10.244.250.3:7443");
    let _works = ways.stage.plane.relay_at(ways.world(), at(another));
    let flag_value = format!("{refused},https://{},https://{another}", impostor.address());
    ways.start_agent(&["--api-server", &flag_value]);
    ways.stage.wait_for(&["10.244.0.1"]);
    assert_eq!(ways.way(), "api-server");
    ways.stage.wait_for_log(&["WARN", refused, "refused"]);
    let log = ways.world().agent_log();
    let lines = log.lines().filter(|line| line.contains(refused)).count();
    assert_eq!(lines, 1, "expected one line about {refused}: {log}");
    // The learned endpoint is one of the ways, and the agent restarts over the maps.
    ways.restart_api_server(|| {
        ways.world().take_agent().kill();
        ways.start_agent(&["--api-server", &flag_value]);
    });
    ways.assert_follows("by a given way");
}

#[test]
fn exec_plugin_reaches_the_api_server_without_translation() {
    let ways = Ways::with_relay("way-plugin");
    let folder = ways.stage.plane.folder().to_owned();
    // The plugin connects to the API server at the ClusterIP before it returns a token.
    let config = fs::read_to_string(&ways.kubeconfig).unwrap();
    let mut config = documents(&config).pop().unwrap();
    let user = &mut config["users"][0]["user"];
    let token = std::mem::replace(user, Value::Null)["token"].as_str().unwrap().to_owned();
    let dial = CLUSTER_IP.replace(':', "/");
    let credential = json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "token": token },
    });
    let script = format!("exec 3<>/dev/tcp/{dial} || exit 1; echo '{credential}'");
    *user = json!({ "exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "interactiveMode": "Never",
        "command": "bash",
        "args": ["-c", script],
    }});
    let kubeconfig = folder.join("plugin.kubeconfig");
    fs::write(&kubeconfig, config.to_string()).unwrap();
    // In a cgroup of its own, as in a pod.
    let program = in_own_cgroup(ways.world(), &folder);
    let arguments = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--node", NODE];
    ways.world().start_agent_of(&program, &arguments);
    ways.stage.wait_for(&["10.244.0.1"]);
    ways.restart_api_server(|| {
        ways.world().take_agent().kill();
        ways.world().start_agent_of(&program, &arguments);
        assert_eq!(ways.world().status()["synced"], false);
        let refused = ways.world().dial(Tcp, CLUSTER_IP).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED), "other clients are refused");
    });
    ways.assert_follows("by a plugin's token");
}

#[test]
fn with_the_real_kube_proxy_the_agent_reconnects_after_a_restart_and_a_move() {
    let (mut ways, mut kube_proxy) = Ways::with_kube_proxy("way-kube-proxy");
    ways.start_agent(&[]);
    // The agent restarts each time while the maps have no endpoint, so that only kube-proxy's path is
    // left.
    ways.restart_api_server(|| {
        ways.world().take_agent().kill();
        ways.start_agent(&[]);
    });
    ways.assert_follows("after a graceful restart");
    ways.world().take_agent().kill();
    ways.stage.plane.terminate_api_server();
    ways.endpoint.cut();
    ways.stage.plane.advertise(ip(MOVED));
    ways.stage.plane.start_api_server();
    ways.endpoint = ways.stage.plane.relay_at(ways.world(), at(&format!("{MOVED}:6443")));
    ways.start_agent(&[]);
    ways.assert_follows("after a move while the agent was down");
    kube_proxy.check().unwrap();
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Writes a program that starts svclb in a cgroup of its own, below the world's.
fn in_own_cgroup(world: &World, folder: &Path) -> PathBuf {
    let cgroup = world.cgroup().join("agent");
    fs::create_dir_all(&cgroup).unwrap();
    let path = folder.join("svclb");
    let (cgroup, svclb) = (cgroup.display(), world.program().display());
    let script =
        format!("#!/bin/sh\necho 0 > {cgroup}/cgroup.procs || exit 1\nexec {svclb} \"$@\"\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
