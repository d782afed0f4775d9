//! Passes in parts: an object waits for a bounded number of steps, however large another one is and however
//! often that changes.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::IpAddr;

use common::{Agent, find, ip, meta, object, service, set, slice};
use svclb_common::layout::{FrontendKey, Protocol};
use svclb_core::model::{Endpoint, Service, ServicePort, Slice, SlicePort, Update};
use svclb_core::plan::{Pass, part};
use svclb_core::size::sizes;

/// The effort of a part, in steps.
const EFFORT: usize = 200;
/// The most steps of a part: as many removals in addition, at least so many steps of a service that has its turn,
/// and a few more to complete a frontend.
const LEAST: usize = 1_024;
const MOST: usize = 2 * (EFFORT + LEAST) + 50;

/// The sizes of a large object.
#[derive(Clone, Copy)]
struct Large {
    name: &'static str,
    ports: u16,
    addresses: u16,
    endpoints: u32,
}

const LARGE: [Large; 3] = [
    Large { name: "ports", ports: 800, addresses: 1, endpoints: 2 },
    Large { name: "addresses", ports: 1, addresses: 800, endpoints: 2 },
    Large { name: "endpoints", ports: 1, addresses: 1, endpoints: 3_000 },
];

impl Large {
    fn agent(self) -> Agent {
        let (ports, addresses) = (usize::from(self.ports), usize::from(self.addresses));
        let sizes = sizes(2 * ports * addresses, 2 * ports * self.endpoints as usize);
        Agent::new(meta(sizes.index_lines, sizes.slots))
    }

    fn service(self) -> Update {
        self.service_of("large")
    }

    /// Its Service under another name, at other addresses.
    fn service_of(self, name: &str) -> Update {
        let network = if name == "large" { 97 } else { 98 };
        let port = |number: u16| ServicePort {
            name: format!("p{number}").into(),
            protocol: Protocol::Tcp,
            port: number,
            node_port: None,
        };
        let address = |number: u16| {
            let [high, low] = number.to_be_bytes();
            IpAddr::from([10, network, high, low])
        };
        let service = Service {
            cluster_ips: vec![address(0)],
            external_ips: (1..self.addresses).map(address).collect(),
            ports: (1..=self.ports).map(port).collect(),
            ..Service::default()
        };
        Update::Service(object(name), Some(service))
    }

    /// Its endpoints, from that one on.
    fn slice(self, first: u32) -> Update {
        self.slice_of("large", first)
    }

    /// The same for its Service of another name.
    fn slice_of(self, name: &str, first: u32) -> Update {
        let port = |number: u16| SlicePort {
            name: format!("p{number}").into(),
            protocol: Protocol::Tcp,
            port: 8080,
        };
        let endpoint = |number: u32| {
            let [_, high, middle, low] = number.to_be_bytes();
            (IpAddr::from([10, 128 + high, middle, low]), Endpoint::default())
        };
        let slice = Slice {
            service: object(name),
            ports: (1..=self.ports).map(port).collect(),
            endpoints: (first..first + self.endpoints).map(endpoint).collect(),
            triggered: None,
            omitted: None,
            notes: 0,
        };
        Update::Slice(object(name), Some(slice))
    }
}

/// Returns true when a port of the large object has the first endpoint of its slice from 0 on.
fn has_first_endpoint(agent: &Agent, port: u16) -> bool {
    let key = FrontendKey {
        address: ip("10.97.0.0").into(),
        port,
        protocol: Protocol::Tcp as u8,
        scope: 0,
        _pad: 0,
    };
    let number = agent.table.inner.frontend(&key).unwrap().line;
    let line = agent.table.inner.line(number).unwrap().read();
    common::backends(&agent.table.inner, &line).contains("10.128.0.0")
}

fn next_part(agent: &mut Agent) -> Pass {
    let done = part(&mut agent.planner, &mut agent.table, &mut agent.catalog, EFFORT);
    let freed = agent.planner.take_freed();
    agent.planner.release(freed);
    assert!(done.failed.is_empty() && done.unplaced.is_empty(), "{done:?}");
    done
}

/// Runs parts until no object is under way. Returns their number, and the most steps of one.
fn parts(agent: &mut Agent) -> (usize, usize) {
    agent.catalog.recall();
    let (mut parts, mut most) = (0, 0);
    loop {
        most = most.max(next_part(agent).steps);
        parts += 1;
        if !agent.planner.is_under_way() && !agent.catalog.is_dirty() {
            return (parts, most);
        }
        assert!(parts < 10_000, "it does not come to an end");
        if !agent.planner.is_under_way() {
            agent.catalog.recall();
        }
    }
}

/// The changes of a large object, one after the other.
fn life(large: Large) -> [(&'static str, Vec<Update>); 5] {
    let gone = Update::Service(object("large"), None);
    [
        ("comes", vec![large.slice(0), large.service()]),
        ("an endpoint changes", vec![large.slice(1)]),
        ("all endpoints change, to others behind these", vec![large.slice(100_000)]),
        ("all endpoints change, to others before these", vec![large.slice(0)]),
        ("goes", vec![gone]),
    ]
}

#[test]
fn a_part_of_a_pass_is_bounded_whatever_the_size_of_an_object() {
    for large in LARGE {
        let mut agent = large.agent();
        for (what, updates) in life(large) {
            agent.ingest(updates);
            let (parts, most) = parts(&mut agent);
            println!("{}, {what}: {parts} parts, at most {most} steps", large.name);
            assert!(most <= MOST, "{}, {what}: {most} steps in one part", large.name);
            agent.mark_all();
            assert_eq!(agent.pass().steps, 0, "{}, {what}: nothing is left to do", large.name);
        }
    }
}

#[test]
fn a_small_change_waits_for_one_part_of_large_objects_that_are_rewritten_all_the_time() {
    for large in LARGE {
        let mut agent = large.agent();
        agent.ingest([service("small", &["10.96.0.1"], 9), slice("small", &["10.1.0.0"])]);
        agent.ingest([large.service(), large.slice(0)]);
        agent.ingest([large.service_of("other"), large.slice_of("other", 0)]);
        parts(&mut agent);
        let mut turn = 1;
        for number in 1..60 {
            // The large ones change before each part, the small one before each third.
            agent.ingest([large.slice(number), large.slice_of("other", number)]);
            if number % 3 == 1 {
                turn = number;
                agent.ingest([slice("small", &[&format!("10.1.0.{number}")])]);
            }
            next_part(&mut agent);
            let found = agent.backends("10.96.0.1");
            let is_there = found == set(&[&format!("10.1.0.{turn}")]);
            // In its own part, or in the next.
            assert!(is_there || number == turn, "{}: it waits for more than one part", large.name);
        }
        // The large ones reach their desired state when they stop changing.
        parts(&mut agent);
        agent.mark_all();
        assert_eq!(agent.pass().steps, 0, "{}", large.name);
        let (_, line) = find(&agent.table.inner, ip("10.96.0.1")).unwrap();
        assert_eq!(line.set.count, 1);
    }
}

#[test]
fn a_large_object_that_is_rewritten_all_the_time_is_served_nevertheless() {
    let [ports, ..] = LARGE;
    let mut agent = ports.agent();
    agent.ingest([ports.service(), ports.slice(0)]);
    parts(&mut agent);
    let mut changed = std::collections::BTreeSet::new();
    for number in 1..60 {
        agent.ingest([ports.slice(number)]);
        next_part(&mut agent);
        changed.extend((1..=ports.ports).filter(|port| !has_first_endpoint(&agent, *port)));
        if changed.len() == usize::from(ports.ports) {
            return;
        }
    }
    panic!("{} of {} ports followed", changed.len(), ports.ports);
}

#[test]
fn a_small_change_waits_for_one_part_of_many_services_with_many_addresses() {
    const MANY: u32 = 6;
    let wide = Large { name: "wide", ports: 10, addresses: 80, endpoints: 10 };
    // The frontends of all of them fill a seventh of the lines.
    let mut agent = Agent::new(meta(32_768, 65_536));
    let network = |number: u32| u8::try_from(100 + number).unwrap();
    let names: Vec<String> = (0..MANY).map(|number| format!("wide{number}")).collect();
    for (number, name) in (0..).zip(&names) {
        let Update::Service(object, Some(mut service)) = wide.service_of(name) else {
            unreachable!("it is a Service");
        };
        let addresses = (0..80).map(|at| IpAddr::from([10, network(number), 0, at]));
        service.cluster_ips = addresses.clone().take(1).collect();
        service.external_ips = addresses.skip(1).collect();
        agent.ingest([Update::Service(object, Some(service)), wide.slice_of(name, 0)]);
    }
    agent.ingest([service("small", &["10.96.0.1"], 9), slice("small", &["10.1.0.0"])]);
    parts(&mut agent);
    let mut turn = 0;
    for number in 1..40 {
        agent.ingest(names.iter().map(|name| wide.slice_of(name, number)));
        if number % 3 == 1 {
            turn = number;
            agent.ingest([slice("small", &[&format!("10.1.0.{number}")])]);
        }
        next_part(&mut agent);
        let is_there = agent.backends("10.96.0.1") == set(&[&format!("10.1.0.{turn}")]);
        assert!(is_there || number == turn, "it waits for more than one part");
    }
}

#[test]
fn a_large_object_follows_though_another_takes_a_frontend_of_its_and_gives_it_back_all_the_time() {
    const SHARED: [u8; 4] = [203, 0, 113, 7];
    let [large, ..] = LARGE;
    let mut agent = large.agent();
    let Update::Service(object, Some(mut wide)) = large.service() else {
        unreachable!("it is a Service");
    };
    (wide.created, wide.external_ips) = (Some(100), vec![IpAddr::from(SHARED)]);
    let older = |takes: bool| {
        let Update::Service(object, Some(mut small)) = service("small", &["10.96.0.1"], 9) else {
            unreachable!("it is a Service");
        };
        small.ports[0].port = 1;
        small.external_ips = takes.then_some(IpAddr::from(SHARED)).into_iter().collect();
        Update::Service(object, Some(small))
    };
    agent.ingest([Update::Service(object, Some(wide)), large.slice(0)]);
    agent.ingest([older(false), slice("small", &["10.1.0.0"])]);
    parts(&mut agent);
    agent.ingest([large.slice(1)]);
    for number in 1..400 {
        if number % 2 == 0 {
            agent.ingest([older(number % 4 == 0)]);
        }
        next_part(&mut agent);
        if (1..=large.ports).all(|port| !has_first_endpoint(&agent, port)) {
            return;
        }
    }
    panic!("the large object never comes to its end");
}
