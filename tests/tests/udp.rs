//! ClusterIPs over UDP, on connected and unconnected sockets: the backend that answers, and the source
//! address of its answer.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::socket::sockopt::Ipv4RecvErr;
use nix::sys::socket::{MsgFlags, SockaddrIn, recvmsg, setsockopt};
use socket2::{SockAddr, SockAddrStorage};
use svclb_tests::{Backend, Kind, Response, Socket, Tcp, ToAddress, Udp, World, at, eventually};

/// Number of draws: one of three backends is missed once in 2^60 runs.
const DRAWS: usize = 150;

/// Creates a world with three backends of each family behind 10.96.0.10:53 and [fd00:96::10]:53.
fn dual(name: &str) -> (World, Vec<Backend>, Vec<Backend>) {
    let world = World::new(name);
    let v4 = world.backends("v4", Udp, 3);
    let v6: Vec<Backend> = (1..=3)
        .map(|n| world.backend(&format!("v6-{n}"), Udp, &format!("[fd00:244::{n}]:5353")))
        .collect();
    world
        .service("default/dns")
        .cluster_ip("10.96.0.10")
        .cluster_ip("fd00:96::10")
        .port(53, Udp)
        .backends(v4.iter().chain(&v6))
        .apply();
    (world, v4, v6)
}

fn names(backends: &[Backend]) -> BTreeSet<String> {
    backends.iter().map(|backend| backend.name().to_owned()).collect()
}

#[test]
fn a_connected_socket_is_answered_from_the_dialled_address() {
    let (world, v4, v6) = dual("udp-connected");
    let rows = [
        ("IPv4", Kind::Udp4, "10.96.0.10:53", &v4),
        ("IPv6", Kind::Udp6, "[fd00:96::10]:53", &v6),
        ("v4-mapped", Kind::Udp6, "[::ffff:10.96.0.10]:53", &v4),
        ("IPv4 on an IPv6 socket", Kind::Udp6, "10.96.0.10:53", &v4),
    ];
    for (row, kind, dialled, backends) in rows {
        let mut met = BTreeSet::new();
        for _ in 0..DRAWS {
            let socket = world.socket(kind);
            socket.dial(dialled).unwrap_or_else(|error| panic!("{row}: {error}"));
            let first = socket.request().unwrap_or_else(|error| panic!("{row}: {error}"));
            assert_eq!(socket.request().unwrap(), first, "{row}");
            // A connected socket may read the source address too.
            let request = socket.raw().send(b"?\n").map(|_| "?\n").unwrap();
            let from = socket.receive_response(request).unwrap().from;
            assert_eq!(unmapped(from), unmapped(at(dialled)), "{row}");
            met.insert(first);
        }
        assert_eq!(met, names(backends), "{row}");
    }
}

#[test]
fn a_reply_comes_from_the_dialled_address() {
    let (world, v4, v6) = dual("udp-reply");
    let rows = [
        ("IPv4", Kind::Udp4, "10.96.0.10:53", &v4),
        ("IPv6", Kind::Udp6, "[fd00:96::10]:53", &v6),
        ("v4-mapped", Kind::Udp6, "[::ffff:10.96.0.10]:53", &v4),
    ];
    for (row, kind, dialled, backends) in rows {
        let mut met = BTreeSet::new();
        for _ in 0..DRAWS {
            let socket = world.socket(kind);
            let first = socket.request_to(dialled).unwrap_or_else(|error| panic!("{row}: {error}"));
            assert_eq!(first.from, at(dialled), "{row}");
            assert_eq!(socket.request_to(dialled).unwrap(), first, "{row}");
            met.insert(first.backend);
        }
        assert_eq!(met, names(backends), "{row}");
    }
}

#[test]
fn an_address_of_family_af_unspec_is_taken_for_ipv4() {
    let (world, v4, _) = dual("udp-unspecified");
    let socket = world.socket(Kind::Udp4);
    let mut address = SockAddrStorage::zeroed();
    // SAFETY: the fields are those of an IPv4 address. Only its family is AF_UNSPEC, which sendto(2)
    // takes for AF_INET.
    let address = unsafe {
        let parts = address.view_as::<libc::sockaddr_in>();
        parts.sin_port = 53_u16.to_be();
        parts.sin_addr.s_addr = u32::from_ne_bytes([10, 96, 0, 10]);
        SockAddr::new(address, size_of::<libc::sockaddr_in>().try_into().unwrap())
    };
    socket.raw().send_to(b"?\n", &address).unwrap();
    let answer = socket.receive_response("?\n").unwrap();
    assert!(names(&v4).contains(&answer.backend), "{answer:?}");
    assert_eq!(answer.from, at("10.96.0.10:53"));
}

#[test]
fn a_send_directly_to_a_backend_is_answered_from_its_own_address() {
    let (world, v4, _) = dual("udp-direct");
    let socket = world.socket(Kind::Udp4);
    for backend in &v4 {
        let answer = socket.request_to(backend).unwrap();
        assert_eq!(answer, Response { backend: backend.name().into(), from: backend.address() });
    }
    assert_eq!(world.origins(), []);
}

#[test]
fn one_socket_distinguishes_services_with_the_same_backends() {
    let world = World::new("udp-shared");
    let rows =
        [("one backend", world.backends("a", Udp, 1)), ("three", world.backends("b", Udp, 3))];
    for (number, (row, backends)) in rows.iter().enumerate() {
        let dialled: Vec<String> =
            (0..5).map(|service| format!("10.96.{number}.{}:53", service + 1)).collect();
        for (service, address) in dialled.iter().enumerate() {
            world
                .service(&format!("default/shared-{number}-{service}"))
                .cluster_ip(address.trim_end_matches(":53"))
                .port(53, Udp)
                .backends(backends)
                .apply();
        }
        let socket = world.socket(Kind::Udp4);
        let mut given: BTreeMap<&str, String> = BTreeMap::new();
        for round in 0..20 {
            // Each round uses another order.
            for step in 0..dialled.len() {
                let to = &dialled[(step * (round % 4 + 1)) % dialled.len()];
                let answer = socket.request_to(to).unwrap();
                assert_eq!(answer.from, at(to), "{row}, round {round}");
                let first = given.entry(to).or_insert_with(|| answer.backend.clone());
                assert_eq!(*first, answer.backend, "{row}, round {round}: the backend must stay");
            }
        }
    }
}

#[test]
fn one_socket_keeps_its_backend_for_a_thousand_datagrams_while_other_services_change() {
    let world = World::new("udp-thousand");
    let backends = world.backends("a", Udp, 5);
    let others = world.backends("other", Tcp, 5);
    world.service("default/dns").cluster_ip("10.96.0.10").port(53, Udp).backends(&backends).apply();
    let socket = world.socket(Kind::Udp4);
    let first = socket.request_to("10.96.0.10:53").unwrap();
    let send = |count: usize, when: &str| {
        for number in 0..count {
            assert_eq!(
                socket.request_to("10.96.0.10:53").unwrap(),
                first,
                "{when}: datagram {number}"
            );
        }
    };
    send(1000, "at rest");

    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                for number in 0..10 {
                    world
                        .service(&format!("default/other-{number}"))
                        .cluster_ip(&format!("10.96.1.{}", number + 1))
                        .port(80, Tcp)
                        .backends(&others[..(rounds + number) % 5 + 1])
                        .write();
                }
                rounds += 1;
                thread::sleep(Duration::from_millis(1));
            }
            world.settle();
            rounds
        });
        // A failure in here must end the churn too, or the scope would wait forever.
        let sent = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..5 {
                send(200, "under churn");
                thread::sleep(Duration::from_millis(50));
            }
        }));
        done.store(true, Ordering::Relaxed);
        let rounds = churn.join().unwrap();
        sent.unwrap();
        assert!(rounds > 1, "Services must have changed meanwhile");
    });
    send(100, "after the churn");
    let hit: Vec<&Backend> = backends.iter().filter(|backend| backend.hits() > 0).collect();
    assert_eq!(hit.len(), 1, "one backend must get all datagrams");
}

#[test]
fn an_unconnected_socket_moves_when_its_backend_is_removed() {
    let world = World::new("udp-moves");
    let a = world.backend("a", Udp, "10.244.0.1:5353");
    let b = world.backend("b", Udp, "10.244.0.2:5353");
    let service = world.service("default/dns").cluster_ip("10.96.0.10").port(53, Udp);
    service.clone().backends([&a]).apply();
    let socket = world.socket(Kind::Udp4);
    let dialled = "10.96.0.10:53";
    assert_eq!(socket.request_to(dialled).unwrap().backend, "a");
    service.clone().backends([&a, &b]).apply();
    assert_eq!(
        socket.request_to(dialled).unwrap().backend,
        "a",
        "a new backend must not take over existing sockets"
    );
    service.clone().backends([&b]).apply();
    let moved = socket.request_to(dialled).unwrap();
    assert_eq!(moved, Response { backend: "b".into(), from: at(dialled) });
}

#[test]
fn a_hundred_thousand_connections_spread_evenly() {
    const CONNECTIONS: u32 = 100_000;
    /// Chi-square of 9 degrees of freedom exceeds this once in a million runs of an even draw.
    const BOUND: f64 = 44.82;
    let world = World::new("spread");
    let backends = world.backends("a", Udp, 10);
    world.service("default/dns").cluster_ip("10.96.0.10").port(53, Udp).backends(&backends).apply();
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..CONNECTIONS / 250 {
        for socket in world.sockets(Kind::Udp4, 250) {
            socket.dial("10.96.0.10:53").unwrap();
            *counts.entry(socket.request().unwrap()).or_default() += 1;
        }
    }
    let expected = f64::from(CONNECTIONS) / 10.0;
    let counts: Vec<u32> =
        backends.iter().map(|it| counts.get(it.name()).copied().unwrap_or_default()).collect();
    let chi_square: f64 =
        counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
    assert!(chi_square < BOUND, "chi-square {chi_square:.1} of {counts:?}");
    assert_eq!(counts.iter().sum::<u32>(), CONNECTIONS);
}

#[test]
fn every_way_of_sending_reaches_the_service_and_is_answered_from_its_address() {
    let (world, _v4, _v6) = dual("udp-ways");
    type Way = fn(&Socket, &str, &[u8]) -> io::Result<()>;
    let ways: [(&str, Way); 3] = [
        ("sendmmsg", send_by_sendmmsg),
        ("io_uring", send_by_io_uring),
        ("sendto on a connected socket", send_while_connected),
    ];
    let dials = [
        (Kind::Udp4, "10.96.0.10:53"),
        (Kind::Udp6, "[fd00:96::10]:53"),
        (Kind::Udp6, "[::ffff:10.96.0.10]:53"),
    ];
    for (way, send) in ways {
        for (kind, dialled) in dials {
            let socket = world.socket(kind);
            send(&socket, dialled, b"1\n").unwrap_or_else(|error| panic!("{way}: {error}"));
            let answer =
                socket.receive_response("1\n").unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_eq!(answer.from, at(dialled), "{way}");
            send(&socket, dialled, b"2\n").unwrap();
            assert_eq!(socket.receive_response("2\n").unwrap(), answer, "{way}: the same backend");
        }
    }
}

/// `struct msghdr` for one datagram.
fn message(to: &SockAddr, part: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: plain integers and null pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = to.as_ptr().cast_mut().cast();
    message.msg_namelen = to.len();
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message
}

fn part(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

fn send_by_sendmmsg(socket: &Socket, to: &str, bytes: &[u8]) -> io::Result<()> {
    let (to, mut part) = (SockAddr::from(to.to_address()), part(bytes));
    let mut messages = [libc::mmsghdr { msg_hdr: message(&to, &mut part), msg_len: 0 }];
    // SAFETY: the message points to what lives here, and is one.
    match unsafe { libc::sendmmsg(socket.raw().as_raw_fd(), messages.as_mut_ptr(), 1, 0) } {
        1 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Uses a thread of its own, because the kernel's work at the end of a ring interrupts later waits of
/// the thread that created it with EINTR (seen on 5.10 and 6.1).
fn send_by_io_uring(socket: &Socket, to: &str, bytes: &[u8]) -> io::Result<()> {
    let done = thread::scope(|scope| scope.spawn(|| send_by_ring(socket, to, bytes)).join());
    done.unwrap_or_else(|_| Err(io::Error::other("the ring's thread panicked")))
}

fn send_by_ring(socket: &Socket, to: &str, bytes: &[u8]) -> io::Result<()> {
    use io_uring::{IoUring, opcode, types};
    let mut ring = IoUring::new(2)?;
    let (to, mut part) = (SockAddr::from(to.to_address()), part(bytes));
    let message = message(&to, &mut part);
    let send =
        opcode::SendMsg::new(types::Fd(socket.raw().as_raw_fd()), &raw const message).build();
    // SAFETY: the message lives until the entry is complete, which is awaited below.
    unsafe { ring.submission().push(&send) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?;
    if result.result() < 0 {
        return Err(io::Error::from_raw_os_error(-result.result()));
    }
    Ok(())
}

/// Sends to the frontend that the socket is connected to, so that the response comes from its peer.
fn send_while_connected(socket: &Socket, to: &str, bytes: &[u8]) -> io::Result<()> {
    if socket.peer().is_err() {
        socket.dial(to)?;
    }
    socket.raw().send_to(bytes, &SockAddr::from(to.to_address())).map(drop)
}

/// The address, as IPv4 if it is v4-mapped.
fn unmapped(address: std::net::SocketAddr) -> std::net::SocketAddr {
    std::net::SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The address in a socket's error queue (ip(7), IP_RECVERR): the destination of the datagram that could
/// not be delivered.
fn failed_destination(socket: &Socket) -> io::Result<SocketAddr> {
    let mut data = [0_u8; 64];
    let mut buffers = [io::IoSliceMut::new(&mut data)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let read = recvmsg::<SockaddrIn>(socket.raw().as_raw_fd(), &mut buffers, None, flags)?;
    let address = read.address.ok_or_else(|| io::Error::other("no address"))?;
    Ok(SocketAddr::from((address.ip(), address.port())))
}

#[test]
fn the_error_queue_of_a_connected_socket_has_the_pods_address() {
    let world = World::new("udp-error-queue");
    let a = world.backend("a", Udp, "10.244.0.1:5353");
    world.service("default/dns").cluster_ip("10.96.0.10").port(53, Udp).backends([&a]).apply();
    // The backend's address stays, but nothing listens there.
    drop(a);
    let socket = world.socket(Kind::Udp4);
    setsockopt(&socket, Ipv4RecvErr, &true).unwrap();
    socket.dial("10.96.0.10:53").unwrap();
    socket.raw().send(b"?\n").unwrap();
    let failed = eventually("the kernel reports the refused datagram", || {
        failed_destination(&socket).map_err(|error| error.to_string())
    });
    assert_eq!(failed, at("10.244.0.1:5353"));
    // getpeername shows the Service as usual.
    assert_eq!(socket.peer().unwrap(), at("10.96.0.10:53"));
}

#[test]
fn an_answer_received_by_another_socket_of_a_shared_port_shows_the_pod() {
    let world = World::new("udp-reuseport");
    let backends = world.backends("a", Udp, 3);
    world.service("default/dns").cluster_ip("10.96.0.10").port(53, Udp).backends(&backends).apply();
    let mut received = [0, 0];
    // The kernel chooses a socket of the port by both addresses, which differ each time.
    for _ in 0..DRAWS {
        let sockets = world.sockets(Kind::Udp4, 2);
        for socket in &sockets {
            socket.raw().set_reuse_port(true).unwrap();
            socket.raw().set_nonblocking(true).unwrap();
        }
        sockets[0].raw().bind(&SockAddr::from(at("0.0.0.0:0"))).unwrap();
        sockets[1].raw().bind(&SockAddr::from(sockets[0].local().unwrap())).unwrap();
        let request = sockets[0].send_to("10.96.0.10:53").unwrap();
        let (which, answer) = eventually("one of the two receives the answer", || {
            let found = [0, 1]
                .into_iter()
                .find_map(|it| Some((it, sockets[it].receive_response(&request).ok()?)));
            found.ok_or_else(|| "neither".to_owned())
        });
        received[which] += 1;
        let pod = backends.iter().find(|it| it.name() == answer.backend).unwrap().address();
        let expected = if which == 0 { at("10.96.0.10:53") } else { pod };
        assert_eq!(answer.from, expected, "socket {which}");
    }
    assert!(received.iter().all(|count| *count > 0), "{received:?}");
}
