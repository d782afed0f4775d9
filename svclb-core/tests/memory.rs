//! The memory of a large cluster of 5,000 Services with 50 endpoints each (SPEED.md), in the catalog and in the
//! mirror of the maps. Bytes are counted as they are allocated, so the numbers are the same on every machine.
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use svclb_common::layout::{Line, Meta};
use svclb_core::catalog::Catalog;
use svclb_core::model::{
    Endpoint, Node, ObjectName, Protocol, Service, ServicePort, Slice, SlicePort, Update,
};
use svclb_core::plan::{Planner, load, pass};
use svclb_core::size::sizes;
use svclb_core::table::{Dump, Key, Row, Table, TableError, Written};

const SERVICES: u32 = 5_000;
const EACH: u32 = 50;
const NODES: u32 = 500;

/// The overhead of malloc for an allocation, and its granule.
const fn taken(size: usize) -> usize {
    let taken = (size + 8).next_multiple_of(16);
    if taken < 32 { 32 } else { taken }
}

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does all the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(taken(layout.size()), Ordering::Relaxed) + taken(layout.size());
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(taken(layout.size()), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Maps that store only what a restart reads, once.
#[derive(Default)]
struct Kept(Dump, Vec<(u32, u8)>);

impl Table for Kept {
    fn load(&mut self) -> Result<Dump, TableError> {
        let mut dump = self.0.clone();
        for (home, reach) in &self.1 {
            match dump.lines.binary_search_by_key(home, |(number, _)| *number) {
                Ok(at) => dump.lines[at].1.reach = *reach,
                Err(at) => {
                    dump.lines.insert(at, (*home, Line { reach: *reach, ..Line::default() }))
                }
            }
        }
        Ok(dump)
    }

    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        let Self(dump, reaches) = self;
        match row {
            Row::Meta(meta) => dump.meta = *meta,
            Row::Service(id, row) => dump.services.push((id.0, *row)),
            Row::Backend(key, row) => dump.backends.push((*key, *row)),
            Row::Frontend(key, row) => dump.frontends.push((*key, *row)),
            Row::Line(number, line) => dump.lines.push((number.0, *line)),
            Row::Slots(first, slots) => {
                dump.ranges.push(Written::of(first.0, slots.iter().copied()));
            }
            Row::Reach(home, reach) => reaches.push((home.0, *reach)),
            other => panic!("{other:?} is no step of a first pass here"),
        }
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        panic!("{key:?} is no step of a first pass")
    }
}

/// Repeated values are shared, as by the agent's conversion.
struct Said {
    namespace: Arc<str>,
    port: Arc<str>,
    nodes: Vec<Arc<Endpoint>>,
}

impl Said {
    fn new() -> Self {
        let zones: Vec<Arc<str>> = (0..3).map(|zone| format!("zone-{zone}").into()).collect();
        let node = |(number, zone): (u32, &Arc<str>)| {
            Arc::new(Endpoint {
                node: Some(format!("node-{number}").into()),
                zone_hints: [Arc::clone(zone)].into(),
                ..Endpoint::default()
            })
        };
        Self {
            namespace: "default".into(),
            port: "http".into(),
            nodes: (0..NODES).zip(zones.iter().cycle()).map(node).collect(),
        }
    }

    fn object(&self, number: u32) -> ObjectName {
        let name = format!("service-{number}").into();
        ObjectName { namespace: Arc::clone(&self.namespace), name }
    }

    /// A Service and its one slice.
    fn service(&self, number: u32, family: Family) -> [Update; 2] {
        let (name, port) = (self.object(number), Arc::clone(&self.port));
        let [a, b] = family;
        let service = Service {
            created: Some(0),
            cluster_ips: vec![a(0x0a60_0000 + number)],
            ports: vec![ServicePort {
                name: Arc::clone(&port),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
            }],
            ..Service::default()
        };
        let endpoint = |at: u32| {
            let number = number * EACH + at;
            (b(0x0af4_0000 + number), Arc::clone(&self.nodes[(number % NODES) as usize]))
        };
        let slice = Slice {
            service: name.clone(),
            ports: [SlicePort { name: port, protocol: Protocol::Tcp, port: 8080 }].into(),
            endpoints: (0..EACH).map(endpoint).collect(),
            triggered: Some(1),
            omitted: None,
            notes: 0,
        };
        let slice_name = ObjectName {
            namespace: Arc::clone(&self.namespace),
            name: format!("service-{number}-abcde").into(),
        };
        [Update::Service(name, Some(service)), Update::Slice(slice_name, Some(slice))]
    }
}

/// Addresses of Services and of endpoints, made of numbers.
type Family = [fn(u32) -> IpAddr; 2];

fn v4(number: u32) -> IpAddr {
    IpAddr::from(number.to_be_bytes())
}

fn v6(number: u32) -> IpAddr {
    IpAddr::from((0xfd_u128 << 120 | u128::from(number)).to_be_bytes())
}

fn now() -> usize {
    NOW.load(Ordering::Relaxed)
}

/// Bytes.
struct Measured {
    /// Bytes that stay: catalog and mirror.
    stays: usize,
    /// The peak of the first pass above those.
    pass: usize,
    /// The peak while a mirror of full maps is loaded, with the rows that are read for it.
    restart: usize,
}

/// Ingests the cluster, writes it, and starts again over the written maps.
fn measure(family: Family) -> Measured {
    let wanted = sizes(SERVICES as usize, (SERVICES * EACH) as usize);
    let meta = Meta {
        index_lines: wanted.index_lines,
        slots: wanted.slots,
        next_service: 1,
        ..Meta::default()
    };
    let mut table = Kept::default();
    // The growth of the table is not counted.
    table.0.backends.reserve((SERVICES * EACH) as usize);
    table.0.services.reserve(SERVICES as usize);
    table.0.frontends.reserve(SERVICES as usize);
    table.0.lines.reserve(SERVICES as usize);
    table.0.ranges.reserve(SERVICES as usize);
    table.1.reserve(SERVICES as usize);
    let before = now();
    let said = Said::new();
    // The node has no zone, so that hints exclude no endpoint.
    let node = Node { name: "node-0".into(), ..Node::default() };
    let mut catalog = Catalog::new(node);
    for number in 0..SERVICES {
        said.service(number, family).into_iter().for_each(|update| catalog.apply(update));
    }
    let mut state = Planner::new(meta);
    PEAK.store(now(), Ordering::Relaxed);
    let done = pass(&mut state, &mut table, &mut catalog);
    assert!(done.failed.is_empty() && done.unplaced.is_empty());
    assert_eq!(state.services(), SERVICES as usize);
    drop(done);
    let (stays, peak) = (now() - before, PEAK.load(Ordering::Relaxed) - now());
    drop(state);
    table.0.lines.sort_by_key(|(number, _)| *number);
    let before = now();
    PEAK.store(before, Ordering::Relaxed);
    let dump = table.load().unwrap();
    assert_eq!(dump.backends.len(), (SERVICES * EACH) as usize, "each is a member");
    let (mut state, repairs) = load(&dump, dump.meta);
    drop(dump);
    let restart = PEAK.load(Ordering::Relaxed) - before;
    assert_eq!(repairs, [], "what was written fits together");
    catalog.mark(state.objects().cloned().collect::<Vec<_>>());
    assert_eq!(pass(&mut state, &mut table, &mut catalog).steps, 0, "a restart writes nothing");
    Measured { stays, pass: peak, restart }
}

#[test]
fn a_large_cluster_takes_little_memory() {
    const MIB: usize = 1024 * 1024;
    let rows: [(&str, Family, usize); 2] = [("IPv4", [v4, v4], 14), ("IPv6", [v6, v6], 20)];
    for (name, family, mib) in rows {
        let Measured { stays, pass, restart } = measure(family);
        let each = stays / (SERVICES * EACH) as usize;
        println!(
            "{name}: {stays} bytes stay ({each} per endpoint), the first pass takes {pass} more, a \
             restart reads and makes {restart}"
        );
        assert!(stays <= mib * MIB, "{name}: {stays} bytes stay, {mib} MiB are allowed");
        assert!(pass <= 4 * MIB, "{name}: the pass takes {pass} bytes more than what stays");
        assert!(restart <= 22 * MIB, "{name}: a restart takes {restart} bytes");
    }
}
