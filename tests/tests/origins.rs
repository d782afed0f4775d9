//! The origins array and its overflow: filled while sockets live, and empty once they are closed.

use std::io;
use std::time::Duration;

use svclb_tests::{Kind, Tcp, Udp, World, at, counter};

#[test]
fn two_hundred_thousand_sockets_leave_no_origin() {
    const SOCKETS: usize = 200_000;
    const AT_ONCE: usize = 400;
    // An array that is large enough; one that sends many sockets of a batch to the overflow; and one
    // that sends most of them there.
    let rows =
        [("65536", AT_ONCE, 0), ("256", AT_ONCE, AT_ONCE - 256), ("64", AT_ONCE, AT_ONCE - 64)];
    for (places, recorded, overflowed) in rows {
        let name = format!("leave-{places}");
        let world = World::builder(&name).agent_args(["--origins", places]).start();
        let tcp = world.backend("a", Tcp, "10.244.0.1:8080");
        let udp = world.backend("a", Udp, "10.244.0.1:8080");
        world
            .service("default/hello")
            .cluster_ip("10.96.0.10")
            .port(80, Tcp)
            .backends([&tcp])
            .port(80, Udp)
            .backends([&udp])
            .port(81, Udp)
            .backends([&udp])
            .apply();
        for round in 0..SOCKETS / rows.len() / AT_ONCE {
            let kind = [Kind::Udp4, Kind::Udp6, Kind::Tcp4, Kind::Udp6, Kind::Udp4][round % 5];
            let dialled =
                if kind == Kind::Udp6 { "[::ffff:10.96.0.10]:80" } else { "10.96.0.10:80" };
            let sockets = world.sockets(kind, AT_ONCE);
            for socket in &sockets {
                if round % 5 == 3 {
                    // Unconnected sockets, with two Services each.
                    socket.send_to(dialled).unwrap();
                    socket.send_to("[::ffff:10.96.0.10]:81").unwrap();
                } else {
                    socket.dial(dialled).unwrap();
                }
            }
            if round == 0 {
                let (origins, overflow) = (world.origins().len(), world.overflow_entries());
                let what =
                    format!("{places} places: {origins} origins, {overflow} in the overflow");
                assert!(origins >= recorded && origins <= AT_ONCE, "{what}");
                assert!(overflow >= overflowed as u64, "{what}");
            }
        }
        world.wait_until_origins_released();
    }
}

#[test]
fn an_origin_is_released_however_its_socket_ends() {
    let world = World::new("ends");
    let mut a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    let dialled = "10.96.0.10:80";

    let lingers = world.dial(Tcp, dialled).unwrap();
    lingers.raw().set_linger(Some(Duration::ZERO)).unwrap();
    assert_eq!(world.origins().len(), 1, "linger 0");
    drop(lingers);
    world.wait_until_origins_released();

    let first = world.dial(Tcp, dialled).unwrap();
    let second = first.duplicate();
    drop(first);
    assert_eq!(world.origins().len(), 1, "duplicated");
    drop(second);
    world.wait_until_origins_released();

    let reset = world.dial(Tcp, dialled).unwrap();
    a.stop();
    let _: io::Result<String> = reset.request();
    drop(reset);
    world.wait_until_origins_released();

    // Nothing listens on the backend's port: the connect is translated and then refused by the pod.
    let refused = world.socket(Kind::Tcp4);
    let error = refused.dial(dialled).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
    drop(refused);
    world.wait_until_origins_released();
}

#[test]
fn an_origin_has_the_dialled_address_and_the_backend() {
    let world = World::new("origins");
    let tcp = world.backend("a", Tcp, "10.244.0.1:8080");
    let udp = world.backend("a", Udp, "10.244.0.1:9090");
    world
        .service("default/hello")
        .cluster_ip("10.96.0.10")
        .port(80, Tcp)
        .backends([&tcp])
        .port(53, Udp)
        .backends([&udp])
        .apply();
    let connected = world.dial(Tcp, "10.96.0.10:80").unwrap();
    let unconnected = world.socket(Kind::Udp4);
    unconnected.request_to("10.96.0.10:53").unwrap();
    let mut origins = world.origins();
    origins.sort_by(|a, b| a.protocol.cmp(&b.protocol));
    let [first, second] = &origins[..] else { panic!("expected two origins, got {origins:?}") };
    let expected = [
        (connected.cookie(), "TCP", at("10.96.0.10:80"), tcp.address()),
        (unconnected.cookie(), "UDP", at("10.96.0.10:53"), udp.address()),
    ];
    for (origin, (cookie, protocol, dialled, given)) in [first, second].into_iter().zip(expected) {
        assert_eq!(
            (origin.cookie, &*origin.protocol, origin.dialled, origin.given),
            (cookie, protocol, dialled, given)
        );
    }
}

#[test]
fn a_socket_with_more_services_than_the_overflow_holds_still_reaches_all_of_them() {
    let world = World::new("many");
    let services: Vec<_> = (1..=20)
        .map(|number| {
            let backend =
                world.backend(&format!("b{number}"), Udp, &format!("10.244.0.{number}:53"));
            let address = format!("10.96.0.{number}");
            world
                .service(&format!("default/s{number}"))
                .cluster_ip(&address)
                .port(53, Udp)
                .backends([&backend])
                .write();
            (backend, format!("{address}:53"))
        })
        .collect();
    world.settle();
    let socket = world.socket(Kind::Udp4);
    for round in 0..3 {
        for (backend, dialled) in &services {
            let answer = socket.request_to(dialled).unwrap();
            assert_eq!(answer.backend, backend.name(), "round {round}: {dialled}");
            // A client that receives a response directly after its request always sees the dialled
            // address.
            assert_eq!(answer.from, at(dialled), "round {round}");
        }
    }
    drop(socket);
    world.wait_until_origins_released();
}

#[test]
fn with_a_full_overflow_a_socket_is_translated_shows_its_pod_and_is_counted() {
    const PLACES: usize = 64;
    // The minimum capacity of the overflow.
    const OVERFLOW: u64 = 131_072;
    let world = World::builder("full-overflow").agent_args(["--origins", "64"]).start();
    let tcp = world.backend("a", Tcp, "10.244.0.1:8080");
    let udp = world.backend("a", Udp, "10.244.0.1:8080");
    let service = world.service("default/hello").cluster_ip("10.96.0.10");
    service.port(80, Tcp).backends([&tcp]).port(80, Udp).backends([&udp]).apply();
    let (dialled, pod) = (at("10.96.0.10:80"), at("10.244.0.1:8080"));
    world.add_overflow(0..OVERFLOW);

    let sockets = world.sockets(Kind::Tcp4, 3 * PLACES);
    let mut unrecorded = 0;
    for socket in &sockets {
        socket.dial("10.96.0.10:80").unwrap();
        assert_eq!(socket.request().unwrap(), "a");
        match socket.peer().unwrap() {
            peer if peer == dialled => {}
            peer => {
                assert_eq!(peer, pod);
                unrecorded += 1;
            }
        }
    }
    assert!(
        unrecorded >= sockets.len() - PLACES,
        "expected at least {} unrecorded sockets, got {unrecorded}",
        sockets.len()
    );
    assert_eq!(counter(&world.status(), "unrecorded"), unrecorded as u64);
    // An unconnected socket is answered too, from the backend's address or the dialled one.
    let socket = world.socket(Kind::Udp4);
    let answer = socket.request_to("10.96.0.10:80").unwrap();
    assert!(answer.backend == "a" && [dialled, pod].contains(&answer.from), "{answer:?}");

    // With free capacity, the next socket is recorded.
    world.remove_overflow(0..OVERFLOW);
    drop((sockets, socket));
    world.wait_until_origins_released();
    assert_eq!(world.dial(Tcp, "10.96.0.10:80").unwrap().peer().unwrap(), dialled);
}
