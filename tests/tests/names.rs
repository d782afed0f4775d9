//! getpeername: shows the dialled address only while the peer is the backend that the socket was given,
//! wherever the socket is passed to.

use svclb_tests::{ForkedChild, Kind, SocketInFlight, Tcp, Udp, World, at, eventually};

/// Creates a world in which 10.96.0.10:80 and [fd00:96::10]:80, over TCP and UDP, have the backends
/// 10.244.0.1:8080 and [fd00:244::1]:8080.
fn world(name: &str, arguments: [&str; 2]) -> (World, Vec<svclb_tests::Backend>) {
    let world = World::builder(name).agent_args(arguments).start();
    let mut backends = Vec::new();
    for protocol in [Tcp, Udp] {
        for address in ["10.244.0.1:8080", "[fd00:244::1]:8080"] {
            backends.push(world.backend("a", protocol, address));
        }
    }
    world
        .service("default/hello")
        .cluster_ip("10.96.0.10")
        .cluster_ip("fd00:96::10")
        .port(80, Tcp)
        .backends(&backends[..2])
        .port(80, Udp)
        .backends(&backends[2..])
        .apply();
    (world, backends)
}

const ORIGINS: [&str; 2] = ["--origins", "65536"];

/// Kind of socket, dialled address, and backend.
const DIALS: [(Kind, &str, &str); 6] = [
    (Kind::Tcp4, "10.96.0.10:80", "10.244.0.1:8080"),
    (Kind::Tcp6, "[fd00:96::10]:80", "[fd00:244::1]:8080"),
    (Kind::Tcp6, "[::ffff:10.96.0.10]:80", "[::ffff:10.244.0.1]:8080"),
    (Kind::Udp4, "10.96.0.10:80", "10.244.0.1:8080"),
    (Kind::Udp6, "[fd00:96::10]:80", "[fd00:244::1]:8080"),
    (Kind::Udp6, "[::ffff:10.96.0.10]:80", "[::ffff:10.244.0.1]:8080"),
];

#[test]
fn a_direct_connection_to_a_backend_is_never_shown_as_a_service() {
    let (world, _backends) = world("names-direct", ORIGINS);
    for (kind, dialled, given) in DIALS {
        let through = world.socket(kind);
        through.dial(dialled).unwrap();
        let direct = world.socket(kind);
        direct.dial(given).unwrap();
        assert_eq!(direct.peer().unwrap(), at(given), "{kind:?}");
        assert_eq!(through.peer().unwrap(), at(dialled), "{kind:?}");
        assert_eq!(direct.request().unwrap(), "a");
        assert_eq!(direct.peer().unwrap(), at(given), "{kind:?}, after data");
    }
}

#[test]
fn a_socket_reconnected_directly_to_the_same_pod_shows_the_pod() {
    let (world, _backends) = world("names-anew", ORIGINS);
    for (kind, dialled, given) in DIALS {
        let socket = world.socket(kind);
        for round in 0..3 {
            socket.dial(dialled).unwrap_or_else(|error| panic!("{kind:?}, {round}: {error}"));
            assert_eq!(socket.peer().unwrap(), at(dialled), "{kind:?}, round {round}");
            assert_eq!(world.origins().len(), 1, "{kind:?}, round {round}");
            socket.disconnect().unwrap();
            socket.dial(given).unwrap_or_else(|error| panic!("{kind:?}, {round}: {error}"));
            assert_eq!(socket.peer().unwrap(), at(given), "{kind:?}, round {round}");
            assert_eq!(socket.request().unwrap(), "a", "{kind:?}, round {round}");
            assert_eq!(world.origins(), [], "{kind:?}, round {round}");
            socket.disconnect().unwrap();
        }
    }
}

#[test]
fn a_udp_socket_connected_elsewhere_without_disconnecting_shows_its_new_peer() {
    let (world, _backends) = world("names-moved", ORIGINS);
    for (kind, dialled, given) in &DIALS[3..] {
        let socket = world.socket(*kind);
        socket.dial(dialled).unwrap();
        socket.dial(given).unwrap();
        assert_eq!(socket.peer().unwrap(), at(given), "{kind:?} {given}");
        socket.dial(dialled).unwrap();
        assert_eq!(socket.peer().unwrap(), at(dialled), "{kind:?} {dialled}");
        assert_eq!(socket.request().unwrap(), "a");
    }
}

#[test]
fn a_failed_connect_does_not_change_the_shown_peer_to_another_service() {
    let (world, _backends) = world("names-failed", ORIGINS);
    // The backend's address is translated to, but has no route.
    let nowhere = at("192.0.2.1:8080");
    world.service("default/far").cluster_ip("10.96.0.20").port(80, Udp).backends([nowhere]).apply();
    let socket = world.socket(Kind::Udp4);
    socket.dial("10.96.0.10:80").unwrap();
    let error = socket.dial("10.96.0.20:80").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH), "{error}");
    // The kernel keeps the old peer. Its record is lost, so its own address is shown, and not that of
    // the new Service.
    assert_eq!(socket.request().unwrap(), "a");
    assert_eq!(socket.peer().unwrap(), at("10.244.0.1:8080"));
}

#[test]
fn two_live_sockets_of_one_place_both_show_their_service() {
    const PLACES: u64 = 64;
    let (world, _backends) = world("names-place", ["--origins", "64"]);
    for (kind, dialled, given) in DIALS {
        let mut sockets = world.sockets(kind, 1);
        // Cookies are assigned to processors in batches, so another socket of the same place comes soon.
        for _ in 0..100_000 {
            let next = world.socket(kind);
            if next.cookie() % PLACES == sockets[0].cookie() % PLACES {
                sockets.push(next);
                break;
            }
        }
        let [first, second] = &sockets[..] else { panic!("expected two sockets of one place") };
        first.dial(dialled).unwrap();
        second.dial(dialled).unwrap();
        let shown = |socket: &svclb_tests::Socket| {
            world.origins().iter().any(|origin| {
                origin.cookie == socket.cookie()
                    && origin.dialled.ip().to_canonical() == at(dialled).ip().to_canonical()
                    && origin.given.ip().to_canonical() == at(given).ip().to_canonical()
            })
        };
        for round in 0..3 {
            for socket in [first, second] {
                assert_eq!(socket.peer().unwrap(), at(dialled), "{kind:?}, round {round}");
                assert_eq!(socket.request().unwrap(), "a", "{kind:?}, round {round}");
                assert!(shown(socket), "{kind:?}, round {round}: {:?}", world.origins());
            }
        }
        // The remaining socket is right after the other was closed, whichever of them has the place.
        let second = sockets.pop().unwrap();
        let first = sockets.pop().unwrap();
        let (stays, goes) = if is_first_kept(kind) { (first, second) } else { (second, first) };
        drop(goes);
        assert_eq!(stays.peer().unwrap(), at(dialled), "{kind:?}, alone");
        eventually("only one origin is left", || match world.origins().len() {
            1 => Ok(()),
            number => Err(format!("{kind:?}: {number} origins")),
        });
        // The place can be used again.
        stays.disconnect().unwrap();
        stays.dial(dialled).unwrap();
        assert_eq!(stays.peer().unwrap(), at(dialled), "{kind:?}, again");
        drop(stays);
        world.wait_until_origins_released();
    }
}

/// True for half of the kinds, so that either socket of a place is closed first.
fn is_first_kept(kind: Kind) -> bool {
    matches!(kind, Kind::Tcp4 | Kind::Udp6)
}

#[test]
fn an_inherited_socket_keeps_its_peers_name_after_the_parent_closed_it() {
    let (world, _backends) = world("names-fork", ORIGINS);
    for (kind, dialled, _) in DIALS {
        let socket = world.socket(kind);
        socket.dial(dialled).unwrap();
        let cookie = socket.cookie();
        let child = ForkedChild::of(&socket);
        assert_eq!(child.peer().unwrap(), at(dialled), "{kind:?}");
        drop(socket);
        assert_eq!(child.peer().unwrap(), at(dialled), "{kind:?}, alone");
        assert_eq!(world.origins().len(), 1, "{kind:?}, alone");
        assert_eq!(world.origins()[0].cookie, cookie, "{kind:?}, alone");
        drop(child);
        world.wait_until_origins_released();
    }
}

#[test]
fn a_socket_passed_through_a_unix_socket_keeps_its_peers_name() {
    let (world, _backends) = world("names-passed", ORIGINS);
    for (kind, dialled, _) in DIALS {
        let socket = world.socket(kind);
        socket.dial(dialled).unwrap();
        let in_flight = SocketInFlight::of(socket);
        assert_eq!(world.origins().len(), 1, "{kind:?}, under way");
        let socket = in_flight.take();
        assert_eq!(socket.peer().unwrap(), at(dialled), "{kind:?}");
        assert_eq!(socket.request().unwrap(), "a", "{kind:?}");
        drop(SocketInFlight::of(socket));
        world.wait_until_origins_released();
    }
}

#[test]
fn a_v6_udp_socket_connected_to_a_mapped_address_keeps_its_peers_name_over_plain_sends() {
    let (world, _backends) = world("names-mapped", ORIGINS);
    let dialled = "[::ffff:10.96.0.10]:80";
    let socket = world.socket(Kind::Udp6);
    socket.dial(dialled).unwrap();
    for round in 0..100 {
        // Here the kernel runs the send hook with the backend as destination.
        assert_eq!(socket.request().unwrap(), "a", "round {round}");
        assert_eq!(socket.peer().unwrap(), at(dialled), "round {round}");
    }
    assert_eq!(world.origins().len(), 1);
}
