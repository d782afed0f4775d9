//! A start over 5,000 Services with 250,000 endpoints: over nothing and over the pins of an agent that
//! was killed, from a real API server and from files, beside kube-proxy's; and what is resident then.

use std::net::SocketAddr;
use std::thread;
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

const BENCH: &str = "sync";
const CLUSTER: Large = Large::SPEED;
/// A Service whose backend exists: who serves it has written all. Of the first 256 addresses of its range
/// the API server gives none to a Service that asks for no address, so nobody else has this one.
const FENCE: &str = "10.96.0.201:80";
const FENCE_BACKEND: &str = "10.244.0.1:8080";
/// How long kube-proxy may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Starts a control plane with all of it.
///
/// # Errors
/// The API server does not take it.
pub(crate) fn cluster() -> anyhow::Result<Cluster> {
    let mut objects = CLUSTER.objects();
    objects.extend(one_backend("fence", FENCE, "TCP", FENCE_BACKEND));
    crate::say("the API server takes 5,000 Services with 250,000 endpoints");
    Cluster::with(objects)
}

/// A Service with this backend, and its slice.
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

/// Measures all of it.
///
/// # Errors
/// Somebody does not serve what the API server has.
pub(crate) fn run(book: &mut Book, cluster: &Cluster, effort: Effort) -> anyhow::Result<()> {
    let idle = steps_of_proof()?;
    for _ in 0..effort.rounds {
        from_api_server(book, cluster, idle)?;
        from_files(book)?;
        kube_proxy(book, cluster)?;
    }
    Ok(())
}

/// A world with an agent of this cluster, and how long its start took.
pub(crate) fn start(world: &World, plane: &ControlPlane) -> anyhow::Result<f64> {
    let kubeconfig = plane.kubeconfig();
    let kubeconfig = kubeconfig.to_str().context("the path is no text")?;
    let begin = Instant::now();
    world.start_agent_with(&["--kubeconfig", kubeconfig, "--node", NODE]);
    Ok(begin.elapsed().as_secs_f64())
}

fn from_api_server(book: &mut Book, cluster: &Cluster, idle: usize) -> anyhow::Result<()> {
    let world = World::builder("bench-sync").without_agent().start();
    let relay = cluster.plane().relay(&world);
    let mut add = |what: &str, unit, value| book.add(BENCH, what, Peer::Svclb, unit, value);
    let seconds = start(&world, cluster.plane())?;
    serves_all(&world)?;
    add("start over nothing, from an API server", Unit::Seconds, seconds);
    let agent = world.take_agent();
    add("resident, from an API server", Unit::Bytes, resident(agent.pid())?);
    add("the kernel's memory for the maps", Unit::Bytes, maps(&world)?);
    agent.kill();

    let before = world.agent_log().len();
    let seconds = start(&world, cluster.plane())?;
    serves_all(&world)?;
    add("start over its pins, from an API server", Unit::Seconds, seconds);
    let steps = steps(&world.agent_log()[before..]);
    add("rows written by a start over its pins", Unit::Count, number(steps.saturating_sub(idle)));
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
    let begin = Instant::now();
    world.start_agent();
    let seconds = begin.elapsed().as_secs_f64();
    book.add(BENCH, "start over nothing, from a file", Peer::Svclb, Unit::Seconds, seconds);
    Ok(())
}

fn kube_proxy(book: &mut Book, cluster: &Cluster) -> anyhow::Result<()> {
    let world = World::builder("bench-sync").without_agent().start();
    let _fence = world.backend("fence", Tcp, FENCE_BACKEND);
    let fence: SocketAddr = FENCE.parse()?;
    let begin = Instant::now();
    let proxy = cluster.launch(&world, Peer::Nftables)?;
    while world.dial(Tcp, fence).is_err() {
        ensure!(begin.elapsed() < PATIENCE, "kube-proxy does not serve {FENCE}: {}", proxy.said());
        thread::sleep(Duration::from_millis(50));
    }
    let seconds = begin.elapsed().as_secs_f64();
    let mut add = |what: &str, unit, value| book.add(BENCH, what, Peer::Nftables, unit, value);
    add("start over nothing, from an API server", Unit::Seconds, seconds);
    add("resident, from an API server", Unit::Bytes, resident(proxy.pid())?);
    Ok(())
}

/// Whether the maps hold all of the cluster.
fn serves_all(world: &World) -> anyhow::Result<()> {
    let status = world.status();
    let found = (status["services"].as_u64(), status["backends"].as_u64());
    // With the fence, and the Service `kubernetes`, which has no backend here.
    let all = (CLUSTER.services as u64 + 2, CLUSTER.all_endpoints() as u64 + 1);
    ensure!(
        found == (Some(all.0), Some(all.1)),
        "the maps hold {found:?} services and backends, and not {all:?}"
    );
    Ok(())
}

/// What the agent wrote, by its log: the sum of `steps=`.
fn steps(log: &str) -> usize {
    let lines = log.lines().filter(|line| line.contains("maps changed"));
    let fields =
        lines.flat_map(|line| line.split(' ')).filter_map(|word| word.strip_prefix("steps="));
    fields.filter_map(|steps| steps.parse::<usize>().ok()).sum()
}

/// What an agent writes at a start over pins that serve nothing: a Service of its own for the connect by
/// which it proves translation.
fn steps_of_proof() -> anyhow::Result<usize> {
    let world = World::new("bench-sync");
    world.take_agent().kill();
    let before = world.agent_log().len();
    world.start_agent();
    let steps = steps(&world.agent_log()[before..]);
    ensure!(steps > 0, "the agent's log does not say what it wrote");
    Ok(steps)
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_those_of_passes_that_changed_maps() {
        let log = "INFO ready steps=7\n\
                   INFO maps changed objects=3 steps=12 took=3ms\n\
                   INFO maps changed objects=1 steps=5 took=1ms\n";
        assert_eq!(steps(log), 17);
    }
}
