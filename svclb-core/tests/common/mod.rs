//! Shared by these tests: a small cluster, an agent over memory, and a reader.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a tool of tests")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use svclb_common::index::{self, Wanted};
use svclb_common::layout::{Address, Line, Meta, Protocol, Scope};
use svclb_core::catalog::Catalog;
use svclb_core::model::{
    Endpoint, Node, ObjectName, Service, ServicePort, Slice, SlicePort, Update,
};
use svclb_core::plan::{Pass, Planner, load, pass};
use svclb_core::table::{Dump, FailingTable, Key, MemoryTable, Row, Table, TableError};

pub fn meta(index_lines: u32, slots: u32) -> Meta {
    Meta { index_lines, slots, origins: 64, seed: 7, next_service: 1, ..Meta::default() }
}

pub fn object(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A TCP Service with port 80 and this creation time.
pub fn service(name: &str, ips: &[&str], created: i64) -> Update {
    let port = ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port: None };
    let service = Service {
        created: Some(created),
        cluster_ips: ips.iter().map(|text| ip(text)).collect(),
        ports: vec![port],
        ..Service::default()
    };
    Update::Service(object(name), Some(service))
}

pub fn gone(name: &str) -> Update {
    Update::Service(object(name), None)
}

/// The one slice of a Service: these addresses are ready, with port 8080.
pub fn slice(name: &str, addresses: &[&str]) -> Update {
    let slice = Slice {
        service: object(name),
        ports: [SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: addresses.iter().map(|text| (ip(text), Endpoint::default())).collect(),
        triggered: None,
        omitted: None,
        notes: 0,
    };
    Update::Slice(object(name), Some(slice))
}

pub struct Agent {
    pub catalog: Catalog,
    pub planner: Planner,
    pub table: FailingTable<MemoryTable>,
}

impl Agent {
    pub fn new(meta: Meta) -> Self {
        Self {
            catalog: Catalog::new(Node { name: "here".into(), ..Node::default() }),
            planner: Planner::new(meta),
            table: FailingTable::new(MemoryTable::new(meta)),
        }
    }

    pub fn ingest(&mut self, updates: impl IntoIterator<Item = Update>) -> &mut Self {
        updates.into_iter().for_each(|update| self.catalog.apply(update));
        self
    }

    /// Runs a pass, and ends the quarantine of what it freed.
    pub fn pass(&mut self) -> Pass {
        let done = pass(&mut self.planner, &mut self.table, &mut self.catalog);
        let freed = self.planner.take_freed();
        self.planner.release(freed);
        done
    }

    /// Runs a pass in which only the first `steps` steps succeed, as when the agent is killed.
    pub fn cut(&mut self, steps: usize) -> Pass {
        self.table.fail(steps, usize::MAX);
        let done = self.pass();
        self.table.fail(0, 0);
        done
    }

    /// Starts a new process over the same maps and the same catalog.
    pub fn restart(&mut self) {
        let dump = self.table.load().unwrap();
        let (state, repairs) = load(&dump, dump.meta);
        self.planner = state;
        self.planner.repair(&mut self.table, &repairs).unwrap();
        self.mark_all();
    }

    pub fn mark_all(&mut self) {
        let all: Vec<_> = self.catalog.objects().chain(self.planner.objects()).cloned().collect();
        self.catalog.mark(all);
    }

    pub fn find(&self, address: &str) -> Option<(u32, Line)> {
        find(&self.table.inner, ip(address))
    }

    /// The backends that a client of this frontend may be given; `None` when it is no frontend.
    pub fn backends(&self, address: &str) -> Option<BTreeSet<String>> {
        self.find(address).map(|(_, line)| backends(&self.table.inner, &line))
    }
}

/// Finds the frontend with this address, TCP, port 80, as the datapath does.
pub fn find(memory: &MemoryTable, address: IpAddr) -> Option<(u32, Line)> {
    let wanted = Wanted::new(Address::from(address).words(), 80, Protocol::Tcp, Scope::Any);
    let meta = memory.meta();
    let found = index::find(&wanted, meta.seed, meta.index_lines, |number| memory.line(number));
    found.ok().map(|(line, number)| (number, line.read()))
}

/// The backends that a draw of this line can give. A slot that its reader would not accept is "torn".
pub fn backends(memory: &MemoryTable, line: &Line) -> BTreeSet<String> {
    (line.set.first..line.set.first.saturating_add(line.set.count))
        .map(|number| {
            let slot = memory.slot(number).unwrap().read();
            let accepted = slot.owner == line.service || slot.owner == line.heir;
            if accepted { slot.address.to_string() } else { "torn".to_owned() }
        })
        .collect()
}

pub fn set(addresses: &[&str]) -> Option<BTreeSet<String>> {
    Some(addresses.iter().map(ToString::to_string).collect())
}

/// A table that records its operations.
pub struct Recorder<T> {
    pub inner: T,
    pub rows: Vec<Result<Row, Key>>,
}

impl<T: Table> Table for Recorder<T> {
    fn load(&mut self) -> Result<Dump, TableError> {
        self.inner.load()
    }
    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        self.rows.push(Ok(row.clone()));
        self.inner.put(row)
    }
    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        self.rows.push(Err(*key));
        self.inner.remove(key)
    }
}
