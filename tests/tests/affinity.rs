//! Session affinity: a client, which is a network namespace, keeps its backend.

use std::collections::BTreeSet;
use std::io;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use svclb_tests::{Backend, Kind, Pod, Protocol, Socket, SocketUse, Tcp, Udp, World, at, counter};

/// A timeout longer than any test.
const LONG: u32 = 10_800;
/// Number of connections. Without affinity, all of them would meet the same of eight backends once in
/// 2^90 runs.
const ROUNDS: usize = 30;

/// Creates a Service at 10.96.0.10:80 and [fd00:96::10]:80, for TCP and UDP, with the external IPs
/// 203.0.113.1 and 2001:db8:c::1 and `count` backends for each protocol and family.
fn world(name: &str, count: usize, seconds: u32) -> (World, Vec<Backend>) {
    let world = World::new(name);
    let mut all = Vec::new();
    let mut service = world.service("default/kept").affinity(seconds);
    for ip in ["10.96.0.10", "fd00:96::10"] {
        service = service.cluster_ip(ip);
    }
    for ip in ["203.0.113.1", "2001:db8:c::1"] {
        service = service.external_ip(ip);
    }
    for protocol in [Tcp, Udp] {
        let mut backends = world.backends("v4", protocol, count);
        backends.extend((1..=count).map(|n| {
            let group = all.len();
            world.backend(&format!("v6-{n}"), protocol, &format!("[fd00:244::{group}:{n}]:8080"))
        }));
        service = service.port(80, protocol).backends(&backends);
        all.extend(backends);
    }
    service.apply();
    (world, all)
}

/// The addresses of [`world`]'s Service, by family.
const DIALLED: [[&str; 2]; 2] =
    [["10.96.0.10:80", "203.0.113.1:80"], ["[fd00:96::10]:80", "[2001:db8:c::1]:80"]];

/// A client: the host or a pod.
#[derive(Clone, Copy)]
enum Client<'a> {
    Host(&'a World),
    Pod(&'a Pod<'a>),
}

impl Client<'_> {
    fn socket(self, kind: Kind) -> Socket {
        match self {
            Self::Host(world) => world.socket(kind),
            Self::Pod(pod) => pod.socket(kind),
        }
    }

    /// Connects, checks the peer's address and returns the name of the backend.
    fn request(self, protocol: Protocol, to: &str) -> io::Result<String> {
        let socket = self.socket(Kind::of(protocol, at(to)));
        socket.dial(to)?;
        assert_eq!(socket.peer()?, at(to));
        socket.request()
    }
}

#[test]
fn every_new_connection_of_a_client_meets_the_same_backend_at_every_frontend() {
    let (world, _backends) = world("affinity", 8, LONG);
    let probes = counter(&world.status(), "translated");
    let pods: Vec<Pod<'_>> = (0..2).map(|_| world.pod()).collect();
    let clients = [
        ("host", Client::Host(&world)),
        ("one", Client::Pod(&pods[0])),
        ("two", Client::Pod(&pods[1])),
    ];
    for (name, client) in clients {
        for protocol in [Tcp, Udp] {
            for dialled in DIALLED {
                let first = client.request(protocol, dialled[0]).unwrap();
                for round in 0..ROUNDS {
                    let to = dialled[round % 2];
                    let met = client.request(protocol, to).unwrap();
                    assert_eq!(met, first, "{name}, {protocol:?} {to}, round {round}");
                }
                if protocol == Udp {
                    for to in dialled {
                        let answer = client.socket(Kind::of(Udp, at(to))).request_to(to).unwrap();
                        assert_eq!(
                            (answer.backend, answer.from),
                            (first.clone(), at(to)),
                            "{name}"
                        );
                    }
                }
            }
        }
        // A v4-mapped destination counts as IPv4.
        let mapped = client.socket(Kind::Tcp6);
        mapped.dial("[::ffff:10.96.0.10]:80").unwrap();
        assert_eq!(
            mapped.request().unwrap(),
            client.request(Tcp, "10.96.0.10:80").unwrap(),
            "{name}"
        );
    }
    let status = world.status();
    // Each client drew once per protocol and family, after the agent's probe.
    assert_eq!(counter(&status, "translated"), probes + 12, "{status}");
    assert!(counter(&status, "affine") >= 12 * u64::try_from(ROUNDS).unwrap(), "{status}");
}

#[test]
fn clients_are_network_namespaces_and_each_has_its_own_backend() {
    let (world, _backends) = world("affinity-clients", 4, LONG);
    let pods: Vec<Pod<'_>> = (0..24).map(|_| world.pod()).collect();
    let first: Vec<String> =
        pods.iter().map(|pod| pod.request(Tcp, "10.96.0.10:80").unwrap()).collect();
    let second: Vec<String> =
        pods.iter().map(|pod| pod.request(Tcp, "203.0.113.1:80").unwrap()).collect();
    assert_eq!(first, second);
    // All 24 clients draw the same of four backends with a probability of 4^-23.
    assert!(first.iter().collect::<BTreeSet<_>>().len() > 1, "{first:?}");
}

#[test]
fn concurrent_first_connections_meet_one_backend() {
    const THREADS: usize = 4;
    let world = World::new("affinity-race");
    let backends = world.backends("a", Udp, 8);
    for round in 0..40 {
        let dialled = format!("10.96.1.{}", round + 1);
        world
            .service(&format!("default/race-{round}"))
            .cluster_ip(&dialled)
            .affinity(LONG)
            .port(80, Udp)
            .backends(&backends)
            .write();
    }
    world.settle();
    for round in 0..40 {
        let dialled = format!("10.96.1.{}:80", round + 1);
        let sockets = world.sockets(Kind::Udp4, THREADS);
        let start = Barrier::new(THREADS);
        let met: BTreeSet<String> = thread::scope(|scope| {
            let dial = |socket: Socket| {
                start.wait();
                socket.dial(&dialled).unwrap();
                socket.request().unwrap()
            };
            let threads: Vec<_> =
                sockets.into_iter().map(|socket| scope.spawn(move || dial(socket))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(met.len(), 1, "round {round}: {met:?}");
    }
}

/// Creates 40 Services, so that one wait shows the effect of a draw.
fn many(world: &World, backends: &[Backend], seconds: u32) -> Vec<String> {
    let dialled: Vec<String> = (1..=40).map(|n| format!("10.96.2.{n}:80")).collect();
    for (number, address) in dialled.iter().enumerate() {
        world
            .service(&format!("default/many-{number}"))
            .cluster_ip(address.trim_end_matches(":80"))
            .affinity(seconds)
            .port(80, Udp)
            .backends(backends)
            .write();
    }
    world.settle();
    dialled
}

#[test]
fn a_client_draws_again_after_the_timeout() {
    let world = World::new("affinity-timeout");
    let backends = world.backends("a", Udp, 8);
    let dialled = many(&world, &backends, 1);
    let meet =
        || -> Vec<String> { dialled.iter().map(|to| world.request(Udp, to).unwrap()).collect() };
    let first = meet();
    // A sleep that is too long does no harm.
    thread::sleep(Duration::from_millis(1050));
    let second = meet();
    let status = world.status();
    // All 40 draws hit the same backend again with a probability of 8^-40.
    assert_ne!(first, second);
    assert_eq!(counter(&status, "affine"), 0, "{status}");
}

#[test]
fn each_new_connection_restarts_the_timeout() {
    /// In seconds.
    const TIMEOUT: u32 = 2;
    let world = World::new("affinity-renewed");
    let backends = world.backends("a", Udp, 8);
    let dialled = many(&world, &backends, TIMEOUT);
    let timeout = Duration::from_secs(TIMEOUT.into());
    // On a busy machine a pause between two connections may exceed the timeout, which is known only
    // afterwards. Such an attempt shows nothing and is repeated.
    for _ in 0..5 {
        let mut last: Vec<Instant> = Vec::new();
        let mut first = Vec::new();
        for to in &dialled {
            last.push(Instant::now());
            first.push(world.request(Udp, to).unwrap());
        }
        let begin = Instant::now();
        let mut longest = Duration::ZERO;
        let mut all_kept = true;
        while begin.elapsed() < timeout * 2 {
            thread::sleep(timeout / 8);
            for (number, to) in dialled.iter().enumerate() {
                // From before one connection to after the next one.
                let before = std::mem::replace(&mut last[number], Instant::now());
                all_kept &= world.request(Udp, to).unwrap() == first[number];
                longest = longest.max(before.elapsed());
            }
        }
        if longest < timeout {
            assert!(
                all_kept,
                "a client lost its backend, although no pause was longer than {longest:?}"
            );
            return;
        }
    }
    panic!("the machine is too busy: five times a pause was longer than {timeout:?}");
}

#[test]
fn a_client_whose_backend_is_removed_moves_once() {
    let world = World::new("affinity-goes");
    let backends = world.backends("a", Tcp, 6);
    let service = world.service("default/kept").cluster_ip("10.96.0.10").affinity(LONG);
    let service = service.port(80, Tcp);
    service.clone().backends(&backends).apply();
    let connect = || world.request(Tcp, "10.96.0.10:80").unwrap();
    let mut first_backend = connect();
    let mut left: Vec<&Backend> = backends.iter().collect();
    while left.len() > 1 {
        // Removing another backend does not move the client.
        let other = left.iter().position(|it| it.name() != first_backend).unwrap();
        if left.len() > 2 {
            left.remove(other);
            service.clone().backends(left.iter().copied()).apply();
            assert_eq!(connect(), first_backend, "{} are left", left.len());
        }
        left.retain(|it| it.name() != first_backend);
        service.clone().backends(left.iter().copied()).apply();
        let moved = connect();
        assert!(left.iter().any(|it| it.name() == moved), "{moved} was removed before");
        for _ in 0..ROUNDS {
            assert_eq!(connect(), moved, "{} are left", left.len());
        }
        first_backend = moved;
    }
    service.clone().backends::<&Backend>([]).apply();
    let refused = world.dial(Tcp, "10.96.0.10:80").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ECONNREFUSED), "{refused}");
}

#[test]
fn affinity_outlives_the_agent() {
    let (world, _backends) = world("affinity-restart", 8, LONG);
    let pod = world.pod();
    let connect = || {
        let host = world.request(Tcp, "10.96.0.10:80").unwrap();
        (host, pod.request(Tcp, "10.96.0.10:80").unwrap())
    };
    let first = connect();
    world.take_agent().kill();
    for round in 0..ROUNDS {
        assert_eq!(connect(), first, "round {round}, without an agent");
    }
    world.start_agent();
    world.settle();
    for round in 0..ROUNDS {
        assert_eq!(connect(), first, "round {round}, with the next agent");
    }
}

#[test]
fn enabling_or_disabling_affinity_takes_effect_at_once() {
    let world = World::new("affinity-changes");
    let backends = world.backends("a", Udp, 8);
    let service = world.service("default/kept").cluster_ip("10.96.0.10").port(80, Udp);
    let service = service.backends(&backends);
    let met = || -> BTreeSet<String> {
        (0..ROUNDS * 4).map(|_| world.request(Udp, "10.96.0.10:80").unwrap()).collect()
    };
    service.apply();
    assert_eq!(met().len(), 8);
    service.clone().affinity(LONG).write();
    svclb_tests::eventually("the agent has written the change", || match met().len() {
        1 => Ok(()),
        many => Err(format!("{many} backends answer")),
    });
    service.apply();
    svclb_tests::eventually("the agent has written the change", || match met().len() {
        8 => Ok(()),
        few => Err(format!("{few} backends answer")),
    });
}

/// Number of rows that the affinity map holds (docs/limits.md).
const CAPACITY: u64 = 131_072;
/// The cgroup of a container, as the kubelet names it.
const GREEDY: &str =
    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/a.scope";

#[test]
fn with_a_full_map_known_clients_keep_affinity_and_new_ones_have_none() {
    let (world, _backends) = world("full", 8, LONG);
    let pod = world.pod();
    let dialled = DIALLED[0][0];
    let first_backend = world.request(Tcp, dialled).unwrap();
    world.add_clients(0..CAPACITY - world.affinity_rows() as u64);
    let met: BTreeSet<String> = (0..ROUNDS).map(|_| pod.request(Tcp, dialled).unwrap()).collect();
    assert!(
        met.len() > 1,
        "the map is full, so a pod's connections must meet several backends, met {met:?}"
    );
    for round in 0..ROUNDS {
        assert_eq!(world.request(Tcp, dialled).unwrap(), first_backend, "round {round}");
    }
    let status = world.status();
    assert_eq!(counter(&status, "affinity_unrecorded"), ROUNDS as u64, "{status}");
}

#[test]
fn a_pod_with_70000_affinity_rows_does_not_affect_other_clients() {
    const PORTS: u16 = 50;
    const SERVICES: u8 = 10;
    // Each process has a network namespace of its own, which is one client of each service.
    const PROCESSES: usize = 140;
    const PAIRS: u64 = PROCESSES as u64 * SERVICES as u64 * PORTS as u64;
    let (world, _backends) = world("affinity-greedy", 8, LONG);
    let many = world.backends("many", Udp, 2);
    let mut dialled = Vec::new();
    for number in 1..=SERVICES {
        let address = format!("10.96.3.{number}");
        let mut service = world.service(&format!("default/many-{number}"));
        service = service.cluster_ip(&address).affinity(LONG);
        for port in 1..=PORTS {
            service = service.port(port, Udp).backends(&many);
            dialled.push(format!("{address}:{port}"));
        }
        service.write();
    }
    world.settle();
    let pods: Vec<Pod<'_>> = (0..8).map(|_| world.pod()).collect();
    let meet = |pod: &Pod<'_>| -> [String; 2] {
        [Tcp, Udp].map(|protocol| pod.request(protocol, DIALLED[0][0]).unwrap())
    };
    let (early, late) = pods.split_at(4);
    let first: Vec<[String; 2]> = early.iter().map(meet).collect();
    let before = world.affinity_rows() as u64;

    let dialled: Vec<&str> = dialled.iter().map(String::as_str).collect();
    let sockets = world.open_many_sockets_in(GREEDY, &[1; PROCESSES], SocketUse::Connect, &dialled);
    let pairs = world.affinity_rows() as u64 - before;
    let status = world.status();
    println!("{PAIRS} pairs tried, {pairs} made; {status}");
    assert!(pairs > CAPACITY / 20 && pairs <= CAPACITY / 9 + 1, "{pairs} pairs of one client");
    assert_eq!(counter(&status, "affinity_unrecorded"), PAIRS - pairs, "{status}");

    let second: Vec<[String; 2]> = early.iter().map(meet).collect();
    assert_eq!(second, first, "clients with a backend must keep it");
    // Clients that come now are given a backend and keep it too.
    let first: Vec<[String; 2]> = late.iter().map(meet).collect();
    for round in 0..ROUNDS {
        assert_eq!(late.iter().map(meet).collect::<Vec<_>>(), first, "round {round}");
    }
    drop(sockets);
}

#[test]
fn the_list_has_each_client_with_its_backend_and_its_time() {
    let (world, backends) = world("affinity-list", 8, LONG);
    let pod = world.pod();
    let list = || -> Vec<serde_json::Value> {
        let output = world.svclb(&["affinity", "-o", "json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(list(), [""; 0]);
    let met = [
        world.request(Tcp, DIALLED[0][0]).unwrap(),
        pod.request(Tcp, DIALLED[0][1]).unwrap(),
        pod.request(Udp, DIALLED[1][0]).unwrap(),
    ];
    let mut rows = list();
    assert_eq!(rows.len(), 3, "{rows:#?}");
    let v6 = rows.iter().position(|row| row["family"] == "IPv6").unwrap();
    let v6 = rows.remove(v6);
    assert_eq!((&v6["protocol"], &v6["service"]), (&"UDP".into(), &"kept".into()), "{v6:#}");
    let name_of = |row: &serde_json::Value| {
        let address = at(row["backend"].as_str().unwrap());
        let protocol = if row["protocol"] == "TCP" { Tcp } else { Udp };
        let is_it = |it: &&Backend| it.address() == address && it.protocol() == protocol;
        backends.iter().find(is_it).unwrap().name().to_owned()
    };
    assert_eq!(name_of(&v6), met[2]);
    // The pod is the client of two rows, and the host of the third.
    let (of_pod, of_host): (Vec<_>, Vec<_>) =
        rows.iter().partition(|row| row["client"] == v6["client"]);
    assert_eq!([of_host[0], of_pod[0]].map(name_of), met[..2]);
    for row in rows.iter().chain([&v6]) {
        assert_eq!((&row["namespace"], &row["current"]), (&"default".into(), &true.into()));
        let [age, remaining] =
            ["age_seconds", "remaining_seconds"].map(|field| row[field].as_u64().unwrap());
        // The remaining time is rounded up.
        assert!([0, 1].contains(&(age + remaining - u64::from(LONG))), "{row:#}");
    }
    world.service("default/kept").cluster_ip("10.96.0.10").port(80, Tcp).apply();
    let stale = list();
    assert_eq!(stale.len(), 3, "{stale:#?}");
    for row in stale {
        let left = (&row["current"], &row["remaining_seconds"]);
        assert_eq!(left, (&false.into(), &0.into()), "{row:#}");
    }
}

#[test]
fn expired_affinity_rows_are_removed_and_no_longer_counted() {
    let world = World::builder("affinity-expiry").agent_args(["--audit", "1"]).start();
    let backends = world.backends("a", Udp, 4);
    let pod = world.pod();
    let dialled = many(&world, &backends, 1);
    for to in &dialled {
        world.request(Udp, to).unwrap();
        pod.request(Udp, to).unwrap();
    }
    // The agent's probe of a Service leaves no row.
    svclb_tests::eventually("all affinity rows have expired", || match world.affinity_rows() {
        0 => Ok(()),
        rows => Err(format!("{rows} are left")),
    });
    svclb_tests::eventually("idle clients have no row", || match world.counted_entries() {
        found if found.keys().eq(&[0]) => Ok(()),
        found => Err(format!("{found:?}")),
    });
}
