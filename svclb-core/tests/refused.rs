//! One operation of a pass is refused, each in turn and with each error: other Services are not affected, and the
//! next passes end in the same state.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::*;
use svclb_core::table::{Failure, Table as _};

type Change = fn(&mut Agent);

/// Changes of `a` and its neighbours; `z` is not concerned by any.
const CHANGES: [(&str, Change); 7] = [
    ("a new Service", |agent| {
        agent.ingest([service("b", &["10.96.0.2"], 2), slice("b", &["10.0.1.1", "10.0.1.2"])]);
    }),
    ("a Service is deleted", |agent| {
        agent.ingest([gone("a"), slice("a", &[])]);
    }),
    ("backends are replaced", |agent| {
        agent.ingest([slice("a", &["10.0.0.3", "10.0.0.4"])]);
    }),
    ("the last backend goes", |agent| {
        agent.ingest([slice("a", &[])]);
    }),
    ("an address more, and one less", |agent| {
        agent.ingest([service("a", &["fd00:96::1"], 1)]);
    }),
    ("a ClusterIP passes to another Service", |agent| {
        agent.ingest([gone("a"), service("b", &["10.96.0.1"], 2), slice("b", &["10.0.1.1"])]);
    }),
    ("an older Service asks for the address", |agent| {
        agent.ingest([service("b", &["10.96.0.1"], 0), slice("b", &["10.0.1.1"])]);
    }),
];

fn start() -> Agent {
    let mut agent = Agent::new(meta(64, 64));
    agent.ingest([service("a", &["10.96.0.1"], 1), slice("a", &["10.0.0.1", "10.0.0.2"])]);
    agent.ingest([service("z", &["10.96.0.26"], 1), slice("z", &["10.0.9.1"])]);
    let done = agent.pass();
    assert!(done.failed.is_empty() && done.unplaced.is_empty());
    agent
}

/// The backends that clients of each address are given.
fn routes(agent: &Agent) -> Vec<Option<std::collections::BTreeSet<String>>> {
    let dialled = ["10.96.0.1", "10.96.0.2", "10.96.0.26", "fd00:96::1"];
    dialled.map(|address| agent.backends(address)).into()
}

/// The rows as text, without ids and generations.
fn readable(agent: &mut Agent) -> Vec<String> {
    let dump = agent.table.load().unwrap();
    let name = |id: u32| {
        let row = dump.services.iter().find(|(it, _)| *it == id).map(|(_, row)| row);
        row.map(|row| svclb_core::compile::name_of(&row.name)).unwrap_or_default()
    };
    let backends = dump.backends.iter();
    let backends = backends
        .map(|(key, row)| format!("{} {}:{} {row:?}", name(key.service), key.address, key.port));
    let frontends = dump.frontends.iter();
    let frontends =
        frontends.map(|(key, row)| format!("{}:{} {}", key.address, key.port, name(row.service)));
    let services = dump.services.iter();
    let services = services.map(|(_, row)| {
        format!("{} {} {}", svclb_core::compile::name_of(&row.name), row.frontends, row.notes)
    });
    let mut all: Vec<String> = backends.chain(frontends).chain(services).collect();
    all.sort();
    all
}

#[test]
fn each_operation_refused_once_ends_where_none_does() {
    for (name, change) in CHANGES {
        let mut expected = start();
        let before = expected.table.operations;
        change(&mut expected);
        let done = expected.pass();
        assert!(done.failed.is_empty() && done.unplaced.is_empty(), "{name}");
        let operations = expected.table.operations - before;
        assert!(operations > 2, "{name}: {operations} operations");
        for (refusal, at) in
            Failure::ALL.into_iter().flat_map(|it| (0..operations).map(move |at| (it, at)))
        {
            let row = format!("{name}: {refusal:?} of operation {at}");
            let mut agent = start();
            change(&mut agent);
            agent.table.refuse(at, 1, refusal);
            let done = agent.pass();
            assert_eq!(agent.table.failures, 1, "{row}");
            assert_eq!(agent.backends("10.96.0.26"), set(&["10.0.9.1"]), "{row}: another's");
            // It is known to be incomplete: failed and dirty, or reported as unplaced.
            let is_known = !done.failed.is_empty() || !done.unplaced.is_empty();
            assert!(is_known, "{row}");
            assert!(done.failed.is_empty() || agent.catalog.is_dirty() || at + 1 == operations);
            if !done.unplaced.is_empty() {
                // An audit and larger maps do this, too.
                agent.mark_all();
            }
            for _ in 0..2 {
                let done = agent.pass();
                assert!(done.failed.is_empty() && done.unplaced.is_empty(), "{row}: {done:?}");
            }
            assert_eq!(routes(&agent), routes(&expected), "{row}");
            assert_eq!(readable(&mut agent), readable(&mut expected), "{row}");
            agent.mark_all();
            assert_eq!(agent.pass().steps, 0, "{row}: nothing is left to do");
        }
    }
}

#[test]
fn however_many_operations_are_refused_the_end_is_the_same() {
    for (name, change) in CHANGES {
        let mut expected = start();
        change(&mut expected);
        expected.pass();
        for refusal in Failure::ALL {
            for (skip, count) in (0..8).flat_map(|skip| [2, 3, 7, 30].map(|count| (skip, count))) {
                let row = format!("{name}: {refusal:?} of {count} operations after {skip}");
                let mut agent = start();
                change(&mut agent);
                agent.table.refuse(skip, count, refusal);
                for _ in 0..40 {
                    agent.pass();
                    agent.mark_all();
                    assert_eq!(agent.backends("10.96.0.26"), set(&["10.0.9.1"]), "{row}");
                }
                assert_eq!(routes(&agent), routes(&expected), "{row}");
                assert_eq!(readable(&mut agent), readable(&mut expected), "{row}");
                assert_eq!(agent.pass().steps, 0, "{row}: nothing is left to do");
            }
        }
    }
}
