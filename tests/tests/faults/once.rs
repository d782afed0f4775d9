//! Each call fails once, and all calls fail at once.

use std::time::Duration;

use svclb_tests::{Operation, Tcp, holds_for};

use super::stage::{DIALLED, Stage};

const ERRORS: [(&str, i32); 3] =
    [("ENOMEM", libc::ENOMEM), ("E2BIG", libc::E2BIG), ("EPERM", libc::EPERM)];

/// The calls that a change of Services makes.
const WRITES: [(Operation, &str); 7] = [
    (Operation::Update, "svclb_services"),
    (Operation::Update, "svclb_frontends"),
    (Operation::Update, "svclb_backends"),
    (Operation::Update, "svclb_meta"),
    (Operation::Delete, "svclb_frontends"),
    (Operation::Delete, "svclb_backends"),
    (Operation::Delete, "svclb_services"),
];

#[test]
fn a_write_that_fails_once_is_retried_without_interruption() {
    let stage = Stage::started("fails-once");
    for (operation, map) in WRITES {
        // svclb_meta has one value, for which there is always a place.
        let can_fail = |error: &&(&str, i32)| map != "svclb_meta" || error.1 != libc::E2BIG;
        for &(name, error) in ERRORS.iter().filter(can_fail) {
            let row = format!("{operation:?} of {map}: {name}");
            let other = stage.service("other", "10.96.0.11");
            let removes = operation == Operation::Delete;
            if removes {
                other.backends(&stage.pool[..2]).apply();
            }
            let (before, failures) = (stage.world.status(), stage.failures());
            stage.faults.clear();
            stage.faults.fail(operation, map, error, 1);
            stage.uninterrupted(|| {
                if removes {
                    stage.world.remove("default/other");
                } else {
                    stage.service("other", "10.96.0.11").backends(&stage.pool[2..]).write();
                }
                stage.wait_for_failures(1);
                stage.world.settle();
            });
            let failed = stage.faults.clear();
            assert_eq!(failed.len(), 1, "{row}: {failed:?}");
            // If the map is full, the Service is unplaced, and the call does not count as a failure.
            let after = stage.world.status();
            let grew = |name| after[name].as_u64() > before[name].as_u64();
            let is_full = error == libc::E2BIG && !removes;
            assert_eq!(grew("index_lines") || grew("slots"), is_full, "{row}: {before} {after}");
            let counted = u64::from(!is_full);
            assert_eq!(stage.failures(), failures + counted, "{row}: counted failures: {after}");
            if removes {
                let error = stage.world.request(Tcp, "10.96.0.11:80").unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{row}: {error}");
            } else {
                let expected = ["b-2", "b-3"].map(str::to_owned).into();
                assert_eq!(stage.answers("10.96.0.11:80"), expected, "{row}");
                stage.world.remove("default/other");
                stage.world.settle();
            }
        }
    }
    stage.world.assert_same_as_fresh_agent();
}

#[test]
fn changes_are_applied_after_every_write_failed_for_a_while() {
    let stage = Stage::started("fail-all");
    for (name, error) in ERRORS {
        for operation in [Operation::Update, Operation::Delete, Operation::Map] {
            stage.faults.fail(operation, "", error, usize::MAX);
        }
        stage.uninterrupted(|| {
            for round in 0..4 {
                let backends = &stage.pool[round..=round];
                stage.service("a", "10.96.0.11").backends(backends).write();
                stage.service("b", "10.96.0.12").external_ip("203.0.113.1").write();
                holds_for(Duration::from_millis(150), "the one that stays", || {
                    stage.world.request(Tcp, DIALLED).map(drop).map_err(|error| error.to_string())
                });
                stage.world.remove(if round % 2 == 0 { "default/b" } else { "default/a" });
            }
            let failed = stage.faults.clear();
            assert!(!failed.is_empty(), "{name}");
            stage.world.settle();
        });
        stage.world.assert_same_as_fresh_agent();
    }
}
