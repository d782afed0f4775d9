//! The time of a pass grows in proportion to the changed object, and no faster: one Service may have thousands of
//! ports or addresses, and a user who may create one must not delay all others.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::{IpAddr, Ipv4Addr};

use common::{find, gone, ip, meta, object};
use nix::time::ClockId;
use svclb_common::layout::Protocol;
use svclb_core::catalog::Catalog;
use svclb_core::model::{Endpoint, Node, Service, ServicePort, Slice, SlicePort, Update};
use svclb_core::plan::{Planner, Unplaced, UnplacedService, load, pass};
use svclb_core::size::sizes;
use svclb_core::table::{Dump, Key, MemoryTable, Row, Table, TableError};

/// Two sizes. Linear work takes 8 times as long, quadratic work 64 times.
const FEW: u16 = 300;
const MANY: u16 = 8 * FEW;
/// A bound in between, above the effects of caches on linear work.
const MOST: f64 = 16.0;
/// The number of rounds, of which the shortest counts.
const TRIES: usize = 5;
const ENDPOINTS: [[u8; 4]; 3] = [[10, 244, 0, 1], [10, 244, 0, 2], [10, 244, 0, 3]];

/// One Service of this size.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    ports: fn(u16) -> u16,
    addresses: fn(u16) -> u16,
    /// The capacity for lines and slots.
    room: fn(usize) -> (u32, u32),
}

const SHAPES: [Shape; 3] = [
    Shape { name: "ports", ports: |size| size, addresses: |_| 1, room: roomy },
    Shape { name: "addresses", ports: |_| 1, addresses: |size| size, room: roomy },
    // Half of the ports have slots of their own for the change, the others wait for the quarantine.
    Shape {
        name: "ports that are short of slots",
        ports: |size| size,
        addresses: |_| 1,
        room: |size| (roomy(size).0, slots(size * 3)),
    },
];

fn roomy(size: usize) -> (u32, u32) {
    let sizes = sizes(size, size * ENDPOINTS.len());
    (sizes.index_lines, sizes.slots)
}

fn slots(size: usize) -> u32 {
    u32::try_from(size).unwrap()
}

impl Shape {
    fn service(self, size: u16, prefix: &str) -> Update {
        let port = |number: u16| ServicePort {
            name: format!("{prefix}{number}").into(),
            protocol: Protocol::Tcp,
            port: number,
            node_port: None,
        };
        let address = |number: u16| {
            let [high, low] = number.to_be_bytes();
            IpAddr::V4(Ipv4Addr::new(10, 96, high, low))
        };
        let service = Service {
            cluster_ips: vec![address(0)],
            external_ips: (1..(self.addresses)(size)).map(address).collect(),
            ports: (1..=(self.ports)(size)).map(port).collect(),
            ..Service::default()
        };
        Update::Service(object("large"), Some(service))
    }

    fn slice(self, size: u16, prefix: &str, endpoints: &[[u8; 4]]) -> Update {
        let port = |number: u16| SlicePort {
            name: format!("{prefix}{number}").into(),
            protocol: Protocol::Tcp,
            port: 8080,
        };
        let endpoint = |address: &[u8; 4]| (IpAddr::from(*address), Endpoint::default());
        let slice = Slice {
            service: object("large"),
            ports: (1..=(self.ports)(size)).map(port).collect(),
            endpoints: endpoints.iter().map(endpoint).collect(),
            triggered: None,
            omitted: None,
            notes: 0,
        };
        Update::Slice(object("large"), Some(slice))
    }

    /// The time of each of these changes, seconds of the processor.
    fn takes(self, size: u16) -> Vec<(&'static str, f64)> {
        let mut agent = Agent::new((self.room)(size.into()));
        agent.ingest([self.service(size, "p"), self.slice(size, "p", &ENDPOINTS[..2])]);
        let mut all = vec![("comes", agent.takes(Agent::passes))];
        agent.ingest([self.slice(size, "p", &ENDPOINTS[1..])]);
        all.push(("an endpoint changes", agent.takes(Agent::passes)));
        all.push((
            "restart",
            agent.takes(|agent| {
                agent.restart();
                agent.passes();
            }),
        ));
        // Each port is another service then, which takes over the frontends of the one before.
        agent.ingest([self.service(size, "q"), self.slice(size, "q", &ENDPOINTS[1..])]);
        all.push(("ports are renamed", agent.takes(Agent::passes)));
        agent.ingest([gone("large")]);
        all.push(("goes", agent.takes(Agent::passes)));
        assert_eq!(find(&agent.table.maps, ip("10.96.0.0")), None);
        all
    }

    fn least(self, size: u16) -> Vec<(&'static str, f64)> {
        let mut least = self.takes(size);
        for _ in 1..TRIES {
            for ((_, least), (_, found)) in least.iter_mut().zip(self.takes(size)) {
                *least = least.min(found);
            }
        }
        least
    }
}

/// An agent over maps whose own time does not count, since they make checks that no kernel makes.
struct Agent {
    catalog: Catalog,
    planner: Planner,
    table: Apart,
}

struct Apart {
    maps: MemoryTable,
    taken: f64,
}

impl Agent {
    fn new((index_lines, slots): (u32, u32)) -> Self {
        let meta = meta(index_lines, slots);
        Self {
            catalog: Catalog::new(Node { name: "here".into(), ..Node::default() }),
            planner: Planner::new(meta),
            table: Apart { maps: MemoryTable::new(meta), taken: 0.0 },
        }
    }

    fn ingest<const N: usize>(&mut self, updates: [Update; N]) {
        updates.into_iter().for_each(|update| self.catalog.apply(update));
    }

    /// Runs passes until nothing waits for capacity.
    fn passes(&mut self) {
        while self.catalog.is_dirty() {
            let done = pass(&mut self.planner, &mut self.table, &mut self.catalog);
            let waits = |rejected: &UnplacedService| rejected.why == Unplaced::Quarantined;
            assert!(done.failed.is_empty() && done.unplaced.iter().all(waits), "{done:?}");
            let freed = self.planner.take_freed();
            self.planner.release(freed);
        }
    }

    fn restart(&mut self) {
        let dump = self.table.load().unwrap();
        let (state, repairs) = load(&dump, dump.meta);
        assert!(repairs.is_empty(), "{repairs:?}");
        self.planner = state;
        self.catalog.mark([object("large")]);
    }

    fn takes(&mut self, what: impl FnOnce(&mut Self)) -> f64 {
        let (begin, apart) = (now(), self.table.taken);
        what(self);
        now() - begin - (self.table.taken - apart)
    }
}

impl Apart {
    fn apart<R>(&mut self, what: impl FnOnce(&mut MemoryTable) -> R) -> R {
        let begin = now();
        let done = what(&mut self.maps);
        self.taken += now() - begin;
        done
    }
}

impl Table for Apart {
    fn load(&mut self) -> Result<Dump, TableError> {
        self.apart(MemoryTable::load)
    }

    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        self.apart(|maps| maps.put(row))
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        self.apart(|maps| maps.remove(key))
    }
}

/// The processor time of this thread so far, seconds: other tests run at the same time.
fn now() -> f64 {
    let taken = ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap();
    std::time::Duration::from(taken).as_secs_f64()
}

#[test]
fn a_pass_over_an_object_takes_as_much_more_as_the_object_has_more() {
    let mut quadratic = Vec::new();
    for shape in SHAPES {
        for ((what, few), (_, many)) in shape.least(FEW).into_iter().zip(shape.least(MANY)) {
            let (name, times) = (shape.name, many / few);
            println!(
                "{name}, {what}: {few:.4} s for {FEW}, {many:.4} s for {MANY}, {times:.1} times"
            );
            if times > MOST {
                quadratic.push(format!("{name}, {what}: {times:.1} times"));
            }
        }
    }
    assert!(quadratic.is_empty(), "at most {MOST} times for 8 times as many: {quadratic:?}");
}
