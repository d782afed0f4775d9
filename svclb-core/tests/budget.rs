//! The cost of one change, in numbers that are the same on every machine: allocations, system calls and steps.
//! They depend on the change and not on the other objects.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "common/allocations.rs"]
mod allocations;
mod common;

use allocations::allocations;
use common::*;
use svclb_core::catalog::Catalog;
use svclb_core::model::{Node, Update};
use svclb_core::plan::{Planner, pass};
use svclb_core::size::sizes;
use svclb_core::table::{Dump, Key, MemoryTable, Row, Table, TableError};

/// Endpoints of each Service.
const EACH: u32 = 50;

/// Maps that count the operations that would be system calls: all but those of lines, which are mapped.
struct Counted {
    maps: MemoryTable,
    calls: usize,
}

impl Table for Counted {
    fn load(&mut self) -> Result<Dump, TableError> {
        self.maps.load()
    }

    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        self.calls += match row {
            Row::Service(..) | Row::Backend(..) | Row::Frontend(..) => 1,
            Row::Slots(..) | Row::Meta(_) => 1,
            _ => 0,
        };
        self.maps.put(row)
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        self.calls += usize::from(!matches!(key, Key::Line(_)));
        self.maps.remove(key)
    }
}

/// The cost of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cost {
    allocations: usize,
    calls: usize,
    steps: usize,
    objects: usize,
}

struct Cluster {
    catalog: Catalog,
    planner: Planner,
    table: Counted,
}

fn address(number: u32) -> String {
    let [_, high, middle, low] = number.to_be_bytes();
    format!("10.{}.{middle}.{low}", 96 + high)
}

/// The slice of a Service whose endpoints begin at that one.
fn endpoints(service: u32, first: u32, count: u32) -> Update {
    let pod = |at: u32| {
        let [_, high, middle, low] = (service * EACH * 2 + first + at).to_be_bytes();
        format!("10.{}.{middle}.{low}", 128 + high)
    };
    let pods: Vec<String> = (0..count).map(pod).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    slice(&format!("s{service}"), &pods)
}

impl Cluster {
    fn of(services: u32) -> Self {
        let wanted = sizes(services as usize, (services * EACH) as usize);
        let meta = meta(wanted.index_lines, wanted.slots);
        let mut cluster = Self {
            catalog: Catalog::new(Node { name: "here".into(), ..Node::default() }),
            planner: Planner::new(meta),
            table: Counted { maps: MemoryTable::new(meta), calls: 0 },
        };
        for number in 0..services {
            let name = format!("s{number}");
            cluster.catalog.apply(service(&name, &[&address(number + 1)], 1));
            cluster.catalog.apply(endpoints(number, 0, EACH));
        }
        cluster.change([]);
        cluster
    }

    /// Returns the cost from the change to the end of the pass.
    fn change<const N: usize>(&mut self, updates: [Update; N]) -> Cost {
        let (before, calls) = (allocations(), self.table.calls);
        updates.into_iter().for_each(|update| self.catalog.apply(update));
        let done = pass(&mut self.planner, &mut self.table, &mut self.catalog);
        let allocations = allocations() - before;
        assert!(done.failed.is_empty() && done.unplaced.is_empty(), "{done:?}");
        let freed = self.planner.take_freed();
        self.planner.release(freed);
        let calls = self.table.calls - calls;
        Cost { allocations, calls, steps: done.steps, objects: done.objects }
    }
}

/// One test only: the allocator counts for the whole process.
#[test]
fn a_change_costs_what_it_changes_and_not_what_there_is() {
    // The most that each may cost.
    type Change = fn() -> Update;
    let rows: [(&str, Change, Cost); 3] = [
        (
            "one endpoint is replaced",
            // The first endpoint is removed, and one is added after the last.
            || endpoints(3, 1, EACH),
            Cost { allocations: 50, calls: 4, steps: 7, objects: 1 },
        ),
        (
            "an endpoint goes",
            || endpoints(3, 1, EACH - 1),
            Cost { allocations: 50, calls: 4, steps: 7, objects: 1 },
        ),
        (
            "all endpoints are replaced",
            || endpoints(3, EACH, EACH),
            Cost {
                allocations: 55,
                calls: 2 * EACH as usize + 2,
                steps: 2 * EACH as usize + 5,
                objects: 1,
            },
        ),
    ];
    for (name, change, most) in rows {
        let of = |services| {
            let mut cluster = Cluster::of(services);
            // It is made twice, so that allocations that happen once are not counted.
            cluster.change([endpoints(2, 1, EACH)]);
            let update = change();
            cluster.change([update])
        };
        let (few, many) = (of(10), of(2_000));
        println!("{name}: {few:?} among 10, {many:?} among 2,000");
        for cost in [few, many] {
            let is_within = cost.allocations <= most.allocations
                && cost.calls <= most.calls
                && cost.steps <= most.steps
                && cost.objects <= most.objects;
            assert!(is_within, "{name}: {cost:?}, at most {most:?}");
        }
        let apart = few.allocations.abs_diff(many.allocations);
        assert!(apart <= 8, "{name}: {apart} allocations more among 2,000 than among 10");
        assert_eq!((few.calls, few.steps), (many.calls, many.steps), "{name}");
    }
}
