//! Calls of the agent that fail for a while.

use std::collections::BTreeSet;
use std::time::Duration;

use svclb_tests::{Backend, Call, Operation, Tcp, World, eventually};

use super::stage::Stage;

/// The failing call; whether a Service whose backends change has the new ones meanwhile; whether a new
/// Service is served meanwhile; and the Services that the log names.
type Lasting = (Operation, &'static str, bool, bool, &'static [&'static str]);

/// Insertions of new rows, which a full map refuses.
const NEW: [Lasting; 3] = [
    (Operation::Update, "svclb_services", true, false, &["new"]),
    (Operation::Update, "svclb_frontends", true, false, &["new"]),
    (Operation::Update, "svclb_backends", false, false, &["changing", "new"]),
];

/// Overwriting and deleting rows, which a full map does not refuse.
const OTHERS: [Lasting; 5] = [
    (Operation::Update, "svclb_slots", false, false, &["changing", "new"]),
    (Operation::Update, "svclb_meta", true, false, &["new"]),
    (Operation::Delete, "svclb_frontends", true, true, &["goes"]),
    (Operation::Delete, "svclb_backends", true, true, &["changing", "goes"]),
    (Operation::Delete, "svclb_services", true, true, &["goes"]),
];

#[test]
fn served_services_stay_served_while_writes_fail_with_enomem() {
    fail_for_a_while("ENOMEM", libc::ENOMEM, &[NEW.as_slice(), &OTHERS].concat());
}

#[test]
fn served_services_stay_served_while_writes_fail_with_eperm() {
    fail_for_a_while("EPERM", libc::EPERM, &[NEW.as_slice(), &OTHERS].concat());
}

#[test]
fn served_services_stay_served_while_even_larger_maps_are_full() {
    fail_for_a_while("E2BIG", libc::E2BIG, &NEW);
}

/// Makes each of these calls fail until the agent has retried several times, after longer and longer
/// waits, and then stops.
fn fail_for_a_while(name: &str, error: i32, rows: &[Lasting]) {
    let stage = Stage::started(&format!("fail-long-{}", name.to_lowercase()));
    let old: BTreeSet<String> = ["b-0", "b-1"].map(str::to_owned).into();
    let new: BTreeSet<String> = ["b-2", "b-3"].map(str::to_owned).into();
    let write = |name: &str, ip: &str, backends: &[Backend]| {
        stage.service(name, ip).backends(backends).write();
    };
    let is_refused = |row: &str, dialled| {
        let error = stage.world.request(Tcp, dialled).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{row}: {dialled}: {error}");
    };
    for &(operation, map, changes, is_served, logged_services) in rows {
        let row = format!("{operation:?} of {map}: {name}");
        write("changing", "10.96.0.11", &stage.pool[..2]);
        write("goes", "10.96.0.13", &stage.pool[..2]);
        stage.world.settle();
        let (log_start, failures) = (stage.world.agent_log().len(), stage.failures());
        stage.faults.clear();
        stage.faults.fail(operation, map, error, usize::MAX);
        let tries = stage.uninterrupted(|| {
            write("changing", "10.96.0.11", &stage.pool[2..]);
            // A new Service must not be reachable before it is complete.
            write("new", "10.96.0.12", &stage.pool[2..]);
            stage.world.remove("default/goes");
            let waits = match error {
                libc::E2BIG => stage.wait_for_waits(3, waits_for_larger_maps),
                _ => stage.wait_for_waits(6, waits),
            };
            let changing = if changes { &new } else { &old };
            assert_eq!(stage.answers("10.96.0.11:80"), *changing, "{row}: a Service that changes");
            if is_served {
                assert_eq!(stage.answers("10.96.0.12:80"), new, "{row}: a new Service");
            } else {
                is_refused(&row, "10.96.0.12:80");
            }
            is_refused(&row, "10.96.0.13:80");
            assert_later_each_time(&waits, &row);
            waits.len() + 1
        });
        let log = stage.world.agent_log().split_off(log_start);
        for service in logged_services {
            let service = format!("default/{service}");
            let is_logged = |line: &&str| line.contains("ERROR") && line.contains(&service);
            let lines: Vec<&str> = log.lines().filter(is_logged).collect();
            assert_eq!(lines.len(), 1, "{row}: expected one line about {service}:\n{log}");
            assert!(lines[0].contains(map), "{row}: {lines:?}");
        }
        // If the map is full, the Service is unplaced, and the call does not count as a failure.
        if error == libc::E2BIG {
            let short = stage.world.status()["short"].as_u64();
            assert_eq!(short, Some(logged_services.len() as u64), "{row}: unplaced services");
        }
        // Everything is applied without any further change.
        stage.faults.clear();
        stage.world.settle();
        assert_eq!(stage.answers("10.96.0.11:80"), new, "{row}");
        assert_eq!(stage.answers("10.96.0.12:80"), new, "{row}");
        assert_eq!(stage.world.status()["short"], 0, "{row}");
        if error != libc::E2BIG {
            let counted = stage.failures() - failures;
            assert!(
                counted >= tries as u64,
                "{row}: expected at least {tries} counted failures, got {counted}"
            );
        }
        stage.world.remove("default/new");
    }
    stage.world.settle();
    stage.world.assert_same_as_fresh_agent();
}

#[test]
fn changes_and_removals_are_applied_while_every_service_row_is_refused() {
    const CHANGED: usize = 6;
    let stage = Stage::started("fail-many");
    let changed: Vec<(String, String)> =
        (0..CHANGED).map(|at| (format!("changes-{at}"), format!("10.96.0.{}", 20 + at))).collect();
    for (name, ip) in &changed {
        stage.service(name, ip).backends(&stage.pool[..2]).write();
    }
    stage.service("goes", "10.96.0.13").backends(&stage.pool[..2]).write();
    stage.world.settle();
    let log_start = stage.world.agent_log().len();
    stage.faults.clear();
    stage.faults.fail(Operation::Update, "svclb_services", libc::ENOMEM, usize::MAX);
    stage.uninterrupted(|| {
        for (name, ip) in &changed {
            // Another number of backends changes the service's row.
            stage.service(name, ip).backends(&stage.pool[3..]).write();
        }
        stage.world.remove("default/goes");
        for (name, ip) in &changed {
            eventually(&format!("{name} has its new backend"), || {
                let backend =
                    stage.world.request(Tcp, format!("{ip}:80")).map_err(|it| it.to_string())?;
                if backend == "b-3" { Ok(()) } else { Err(backend) }
            });
        }
        eventually("the removed Service is no longer served", || {
            match stage.world.request(Tcp, "10.96.0.13:80") {
                Err(error) if error.raw_os_error() == Some(libc::EACCES) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        stage.wait_for_waits(4, waits);
    });
    let log = stage.world.agent_log().split_off(log_start);
    for (name, _) in &changed {
        let is_logged = |line: &&str| line.contains("ERROR") && line.contains(name);
        assert_eq!(
            log.lines().filter(is_logged).count(),
            1,
            "expected one line about {name}:\n{log}"
        );
    }
    stage.faults.clear();
    stage.world.settle();
    stage.world.assert_same_as_fresh_agent();
}

/// Asserts that the last waits are longer than the first ones: they double. A busy machine can only make
/// some longer.
fn assert_later_each_time(waits: &[Duration], row: &str) {
    let (first, later) = waits.split_at(waits.len().div_ceil(2));
    let (first, later) = (first.iter().min().unwrap(), later.iter().max().unwrap());
    assert!(2 * *later >= 3 * *first, "{row}: expected longer and longer waits, got {waits:?}");
}

/// The waits between the retries of a pass. The calls of one attempt follow each other at once and are
/// skipped.
fn waits(calls: &[Call]) -> Vec<Duration> {
    let failed: Vec<&Call> = calls.iter().filter(|call| call.failed.is_some()).collect();
    let waits = failed.windows(2).map(|pair| pair[1].at.duration_since(pair[0].at));
    waits.filter(|wait| *wait > Duration::from_millis(40)).collect()
}

/// The waits between attempts to create larger maps: from the last failed call to the first new map. The
/// waits between failed calls would include the time that it takes to create and fill the maps.
fn waits_for_larger_maps(calls: &[Call]) -> Vec<Duration> {
    let begins = |call: &Call| call.operation == Operation::CreateMap && call.name == "svclb_index";
    let mut failed = None;
    let mut waits = Vec::new();
    for call in calls {
        if call.failed.is_some() {
            failed = Some(call.at);
        } else if let Some(failed) = failed.filter(|_| begins(call)) {
            waits.push(call.at.duration_since(failed));
        }
    }
    // The first attempt comes without a wait.
    waits.into_iter().skip(1).collect()
}

#[test]
fn an_audit_that_cannot_read_the_maps_is_logged_and_counted_and_changes_nothing() {
    let rows = [
        (Operation::Lookup, "svclb_frontends", libc::EPERM),
        (Operation::Lookup, "svclb_backends", libc::ENOMEM),
        (Operation::Lookup, "svclb_services", libc::ENOMEM),
        (Operation::Lookup, "svclb_meta", libc::EPERM),
    ];
    let stage = Stage::of(World::builder("audit").agent_args(["--audit", "1"]));
    stage.start();
    stage.world.settle();
    for (operation, map, error) in rows {
        let row = format!("{operation:?} of {map}");
        let (log_start, failures) = (stage.world.agent_log().len(), stage.failures());
        stage.faults.fail(operation, map, error, usize::MAX);
        let tries = stage.uninterrupted(|| {
            stage.wait_for_failures(2);
            // Changes are written even if the maps cannot be read.
            stage.service("other", "10.96.0.11").backends(&stage.pool[2..]).write();
            eventually(&format!("{row}: a new Service is served"), || {
                let found = stage.world.request(Tcp, "10.96.0.11:80");
                found.map(drop).map_err(|error| error.to_string())
            });
            stage.faults.clear().len()
        });
        let log = stage.world.agent_log().split_off(log_start);
        let words = ["ERROR", "cannot read the maps to compare them", map];
        let is_logged = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(log.lines().any(is_logged), "{row}: {log}");
        stage.world.settle();
        eventually(&format!("{row}: each failure is counted"), || {
            match stage.failures() - failures {
                counted if counted >= tries as u64 => Ok(()),
                counted => Err(format!("{counted} of {tries}: {}", stage.world.agent_log())),
            }
        });
        // The next audits read everything again.
        eventually(&format!("{row}: the maps are read"), || {
            let is_read = |call: &Call| (call.operation, call.name.as_str()) == (operation, map);
            stage.faults.calls().iter().any(is_read).then_some(()).ok_or_else(String::new)
        });
        let expected = ["b-2", "b-3"].map(str::to_owned).into();
        assert_eq!(stage.answers("10.96.0.11:80"), expected, "{row}");
        stage.world.remove("default/other");
        stage.world.settle();
        let log = stage.world.agent_log().split_off(log_start);
        assert!(!log.contains("another program changed the maps"), "{row}: {log}");
    }
    stage.world.assert_same_as_fresh_agent();
}
