//! Starts of the agent with 5,000 Services and 250,000 endpoints, from a real API server and from files,
//! without pins and with the pins of a killed agent, side by side with starts of kube-proxy. Also measures
//! resident memory, a change of a file next to a large one, and starts with a smaller cluster, which
//! kube-proxy's iptables mode can handle too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use svclb_tests::cluster::{ControlPlane, Large};
use svclb_tests::{Tcp, World};

use super::Effort;
use super::memory::{maps, resident};
use crate::book::{Book, Unit};
use crate::lane::Peer;
use crate::lane::proxy::{Cluster, NODE};
use crate::times::{self, Times};

const BENCH: &str = "sync";
const CLUSTER: Large = Large::SPEED;
/// A cluster that kube-proxy's iptables mode can handle in acceptable time.
const LESS: Large = Large { services: 500, endpoints: 20 };
const START: &str = "start over nothing, from an API server";
const START_OVER_LESS: &str = "start over nothing, 500 Services with 10,000 endpoints";
const RESIDENT: &str = "resident, from an API server";
/// A Service with a real backend, which is served only after everything else was written. The API server does
/// not allocate the first 256 addresses of its range to Services without an explicit address, so no other
/// Service has this address.
const FENCE: &str = "10.96.0.201:80";
const FENCE_BACKEND: &str = "10.244.0.1:8080";
/// A Service in a separate file, and its alternating backends.
const FILE_SERVICE: &str = "10.96.255.1:80";
const FILE_BACKENDS: [(&str, &str); 2] = [("a", "10.244.0.1:8080"), ("b", "10.244.0.2:8080")];
/// Number of its changes in a round, and time limit for each.
const FILE_CHANGES: usize = 20;
const FILE_PATIENCE: Duration = Duration::from_secs(10);

/// Starts a control plane with [`CLUSTER`].
///
/// # Errors
/// The API server rejects an object.
pub(crate) fn cluster() -> anyhow::Result<Cluster> {
    cluster_of(CLUSTER)
}

fn cluster_of(content: Large) -> anyhow::Result<Cluster> {
    let mut objects = content.objects();
    objects.extend(one_backend("fence", FENCE, "TCP", FENCE_BACKEND));
    let (services, endpoints) = (content.services, content.all_endpoints());
    crate::log(&format!(
        "creating {services} Services with {endpoints} endpoints in the API server"
    ));
    Cluster::with(objects)
}

/// Returns a Service with one backend, and its EndpointSlice.
pub(crate) fn one_backend(name: &str, at: &str, protocol: &str, backend: &str) -> [Value; 2] {
    let split = |text: &str| {
        let (ip, port) = text.split_once(':').unwrap_or_default();
        (ip.to_owned(), port.parse::<u16>().unwrap_or_default())
    };
    let ((ip, port), (pod, target)) = (split(at), split(backend));
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "clusterIP": ip, "ports": [{ "port": port, "protocol": protocol, "targetPort": target }] },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{name}-1"), "namespace": "default",
            "labels": { "kubernetes.io/service-name": name },
        },
        "ports": [{ "name": "", "protocol": protocol, "port": target }],
        "endpoints": [{ "addresses": [pod] }],
    });
    [service, slice]
}

/// Measures all starts.
///
/// # Errors
/// svclb or kube-proxy does not serve the cluster.
pub(crate) fn run(book: &mut Book, cluster: &Cluster, effort: Effort) -> anyhow::Result<()> {
    let idle = probe_rows()?;
    for _ in 0..effort.rounds {
        from_api_server(book, cluster, idle)?;
        from_files(book)?;
        kube_proxy(book, cluster, Peer::Nftables, START, Some(RESIDENT))?;
    }
    // Only now, as an API server takes processor time even without requests.
    let less = cluster_of(LESS)?;
    for _ in 0..effort.rounds {
        over_less(book, &less)?;
        for peer in [Peer::Nftables, Peer::Iptables] {
            kube_proxy(book, &less, peer, START_OVER_LESS, None)?;
        }
    }
    Ok(())
}

/// Starts an agent for this cluster, and returns the duration of its start.
pub(crate) fn start(world: &World, plane: &ControlPlane) -> anyhow::Result<f64> {
    let kubeconfig = plane.kubeconfig();
    let kubeconfig = kubeconfig.to_str().context("the path is not UTF-8")?;
    let begin = Instant::now();
    world.start_agent_with(&["--kubeconfig", kubeconfig, "--node", NODE]);
    Ok(begin.elapsed().as_secs_f64())
}

fn from_api_server(book: &mut Book, cluster: &Cluster, idle: Written) -> anyhow::Result<()> {
    let world = World::builder("bench-sync").without_agent().start();
    let relay = cluster.plane().relay(&world);
    let mut add = |what: &str, unit, value| book.add(BENCH, what, Peer::Svclb, unit, value);
    let seconds = start(&world, cluster.plane())?;
    check_content(&world, CLUSTER)?;
    add(START, Unit::Seconds, seconds);
    let agent = world.take_agent();
    add(RESIDENT, Unit::Bytes, resident(agent.pid())?);
    add("the kernel's memory for the maps", Unit::Bytes, maps(&world)?);
    agent.kill();

    let before = world.agent_log().len();
    let seconds = start(&world, cluster.plane())?;
    check_content(&world, CLUSTER)?;
    check_no_repairs(&world.agent_log()[before..])?;
    add("start over its pins, from an API server", Unit::Seconds, seconds);
    let written = written(&world.agent_log()[before..]).beyond(idle);
    add("rows written by a start over its pins", Unit::Count, number(written));
    drop(relay);
    Ok(())
}

fn from_files(book: &mut Book) -> anyhow::Result<()> {
    let world = World::builder("bench-sync").without_agent().start();
    let mut text = String::new();
    for service in 0..CLUSTER.services {
        let mut object = CLUSTER.service(service);
        let [_, _, high, low] = u32::try_from(service + 1)?.to_be_bytes();
        object["spec"]["clusterIP"] = json!(format!("10.96.{high}.{low}"));
        text.push_str(&format!("---\n{object}\n---\n{}\n", CLUSTER.slice(service)));
    }
    world.write_file("all.yaml", &text);
    let backends =
        FILE_BACKENDS.map(|(name, backend)| (name, world.backend(name, Tcp, backend), backend));
    let point = |backend: &str| {
        let objects = one_backend("watched", FILE_SERVICE, "TCP", backend);
        let text: String = objects.iter().map(|object| format!("---\n{object}\n")).collect();
        world.write_file("watched.yaml", &text);
    };
    point(backends[0].2);
    let begin = Instant::now();
    world.start_agent();
    let mut add = |what: &str, unit, value| book.add(BENCH, what, Peer::Svclb, unit, value);
    add("start over nothing, from files", Unit::Seconds, begin.elapsed().as_secs_f64());
    world.take_agent().kill();
    let begin = Instant::now();
    world.start_agent();
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(world.status()["synced"] == true, "the agent was ready before it had read its files");
    add("start over its pins, from files", Unit::Seconds, seconds);
    let mut times = Vec::new();
    for (name, _, backend) in backends.iter().rev().cycle().take(FILE_CHANGES) {
        let begin = Instant::now();
        point(backend);
        while world.request(Tcp, FILE_SERVICE).ok().as_deref() != Some(*name) {
            ensure!(begin.elapsed() < FILE_PATIENCE, "no client noticed the change of a file");
        }
        times.push(times::of(begin.elapsed()));
    }
    let what = "a small file changes beside the large one, to the first connect to the new backend";
    book.add_times(BENCH, what, Peer::Svclb, &Times::of(times));
    Ok(())
}

fn over_less(book: &mut Book, cluster: &Cluster) -> anyhow::Result<()> {
    let world = World::builder("bench-sync").without_agent().start();
    let _relay = cluster.plane().relay(&world);
    let seconds = start(&world, cluster.plane())?;
    check_content(&world, LESS)?;
    book.add(BENCH, START_OVER_LESS, Peer::Svclb, Unit::Seconds, seconds);
    Ok(())
}

fn kube_proxy(
    book: &mut Book,
    cluster: &Cluster,
    peer: Peer,
    what: &str,
    resides: Option<&str>,
) -> anyhow::Result<()> {
    let world = World::builder("bench-sync").without_agent().start();
    let _fence = world.backend("fence", Tcp, FENCE_BACKEND);
    let fence: SocketAddr = FENCE.parse()?;
    let mut proxy = cluster.launch(&world, peer)?;
    let seconds = proxy.wait(|| Ok(world.dial(Tcp, fence).is_ok())).context(FENCE)?;
    book.add(BENCH, what, peer, Unit::Seconds, seconds);
    if let Some(what) = resides {
        book.add(BENCH, what, peer, Unit::Bytes, resident(proxy.pid())?);
    }
    Ok(())
}

/// Checks that the maps hold all of the cluster.
fn check_content(world: &World, content: Large) -> anyhow::Result<()> {
    let status = world.status();
    ensure!(status["synced"] == true, "the agent was ready before it had read the cluster");
    let found = (status["services"].as_u64(), status["backends"].as_u64());
    // Includes the fence, and the Service `kubernetes`, which has no backend here.
    let all = (content.services as u64 + 2, content.all_endpoints() as u64 + 1);
    ensure!(
        found == (Some(all.0), Some(all.1)),
        "the maps hold {found:?} services and backends instead of {all:?}"
    );
    Ok(())
}

/// Checks that the agent had nothing to repair in the maps.
fn check_no_repairs(log: &str) -> anyhow::Result<()> {
    let repair = log.lines().find(|line| line.contains("putting right"));
    ensure!(repair.is_none(), "the maps were not as an agent leaves them: {repair:?}");
    Ok(())
}

/// Rows that an agent wrote, by its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Written {
    /// Service objects in passes that wrote something.
    objects: usize,
    steps: usize,
}

impl Written {
    /// Returns the rows in addition to those of an idle agent. (Those for one object may be some more in full
    /// maps.)
    fn beyond(self, idle: Self) -> usize {
        if self.objects <= idle.objects { 0 } else { self.steps.saturating_sub(idle.steps) }
    }
}

fn written(log: &str) -> Written {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("maps changed")).collect();
    let sum = |name: &str| {
        let fields = lines.iter().flat_map(|line| line.split(' '));
        let values = fields.filter_map(|word| word.strip_prefix(name)?.parse::<usize>().ok());
        values.sum()
    };
    Written { objects: sum("objects="), steps: sum("steps=") }
}

/// Returns the rows that an agent writes at a start over pins without Services: those of the Service by which
/// it probes translation.
fn probe_rows() -> anyhow::Result<Written> {
    let world = World::new("bench-sync");
    world.take_agent().kill();
    let before = world.agent_log().len();
    world.start_agent();
    let written = written(&world.agent_log()[before..]);
    ensure!(written.steps > 0, "the agent's log has no written rows");
    Ok(written)
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_passes_that_changed_more_than_an_idle_agent_does() {
        let log = "INFO ready steps=7\n\
                   INFO maps changed objects=3 steps=12 took=3ms\n\
                   INFO maps changed objects=1 steps=5 took=1ms\n";
        let found = written(log);
        assert_eq!(found, Written { objects: 4, steps: 17 });
        assert_eq!(found.beyond(Written { objects: 2, steps: 11 }), 6);
        assert_eq!(found.beyond(Written { objects: 4, steps: 15 }), 0);
    }
}
