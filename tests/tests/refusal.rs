//! A Service without a usable backend refuses at once, with the error of a closed port.

use std::io;

use svclb_tests::{Backend, Endpoint, Feature, Kind, Tcp, Udp, World};

const DIALS: [(Kind, &str); 6] = [
    (Kind::Tcp4, "10.96.0.10:80"),
    (Kind::Tcp6, "[fd00:96::10]:80"),
    (Kind::Tcp6, "[::ffff:10.96.0.10]:80"),
    (Kind::Udp4, "10.96.0.10:80"),
    (Kind::Udp6, "[fd00:96::10]:80"),
    (Kind::Udp6, "[::ffff:10.96.0.10]:80"),
];

/// The error of a refused call.
fn refusal(kind: Kind) -> Option<i32> {
    match kind {
        // On such a kernel a hook cannot choose the error over UDP (docs/decisions/0005).
        Kind::Udp4 | Kind::Udp6 if !Feature::SetRetval.is_supported() => Some(libc::EPERM),
        _ => Some(libc::ECONNREFUSED),
    }
}

fn error<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Applies a Service at 10.96.0.10:80 and [fd00:96::10]:80 with these endpoints, over both protocols.
fn apply(world: &World, endpoints: &[Endpoint]) {
    world
        .service("default/hello")
        .cluster_ip("10.96.0.10")
        .cluster_ip("fd00:96::10")
        .port(80, Tcp)
        .backends(endpoints)
        .port(80, Udp)
        .backends(endpoints)
        .apply();
}

/// Starts responders for both protocols and families.
fn backends(world: &World) -> Vec<Backend> {
    let both = |address| [Tcp, Udp].map(|protocol| world.backend("a", protocol, address));
    ["10.244.0.1:8080", "[fd00:244::1]:8080"].into_iter().flat_map(both).collect()
}

/// One endpoint of each family.
fn endpoints(backends: &[Backend]) -> Vec<Endpoint> {
    backends.iter().filter(|it| it.protocol() == Tcp).map(Endpoint::from).collect()
}

#[test]
fn connect_and_send_are_refused_while_there_is_no_usable_backend() {
    let world = World::new("refused");
    let backends = backends(&world);
    let all = endpoints(&backends);
    let unready: Vec<Endpoint> = all.iter().map(|it| it.unready()).collect();
    for (row, endpoints) in [("none", &[][..]), ("none that is ready", &unready)] {
        apply(&world, endpoints);
        for (kind, dialled) in DIALS {
            let socket = world.socket(kind);
            assert_eq!(error(socket.dial(dialled)), refusal(kind), "{row}: {kind:?} {dialled}");
            if matches!(kind, Kind::Udp4 | Kind::Udp6) {
                let sent = world.socket(kind).send_to(dialled);
                assert_eq!(error(sent), refusal(kind), "{row}: send {dialled}");
            }
        }
        apply(&world, &all);
        for (kind, dialled) in DIALS {
            let socket = world.socket(kind);
            socket.dial(dialled).unwrap_or_else(|error| panic!("{kind:?} {dialled}: {error}"));
            assert_eq!(socket.request().unwrap(), "a", "{kind:?} {dialled}");
        }
    }
    assert_eq!(backends.iter().map(Backend::hits).sum::<usize>(), 2 * DIALS.len());
}

#[test]
fn a_refused_socket_can_be_used_again() {
    let world = World::new("refused-again");
    let backends = backends(&world);
    apply(&world, &[]);
    let sockets = DIALS.map(|(kind, _)| world.socket(kind));
    for (socket, (kind, dialled)) in sockets.iter().zip(DIALS) {
        assert_eq!(error(socket.dial(dialled)), refusal(kind), "{kind:?} {dialled}");
    }
    apply(&world, &endpoints(&backends));
    for (socket, (kind, dialled)) in sockets.iter().zip(DIALS) {
        socket.dial(dialled).unwrap_or_else(|error| panic!("{kind:?} {dialled}: {error}"));
        assert_eq!(socket.request().unwrap(), "a", "{kind:?} {dialled}");
    }
}

#[test]
fn without_set_retval_tcp_gets_econnrefused_and_udp_gets_eperm() {
    let world = World::builder("no-set-retval").agent_args(["--without", "set-retval"]).start();
    let backends = backends(&world);
    apply(&world, &[]);
    for (kind, dialled) in DIALS {
        let socket = world.socket(kind);
        // On such a kernel a hook cannot choose the error over UDP (docs/decisions/0005).
        let expected = match kind {
            Kind::Udp4 | Kind::Udp6 => libc::EPERM,
            _ => libc::ECONNREFUSED,
        };
        assert_eq!(error(socket.dial(dialled)), Some(expected), "{kind:?} {dialled}");
        if expected == libc::EPERM {
            let sent = world.socket(kind).send_to(dialled);
            assert_eq!(error(sent), Some(libc::EPERM), "send {dialled}");
        }
    }
    apply(&world, &endpoints(&backends));
    for (kind, dialled) in DIALS {
        let socket = world.socket(kind);
        socket.dial(dialled).unwrap_or_else(|error| panic!("{kind:?} {dialled}: {error}"));
        assert_eq!(socket.request().unwrap(), "a", "{kind:?} {dialled}");
    }
}
