//! Node ports: at the node's addresses for every client, on loopback for the host's only.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use svclb_tests::{Backend, Feature, Kind, Pod, Protocol, Socket, Tcp, Udp, World, at, eventually};

/// Enough draws that one of two backends is missed once in 2^59 runs.
const DRAWS: usize = 60;
/// Every Service has this node port.
const PORT: u16 = 30080;

/// A node with the addresses 198.51.100.1 and 2001:db8:b::1, and a Service of both families with two
/// backends of each and the same node port over both protocols.
fn world(name: &str) -> (World, Vec<Backend>) {
    let world = World::builder(name).agent_args(["--node", "here"]).start();
    world.node(["198.51.100.1", "2001:db8:b::1"]);
    let backends = apply(&world, "web", "10", PORT, None);
    (world, backends)
}

/// The Service with ClusterIPs that end so.
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

/// Either of the two clients that a node has.
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

    /// The error number of a connect, over TCP.
    fn error(self, to: &str) -> Option<i32> {
        let socket = self.socket(Kind::of(Tcp, at(to)));
        socket.dial(to).err().and_then(|error: io::Error| error.raw_os_error())
    }
}

/// Dials so often that both backends of the family are met, in each way, and looks at the names.
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
    if has_loopback() {
        meets_both(row, client, protocol, dialled);
    } else if protocol == Tcp {
        assert_eq!(client.error(dialled), Some(libc::ECONNREFUSED), "{row}: {dialled}");
    }
}

/// Whether node ports are served on loopback: not by an agent that cannot ask which namespace it is in,
/// if that is not the machine's first one (docs/decisions/0009). Nothing hides the host's own there.
fn has_loopback() -> bool {
    Feature::NetnsCookie.is_supported()
}

#[test]
fn the_nodes_own_addresses_serve_the_host_and_the_pods() {
    let (world, _backends) = world("node-ports");
    let pod = world.pod();
    for (row, client) in [("host", Client::Host(&world)), ("pod", Client::Pod(&pod))] {
        for protocol in [Tcp, Udp] {
            let mapped = "[::ffff:198.51.100.1]:30080";
            for dialled in ["198.51.100.1:30080", "[2001:db8:b::1]:30080", mapped] {
                meets_both(row, client, protocol, dialled);
            }
        }
        // Another port of the node is no Service's.
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
fn loopback_serves_the_host_under_every_name_that_it_has() {
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
    // What is no node port is the host's own, and is never shown as a Service.
    let own = world.backend("own", Tcp, "127.0.0.1:30081");
    let socket = world.dial(Tcp, &own).unwrap();
    assert_eq!((socket.peer().unwrap(), socket.request().unwrap()), (own.address(), "own".into()));
    let client = Client::Host(&world);
    assert_eq!(client.error("127.0.0.5:30081"), Some(libc::ECONNREFUSED), "another address of it");
    assert_ne!(client.error("255.0.0.1:30080"), None, "no loopback");
}

#[test]
fn a_pods_loopback_is_its_own() {
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
    // Elsewhere the pod has the node port.
    meets_both("pod", client, Tcp, "198.51.100.1:30080");
}

#[test]
fn a_node_port_follows_the_nodes_addresses() {
    let (world, _backends) = world("node-ports-moves");
    let pod = world.pod();
    world.node(["198.51.100.3", "2001:db8:b::1"]);
    world.settle();
    let client = Client::Pod(&pod);
    assert_eq!(client.error("198.51.100.1:30080"), Some(libc::EACCES), "it is the node's no more");
    meets_both("pod", client, Tcp, "198.51.100.3:30080");
    meets_both("pod", client, Tcp, "[2001:db8:b::1]:30080");
    meets_both_on_loopback("host", &world, Tcp, "127.0.0.1:30080");
}

#[test]
fn a_node_port_without_backends_refuses_and_goes_with_its_service() {
    let world = World::builder("node-ports-none").agent_args(["--node", "here"]).start();
    world.node(["198.51.100.1"]);
    let service = world.service("default/web").cluster_ip("10.96.0.10").port(80, Tcp);
    service.node_port(PORT).apply();
    // Somebody on the host listens there: the node port hides it, as kube-proxy's rules would.
    let own = world.backend("own", Tcp, "127.0.0.1:30080");
    let client = Client::Host(&world);
    let on_loopback = if has_loopback() { Some(libc::ECONNREFUSED) } else { None };
    assert_eq!(client.error("127.0.0.1:30080"), on_loopback);
    assert_eq!(client.error("198.51.100.1:30080"), Some(libc::ECONNREFUSED));
    world.remove("default/web");
    world.settle();
    eventually("the host's loopback is its own again", || {
        let answer = world.request(Tcp, &own).map_err(|error| error.to_string())?;
        if answer == "own" { Ok(()) } else { Err(answer) }
    });
}

#[test]
fn node_ports_on_loopback_outlive_the_agent_and_are_the_next_ones_too() {
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
fn affinity_covers_the_node_port_wherever_it_is_dialled() {
    let (world, _backends) = world("node-ports-affinity");
    let _more = apply(&world, "kept", "20", 30090, Some(10_800));
    let pod = world.pod();
    let all = ["10.96.0.20:80", "198.51.100.1:30090", "127.0.0.1:30090"];
    let of_the_host = if has_loopback() { &all[..] } else { &all[..2] };
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
    // They stand in for kube-proxy, which would answer there.
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
    // The kernel keeps the address that an earlier connect gave to a UDP socket.
    let again = world.socket(Kind::Udp4);
    again.dial("127.0.0.5:30081").unwrap();
    assert_eq!(again.local().unwrap().ip(), at("127.0.0.1:0").ip());
    again.dial("127.0.0.1:30080").unwrap();
    assert_eq!(again.request().unwrap(), "own");
    assert_eq!(world.origins(), [], "nothing was translated");
    drop(servers);
    // Bound to every address, or to one of the node's, a client is served as any.
    for bound in ["0.0.0.0:0", "198.51.100.1:0"] {
        let socket = world.socket(Kind::Tcp4);
        socket.raw().bind(&at(bound).into()).unwrap();
        let dialled = socket.dial("127.0.0.1:30080");
        if !has_loopback() {
            assert_eq!(dialled.unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED), "{bound}");
            continue;
        }
        dialled.unwrap_or_else(|error| panic!("{bound}: {error}"));
        assert!(socket.request().unwrap().starts_with("v4-"), "{bound}");
    }
}

#[test]
fn a_node_name_that_no_node_of_the_files_has_is_reported_once_and_case_does_not_matter() {
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
        let asked = world.request(Tcp, "198.51.100.1:30080");
        assert_eq!(asked.is_ok(), expected == 0, "{given:?}: {asked:?}");
    }
    // Files without any Node say nothing about names.
    let world = World::builder("node-none").agent_args(["--node", "elsewhere"]).start();
    world.settle();
    assert!(!world.agent_log().contains("no Node"), "{}", world.agent_log());
}
