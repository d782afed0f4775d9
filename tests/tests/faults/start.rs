//! Agents whose calls fail while they start.

use svclb_tests::{Operation, Tcp};

use super::stage::{DIALLED, Stage};

/// A call that makes a start fail: operation, name, number of calls that pass first, error number, and
/// the words of the agent's message.
type StartFault = (Operation, &'static str, usize, i32, &'static [&'static str]);

/// Services that change while no agent runs.
const MOVES: [(&str, &str); 3] =
    [("moves-0", "10.96.0.11"), ("moves-1", "10.96.0.12"), ("moves-2", "10.96.0.13")];
/// Services that are created while no agent runs.
const COMES: [(&str, &str); 3] =
    [("comes-0", "10.96.0.21"), ("comes-1", "10.96.0.22"), ("comes-2", "10.96.0.23")];

/// Starts an agent with a failing call, and checks its last message.
fn assert_start_fails(stage: &Stage, (operation, name, skip, error, words): &StartFault) {
    let row = format!("{operation:?} of {name:?} after {skip}");
    let log_start = stage.world.agent_log().len();
    stage.faults.clear();
    stage.faults.fail_after(*skip, *operation, name, *error, usize::MAX);
    let status = stage.world.launch_agent(Some(&stage.faults)).wait();
    let failed = stage.faults.clear();
    assert!(!failed.is_empty(), "{row}: the agent did not make this call");
    let log = stage.world.agent_log().split_off(log_start);
    assert!(!status.success(), "{row}: {log}");
    let last = log.trim().lines().last().unwrap_or_default();
    for word in *words {
        assert!(last.contains(word), "{row}: no {word:?} in {log}");
    }
}

#[test]
fn a_first_start_with_a_failing_call_reports_it_and_the_next_start_succeeds() {
    let rows: [StartFault; 13] = [
        (Operation::CreateMap, "svclb_index", 0, libc::ENOMEM, &["svclb_index", "memory"]),
        (Operation::CreateMap, "svclb_slots", 0, libc::E2BIG, &["svclb_slots"]),
        (Operation::CreateMap, "svclb_meta", 0, libc::EPERM, &["svclb_meta", "not permitted"]),
        (Operation::Pin, "svclb_origins", 0, libc::EPERM, &["svclb_origins", "not permitted"]),
        (Operation::LoadProgram, "svclb_connect4", 0, libc::ENOMEM, &["svclb_connect4", "memory"]),
        (Operation::LoadProgram, "svclb_release", 0, libc::E2BIG, &["svclb_release"]),
        (Operation::Map, "svclb_index", 0, libc::ENOMEM, &["svclb_index", "memory"]),
        (Operation::Update, "svclb_slots", 0, libc::ENOMEM, &["svclb_slots", "memory"]),
        (Operation::Update, "svclb_services", 0, libc::ENOMEM, &["svclb_services", "memory"]),
        (Operation::Update, "svclb_meta", 0, libc::EPERM, &["svclb_meta", "not permitted"]),
        (Operation::CreateLink, "", 0, libc::ENOMEM, &["sock_release", "memory"]),
        (Operation::CreateLink, "", 8, libc::ENOMEM, &["connect", "memory"]),
        (Operation::Pin, "connect4", 0, libc::ENOMEM, &["connect4", "memory"]),
    ];
    let stage = Stage::new("first-start");
    for fault in &rows {
        assert_start_fails(&stage, fault);
        let error = stage.world.request(Tcp, DIALLED).unwrap_err();
        assert_eq!(
            error.raw_os_error(),
            Some(libc::EACCES),
            "{fault:?}: no program may be attached"
        );
        stage.start();
        stage.world.settle();
        assert_eq!(stage.answers(DIALLED).len(), 2, "{fault:?}");
        stage.world.take_agent().stop();
        let output = stage.world.svclb(&["uninstall"]);
        assert!(output.status.success(), "{fault:?}: {output:?}");
    }
}

#[test]
fn a_later_start_with_a_failing_call_leaves_the_running_programs() {
    let rows: [StartFault; 11] = [
        (Operation::LoadProgram, "svclb_connect4", 0, libc::ENOMEM, &["svclb_connect4", "memory"]),
        (Operation::UpdateLink, "", 0, libc::ENOMEM, &["sock_release", "memory"]),
        (Operation::UpdateLink, "", 4, libc::EPERM, &["recvmsg6", "not permitted"]),
        (Operation::UpdateLink, "", 8, libc::ENOMEM, &["connect", "memory"]),
        (Operation::OpenPin, "svclb_index", 0, libc::EPERM, &["svclb_index", "not permitted"]),
        (Operation::Map, "svclb_index", 0, libc::ENOMEM, &["svclb_index", "memory"]),
        (Operation::Lookup, "svclb_meta", 0, libc::EPERM, &["svclb_meta", "not permitted"]),
        (Operation::Lookup, "svclb_services", 0, libc::ENOMEM, &["svclb_services", "memory"]),
        (Operation::Lookup, "svclb_backends", 0, libc::ENOMEM, &["svclb_backends", "memory"]),
        (Operation::Lookup, "svclb_frontends", 0, libc::EPERM, &["svclb_frontends", "permitted"]),
        (Operation::Update, "svclb_meta", 0, libc::ENOMEM, &["svclb_meta", "memory"]),
    ];
    let stage = Stage::started("later-start");
    stage.uninterrupted(|| {
        for (number, fault) in rows.iter().enumerate() {
            // There is work of each kind for the call: a row to write and one to remove.
            stage.service("moves", "10.96.0.11").backends(&stage.pool[..3]).write();
            stage.world.settle();
            stage.world.take_agent().kill();
            let backends = &stage.pool[number % 3..=number % 3];
            stage.service("moves", "10.96.0.11").backends(backends).write();
            stage.service(&format!("more-{number}"), "10.96.0.12").write();
            assert_start_fails(&stage, fault);
            let backend = stage.world.request(Tcp, "10.96.0.11:80").unwrap();
            assert!(backend.starts_with("b-"), "{fault:?}: {backend}");
            stage.start();
            stage.world.settle();
            assert_eq!(stage.answers("10.96.0.11:80"), [format!("b-{}", number % 3)].into());
            stage.world.remove(&format!("default/more-{number}"));
        }
    });
    stage.world.settle();
    stage.world.assert_same_as_fresh_agent();
}

#[test]
fn a_later_start_with_failing_writes_serves_the_existing_state_and_retries() {
    // Without new rows, the agent's own Service for the probe cannot be written either.
    let rows = [
        (Operation::Update, "svclb_services", libc::EPERM, false),
        (Operation::Update, "svclb_frontends", libc::ENOMEM, false),
        (Operation::Delete, "svclb_backends", libc::ENOMEM, true),
    ];
    let stage = Stage::started("later-writes");
    stage.uninterrupted(|| {
        for (operation, map, error, can_be_ready) in rows {
            let row = format!("{operation:?} of {map}");
            for (name, ip) in MOVES {
                stage.service(name, ip).backends(&stage.pool[..2]).write();
            }
            stage.world.settle();
            stage.world.take_agent().kill();
            for (name, ip) in MOVES {
                stage.service(name, ip).backends(&stage.pool[1..2]).write();
            }
            for (name, ip) in COMES {
                stage.service(name, ip).backends(&stage.pool[2..]).write();
            }
            let (log_start, failures) = (stage.world.agent_log().len(), stage.failures());
            stage.faults.clear();
            stage.faults.fail(operation, map, error, usize::MAX);
            let agent = stage.world.launch_agent(Some(&stage.faults));
            let tries = stage.wait_for_failures(10).len();
            if can_be_ready {
                agent.wait_until_ready();
            } else {
                let shown = stage.world.svclb(&["status", "--ready"]);
                assert!(!shown.status.success(), "{row}: {shown:?}");
            }
            let log = stage.world.agent_log().split_off(log_start);
            let is_logged = |line: &str| line.contains("ERROR") && line.contains(map);
            assert!(log.lines().any(is_logged), "{row}: {log}");
            for (name, ip) in MOVES {
                // None of these changes needs the failing call.
                let answers = stage.answers(&format!("{ip}:80"));
                assert_eq!(answers, ["b-1".to_owned()].into(), "{row}: {name}");
            }
            // The start completes without any further change.
            stage.faults.clear();
            if !can_be_ready {
                agent.wait_until_ready();
            }
            stage.world.put_agent(agent);
            stage.world.settle();
            assert!(
                stage.failures() >= failures + tries as u64,
                "{row}: the failures must be counted"
            );
            for (name, ip) in MOVES {
                assert_eq!(stage.answers(&format!("{ip}:80")), ["b-1".to_owned()].into(), "{row}");
                stage.world.remove(&format!("default/{name}"));
            }
            for (name, ip) in COMES {
                let expected = ["b-2", "b-3"].map(str::to_owned).into();
                assert_eq!(stage.answers(&format!("{ip}:80")), expected, "{row}");
                stage.world.remove(&format!("default/{name}"));
            }
        }
    });
    stage.world.settle();
    stage.world.assert_same_as_fresh_agent();
}
