//! The index's reader against its writer: the writer may take steps between any two loads of the reader.
#![allow(clippy::unwrap_used, reason = "a tool of tests")]

mod common;
use std::cell::{Cell, UnsafeCell};
use std::collections::BTreeMap;
use std::net::IpAddr;

use common::*;
use proptest::prelude::*;
use svclb_common::index::{self, Wanted};
use svclb_common::layout::{Address, Meta, Protocol, Scope};
use svclb_core::catalog::Catalog;
use svclb_core::model::Node;
use svclb_core::plan::{Planner, pass};
use svclb_core::table::{Key, MemoryTable, Row, Table as _};

const NAMES: u8 = 24;

fn name(number: u8) -> String {
    format!("s{number:02}")
}

fn address(number: u8) -> String {
    if number.is_multiple_of(2) {
        format!("10.96.0.{number}")
    } else {
        format!("fd00:96::{number:x}")
    }
}

/// The number of a service, and true when it is added, false when it is removed.
type Deed = (u8, bool);

fn bursts() -> impl Strategy<Value = Vec<Vec<Deed>>> {
    prop::collection::vec(prop::collection::vec((0..NAMES, any::<bool>()), 1..8), 1..8)
}

fn take(memory: &mut MemoryTable, step: &Result<Row, Key>) {
    match step {
        Ok(row) => memory.put(row).unwrap(),
        Err(key) => memory.remove(key).unwrap(),
    }
}

/// Maps that a reader and a writer use in turns, on one thread.
struct Turns<'a> {
    memory: UnsafeCell<MemoryTable>,
    steps: &'a [Result<Row, Key>],
    next: Cell<usize>,
    pace: usize,
}

impl Turns<'_> {
    /// The writer takes its turn.
    fn turn(&self) {
        for _ in 0..self.pace {
            let Some(step) = self.steps.get(self.next.get()) else { return };
            self.next.set(self.next.get() + 1);
            // SAFETY: one thread, and no reference into the memory is held over a turn but `Shared`,
            // whose cells stay where they are.
            take(unsafe { &mut *self.memory.get() }, step);
        }
    }

    fn finds(&self, ip: IpAddr, meta: &Meta) -> bool {
        let wanted = Wanted::new(Address::from(ip).words(), 80, Protocol::Tcp, Scope::Any);
        let line = |number| {
            self.turn();
            // SAFETY: as in `turn`.
            unsafe { &*self.memory.get() }.line(number)
        };
        match index::find(&wanted, meta.seed, meta.index_lines, line) {
            Ok((line, _)) => {
                assert!(wanted.is_in(line), "another frontend came into the line under a reader");
                true
            }
            Err(_) => false,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_frontend_that_stays_is_found_at_every_moment_of_a_pass_and_one_that_is_not_there_is_not(
        bursts in bursts(), seed in any::<u64>(), lines in prop_oneof![Just(32_u32), Just(64)],
    ) {
        let meta = Meta { seed, ..meta(lines, 256) };
        let mut catalog = Catalog::new(Node { name: "here".into(), ..Node::default() });
        let mut state = Planner::new(meta);
        let mut table = Recorder { inner: MemoryTable::new(meta), rows: Vec::new() };
        let mut there = [false; NAMES as usize];
        for burst in bursts {
            let (start, before) = (table.rows.len(), there);
            for (number, exists) in burst {
                let (name, address) = (name(number), address(number));
                there[number as usize] = exists;
                catalog.apply(if exists { service(&name, &[&address], 1) } else { gone(&name) });
            }
            let done = pass(&mut state, &mut table, &mut catalog);
            prop_assert!(done.failed.is_empty());
            prop_assert_eq!(&done.unplaced, &[]);
            let freed = state.take_freed();
            state.release(freed);
            let (old, new) = table.rows.split_at(start);
            for number in 0..NAMES {
                let (was, is) = (before[number as usize], there[number as usize]);
                if was != is {
                    continue;
                }
                for skip in 0..=new.len().min(24) {
                    for pace in [1, 2, 5] {
                        let mut memory = MemoryTable::new(meta);
                        old.iter().chain(&new[..skip]).for_each(|step| take(&mut memory, step));
                        let turns = Turns {
                            memory: UnsafeCell::new(memory),
                            steps: &new[skip..],
                            next: Cell::new(0),
                            pace,
                        };
                        prop_assert_eq!(turns.finds(ip(&address(number)), &meta), was);
                    }
                }
            }
        }
    }

    #[test]
    fn in_tiny_tables_the_reader_agrees_with_a_plain_map_of_what_fits(
        bursts in bursts(), seed in any::<u64>(),
        lines in prop_oneof![Just(2_u32), Just(4), Just(8), Just(16)],
    ) {
        let mut agent = Agent::new(Meta { seed, ..meta(lines, 64) });
        let mut plain: BTreeMap<u8, bool> = BTreeMap::new();
        for burst in bursts {
            for (number, exists) in burst {
                let (name, address) = (name(number), address(number));
                let update = if exists { service(&name, &[&address], 1) } else { gone(&name) };
                agent.ingest([update]);
                plain.insert(number, exists);
            }
            // Once for removals, once for services that fit after them.
            for _ in 0..2 {
                agent.mark_all();
                prop_assert!(agent.pass().failed.is_empty());
            }
            agent.mark_all();
            let rejected: Vec<String> = agent
                .pass()
                .unplaced
                .into_iter()
                .map(|it| it.service.object.name.to_string())
                .collect();
            for (number, exists) in &plain {
                let found = agent.find(&address(*number)).is_some();
                let fits = *exists && !rejected.contains(&name(*number));
                prop_assert_eq!(found, fits, "{}", name(*number));
            }
        }
    }
}
