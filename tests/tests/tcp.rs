//! ClusterIPs over TCP: the backend that answers, for every way of connecting that the kernel has.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd as _;
use std::thread;

use socket2::{Domain, SockAddr, Type};
use svclb_common::layout::AGENT_PRIORITY;
use svclb_tests::{Backend, Endpoint, Feature, Kind, Socket, Tcp, ToAddress, Udp, World, at};

/// Number of draws: one of two or three backends is missed once in 2^60 runs.
const DRAWS: usize = 150;

#[test]
fn a_cluster_ip_reaches_each_of_its_backends_and_is_shown_as_the_peer() {
    let world = World::new("tcp");
    let v4 = world.backends("v4", Tcp, 3);
    let v6: Vec<Backend> = (1..=3)
        .map(|n| world.backend(&format!("v6-{n}"), Tcp, &format!("[fd00:244::{n}]:9090")))
        .collect();
    world
        .service("default/dual")
        .cluster_ip("10.96.0.10")
        .cluster_ip("fd00:96::10")
        .port(80, Tcp)
        .backends(v4.iter().chain(&v6))
        .apply();

    let rows = [
        ("IPv4", Kind::Tcp4, "10.96.0.10:80", &v4),
        ("IPv6", Kind::Tcp6, "[fd00:96::10]:80", &v6),
        ("v4-mapped", Kind::Tcp6, "[::ffff:10.96.0.10]:80", &v4),
    ];
    for (row, kind, dialled, backends) in rows {
        let mut met = BTreeSet::new();
        for _ in 0..DRAWS {
            let socket = world.socket(kind);
            socket.dial(dialled).unwrap_or_else(|error| panic!("{row}: {error}"));
            assert_eq!(socket.peer().unwrap(), at(dialled), "{row}");
            met.insert(socket.request().unwrap());
            assert_eq!(socket.peer().unwrap(), at(dialled), "{row}, after data");
        }
        let all: BTreeSet<String> = backends.iter().map(|backend| backend.name().into()).collect();
        assert_eq!(met, all, "{row}");
    }
}

#[test]
fn backends_of_one_service_may_listen_on_different_ports() {
    let world = World::new("ports");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    let b = world.backend("b", Tcp, "10.244.0.1:8081");
    world.service("default/two").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a, &b]).apply();
    let met: BTreeSet<String> =
        (0..DRAWS).map(|_| world.request(Tcp, "10.96.0.10:80").unwrap()).collect();
    assert_eq!(met, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
}

#[test]
fn one_port_serves_tcp_and_udp_of_different_services() {
    let world = World::new("tcp-and-udp");
    let tcp = world.backend("tcp", Tcp, "10.244.0.1:8080");
    let udp = world.backend("udp", Udp, "10.244.0.1:8080");
    // Two ports of one Service are two services, and so are two Services with one ClusterIP.
    world
        .service("default/dns")
        .cluster_ip("10.96.0.10")
        .port(53, Tcp)
        .backends([&tcp])
        .port(53, Udp)
        .backends([&udp])
        .apply();
    world.service("a/tcp").cluster_ip("10.96.0.11").port(53, Tcp).backends([&tcp]).apply();
    world.service("b/udp").cluster_ip("10.96.0.11").port(53, Udp).backends([&udp]).apply();
    for dialled in ["10.96.0.10:53", "10.96.0.11:53"] {
        for _ in 0..10 {
            assert_eq!(world.request(Tcp, dialled).unwrap(), "tcp", "{dialled}");
            assert_eq!(world.request(Udp, dialled).unwrap(), "udp", "{dialled}");
        }
    }
}

#[test]
fn another_port_or_protocol_of_a_cluster_ip_is_left_alone() {
    let world = World::new("left-alone");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/one").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    for (protocol, dialled) in
        [(Tcp, "10.96.0.10:81"), (Udp, "10.96.0.10:80"), (Tcp, "10.96.0.11:80")]
    {
        let error = world.dial(protocol, dialled).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{protocol:?} {dialled}: {error}");
    }
}

#[test]
fn a_socket_outside_the_cgroup_is_left_alone() {
    let world = World::new("outside");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/one").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    let dialled: std::net::SocketAddr = at("10.96.0.10:80");
    let error = world.inside(move || std::net::TcpStream::connect(dialled)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
    assert_eq!(world.request(Tcp, dialled).unwrap(), "a");
}

#[test]
fn an_established_connection_outlives_the_removal_of_its_backend() {
    let world = World::new("established");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    let b = world.backend("b", Tcp, "10.244.0.2:8080");
    let service = world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp);
    service.clone().backends([&a]).apply();
    let old = world.dial(Tcp, "10.96.0.10:80").unwrap();
    service.clone().backends([&b]).apply();
    assert_eq!(world.request(Tcp, "10.96.0.10:80").unwrap(), "b");
    assert_eq!(old.request().unwrap(), "a");
    assert_eq!(old.peer().unwrap(), at("10.96.0.10:80"));
    world.remove("default/hello");
    world.settle();
    assert_eq!(old.request().unwrap(), "a");
}

#[test]
fn terminating_endpoints_serve_only_while_none_is_ready() {
    let world = World::new("terminating");
    let [a, b] = [("a", "10.244.0.1:8080"), ("b", "10.244.0.2:8080")]
        .map(|(name, address)| world.backend(name, Tcp, address));
    let service = world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp);
    let met = || -> BTreeSet<String> {
        (0..DRAWS).map(|_| world.request(Tcp, "10.96.0.10:80").unwrap()).collect()
    };
    service.clone().backends([Endpoint::from(&a).terminating(), Endpoint::from(&b)]).apply();
    assert_eq!(met(), BTreeSet::from(["b".to_owned()]), "one ready");
    service
        .clone()
        .backends([Endpoint::from(&a).terminating(), Endpoint::from(&b).unready()])
        .apply();
    assert_eq!(met(), BTreeSet::from(["a".to_owned()]), "none ready");
    service.clone().backends([&a, &b].map(Endpoint::from)).apply();
    assert_eq!(met(), BTreeSet::from(["a".to_owned(), "b".to_owned()]), "both ready");
}

#[test]
fn every_way_of_connecting_reaches_the_service() {
    let world = World::new("ways");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    let a6 = world.backend("a", Tcp, "[fd00:244::1]:8080");
    world
        .service("default/hello")
        .cluster_ip("10.96.0.10")
        .cluster_ip("fd00:96::10")
        .port(80, Tcp)
        .backends([&a, &a6])
        .apply();
    type Way = fn(&Socket, &str) -> io::Result<()>;
    let ways: [(&str, Way); 4] = [
        ("non-blocking connect", connect_without_blocking),
        ("io_uring", connect_by_io_uring),
        ("MSG_FASTOPEN", connect_by_fast_open_send),
        ("TCP_FASTOPEN_CONNECT", connect_by_fast_open_connect),
    ];
    let dials = [
        (Kind::Tcp4, "10.96.0.10:80"),
        (Kind::Tcp6, "[fd00:96::10]:80"),
        (Kind::Tcp6, "[::ffff:10.96.0.10]:80"),
    ];
    for (way, connect) in ways {
        for (kind, dialled) in dials {
            let socket = world.socket(kind);
            connect(&socket, dialled).unwrap_or_else(|error| panic!("{way} {dialled}: {error}"));
            assert_eq!(socket.request().unwrap(), "a", "{way} {dialled}");
            assert_eq!(socket.peer().unwrap(), at(dialled), "{way} {dialled}");
        }
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let world = World::new("hairpin");
    let pod = world.pod();
    // The pod's address among pods.
    let ip = pod.dial(Udp, "10.244.0.1:9").unwrap().local().unwrap().ip();
    let itself = pod.backend("itself", Tcp, &format!("{ip}:8080"));
    world
        .service("default/hello")
        .cluster_ip("10.96.0.10")
        .port(80, Tcp)
        .backends([&itself])
        .apply();
    let socket = pod.dial(Tcp, "10.96.0.10:80").unwrap();
    assert_eq!(socket.request().unwrap(), "itself");
    assert_eq!(socket.peer().unwrap(), at("10.96.0.10:80"));
    assert_eq!(socket.local().unwrap().ip(), ip);
}

/// Returns true if the kernel has MPTCP sockets. A kernel on which their subflows cannot be recognized
/// may have none.
fn has_mptcp() -> bool {
    match socket2::Socket::new(Domain::IPV4, Type::STREAM, Some(socket2::Protocol::MPTCP)) {
        Err(error) if !Feature::Mptcp.is_supported() => {
            assert_eq!(error.raw_os_error(), Some(libc::EPROTONOSUPPORT), "{error}");
            false
        }
        // On a kernel that must have them, the first socket reports the error.
        _ => true,
    }
}

#[test]
fn if_kernel_sockets_are_not_recognized_each_mptcp_connect_leaves_an_origin() {
    const CONNECTS: usize = 20;
    if !has_mptcp() {
        return;
    }
    let world = World::builder("mptcp-without").agent_args(["--without", "kern-sock"]).start();
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    for number in 0..CONNECTS {
        let socket = world.socket(Kind::Mptcp4);
        socket.dial("10.96.0.10:80").unwrap();
        assert_eq!(socket.request().unwrap(), "a");
        assert_eq!(socket.peer().unwrap(), at("10.244.0.1:8080"), "docs/limits.md");
        drop(socket);
        let left = world.origins();
        assert_eq!(left.len(), number + 1, "{left:?}");
        assert!(left.iter().all(|it| it.dialled == at("10.96.0.10:80")), "{left:?}");
    }
}

#[test]
fn an_mptcp_socket_is_translated_and_leaves_no_origin() {
    if !has_mptcp() {
        return;
    }
    let world = World::new("mptcp");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp).backends([&a]).apply();
    for _ in 0..100 {
        let socket = world.socket(Kind::Mptcp4);
        socket.dial("10.96.0.10:80").unwrap();
        assert_eq!(socket.request().unwrap(), "a");
        // No release would come for the cookie of the connect (docs/decisions/0021).
        assert_eq!(world.origins(), []);
    }
}

fn connect_without_blocking(socket: &Socket, to: &str) -> io::Result<()> {
    socket.raw().set_nonblocking(true)?;
    let connected =
        socket.raw().connect_timeout(&SockAddr::from(to.to_address()), svclb_tests::PATIENCE);
    socket.raw().set_nonblocking(false)?;
    connected
}

/// Uses a thread of its own, because the kernel's work at the end of a ring interrupts later waits of
/// the thread that created it with EINTR (seen on 5.10 and 6.1).
fn connect_by_io_uring(socket: &Socket, to: &str) -> io::Result<()> {
    let done = thread::scope(|scope| scope.spawn(|| connect_by_ring(socket, to)).join());
    done.unwrap_or_else(|_| Err(io::Error::other("the ring's thread panicked")))
}

fn connect_by_ring(socket: &Socket, to: &str) -> io::Result<()> {
    use io_uring::{IoUring, opcode, types};
    let mut ring = IoUring::new(2)?;
    let address = SockAddr::from(to.to_address());
    let file = types::Fd(socket.raw().as_raw_fd());
    let connect = opcode::Connect::new(file, address.as_ptr().cast(), address.len()).build();
    // SAFETY: the address lives until the entry is complete, which is awaited below.
    unsafe { ring.submission().push(&connect) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?;
    if result.result() < 0 {
        return Err(io::Error::from_raw_os_error(-result.result()));
    }
    Ok(())
}

fn connect_by_fast_open_send(socket: &Socket, to: &str) -> io::Result<()> {
    let to = SockAddr::from(to.to_address());
    socket.raw().send_to_with_flags(b"early\n", &to, libc::MSG_FASTOPEN)?;
    receive_early_answer(socket)
}

fn connect_by_fast_open_connect(socket: &Socket, to: &str) -> io::Result<()> {
    let on: libc::c_int = 1;
    let option = libc::TCP_FASTOPEN_CONNECT;
    // SAFETY: the value lives here and has this size.
    let set = unsafe {
        let value = (&raw const on).cast();
        libc::setsockopt(socket.raw().as_raw_fd(), libc::IPPROTO_TCP, option, value, 4)
    };
    assert_eq!(set, 0, "TCP_FASTOPEN_CONNECT: {}", io::Error::last_os_error());
    socket.dial(to)?;
    socket.raw().send(b"early\n")?;
    receive_early_answer(socket)
}

/// Reads the answer to the data in the first packet, and asserts that the first packet had data.
fn receive_early_answer(socket: &Socket) -> io::Result<()> {
    let mut answer = [std::mem::MaybeUninit::uninit(); 64];
    let size = socket.raw().recv(&mut answer)?;
    assert_eq!(size, "a early\n".len());
    /// `tcpi_options` of `struct tcp_info`, and its bit TCPI_OPT_SYN_DATA (include/uapi/linux/tcp.h).
    const OPTIONS: usize = 5;
    const SYN_DATA: u8 = 32;
    let mut info = [0_u8; 104];
    let mut size: libc::socklen_t = 104;
    // SAFETY: the buffer has this size.
    let got = unsafe {
        let value = info.as_mut_ptr().cast();
        let option = libc::TCP_INFO;
        libc::getsockopt(socket.raw().as_raw_fd(), libc::IPPROTO_TCP, option, value, &raw mut size)
    };
    assert_eq!(got, 0, "TCP_INFO: {}", io::Error::last_os_error());
    assert_ne!(info[OPTIONS] & SYN_DATA, 0, "the first packet must carry data");
    Ok(())
}

#[test]
fn two_sockets_with_one_source_port_cannot_dial_two_services_of_one_pod() {
    let world = World::new("tcp-source-port");
    let a = world.backend("a", Tcp, "10.244.0.1:8080");
    let b = world.backend("b", Tcp, "10.244.0.2:8080");
    for (name, address, backend) in [("one", 10, &a), ("two", 11, &a), ("three", 12, &b)] {
        let service = world.service(&format!("default/{name}"));
        let address = format!("10.96.0.{address}");
        service.cluster_ip(&address).port(80, Tcp).backends([backend]).apply();
    }
    let sockets = world.sockets(Kind::Tcp4, 3);
    for socket in &sockets {
        socket.raw().set_reuse_address(true).unwrap();
    }
    sockets[0].raw().bind(&SockAddr::from(at("10.244.0.1:0"))).unwrap();
    let local = sockets[0].local().unwrap();
    sockets[1].raw().bind(&SockAddr::from(local)).unwrap();
    sockets[2].raw().bind(&SockAddr::from(local)).unwrap();
    sockets[0].dial("10.96.0.10:80").unwrap();
    // For the kernel this is the same connection again.
    let error = sockets[1].dial("10.96.0.11:80").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL), "{error}");
    // With another pod it is not.
    sockets[2].dial("10.96.0.12:80").unwrap();
    assert_eq!(sockets[0].request().unwrap(), "a");
    assert_eq!(sockets[2].request().unwrap(), "b");
}

#[test]
fn a_connect_of_a_socket_with_the_agents_priority_is_left_alone() {
    let world = World::new("tcp-own");
    let backend = world.backend("a", Tcp, "10.244.0.1:8080");
    let services = [("default/kubernetes", "10.96.0.1"), ("default/hello", "10.96.0.10")];
    for (name, ip) in services {
        world.service(name).cluster_ip(ip).port(443, Tcp).backends([&backend]).apply();
    }
    for (name, ip) in services {
        let dialled = format!("{ip}:443");
        assert_eq!(world.request(Tcp, &dialled).unwrap(), "a", "{name}");
        for (priority, expected) in [(6, None), (AGENT_PRIORITY, Some(libc::EACCES))] {
            let socket = world.socket(Kind::Tcp4);
            let value = i32::from_ne_bytes(priority.to_ne_bytes());
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Priority, &value)
                .unwrap();
            // An untranslated connect is prohibited here.
            let error = socket.dial(&dialled).err().and_then(|error| error.raw_os_error());
            assert_eq!(error, expected, "{name}, priority {priority}");
        }
    }
}
