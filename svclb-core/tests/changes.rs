//! Changes of a Service and of its slices by name: the backends before and after, with one agent that keeps
//! running and one that is restarted in between.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use common::{Agent, ip, meta, object};
use svclb_common::layout::{Protocol, Scope};
use svclb_core::model::{Endpoint, Families, Node, Service, ServicePort, Slice, SlicePort, Update};
use svclb_core::table::Table as _;

/// A frontend such as `10.96.0.1 80/TCP`, and its backends.
type Served = BTreeMap<String, Vec<String>>;

fn protocol(name: &str) -> Protocol {
    match name {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        other => panic!("no protocol {other}"),
    }
}

/// The Service `web` with these addresses and ports, such as `http=80/TCP` or `http=80/TCP:30080`.
fn web(ips: &[&str], ports: &[&str]) -> Update {
    let port = |text: &&str| {
        let (name, rest) = text.split_once('=').unwrap();
        let (number, rest) = rest.split_once('/').unwrap();
        let (of, node_port) = rest.split_once(':').unwrap_or((rest, ""));
        ServicePort {
            name: name.into(),
            protocol: protocol(of),
            port: number.parse().unwrap(),
            node_port: node_port.parse().ok(),
        }
    };
    let service = Service {
        created: Some(0),
        cluster_ips: ips.iter().map(|text| ip(text)).collect(),
        ports: ports.iter().map(port).collect(),
        ..Service::default()
    };
    Update::Service(object("web"), Some(service))
}

/// A slice of it with such ports and endpoints: an address and its conditions (`r`, `s`, `t`).
fn slice(name: &str, ports: &[&str], endpoints: &[&str]) -> Update {
    let port = |text: &&str| {
        let (name, rest) = text.split_once('=').unwrap();
        let (number, of) = rest.split_once('/').unwrap();
        SlicePort { name: name.into(), protocol: protocol(of), port: number.parse().unwrap() }
    };
    let endpoint = |text: &&str| {
        let (address, said) = text.split_once(' ').unwrap();
        let [ready, serving, terminating] = ['r', 's', 't'].map(|letter| said.contains(letter));
        (ip(address), Endpoint { ready, serving, terminating, ..Endpoint::default() })
    };
    let slice = Slice {
        service: object("web"),
        ports: ports.iter().map(port).collect(),
        endpoints: endpoints.iter().map(endpoint).collect(),
        triggered: None,
        omitted: None,
        notes: 0,
    };
    Update::Slice(object(name), Some(slice))
}

fn served(agent: &mut Agent) -> Served {
    let dump = agent.table.load().unwrap();
    let held = dump.lines.iter().map(|(_, line)| line).filter(|line| line.protocol != 0);
    let shown = |line: &svclb_common::layout::Line| {
        let of = Protocol::from_number(line.protocol.into()).unwrap().name();
        let host = if line.scope == Scope::Host as u8 { " host" } else { "" };
        let slots = line.set.first..line.set.first.saturating_add(line.set.count);
        let backend = |number| {
            let slot = agent.table.inner.slot(number).unwrap().read();
            format!("{} {}", slot.address, slot.port)
        };
        (format!("{} {}/{of}{host}", line.address, line.port), slots.map(backend).collect())
    };
    held.map(shown).collect()
}

fn expected(lines: &[&str]) -> Served {
    let line = |line: &&str| {
        let (frontend, backends) = line.split_once(" -> ").unwrap();
        let backends = backends.split(", ").filter(|it| !it.is_empty());
        (frontend.to_owned(), backends.map(str::to_owned).collect())
    };
    lines.iter().map(line).collect()
}

struct Row {
    name: &'static str,
    /// The first batch and the backends after it; the second batch and the backends after that.
    before: Vec<Update>,
    then: &'static [&'static str],
    after: Vec<Update>,
    at_last: &'static [&'static str],
}

const GONE: fn() -> Update = || Update::Service(object("web"), None);

fn changes_of_services() -> Vec<Row> {
    let one = || slice("a", &["http=8080/TCP"], &["10.0.0.1 rs"]);
    let plain = || web(&["10.96.0.1"], &["http=80/TCP"]);
    let served: &[&str] = &["10.96.0.1 80/TCP -> 10.0.0.1 8080"];
    vec![
        Row {
            name: "becomes headless, ExternalName or another proxy's",
            before: vec![one(), plain()],
            then: served,
            after: vec![GONE()],
            at_last: &[],
        },
        Row {
            name: "was headless, ExternalName or another proxy's",
            before: vec![one(), GONE()],
            then: &[],
            after: vec![plain()],
            at_last: served,
        },
        Row {
            name: "is made anew with another ClusterIP",
            before: vec![one(), plain()],
            then: served,
            after: vec![GONE(), web(&["10.96.0.2"], &["http=80/TCP"])],
            at_last: &["10.96.0.2 80/TCP -> 10.0.0.1 8080"],
        },
        Row {
            name: "becomes dual stack",
            before: vec![one(), plain()],
            then: served,
            after: vec![
                web(&["10.96.0.1", "fd00::1"], &["http=80/TCP"]),
                slice("b", &["http=8080/TCP"], &["fd01::1 rs"]),
            ],
            at_last: &["10.96.0.1 80/TCP -> 10.0.0.1 8080", "fd00::1 80/TCP -> fd01::1 8080"],
        },
        Row {
            name: "a family without endpoints",
            before: vec![one(), web(&["10.96.0.1", "fd00::1"], &["http=80/TCP"])],
            then: &["10.96.0.1 80/TCP -> 10.0.0.1 8080", "fd00::1 80/TCP -> "],
            after: vec![web(&["fd00::1"], &["http=80/TCP"])],
            at_last: &["fd00::1 80/TCP -> "],
        },
        Row {
            name: "a port is added that has no endpoints, and one goes",
            before: vec![one(), plain()],
            then: served,
            after: vec![web(&["10.96.0.1"], &["https=443/TCP"])],
            at_last: &["10.96.0.1 443/TCP -> "],
        },
        Row {
            name: "a port is renamed before its slice is",
            before: vec![one(), plain()],
            then: served,
            after: vec![web(&["10.96.0.1"], &["web=80/TCP"])],
            at_last: &["10.96.0.1 80/TCP -> "],
        },
        Row {
            name: "a port is renamed with its slice",
            before: vec![one(), plain()],
            then: served,
            after: vec![
                web(&["10.96.0.1"], &["web=80/TCP"]),
                slice("a", &["web=8080/TCP"], &["10.0.0.1 rs"]),
            ],
            at_last: served,
        },
        Row {
            name: "a port's number changes",
            before: vec![one(), plain()],
            then: served,
            after: vec![web(&["10.96.0.1"], &["http=81/TCP"])],
            at_last: &["10.96.0.1 81/TCP -> 10.0.0.1 8080"],
        },
        Row {
            name: "a port's protocol changes",
            before: vec![
                slice("a", &["dns=53/TCP", "dns=5353/UDP"], &["10.0.0.1 rs"]),
                web(&["10.96.0.1"], &["dns=53/TCP"]),
            ],
            then: &["10.96.0.1 53/TCP -> 10.0.0.1 53"],
            after: vec![web(&["10.96.0.1"], &["dns=53/UDP"])],
            at_last: &["10.96.0.1 53/UDP -> 10.0.0.1 5353"],
        },
        Row {
            name: "one number for both protocols",
            before: vec![
                slice("a", &["dns=53/TCP", "dns=5353/UDP"], &["10.0.0.1 rs"]),
                web(&["10.96.0.1"], &["dns=53/TCP", "dns=53/UDP"]),
            ],
            then: &["10.96.0.1 53/TCP -> 10.0.0.1 53", "10.96.0.1 53/UDP -> 10.0.0.1 5353"],
            after: vec![web(&["10.96.0.1"], &["dns=53/TCP"])],
            at_last: &["10.96.0.1 53/TCP -> 10.0.0.1 53"],
        },
        Row {
            name: "gets a node port and loses it",
            before: vec![one(), web(&["10.96.0.1"], &["http=80/TCP:30080"])],
            then: &[
                "10.96.0.1 80/TCP -> 10.0.0.1 8080",
                "127.0.0.1 30080/TCP host -> 10.0.0.1 8080",
                "192.0.2.5 30080/TCP -> 10.0.0.1 8080",
            ],
            after: vec![plain()],
            at_last: served,
        },
    ]
}

/// `web` with a load balancer address, as in the API object.
fn balanced(is_vip: bool, ranges: bool) -> Update {
    let Update::Service(name, Some(service)) = web(&["10.96.0.1"], &["http=80/TCP"]) else {
        panic!("a Service")
    };
    let load_balancer_ips = if is_vip { vec![ip("192.0.2.9")] } else { Vec::new() };
    let source_ranges = Families { v4: ranges, v6: false };
    Update::Service(name, Some(Service { load_balancer_ips, source_ranges, ..service }))
}

fn changes_of_balancers() -> Vec<Row> {
    let one = || slice("a", &["http=8080/TCP"], &["10.0.0.1 rs"]);
    let inside: &[&str] = &["10.96.0.1 80/TCP -> 10.0.0.1 8080"];
    let both: &[&str] = &["10.96.0.1 80/TCP -> 10.0.0.1 8080", "192.0.2.9 80/TCP -> 10.0.0.1 8080"];
    let row = |name, (before, then), (after, at_last)| Row {
        name,
        before: vec![one(), before],
        then,
        after: vec![after],
        at_last,
    };
    let (vip, proxy, ranges) =
        (balanced(true, false), balanced(false, false), balanced(true, true));
    vec![
        row("ipMode becomes Proxy", (vip.clone(), both), (proxy.clone(), inside)),
        row("ipMode becomes VIP", (proxy.clone(), inside), (vip.clone(), both)),
        row("source ranges are added", (vip.clone(), both), (ranges.clone(), inside)),
        row("source ranges are removed", (ranges.clone(), inside), (vip, both)),
        row("ipMode becomes Proxy under source ranges", (ranges, inside), (proxy, inside)),
    ]
}

fn changes_of_slices() -> Vec<Row> {
    let plain = || web(&["10.96.0.1"], &["http=80/TCP"]);
    let of = |name, endpoints: &[&str]| slice(name, &["http=8080/TCP"], endpoints);
    vec![
        Row {
            name: "an endpoint moves from one slice to another, seen in both",
            before: vec![plain(), of("a", &["10.0.0.1 rs"]), of("b", &["10.0.0.1 rs"])],
            then: &["10.96.0.1 80/TCP -> 10.0.0.1 8080"],
            after: vec![of("a", &[])],
            at_last: &["10.96.0.1 80/TCP -> 10.0.0.1 8080"],
        },
        Row {
            name: "an address is reused while its old endpoint terminates",
            before: vec![plain(), of("a", &["10.0.0.1 st", "10.0.0.2 st"])],
            then: &["10.96.0.1 80/TCP -> 10.0.0.1 8080, 10.0.0.2 8080"],
            after: vec![of("b", &["10.0.0.1 rs"])],
            at_last: &["10.96.0.1 80/TCP -> 10.0.0.1 8080"],
        },
        Row {
            name: "slices give different numbers for one port",
            before: vec![
                plain(),
                of("a", &["10.0.0.1 rs"]),
                slice("b", &["http=9090/TCP"], &["10.0.0.2 rs"]),
            ],
            then: &["10.96.0.1 80/TCP -> 10.0.0.1 8080, 10.0.0.2 9090"],
            after: vec![slice("b", &["http=9090/TCP"], &["10.0.0.1 rs", "10.0.0.2 rs"])],
            at_last: &["10.96.0.1 80/TCP -> 10.0.0.1 8080, 10.0.0.1 9090, 10.0.0.2 9090"],
        },
        Row {
            name: "endpoints of the other family are not used",
            before: vec![plain(), of("a", &["10.0.0.1 rs", "fd01::1 rs"])],
            then: &["10.96.0.1 80/TCP -> 10.0.0.1 8080"],
            after: vec![of("a", &["fd01::1 rs"])],
            at_last: &["10.96.0.1 80/TCP -> "],
        },
        Row {
            name: "the last one becomes unready, and serves while it terminates",
            before: vec![plain(), of("a", &["10.0.0.1 s"])],
            then: &["10.96.0.1 80/TCP -> "],
            after: vec![of("a", &["10.0.0.1 st"])],
            at_last: &["10.96.0.1 80/TCP -> 10.0.0.1 8080"],
        },
        Row {
            name: "slices come before their Service and stay after it",
            before: vec![of("a", &["10.0.0.1 rs"])],
            then: &[],
            after: vec![plain()],
            at_last: &["10.96.0.1 80/TCP -> 10.0.0.1 8080"],
        },
    ]
}

/// The own node, in a zone and with these addresses.
fn node(zone: Option<&str>, addresses: &[&str]) -> Update {
    let addresses = addresses.iter().map(|text| ip(text)).collect();
    Update::Node(Some(Node {
        name: "here".into(),
        zone: zone.map(Into::into),
        addresses,
        is_leaving: false,
    }))
}

/// Another Service, with this external IP and the port that is the node port of `web`.
fn other(external: &str, created: i64) -> [Update; 2] {
    let port =
        ServicePort { name: "x".into(), protocol: Protocol::Tcp, port: 30080, node_port: None };
    let service = Service {
        created: Some(created),
        cluster_ips: vec![ip("10.96.0.2")],
        external_ips: vec![ip(external)],
        ports: vec![port],
        ..Service::default()
    };
    let slice = Slice {
        service: object("other"),
        ports: [SlicePort { name: "x".into(), protocol: Protocol::Tcp, port: 9090 }].into(),
        endpoints: [(ip("10.0.0.2"), Endpoint::default())].into_iter().collect(),
        triggered: None,
        omitted: None,
        notes: 0,
    };
    [Update::Service(object("other"), Some(service)), Update::Slice(object("other"), Some(slice))]
}

fn changes_of_nodes() -> Vec<Row> {
    let hinted = || {
        let endpoint = |(address, zone): (&str, &str)| {
            (ip(address), Endpoint { zone_hints: [zone.into()].into(), ..Endpoint::default() })
        };
        let Update::Slice(name, Some(slice)) = slice("a", &["http=8080/TCP"], &[]) else {
            panic!("a slice")
        };
        let endpoints = [("10.0.0.1", "y"), ("10.0.0.2", "z")].map(endpoint);
        Update::Slice(name, Some(Slice { endpoints: endpoints.into_iter().collect(), ..slice }))
    };
    let plain = || web(&["10.96.0.1"], &["http=80/TCP"]);
    let with_node_port = |created| {
        let Update::Service(name, Some(service)) = web(&["10.96.0.1"], &["http=80/TCP:30080"])
        else {
            panic!("a Service")
        };
        Update::Service(name, Some(Service { created: Some(created), ..service }))
    };
    let one = || slice("a", &["http=8080/TCP"], &["10.0.0.1 rs"]);
    let two = |created, address, older| {
        let mut before = vec![node(None, &[address]), one(), with_node_port(created)];
        before.extend(other("192.0.2.5", older));
        before
    };
    let node_port: &[&str] = &[
        "10.96.0.1 80/TCP -> 10.0.0.1 8080",
        "10.96.0.2 30080/TCP -> 10.0.0.2 9090",
        "127.0.0.1 30080/TCP host -> 10.0.0.1 8080",
        "192.0.2.5 30080/TCP -> 10.0.0.1 8080",
    ];
    let apart: &[&str] = &[
        "10.96.0.1 80/TCP -> 10.0.0.1 8080",
        "10.96.0.2 30080/TCP -> 10.0.0.2 9090",
        "127.0.0.1 30080/TCP host -> 10.0.0.1 8080",
        "192.0.2.5 30080/TCP -> 10.0.0.2 9090",
        "192.0.2.6 30080/TCP -> 10.0.0.1 8080",
    ];
    let in_zone: &[&str] = &["10.96.0.1 80/TCP -> 10.0.0.2 8080"];
    let anywhere: &[&str] = &["10.96.0.1 80/TCP -> 10.0.0.1 8080, 10.0.0.2 8080"];
    vec![
        Row {
            name: "the node loses its zone",
            before: vec![node(Some("z"), &[]), hinted(), plain()],
            then: in_zone,
            after: vec![node(None, &[])],
            at_last: anywhere,
        },
        Row {
            name: "the node gets its zone",
            before: vec![node(None, &[]), hinted(), plain()],
            then: anywhere,
            after: vec![node(Some("z"), &[])],
            at_last: in_zone,
        },
        Row {
            name: "an older Service's external IP becomes the node's address",
            before: two(1, "192.0.2.6", 0),
            then: apart,
            after: vec![node(None, &["192.0.2.5"])],
            at_last: node_port,
        },
        Row {
            name: "a younger Service's external IP becomes the node's address",
            before: two(0, "192.0.2.6", 1),
            then: apart,
            after: vec![node(None, &["192.0.2.5"])],
            at_last: node_port,
        },
        Row {
            name: "an external IP is the node's address no more",
            before: two(0, "192.0.2.5", 1),
            then: node_port,
            after: vec![node(None, &["192.0.2.6"])],
            at_last: apart,
        },
        Row {
            name: "the Service with the node port goes",
            before: two(0, "192.0.2.5", 1),
            then: node_port,
            after: vec![GONE()],
            at_last: &[
                "10.96.0.2 30080/TCP -> 10.0.0.2 9090",
                "192.0.2.5 30080/TCP -> 10.0.0.2 9090",
            ],
        },
    ]
}

#[test]
fn after_each_change_just_what_is_asked_for_is_served() {
    for Row { name, before, then, after, at_last } in
        [changes_of_services(), changes_of_balancers(), changes_of_slices(), changes_of_nodes()]
            .into_iter()
            .flatten()
    {
        let node =
            Node { name: "here".into(), addresses: vec![ip("192.0.2.5")], ..Node::default() };
        for restarts in [false, true] {
            let mut agent = Agent::new(meta(256, 1024));
            agent.ingest([Update::Node(Some(node.clone()))]).ingest(before.clone()).pass();
            assert_eq!(served(&mut agent), expected(then), "{name}: before");
            if restarts {
                agent.restart();
            }
            agent.ingest(after.clone());
            assert!(agent.pass().failed.is_empty(), "{name}");
            assert_eq!(served(&mut agent), expected(at_last), "{name}: after");
        }
    }
}

#[test]
fn whoever_settled_on_a_backend_asks_again_once_the_frontend_is_under_another_policy() {
    let mut agent = Agent::new(meta(256, 1024));
    let slices = || slice("a", &["http=8080/TCP"], &["10.0.0.1 rs"]);
    let generation = |agent: &mut Agent| {
        let dump = agent.table.load().unwrap();
        let mut lines = dump.lines.iter().map(|(_, line)| line);
        let line = lines.find(|line| line.address == ip("10.96.0.1").into()).unwrap();
        assert_eq!(line.heir, 0);
        line.generation
    };
    agent.ingest([slices(), web(&["10.96.0.1"], &["http=80/TCP"])]).pass();
    let before = generation(&mut agent);
    let Update::Service(name, Some(mut service)) = web(&["10.96.0.2"], &["http=80/TCP"]) else {
        panic!("a Service")
    };
    service.external_ips = vec![ip("10.96.0.1")];
    agent.ingest([Update::Service(name, Some(service))]).pass();
    assert_eq!(generation(&mut agent), before + 1);
}
