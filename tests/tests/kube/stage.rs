//! The set-up of these tests: a control plane without controllers, and a world that reaches it.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use svclb_tests::cluster::{Client, ControlPlane, Reference, Relay};
use svclb_tests::{Tcp, World, eventually, within};

/// The agent's Node, which is in zone-a.
pub(crate) const NODE: &str = "node-a";
/// The ClusterIP and port of `default/hello`.
pub(crate) const DIALLED: &str = "10.96.0.10:80";

/// Limit for the agent: longer than two of its timeouts (30 s) and its longest backoff, because an
/// attempt may begin just before it becomes futile.
const PATIENCE: Duration = Duration::from_secs(120);

/// The control plane and the world, without an agent.
pub(crate) struct Stage {
    // Fields are dropped in this order: the relay ends before what it connects.
    pub(crate) relay: Relay,
    pub(crate) world: World,
    pub(crate) plane: ControlPlane,
}

impl Stage {
    pub(crate) fn new(name: &str) -> Self {
        Self::on(name, ControlPlane::builder(name).without_controllers().start())
    }

    pub(crate) fn on(name: &str, plane: ControlPlane) -> Self {
        let world = World::builder(name).without_agent().start();
        let relay = plane.relay(&world);
        plane.api().apply(&format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {NODE}, labels: \
             {{topology.kubernetes.io/zone: zone-a}}}}}}"
        ));
        Self { relay, world, plane }
    }

    pub(crate) fn api(&self) -> &Client {
        self.plane.api()
    }

    /// Starts an agent and waits until it is ready.
    pub(crate) fn start_agent(&self) {
        self.start_agent_as(&self.plane.kubeconfig(), &[]);
    }

    pub(crate) fn start_agent_as(&self, kubeconfig: &Path, more: &[&str]) {
        start(&self.world, kubeconfig, more);
    }

    /// Waits until `default/hello` has exactly these backends.
    pub(crate) fn wait_for(&self, expected: &[&str]) {
        wait_for(&self.world, expected);
    }

    /// Waits until one line of the agent's log has all these words.
    pub(crate) fn wait_for_log(&self, words: &[&str]) {
        eventually(&format!("the log has {words:?}"), || {
            let log = self.world.agent_log();
            match log.lines().any(|line| words.iter().all(|word| line.contains(word))) {
                true => Ok(()),
                false => Err(log),
            }
        });
    }

    /// Runs `task` and asserts that no connect to `default/hello` fails meanwhile, or is answered by any
    /// backend but `a` and `b`.
    pub(crate) fn assert_uninterrupted<R>(&self, task: impl FnOnce() -> R) -> R {
        let (rounds, result) = self.world.assert_uninterrupted(Tcp, DIALLED, &["a", "b"], task);
        assert!(rounds > 10, "expected more than 10 connects, got {rounds}");
        result
    }
}

/// Starts an agent on a world and waits until it is ready.
pub(crate) fn start(world: &World, kubeconfig: &Path, more: &[&str]) {
    let kubeconfig = kubeconfig.to_str().unwrap();
    let mut arguments = vec!["--kubeconfig", kubeconfig, "--node", NODE];
    arguments.extend(more);
    world.start_agent_with(&arguments);
}

/// Waits until `default/hello` has exactly these backends.
pub(crate) fn wait_for(world: &World, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|&backend| backend.to_owned()).collect();
    let found = within(PATIENCE, || match backends(world, "hello") {
        found if found == expected => Ok(()),
        found => Err(format!("{found:?}; the agent's log:\n{}", world.agent_log())),
    });
    found.unwrap_or_else(|last| panic!("expected the backends {expected:?}: {last}"));
}

/// The addresses of the backends that clients of a Service are given.
pub(crate) fn backends(world: &World, service: &str) -> BTreeSet<String> {
    let mine = rows(world, "backends").into_iter().filter(|row| row["service"] == service);
    let drawn = mine.filter(|row| row["weight"].as_f64().is_some_and(|weight| weight > 0.0));
    drawn.map(|row| row["address"].as_str().unwrap().to_owned()).collect()
}

/// The frontends of a Service.
pub(crate) fn frontends(world: &World, service: &str) -> BTreeSet<String> {
    let mine = rows(world, "services").into_iter().filter(|row| row["name"] == service);
    let frontends = mine.flat_map(|row| row["frontends"].as_array().unwrap().clone());
    frontends.map(|frontend| frontend.as_str().unwrap().to_owned()).collect()
}

/// All rows that the commands show, without the fields that differ between agents: ids of services and
/// counts of connections.
pub(crate) fn content(world: &World) -> BTreeSet<String> {
    let all = ["services", "backends"].map(|command| rows(world, command));
    let all = all.into_iter().flatten().map(|mut row| {
        let fields = row.as_object_mut().unwrap();
        fields.remove("id");
        fields.remove("connections");
        row.to_string()
    });
    all.collect()
}

pub(crate) fn rows(world: &World, command: &str) -> Vec<Value> {
    let output = world.svclb(&[command, "-o", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The Service at [`DIALLED`].
pub(crate) fn hello() -> Reference {
    Reference::service("default/hello")
}

/// A Service with this ClusterIP; if it is empty, the API server chooses one.
pub(crate) fn service(name: &str, cluster_ip: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "clusterIP": cluster_ip, "ports": [{ "port": 80, "protocol": "TCP" }] },
    })
}

/// A slice of a Service with these addresses and port 8080.
pub(crate) fn slice(service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> =
        addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{service}-1"),
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "", "protocol": "TCP", "port": 8080 }],
        "endpoints": endpoints,
    })
}
