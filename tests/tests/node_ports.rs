//! Node ports: served at the node's addresses for every client, and on loopback for clients in the
//! host's network namespace only.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use svclb_tests::{Backend, Feature, Kind, Pod, Protocol, Socket, Tcp, Udp, World, at, eventually};

/// Number of draws: one of two backends is missed once in 2^59 runs.
const DRAWS: usize = 60;
/// The node port of every Service.
const PORT: u16 = 30080;

/// Creates a node with the addresses 198.51.100.1 and 2001:db8:b::1, and a dual-stack Service with two
/// backends of each family and the same node port for both protocols.
fn world(name: &str) -> (World, Vec<Backend>) {
    let world = World::builder(name).agent_args(["--node", "here"]).start();
    world.node(["198.51.100.1", "2001:db8:b::1"]);
    let backends = apply(&world, "web", "10", PORT, None);
    (world, backends)
}

/// Applies a Service whose ClusterIPs end in `end`.
fn apply(
    world: &World,
    name: &str,
    end: &str,
    node_port: u16,
    affinity: Option<u32>,
) -> Vec<Backend> {
    let mut all = Vec::new();
    let mut service = world.service(&format!("default/{name}"));
    service = service.cluster_ip(&format!("10.96.0.{end}")).cluster_ip(&format!("fd00:96::{end}"));
    if let Some(seconds) = affinity {
        service = service.affinity(seconds);
    }
    for protocol in [Tcp, Udp] {
        let mut backends = world.backends("v4", protocol, 2);
        backends.extend((0..2).map(|n| {
            let address =
                format!("[fd00:244::{end}:{}:{n}]:8080", protocol.name().len() + all.len());
            world.backend(&format!("v6-{n}"), protocol, &address)
        }));
        service = service.port(80, protocol).node_port(node_port).backends(&backends);
        all.extend(backends);
    }
    service.apply();
    all
}

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

    /// The error number of a connect over TCP.
    fn error(self, to: &str) -> Option<i32> {
        let socket = self.socket(Kind::of(Tcp, at(to)));
        socket.dial(to).err().and_then(|error: io::Error| error.raw_os_error())
    }
}

/// Dials until both backends of the family have answered, by connect and by send, and checks the
/// addresses that the client sees.
fn meets_both(row: &str, client: Client<'_>, protocol: Protocol, dialled: &str) {
    let prefix = if at(dialled).ip().to_canonical().is_ipv4() { "v4-" } else { "v6-" };
    let both = BTreeSet::from([0, 1].map(|n| format!("{prefix}{n}")));
    let (mut connected, mut sent) = (BTreeSet::new(), BTreeSet::new());
    let dial = |socket: Socket, way: usize| -> io::Result<(String, SocketAddr)> {
        if way == 1 {
            let answer = socket.request_to(dialled)?;
            return Ok((answer.backend, answer.from));
        }
        socket.dial(dialled)?;
        Ok((socket.request()?, socket.peer()?))
    };
    for (way, met) in [&mut connected, &mut sent].into_iter().enumerate() {
        if way == 1 && protocol == Tcp {
            continue;
        }
        for _ in 0..DRAWS {
            let socket = client.socket(Kind::of(protocol, at(dialled)));
            let found = dial(socket, way).map_err(|error| error.to_string());
            let name = found.as_ref().map(|(_, name)| *name);
            assert_eq!(name, Ok(at(dialled)), "{row}: {dialled}: {found:?}");
            met.extend(found.map(|(backend, _)| backend));
        }
        assert_eq!(*met, both, "{row}: {dialled}, way {way}");
    }
}

/// As [`meets_both`], for a loopback address dialled by the host.
fn meets_both_on_loopback(row: &str, world: &World, protocol: Protocol, dialled: &str) {
    let client = Client::Host(world);
    if has_node_ports_on_loopback() {
        meets_both(row, client, protocol, dialled);
    } else if protocol == Tcp {
        assert_eq!(client.error(dialled), Some(libc::ECONNREFUSED), "{row}: {dialled}");
    }
}

/// Returns true if node ports are served on loopback. They are not if the agent can neither read the
/// cookie of its namespace nor runs in the machine's first one (docs/decisions/0009); the host's own
/// sockets answer then.
fn has_node_ports_on_loopback() -> bool {
    Feature::NetnsCookie.is_supported()
}

#[test]
fn node_ports_at_the_nodes_addresses_serve_the_host_and_pods() {
    let (world, _backends) = world("node-ports");
    let pod = world.pod();
    for (row, client) in [("host", Client::Host(&world)), ("pod", Client::Pod(&pod))] {
        for protocol in [Tcp, Udp] {
            let mapped = "[::ffff:198.51.100.1]:30080";
            for dialled in ["198.51.100.1:30080", "[2001:db8:b::1]:30080", mapped] {
                meets_both(row, client, protocol, dialled);
            }
        }
        // Another port of the node belongs to no Service.
        let expected = if row == "host" { libc::ECONNREFUSED } else { libc::EACCES };
        assert_eq!(client.error("198.51.100.1:30081"), Some(expected), "{row}");
    }
}

#[test]
fn another_nodes_addresses_are_left_alone() {
    let (world, _backends) = world("node-ports-other");
    let pod = world.pod();
    for (row, client) in [("host", Client::Host(&world)), ("pod", Client::Pod(&pod))] {
        for dialled in ["198.51.100.2:30080", "[2001:db8:b::2]:30080"] {
            assert_eq!(client.error(dialled), Some(libc::EACCES), "{row}: {dialled}");
            let socket = client.socket(Kind::of(Udp, at(dialled)));
            let error = socket.send_to(dialled).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{row}: {dialled}");
        }
    }
}

#[test]
fn node_ports_serve_the_host_at_every_loopback_address() {
    let (world, _backends) = world("node-ports-loopback");
    for protocol in [Tcp, Udp] {
        for dialled in [
            "127.0.0.1:30080",
            "127.0.0.5:30080",
            "127.255.255.254:30080",
            "[::1]:30080",
            "[::ffff:127.0.0.1]:30080",
            "[::ffff:127.1.2.3]:30080",
        ] {
            meets_both_on_loopback("host", &world, protocol, dialled);
        }
    }
    // Other ports are the host's own, and are never shown as a Service.
    let own = world.backend("own", Tcp, "127.0.0.1:30081");
    let socket = world.dial(Tcp, &own).unwrap();
    assert_eq!((socket.peer().unwrap(), socket.request().unwrap()), (own.address(), "own".into()));
    let client = Client::Host(&world);
    assert_eq!(
        client.error("127.0.0.5:30081"),
        Some(libc::ECONNREFUSED),
        "another loopback address"
    );
    assert_ne!(client.error("255.0.0.1:30080"), None, "255.0.0.1 is no loopback address");
}

#[test]
fn node_ports_are_not_served_on_a_pods_loopback() {
    let (world, _backends) = world("node-ports-pod");
    let pod = world.pod();
    let client = Client::Pod(&pod);
    let all = ["127.0.0.1:30080", "127.0.0.5:30080", "[::1]:30080", "[::ffff:127.0.0.1]:30080"];
    for dialled in all {
        assert_eq!(client.error(dialled), Some(libc::ECONNREFUSED), "{dialled}");
    }
    let own: Vec<Backend> = [Tcp, Udp]
        .into_iter()
        .flat_map(|protocol| [(protocol, "127.0.0.1:30080"), (protocol, "[::1]:30080")])
        .map(|(protocol, address)| pod.backend("own", protocol, address))
        .collect();
    for backend in &own {
        for _ in 0..5 {
            let socket = pod.dial(backend.protocol(), backend).unwrap();
            assert_eq!(socket.request().unwrap(), "own", "{:?}", backend.address());
            assert_eq!(socket.peer().unwrap(), backend.address());
        }
    }
    let answer = pod.socket(Kind::Udp4).request_to("127.0.0.1:30080").unwrap();
    assert_eq!((&*answer.backend, answer.from), ("own", at("127.0.0.1:30080")));
    assert_eq!(world.origins(), [], "nothing was translated");
    // At the node's addresses the pod reaches the node port.
    meets_both("pod", client, Tcp, "198.51.100.1:30080");
}

#[test]
fn a_node_port_follows_the_nodes_addresses() {
    let (world, _backends) = world("node-ports-moves");
    let pod = world.pod();
    world.node(["198.51.100.3", "2001:db8:b::1"]);
    world.settle();
    let client = Client::Pod(&pod);
    assert_eq!(
        client.error("198.51.100.1:30080"),
        Some(libc::EACCES),
        "the address is no longer the node's"
    );
    meets_both("pod", client, Tcp, "198.51.100.3:30080");
    meets_both("pod", client, Tcp, "[2001:db8:b::1]:30080");
    meets_both_on_loopback("host", &world, Tcp, "127.0.0.1:30080");
}

#[test]
fn a_node_port_without_backends_refuses_and_is_removed_with_its_service() {
    let world = World::builder("node-ports-none").agent_args(["--node", "here"]).start();
    world.node(["198.51.100.1"]);
    let service = world.service("default/web").cluster_ip("10.96.0.10").port(80, Tcp);
    service.node_port(PORT).apply();
    // A process of the host listens there: the node port hides it, as kube-proxy's rules would.
    let own = world.backend("own", Tcp, "127.0.0.1:30080");
    let client = Client::Host(&world);
    let on_loopback = if has_node_ports_on_loopback() { Some(libc::ECONNREFUSED) } else { None };
    assert_eq!(client.error("127.0.0.1:30080"), on_loopback);
    assert_eq!(client.error("198.51.100.1:30080"), Some(libc::ECONNREFUSED));
    world.remove("default/web");
    world.settle();
    eventually("the host's own socket answers again", || {
        let answer = world.request(Tcp, &own).map_err(|error| error.to_string())?;
        if answer == "own" { Ok(()) } else { Err(answer) }
    });
}

#[test]
fn node_ports_on_loopback_outlive_the_agent_and_are_adopted() {
    let (world, _backends) = world("node-ports-restart");
    let pod = world.pod();
    let check = |when: &str| {
        meets_both_on_loopback(when, &world, Tcp, "127.0.0.5:30080");
        let error = Client::Pod(&pod).error("127.0.0.5:30080");
        assert_eq!(error, Some(libc::ECONNREFUSED), "{when}");
    };
    check("first");
    world.take_agent().kill();
    check("without an agent");
    world.start_agent();
    check("the next");
}

#[test]
fn affinity_covers_the_node_port_at_every_address() {
    let (world, _backends) = world("node-ports-affinity");
    let _more = apply(&world, "kept", "20", 30090, Some(10_800));
    let pod = world.pod();
    let all = ["10.96.0.20:80", "198.51.100.1:30090", "127.0.0.1:30090"];
    let of_the_host = if has_node_ports_on_loopback() { &all[..] } else { &all[..2] };
    let rows = [("host", Client::Host(&world), of_the_host), ("pod", Client::Pod(&pod), &all[..2])];
    for (row, client, all) in rows {
        let met: BTreeSet<String> = (0..DRAWS)
            .map(|round| {
                let to = all[round % all.len()];
                let socket = client.socket(Kind::Tcp4);
                socket.dial(to).unwrap_or_else(|error| panic!("{row}: {to}: {error}"));
                socket.request().unwrap()
            })
            .collect();
        assert_eq!(met.len(), 1, "{row}: {met:?}");
    }
}

#[test]
fn client_bound_to_loopback_is_left_alone_there() {
    let (world, _backends) = world("node-ports-bound");
    // These backends stand in for kube-proxy, which would answer there.
    let servers = [Tcp, Udp].map(|protocol| {
        ["127.0.0.1:30080", "127.0.0.5:30080", "[::1]:30080"]
            .map(|address| world.backend("own", protocol, address))
    });
    let rows = [
        ("127.0.0.1:0", "127.0.0.1:30080"),
        ("127.0.0.9:0", "127.0.0.1:30080"),
        ("127.0.0.1:0", "127.0.0.5:30080"),
        ("[::1]:0", "[::1]:30080"),
        ("[::ffff:127.0.0.1]:0", "[::ffff:127.0.0.1]:30080"),
        ("[::ffff:127.1.2.3]:0", "[::ffff:127.0.0.5]:30080"),
    ];
    for (bound, dialled) in rows {
        for protocol in [Tcp, Udp] {
            let row = format!("{protocol:?} from {bound} to {dialled}");
            let socket = || {
                let socket = world.socket(Kind::of(protocol, at(dialled)));
                socket.raw().bind(&at(bound).into()).unwrap();
                socket
            };
            let connected = socket();
            connected.dial(dialled).unwrap_or_else(|error| panic!("{row}: {error}"));
            let answer = connected.request().unwrap_or_else(|error| panic!("{row}: {error}"));
            assert_eq!((&*answer, connected.peer().unwrap()), ("own", at(dialled)), "{row}");
            if protocol == Udp {
                let answer = socket().request_to(dialled);
                let answer = answer.unwrap_or_else(|error| panic!("{row}, unconnected: {error}"));
                assert_eq!((&*answer.backend, answer.from), ("own", at(dialled)), "{row}");
            }
        }
    }
    // The kernel keeps the local address that an earlier connect gave to a UDP socket.
    let again = world.socket(Kind::Udp4);
    again.dial("127.0.0.5:30081").unwrap();
    assert_eq!(again.local().unwrap().ip(), at("127.0.0.1:0").ip());
    again.dial("127.0.0.1:30080").unwrap();
    assert_eq!(again.request().unwrap(), "own");
    assert_eq!(world.origins(), [], "nothing was translated");
    drop(servers);
    // A client bound to any address, or to one of the node's, is served as usual.
    for bound in ["0.0.0.0:0", "198.51.100.1:0"] {
        let socket = world.socket(Kind::Tcp4);
        socket.raw().bind(&at(bound).into()).unwrap();
        let dialled = socket.dial("127.0.0.1:30080");
        if !has_node_ports_on_loopback() {
            assert_eq!(dialled.unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED), "{bound}");
            continue;
        }
        dialled.unwrap_or_else(|error| panic!("{bound}: {error}"));
        assert!(socket.request().unwrap().starts_with("v4-"), "{bound}");
    }
}

#[test]
fn an_unknown_node_name_is_reported_once_and_case_is_ignored() {
    for (given, expected) in [(" HERE", 0), ("elsewhere", 1)] {
        let world =
            World::builder("node-name").agent_args(["--node", given]).without_agent().start();
        world.node(["198.51.100.1"]);
        let a = world.backend("a", Tcp, "10.244.0.1:8080");
        let service = world.service("default/web").cluster_ip("10.96.0.10").port(80, Tcp);
        service.node_port(PORT).backends([&a]).write();
        world.start_agent();
        let log = world.agent_log();
        assert_eq!(log.matches("no Node of this name").count(), expected, "{given:?}: {log}");
        let response = world.request(Tcp, "198.51.100.1:30080");
        assert_eq!(response.is_ok(), expected == 0, "{given:?}: {response:?}");
    }
    // Without any Node in the files, no name is reported.
    let world = World::builder("node-none").agent_args(["--node", "elsewhere"]).start();
    world.settle();
    assert!(!world.agent_log().contains("no Node"), "{}", world.agent_log());
}
