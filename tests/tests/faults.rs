//! Calls of the agent that the kernel refuses, once or for a while: what was served stays served, the
//! agent tries again, says so, and comes to what it would have written at once.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use svclb_tests::{
    Backend, Call, Faults, Operation, ServiceBuilder, Tcp, World, eventually, holds_for,
};

const DIALLED: &str = "10.96.0.10:80";
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

/// A world whose agent can be made to fail, a Service at [`DIALLED`], and backends for others.
struct Stage {
    faults: Faults,
    pool: Vec<Backend>,
    // After what it has.
    world: World,
}

impl Stage {
    fn new(name: &str) -> Self {
        let world = World::builder(name).without_agent().start();
        let pool = world.backends("b", Tcp, 4);
        let stage = Self { faults: Faults::new(), pool, world };
        stage.service("stays", "10.96.0.10").backends(&stage.pool[..2]).write();
        stage
    }

    fn started(name: &str) -> Self {
        let stage = Self::new(name);
        stage.start();
        stage.world.settle();
        stage
    }

    fn start(&self) {
        self.world.start_agent_under(Some(&self.faults));
    }

    fn service(&self, name: &str, ip: &str) -> ServiceBuilder<'_> {
        self.world.service(&format!("default/{name}")).cluster_ip(ip).port(80, Tcp)
    }

    /// Who answers at an address, in some draws.
    fn answers(&self, dialled: &str) -> BTreeSet<String> {
        (0..20).map(|_| self.world.ask(Tcp, dialled).unwrap()).collect()
    }

    /// Waits until so many calls failed.
    fn wait_for_failures(&self, count: usize) -> Vec<Call> {
        eventually(&format!("{count} calls failed"), || match self.faults.failed() {
            failed if failed.len() >= count => Ok(failed),
            failed => Err(format!("{} did; the log:\n{}", failed.len(), self.world.agent_log())),
        })
    }

    /// A client of the Service that stays meets nothing of what `task` does.
    fn unnoticed<R>(&self, task: impl FnOnce() -> R) -> R {
        let (rounds, result) = self.world.without_a_gap(Tcp, DIALLED, task);
        assert!(rounds > 0, "the client connected");
        result
    }
}

#[test]
fn a_write_that_fails_once_is_made_good_for_and_no_client_notices() {
    let stage = Stage::started("fails-once");
    for (operation, map) in WRITES {
        // The only value of svclb_meta has its place.
        let can_fail = |error: &&(&str, i32)| map != "svclb_meta" || error.1 != libc::E2BIG;
        for &(name, error) in ERRORS.iter().filter(can_fail) {
            let row = format!("{operation:?} of {map}: {name}");
            let other = stage.service("other", "10.96.0.11");
            let removes = operation == Operation::Delete;
            if removes {
                other.backends(&stage.pool[..2]).apply();
            }
            stage.faults.clear();
            stage.faults.fail(operation, map, error, 1);
            stage.unnoticed(|| {
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
            if removes {
                let error = stage.world.ask(Tcp, "10.96.0.11:80").unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{row}: {error}");
            } else {
                let expected = ["b-2", "b-3"].map(str::to_owned).into();
                assert_eq!(stage.answers("10.96.0.11:80"), expected, "{row}");
                stage.world.remove("default/other");
                stage.world.settle();
            }
        }
    }
    stage.world.assert_as_fresh();
}

#[test]
fn while_writes_fail_what_was_served_stays_served_and_each_try_comes_later() {
    for (name, error) in [("ENOMEM", libc::ENOMEM), ("EPERM", libc::EPERM)] {
        fail_for_a_while(name, error);
    }
}

#[test]
fn while_not_even_larger_maps_take_a_row_what_was_served_stays_served() {
    fail_for_a_while("E2BIG", libc::E2BIG);
}

fn fail_for_a_while(name: &str, error: i32) {
    let stage = Stage::started(&format!("fail-long-{}", name.to_lowercase()));
    let changing = |backends: &[Backend]| {
        stage.service("changing", "10.96.0.11").backends(backends).write();
    };
    changing(&stage.pool[..2]);
    stage.world.settle();
    let told = stage.world.agent_log().len();
    stage.faults.clear();
    stage.faults.fail(Operation::Update, "svclb_backends", error, usize::MAX);
    let calls = stage.unnoticed(|| {
        changing(&stage.pool[2..]);
        // A new one, too: nobody ever reaches half of it.
        stage.service("new", "10.96.0.12").backends(&stage.pool[2..]).write();
        // Some tries: each is a few calls, and more where larger maps are filled.
        let calls = stage.wait_for_failures(if error == libc::E2BIG { 14 } else { 10 });
        let old: BTreeSet<String> = ["b-0", "b-1"].map(str::to_owned).into();
        assert_eq!(stage.answers("10.96.0.11:80"), old, "{name}: the old backends stay");
        let nobody = stage.world.ask(Tcp, "10.96.0.12:80").unwrap_err();
        assert_eq!(nobody.raw_os_error(), Some(libc::EACCES), "{name}: {nobody}");
        calls
    });
    assert_later_each_time(&calls, name);
    let log = stage.world.agent_log().split_off(told);
    for service in ["changing", "new"] {
        let lines = log.lines().filter(|line| line.contains("ERROR") && line.contains(service));
        assert_eq!(lines.count(), 1, "{name}: {service} is told of once:\n{log}");
    }
    // One that has no room is no failure of the map, but a Service that does not fit.
    let shown = if error == libc::E2BIG { "short" } else { "failures" };
    let status = stage.world.status();
    assert!(status[shown].as_u64().is_some_and(|it| it >= 2), "{name}: no {shown} in {status}");
    // It comes to an end without being asked for.
    stage.faults.clear();
    stage.world.settle();
    let new: BTreeSet<String> = ["b-2", "b-3"].map(str::to_owned).into();
    assert_eq!(stage.answers("10.96.0.11:80"), new, "{name}");
    assert_eq!(stage.answers("10.96.0.12:80"), new, "{name}");
    stage.world.assert_as_fresh();
}

/// The longest wait among the later calls is longer than among the first ones. Calls of one try follow each
/// other at once, and those say nothing.
fn assert_later_each_time(calls: &[Call], name: &str) {
    let half = calls.len() / 2;
    let longest = |calls: &[Call]| {
        let waits = calls.windows(2).map(|pair| pair[1].at.duration_since(pair[0].at));
        waits.max().unwrap_or_default()
    };
    let (first, second) = (longest(&calls[..half]), longest(&calls[half..]));
    assert!(first < second, "{name}: waits of up to {first:?}, and then of up to {second:?}");
}

#[test]
fn when_every_write_fails_for_a_while_nothing_is_lost() {
    let stage = Stage::started("fail-all");
    for (name, error) in ERRORS {
        for operation in [Operation::Update, Operation::Delete, Operation::Map] {
            stage.faults.fail(operation, "", error, usize::MAX);
        }
        stage.unnoticed(|| {
            for round in 0..4 {
                let backends = &stage.pool[round..=round];
                stage.service("a", "10.96.0.11").backends(backends).write();
                stage.service("b", "10.96.0.12").external_ip("203.0.113.1").write();
                holds_for(Duration::from_millis(150), "the one that stays", || {
                    stage.world.ask(Tcp, DIALLED).map(drop).map_err(|error| error.to_string())
                });
                stage.world.remove(if round % 2 == 0 { "default/b" } else { "default/a" });
            }
            let failed = stage.faults.clear();
            assert!(!failed.is_empty(), "{name}");
            stage.world.settle();
        });
        stage.world.assert_as_fresh();
    }
}

/// An agent that cannot start: what it was refused, and what it names.
type Lack = (Operation, &'static str, usize, i32, &'static [&'static str]);

/// Starts an agent that is refused something, and looks what it says at its end.
fn fails_to_start(stage: &Stage, (operation, name, skip, error, words): &Lack) {
    let row = format!("{operation:?} of {name:?} after {skip}");
    let told = stage.world.agent_log().len();
    stage.faults.clear();
    stage.faults.fail_after(*skip, *operation, name, *error, usize::MAX);
    let status = stage.world.launch_agent(Some(&stage.faults)).wait();
    let failed = stage.faults.clear();
    assert!(!failed.is_empty(), "{row}: it was not asked for");
    let log = stage.world.agent_log().split_off(told);
    assert!(!status.success(), "{row}: {log}");
    let last = log.trim().lines().last().unwrap_or_default();
    for word in *words {
        assert!(last.contains(word), "{row}: no {word:?} in {log}");
    }
}

#[test]
fn a_first_start_that_is_refused_something_names_it_and_the_next_one_is_fine() {
    let rows: [Lack; 13] = [
        (Operation::CreateMap, "svclb_index", 0, libc::ENOMEM, &["svclb_index", "memory"]),
        (Operation::CreateMap, "svclb_slots", 0, libc::E2BIG, &["svclb_slots"]),
        (Operation::CreateMap, "svclb_meta", 0, libc::EPERM, &["svclb_meta", "not permitted"]),
        (Operation::Pin, "svclb_origins", 0, libc::EPERM, &["svclb_origins", "not permitted"]),
        (Operation::LoadProgram, "svclb_connect4", 0, libc::ENOMEM, &["svclb_connect4", "memory"]),
        (Operation::LoadProgram, "svclb_release", 0, libc::E2BIG, &["svclb_release"]),
        (Operation::Map, "svclb_index", 0, libc::ENOMEM, &["svclb_index", "memory"]),
        (Operation::Map, "svclb_slots", 0, libc::ENOMEM, &["svclb_slots", "memory"]),
        (Operation::Update, "svclb_services", 0, libc::ENOMEM, &["svclb_services", "memory"]),
        (Operation::Update, "svclb_meta", 0, libc::EPERM, &["svclb_meta", "not permitted"]),
        (Operation::CreateLink, "", 0, libc::ENOMEM, &["sock_release", "memory"]),
        (Operation::CreateLink, "", 8, libc::ENOMEM, &["connect", "memory"]),
        (Operation::Pin, "connect4", 0, libc::ENOMEM, &["connect4", "memory"]),
    ];
    let stage = Stage::new("first-start");
    for lack in &rows {
        fails_to_start(&stage, lack);
        let error = stage.world.ask(Tcp, DIALLED).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{lack:?}: nothing is attached");
        stage.start();
        stage.world.settle();
        assert_eq!(stage.answers(DIALLED).len(), 2, "{lack:?}");
        stage.world.take_agent().stop();
        let output = stage.world.svclb(&["uninstall"]);
        assert!(output.status.success(), "{lack:?}: {output:?}");
    }
}

#[test]
fn a_later_start_that_is_refused_something_leaves_what_ran() {
    let rows: [Lack; 9] = [
        (Operation::LoadProgram, "svclb_connect4", 0, libc::ENOMEM, &["svclb_connect4", "memory"]),
        (Operation::UpdateLink, "", 0, libc::ENOMEM, &["sock_release", "memory"]),
        (Operation::UpdateLink, "", 4, libc::EPERM, &["recvmsg6", "not permitted"]),
        (Operation::UpdateLink, "", 8, libc::ENOMEM, &["connect", "memory"]),
        (Operation::OpenPin, "svclb_index", 0, libc::EPERM, &["svclb_index", "not permitted"]),
        (Operation::Map, "svclb_index", 0, libc::ENOMEM, &["svclb_index", "memory"]),
        (Operation::Update, "svclb_meta", 0, libc::ENOMEM, &["svclb_meta", "memory"]),
        (Operation::Update, "svclb_services", 0, libc::EPERM, &["svclb_services", "not permitted"]),
        (Operation::Delete, "svclb_backends", 0, libc::ENOMEM, &["svclb_backends", "memory"]),
    ];
    let stage = Stage::started("later-start");
    stage.unnoticed(|| {
        for (number, lack) in rows.iter().enumerate() {
            // Something of each kind to do for it: a row to write, one to remove.
            stage.service("moves", "10.96.0.11").backends(&stage.pool[..3]).write();
            stage.world.settle();
            stage.world.take_agent().kill();
            let backends = &stage.pool[number % 3..=number % 3];
            stage.service("moves", "10.96.0.11").backends(backends).write();
            stage.service(&format!("more-{number}"), "10.96.0.12").write();
            fails_to_start(&stage, lack);
            let said = stage.world.ask(Tcp, "10.96.0.11:80").unwrap();
            assert!(said.starts_with("b-"), "{lack:?}: {said}");
            stage.start();
            stage.world.settle();
            assert_eq!(stage.answers("10.96.0.11:80"), [format!("b-{}", number % 3)].into());
            stage.world.remove(&format!("default/more-{number}"));
        }
    });
    stage.world.settle();
    stage.world.assert_as_fresh();
}
