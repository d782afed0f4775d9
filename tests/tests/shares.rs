//! Shares: one client can use only a part of the maps that all clients share, so that others lose
//! nothing.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "steps that several tests share, and their measurements"
)]

use std::collections::BTreeSet;

use svclb_tests::{
    Kind, ManySockets, Pod, Socket, SocketUse, Tcp, Udp, World, at, counter, eventually,
};

/// Capacity of the overflow (docs/limits.md).
const OVERFLOW: u64 = 131_072;
/// The cgroup of a pod's container, as the kubelet names it.
const GREEDY: &str =
    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/a.scope";

/// Creates three services at 10.96.0.10 with eight backends each, two over UDP and one over TCP.
fn world(name: &str) -> (World, Vec<svclb_tests::Backend>) {
    let world = World::new(name);
    let mut all = Vec::new();
    let mut service = world.service("default/dns").cluster_ip("10.96.0.10");
    for (port, protocol) in [(53, Udp), (54, Udp), (53, Tcp)] {
        let backends = world.backends(&format!("b{port}{protocol:?}"), protocol, 8);
        service = service.port(port, protocol).backends(&backends);
        all.extend(backends);
    }
    service.apply();
    (world, all)
}

const DNS: &str = "10.96.0.10:53";
const OTHER: &str = "10.96.0.10:54";

/// The sockets of a pod that opens few: an unconnected one and two connected ones.
struct FewSockets {
    sends: Socket,
    backend: String,
    connected: [Socket; 2],
}

impl FewSockets {
    fn of(pod: &Pod<'_>) -> Self {
        let sends = pod.socket(Kind::Udp4);
        let backend = sends.request_to(DNS).unwrap().backend;
        Self { sends, backend, connected: [Udp, Tcp].map(|it| pod.dial(it, DNS).unwrap()) }
    }

    /// Asserts that responses come from the Service's address, the unconnected socket keeps its backend,
    /// and the peers are the Service.
    fn check(&self, when: &str) {
        for _ in 0..10 {
            let answer = self.sends.request_to(DNS).unwrap();
            assert_eq!((answer.from, &answer.backend), (at(DNS), &self.backend), "{when}");
        }
        for socket in &self.connected {
            assert_eq!(socket.peer().unwrap(), at(DNS), "{when}");
            socket.request().unwrap();
        }
    }
}

/// A pod opens very many sockets. Existing and new sockets of other pods must keep names, responses and
/// backends.
fn assert_other_pods_unaffected(name: &str, sockets: usize, usage: SocketUse) {
    let (world, _backends) = world(name);
    let pods = [world.pod(), world.pod()];
    let before: Vec<FewSockets> = pods.iter().map(FewSockets::of).collect();
    let sockets_of_greedy = world.open_many_sockets(GREEDY, sockets, usage, &[DNS, OTHER]);
    let status = world.status();
    let taken = world.overflow_entries();
    println!("{sockets} sockets that {usage:?}: {taken} entries of the overflow; {status}");
    assert!(taken > OVERFLOW / 20 && taken <= OVERFLOW / 9 + 10, "{taken} entries");
    for pod in &pods {
        // Enough sockets that some find no place in the array.
        let opened: Vec<FewSockets> = (0..20).map(|_| FewSockets::of(pod)).collect();
        opened.iter().for_each(|it| it.check("opened meanwhile"));
        let met: BTreeSet<&str> = opened.iter().map(|it| it.backend.as_str()).collect();
        assert!(met.len() > 1, "{met:?}");
    }
    before.iter().for_each(|it| it.check("opened before"));
    let status = world.status();
    assert!(counter(&status, "over_share") > 0, "{status}");
    drop((sockets_of_greedy, before));
    world.wait_until_origins_released();
}

#[test]
fn a_pod_with_68000_unconnected_sockets_does_not_affect_other_pods() {
    assert_other_pods_unaffected("shares-68000", 68_000, SocketUse::Send);
}

#[test]
fn a_pod_with_300000_unconnected_sockets_does_not_affect_other_pods() {
    assert_other_pods_unaffected("shares-300000", 300_000, SocketUse::Send);
}

#[test]
fn a_pod_with_300000_connected_sockets_does_not_affect_other_pods() {
    assert_other_pods_unaffected("shares-connected", 300_000, SocketUse::Connect);
}

/// The number of overflow entries while two workloads, of one client or of two, have very many sockets
/// each.
fn entries_of_two(world: &World, workloads: [&str; 2]) -> u64 {
    const SOCKETS: usize = 48_000;
    let open =
        |workload| world.open_many_sockets(workload, SOCKETS, SocketUse::Send, &[DNS, OTHER]);
    let _crowds: Vec<ManySockets> = workloads.map(open).into();
    world.overflow_entries()
}

#[test]
fn a_client_has_one_share_however_many_namespaces_and_cgroups_it_creates() {
    let world = World::builder("shares-clients").agent_args(["--origins", "1024"]).start();
    let backends = world.backends("a", Udp, 2);
    let service = world.service("default/dns").cluster_ip("10.96.0.10");
    service.port(53, Udp).backends(&backends).port(54, Udp).backends(&backends).apply();
    // A pod's cgroup has one level more than a Guaranteed pod's and than a user session's. Each process
    // has a network namespace of its own.
    let clients = [
        GREEDY,
        "kubepods.slice/kubepods-pod3.slice/a.scope",
        "user.slice/user-1000.slice/user@1000.service",
    ];
    for client in clients {
        let below = ["of/its/own", "and/another"].map(|cgroup| format!("{client}/{cgroup}"));
        let one = entries_of_two(&world, [&below[0], &below[1]]);
        assert!(one <= OVERFLOW / 9 + 10, "{client}: {one} entries of one client");
        world.wait_until_origins_released();
        // The client's whole share is free again.
        assert_eq!(entries_of_two(&world, [client, &below[0]]), one, "{client}");
        world.wait_until_origins_released();
    }
    let other = GREEDY.replace("pod1", "pod2");
    let two = entries_of_two(&world, [GREEDY, &other]);
    assert!(two > OVERFLOW / 9 + OVERFLOW / 20, "{two} entries of two clients");
}

#[test]
fn wrong_counts_are_corrected_by_the_next_audit() {
    let world = World::builder("shares-audit").agent_args(["--origins", "64", "--audit", "1"]);
    let world = world.start();
    let backends = world.backends("a", Udp, 2);
    world.service("default/dns").cluster_ip("10.96.0.10").port(53, Udp).backends(&backends).apply();
    let sockets = world.sockets(Kind::Udp4, 100);
    sockets.iter().for_each(|it| it.dial(DNS).unwrap());
    let entries = i32::try_from(world.overflow_entries()).unwrap();
    assert!(entries > 0);
    let right = world.counted_entries();
    assert_eq!(right.values().copied().collect::<Vec<_>>(), [entries; 2], "{right:?}");
    // As if this client used the whole overflow.
    for client in right.keys() {
        world.put_counted_entries(*client, 1 << 20);
    }
    eventually("the counts are corrected", || match world.counted_entries() {
        found if found == right => Ok(()),
        found => Err(format!("{found:?}, expected {right:?}")),
    });
    drop(sockets);
    world.wait_until_origins_released();
    eventually("idle clients have no row", || match world.counted_entries() {
        found if found.values().all(|count| *count == 0) && found.len() == 1 => Ok(()),
        found => Err(format!("{found:?}")),
    });
}
