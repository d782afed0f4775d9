//! Each kind of change by name, as events: those before it, and its own.
//!
//! In each there is another Service that the change does not concern.

use std::collections::BTreeSet;

use super::world::ObjectKind;
use super::*;

pub(super) struct Change {
    pub(super) name: &'static str,
    pub(super) before: Vec<Event>,
    pub(super) after: Vec<Event>,
}

/// Ample maps, and maps with so few lines that frontends collide.
pub(super) fn maps() -> [(&'static str, Meta); 2] {
    [("room", meta(64, 64)), ("collisions", meta(32, 64))]
}

/// The cluster before the change, and an agent that has applied it.
pub(super) fn before(change: &Change, meta: Meta) -> (World, Agent) {
    let (mut world, mut agent) = (World::default(), Agent::new(meta));
    // Other tests check the steps to this state.
    agent.table.checks_steps = false;
    for event in &change.before {
        agent.ingest(&mut world, event);
        let done = agent.pass();
        assert!(done.failed.is_empty() && done.unplaced.is_empty(), "{done:?}");
    }
    agent.table.checks_steps = true;
    (world, agent)
}

/// The number of operations that a change takes, and their kinds.
pub(super) fn operations(change: &Change, meta: Meta) -> (usize, BTreeSet<&'static str>) {
    let (mut world, mut agent) = before(change, meta);
    agent.table.kinds.clear();
    change.after.iter().for_each(|event| agent.ingest(&mut world, event));
    let first = agent.table.table.operations;
    let done = agent.pass();
    assert!(done.failed.is_empty() && done.unplaced.is_empty(), "{done:?}");
    (agent.table.table.operations - first, agent.table.kinds)
}

/// Prints the row of a table test that panics.
pub(super) struct Row(pub(super) String);

impl Drop for Row {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0);
        }
    }
}

/// A Service with one address and one port.
fn spec(name: u8) -> Spec {
    Spec { name, ips: vec![2 * name], ports: vec![0], age: 1, ..Spec::default() }
}

fn service(spec: Spec) -> Event {
    Event::Service(spec)
}

/// The ready backends of a Service; even ones are IPv4, and from number 4 on they are on another node.
fn ready(name: u8, backends: &[usize]) -> Event {
    let state = |at| u8::from(backends.contains(&at));
    Event::Endpoints { name, states: (0..7).map(state).collect() }
}

fn states(name: u8, states: &[u8]) -> Event {
    Event::Endpoints { name, states: states.to_vec() }
}

fn node(zone: Option<u8>, addresses: &[u8]) -> Event {
    Event::Node(Some((zone, addresses.to_vec())))
}

/// Two Services, each with backends of both families.
fn two() -> Vec<Event> {
    vec![service(spec(0)), ready(0, &[0, 1, 2]), service(spec(1)), ready(1, &[3, 4, 6])]
}

fn change(name: &'static str, after: Vec<Event>) -> Change {
    Change { name, before: two(), after }
}

/// The same after further events.
fn from(name: &'static str, before: Vec<Event>, after: Vec<Event>) -> Change {
    Change { name, before: [two(), before].concat(), after }
}

/// The changes from one state of a Service to another, and back.
fn both(there: &'static str, back: &'static str, one: &Spec, other: &Spec) -> [Change; 2] {
    let [one, other] = [one, other].map(|it| service(it.clone()));
    [from(there, vec![one.clone()], vec![other.clone()]), from(back, vec![other], vec![one])]
}

pub(super) fn all() -> Vec<Change> {
    let all = [of_endpoints(), of_services(), of_owners(), of_nodes()];
    let far = Spec { name: 3, ips: vec![6], ports: vec![2], ..Spec::default() };
    let beside = [service(far), ready(3, &[4])];
    let with = |change: Change| Change { before: [&beside[..], &change.before].concat(), ..change };
    all.into_iter().flatten().map(with).collect()
}

fn of_endpoints() -> Vec<Change> {
    let affine = |affinity| service(Spec { affinity, ..spec(0) });
    vec![
        change("backends are replaced", vec![ready(0, &[4, 5, 6])]),
        change("a backend joins", vec![ready(0, &[0, 1, 2, 4])]),
        change("a backend leaves", vec![ready(0, &[0, 1])]),
        change("the last backend goes", vec![ready(0, &[])]),
        from("the first backend comes", vec![ready(0, &[])], vec![ready(0, &[0])]),
        change("one becomes unready", vec![states(0, &[1, 1, 4])]),
        change("all terminate, and serve", vec![states(0, &[3, 3, 3])]),
        from("one is ready again", vec![states(0, &[3, 3, 3])], vec![states(0, &[3, 3, 1])]),
        from("a backend leaves clients that return", vec![affine(9)], vec![ready(0, &[2])]),
        change("backends pass to another Service", vec![ready(0, &[4, 6]), ready(1, &[0, 2])]),
    ]
}

fn of_services() -> Vec<Change> {
    let plain = spec(0);
    let port = |number: u8| Spec { ports: vec![number], ..spec(0) };
    let ranged = Spec { balancer: Some(4), ranges: 1, ..spec(0) };
    let rows = [
        ("an address more", "an address less", Spec { ips: vec![0, 2, 4], ..spec(0) }),
        ("another address", "another address, back", Spec { ips: vec![4], ..spec(0) }),
        ("dual stack", "single stack", Spec { ips: vec![0, 1], ..spec(0) }),
        ("a port more", "a port less", Spec { ports: vec![0, 2], ..spec(0) }),
        ("a port is renamed", "a port is renamed back", port(1)),
        ("TCP becomes UDP", "UDP becomes TCP", port(2)),
        ("an external IP", "no external IP", Spec { external: Some(4), ..spec(0) }),
        ("a load balancer", "no load balancer", Spec { balancer: Some(4), ..spec(0) }),
        ("affinity", "no affinity", Spec { affinity: 9, ..spec(0) }),
        ("only local backends", "all backends", Spec { local: true, ..spec(0) }),
    ];
    let mut all: Vec<Change> =
        rows.into_iter().flat_map(|(there, back, it)| both(there, back, &plain, &it)).collect();
    let open = Spec { ranges: 0, ..ranged.clone() };
    all.extend(both("source ranges", "no source ranges", &open, &ranged));
    let outside = Spec { external: Some(4), local: true, ..spec(0) };
    let inside = Spec { ips: vec![4], external: Some(0), ..outside.clone() };
    all.extend(both("frontends swap policies", "and swap them back", &outside, &inside));
    let mut all_at_once = spec(0);
    (all_at_once.ips, all_at_once.ports, all_at_once.affinity) = (vec![0, 1, 4], vec![0, 2], 5);
    (all_at_once.external, all_at_once.local) = (Some(3), true);
    all.extend(both("all at once", "all at once, back", &plain, &all_at_once));
    all
}

fn of_owners() -> Vec<Change> {
    let claims = |age| service(Spec { external: Some(0), age, ..spec(1) });
    let takes = |ips: &[u8], name| service(Spec { ips: ips.to_vec(), ..spec(name) });
    vec![
        change("a new Service", vec![service(spec(2)), ready(2, &[0, 2, 4])]),
        change("a Service is deleted", vec![Event::Gone(0)]),
        change("a Service and its slices go", vec![Event::Gone(0), ready(0, &[])]),
        change("a list lacks a Service", vec![Event::Relist(ObjectKind::Service, 0)]),
        change("a list lacks the slices", vec![Event::Relist(ObjectKind::Slice, 0)]),
        change("an address passes to another", vec![Event::Gone(0), takes(&[2, 0], 1)]),
        change(
            "an address passes to a new one",
            vec![Event::Gone(0), takes(&[0], 2), ready(2, &[5, 6])],
        ),
        change("two swap their addresses", vec![takes(&[2], 0), takes(&[0], 1)]),
        change("an older one asks for an address", vec![claims(0)]),
        change("a younger one asks for an address", vec![claims(2)]),
        from("the older one gives it back", vec![claims(0)], vec![service(spec(1))]),
        from("the older one goes", vec![claims(0)], vec![Event::Gone(1)]),
        from("the younger one comes into its own", vec![claims(2)], vec![Event::Gone(0)]),
        from("it becomes the younger one", vec![claims(0)], vec![claims(2)]),
        change("all Services go", vec![Event::Gone(0), Event::Gone(1), Event::Gone(3)]),
    ]
}

fn of_nodes() -> Vec<Change> {
    let ported = || service(Spec { node_port: Some(80), ..spec(0) });
    let hinted = || states(0, &[5, 6, 5, 6, 6]);
    let here = |addresses| vec![ported(), node(None, addresses)];
    let interfaces = |numbers: &[u8]| Event::Interfaces(Some(numbers.to_vec()));
    vec![
        from("a node port comes", vec![node(None, &[4])], vec![ported()]),
        from("a node port goes", here(&[4]), vec![service(spec(0))]),
        from("the node gets another address", here(&[4]), vec![node(None, &[1])]),
        from("the node gets the address of a Service", here(&[4]), vec![node(None, &[2])]),
        from("the node is gone", here(&[4]), vec![Event::Node(None)]),
        from("the interfaces count", here(&[4]), vec![interfaces(&[1, 4])]),
        from(
            "an interface loses its address",
            vec![ported(), interfaces(&[1, 4])],
            vec![interfaces(&[4])],
        ),
        from("the node gets its zone", vec![hinted(), node(None, &[])], vec![node(Some(0), &[])]),
        from(
            "the node moves to another zone",
            vec![hinted(), node(Some(0), &[])],
            vec![node(Some(1), &[])],
        ),
    ]
}
