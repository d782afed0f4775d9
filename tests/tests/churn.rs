//! Changes under load: clients connect while backends and Services are added and removed.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use svclb_tests::{Backend, Kind, Protocol, Socket, Tcp, Udp, World, at, eventually};

/// Runs `change` while `N` clients repeat their rounds. A client gets its number and fails by panicking.
/// `change` gets the number of completed rounds of each client.
fn under_load<const N: usize>(
    client: impl Fn(usize) + Sync,
    change: impl FnOnce(&[AtomicUsize; N]),
) {
    let rounds = [const { AtomicUsize::new(0) }; N];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..N)
            .map(|number| {
                let (client, rounds, done) = (&client, &rounds, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        client(number);
                        rounds[number].fetch_add(1, Ordering::Release);
                    }
                })
            })
            .collect();
        // The clients must stop also if the change fails.
        let changed = catch_unwind(AssertUnwindSafe(|| change(&rounds)));
        done.store(true, Ordering::Relaxed);
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        for result in ended {
            result.unwrap_or_else(|panic| resume_unwind(panic));
        }
        changed.unwrap_or_else(|panic| resume_unwind(panic));
    });
    for (number, rounds) in rounds.iter().enumerate() {
        assert!(rounds.load(Ordering::Relaxed) > 0, "client {number} must have completed a round");
    }
}

/// Waits until each client has completed at least one whole round that began after this call.
fn wait_for_a_round(rounds: &[AtomicUsize]) {
    let before: Vec<usize> = rounds.iter().map(|it| it.load(Ordering::Acquire)).collect();
    eventually("every client completes a round", || {
        let after = rounds.iter().map(|it| it.load(Ordering::Acquire));
        if before.iter().zip(after).all(|(before, after)| after >= before + 2) {
            return Ok(());
        }
        Err(format!("{before:?}, now {rounds:?}"))
    });
}

#[test]
fn rolling_replacement_of_all_backends_fails_no_request() {
    const REPLICAS: usize = 4;
    const REPLACEMENTS: usize = 24;
    let world = World::new("rolling");
    let pod = |number: usize| {
        let address = format!("10.244.0.{}:8080", number + 1);
        [Tcp, Udp].map(|protocol| world.backend(&format!("pod-{number}"), protocol, &address))
    };
    let apply = |pods: &[[Backend; 2]]| {
        world
            .service("default/hello")
            .cluster_ip("10.96.0.10")
            .port(80, Tcp)
            .backends(pods.iter().map(|pod| &pod[0]))
            .port(80, Udp)
            .backends(pods.iter().map(|pod| &pod[1]))
            .apply();
    };
    let mut pods: Vec<[Backend; 2]> = (0..REPLICAS).map(pod).collect();
    apply(&pods);

    // One client keeps an unconnected socket, which also has to move to another backend in time.
    let unconnected = world.socket(Kind::Udp4);
    let removed: RwLock<BTreeSet<String>> = RwLock::default();
    let client = |number: usize| {
        let before = removed.read().unwrap().clone();
        let answer = match number {
            0 => world.request(Tcp, "10.96.0.10:80"),
            1 => world.request(Udp, "10.96.0.10:80"),
            _ => unconnected.request_to("10.96.0.10:80").map(|answer| answer.backend),
        };
        let name = answer.unwrap_or_else(|error| panic!("client {number}: {error}"));
        assert!(!before.contains(&name), "client {number}: {name} was removed before");
    };
    under_load::<3>(client, |rounds| {
        for number in 0..REPLACEMENTS {
            pods.push(pod(REPLICAS + number));
            let old = pods.remove(0);
            apply(&pods);
            removed.write().unwrap().insert(old[0].name().to_owned());
            // Requests that reached the old pod have been answered by now, so the pod may end.
            wait_for_a_round(rounds);
            drop(old);
        }
    });
    assert_eq!(removed.into_inner().unwrap().len(), REPLACEMENTS);
    let status = world.status();
    assert_eq!(svclb_tests::counter(&status, "torn"), 0, "{status}");
}

/// Services are added and removed in small maps, so that other Services reuse their lines, slots and
/// rows again and again.
#[test]
fn churn_of_services_never_reaches_another_services_backend() {
    const SERVICES: usize = 12;
    const STEPS: usize = 600;
    let world =
        World::builder("reuse").agent_args(["--index-lines", "16", "--slots", "256"]).start();
    let protocol = |service: usize| if service.is_multiple_of(2) { Tcp } else { Udp };
    let backends: Vec<Vec<Backend>> = (0..SERVICES)
        .map(|service| world.backends(&format!("s{service}"), protocol(service), 4))
        .collect();
    let address = |service: usize| format!("10.96.0.{}:80", service + 1);
    // The first half of the Services always exists, with changing backends; the others are added and
    // removed.
    let is_permanent = |service: usize| service < SERVICES / 2;
    let write = |service: usize, mask: usize| {
        let some = backends[service].iter().enumerate();
        let some = some.filter(|(number, _)| mask >> number & 1 == 1).map(|(_, backend)| backend);
        world
            .service(&format!("default/s{service}"))
            .cluster_ip(&format!("10.96.0.{}", service + 1))
            .port(80, protocol(service))
            .backends(some)
            .write();
    };
    (0..SERVICES).for_each(|service| write(service, 0b1111));
    world.settle();

    let draws = [const { AtomicUsize::new(0) }; 3];
    let unconnected = world.socket(Kind::Udp4);
    let client = |number: usize| {
        let draw = draws[number].fetch_add(1, Ordering::Relaxed);
        // The third client is one unconnected socket, for the UDP services.
        let service = if number == 2 { draw * 2 + 1 } else { draw + number * 5 } % SERVICES;
        let to = address(service);
        let answer = if number == 2 {
            unconnected.request_to(&to).map(|answer| {
                assert_eq!(answer.from, at(&to), "the reply's source");
                answer.backend
            })
        } else {
            world.dial(protocol(service), &to).and_then(|socket| request_with_peer(&socket, &to))
        };
        match answer {
            Ok(name) => {
                let own = format!("s{service}-");
                assert!(name.starts_with(&own), "{to} of s{service} was answered by {name}");
            }
            // A Service that does not exist is left alone, and the route prohibits the connection.
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                assert!(!is_permanent(service), "s{service} was not translated");
            }
            Err(error) => panic!("s{service}: {error}"),
        }
    };
    under_load::<3>(client, |rounds| {
        let mut random = 1_u64;
        let mut draw = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(random >> 33).unwrap() % below
        };
        let mut is_there = [true; SERVICES];
        for step in 0..STEPS {
            let service = draw(SERVICES);
            if !is_permanent(service) && is_there[service] {
                world.remove(&format!("default/s{service}"));
                is_there[service] = false;
            } else {
                write(service, draw(15) + 1);
                is_there[service] = true;
            }
            if step % 4 == 0 {
                // A pause sometimes makes the agent apply changes one by one.
                thread::sleep(Duration::from_millis(2));
            }
        }
        world.settle();
        wait_for_a_round(rounds);
    });
    let status = world.status();
    assert_eq!(svclb_tests::counter(&status, "torn"), 0, "{status}");
}

/// Checks the peer's address, and returns the name of the backend.
fn request_with_peer(socket: &Socket, dialled: &str) -> io::Result<String> {
    assert_eq!(socket.peer()?, at(dialled));
    socket.request()
}

/// One ClusterIP moves between two Services: the one is deleted and the other created.
#[test]
fn a_cluster_ip_that_moves_reaches_the_old_or_the_new_owner() {
    let world = World::new("hands");
    let owners = ["x", "y"].map(|name| world.backends(name, Protocol::Tcp, 2));
    let give = |owner: usize| {
        world
            .service(&format!("default/owner-{owner}"))
            .cluster_ip("10.96.0.10")
            .port(80, Tcp)
            .backends(&owners[owner])
    };
    give(0).apply();
    let client = |_| match world.request(Tcp, "10.96.0.10:80") {
        Ok(name) => assert!(name.starts_with("x-") || name.starts_with("y-"), "{name}"),
        // There may be no Service between the two writes.
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}"),
    };
    under_load::<2>(client, |rounds| {
        for round in 0..20 {
            let (old, new) = (round % 2, (round + 1) % 2);
            world.remove(&format!("default/owner-{old}"));
            give(new).apply();
            wait_for_a_round(rounds);
            let name = world.request(Tcp, "10.96.0.10:80").unwrap();
            assert!(name.starts_with(["x-", "y-"][new]), "round {round}: {name}");
        }
    });
}
