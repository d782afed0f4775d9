//! Agents that adopt an earlier agent's maps and cannot read all objects.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::time::Duration;

use svclb_tests::{Tcp, World, eventually, holds_for, within};

use super::stage::{DIALLED, Stage};

const FILE: &str = "default.unread.yaml";

/// Damage to the file of a Service while no agent runs: a name, and a function from the old text to the
/// new one.
type Damage = (&'static str, fn(&str) -> String);

const DAMAGES: [Damage; 5] = [
    ("a rejected slice", |text| text.replacen("addresses: [\"", "addresses: [\"x", 1)),
    ("a slice of another shape", |text| text.replacen("endpoints:", "endpoints: 7\nothers:", 1)),
    ("a rejected Service", |text| text.replacen("port: 80 }", "port: eighty }", 1)),
    ("a broken document, and its slices", |text| text.replacen("spec:", "spec: ]", 1)),
    ("a broken file", |_| "[".to_owned()),
];

fn names(names: [&str; 2]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

/// Writes the Service, lets an agent write it to the maps, and kills the agent. Returns the text of the
/// file.
fn write_then_kill_agent(stage: &Stage) -> String {
    stage.service("unread", "10.96.0.11").backends(&stage.pool[..2]).write();
    stage.world.settle();
    stage.world.take_agent().kill();
    fs::read_to_string(stage.world.yaml().join(FILE)).unwrap()
}

#[test]
fn a_restart_retains_services_whose_objects_cannot_be_read() {
    // The audits must not remove it either.
    let stage = Stage::of(World::builder("unread").agent_args(["--audit", "1"]));
    stage.start();
    stage.uninterrupted(|| {
        for (row, damage) in DAMAGES {
            for is_repaired in [true, false] {
                let row = format!("{row}: repaired {is_repaired}");
                let text = write_then_kill_agent(&stage);
                let damaged = damage(&text);
                assert_ne!(damaged, text, "{row}");
                stage.world.write_file(FILE, &damaged);
                let log_start = stage.world.agent_log().len();
                stage.start();
                holds_for(
                    Duration::from_millis(2500),
                    &format!("{row}: the Service is served"),
                    || match stage.answers("10.96.0.11:80") {
                        answers if answers == names(["b-0", "b-1"]) => Ok(()),
                        other => Err(format!("{other:?}: {}", stage.world.agent_log())),
                    },
                );
                let log = stage.world.agent_log().split_off(log_start);
                let lines = |words: [&str; 2]| {
                    log.lines().filter(|line| words.iter().all(|it| line.contains(it))).count()
                };
                let retained = ["retaining the previous agent's state", "default/unread"];
                assert_eq!(lines(retained), 1, "{row}: {log}");
                assert_eq!(lines([FILE, "until this is corrected"]), 1, "{row}: {log}");
                assert!(!log.contains("forgotten"), "{row}: {log}");
                assert_eq!(stage.world.status()["short"], 0, "{row}");
                if is_repaired {
                    stage.service("unread", "10.96.0.11").backends(&stage.pool[2..]).write();
                    stage.world.settle();
                    assert_eq!(stage.answers("10.96.0.11:80"), names(["b-2", "b-3"]), "{row}");
                }
                stage.world.remove("default/unread");
                stage.world.settle();
                let error = stage.world.request(Tcp, "10.96.0.11:80").unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{row}: {error}");
            }
        }
    });
    stage.world.assert_same_as_fresh_agent();
}

#[test]
fn readable_objects_win_over_an_earlier_agents_state() {
    let stage = Stage::started("unread-known");
    let text = write_then_kill_agent(&stage);
    // An additional slice that is rejected; the Service's other slices are readable.
    stage.service("unread", "10.96.0.11").backends(&stage.pool[2..]).write();
    let slice = text.rsplit("---").next().unwrap();
    let slice = slice.replace("name: unread-80", "name: other-80").replacen("[\"", "[\"x", 1);
    stage.world.write_file("slice.yaml", &slice);
    stage.start();
    stage.world.settle();
    assert_eq!(stage.answers("10.96.0.11:80"), names(["b-2", "b-3"]));
    // From here on, backends are removed as usual.
    stage.world.take_agent().kill();
    stage.start();
    stage.service("unread", "10.96.0.11").write();
    stage.world.settle();
    let error = stage.world.request(Tcp, "10.96.0.11:80").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED), "{error}");
    stage.world.remove("default/unread");
    fs::remove_file(stage.world.yaml().join("slice.yaml")).unwrap();
    stage.world.settle();
    stage.world.assert_same_as_fresh_agent();
}

#[test]
fn a_starting_agent_waits_for_a_file_that_is_being_written() {
    let stage = Stage::started("unread-written");
    stage.uninterrupted(|| {
        let text = write_then_kill_agent(&stage);
        let path = stage.world.yaml().join(FILE);
        let (half, rest) = text.split_at(text.find("---").unwrap());
        let mut file = fs::File::create(path).unwrap();
        file.write_all(half.as_bytes()).unwrap();
        let agent = stage.world.launch_agent(Some(&stage.faults));
        // The file grows for longer than the agent waits for it.
        for _ in 0..60 {
            std::thread::sleep(Duration::from_millis(50));
            file.write_all(b"# more\n").unwrap();
            assert_eq!(stage.answers("10.96.0.11:80"), names(["b-0", "b-1"]), "meanwhile");
        }
        file.write_all(rest.as_bytes()).unwrap();
        drop(file);
        agent.wait_until_ready();
        stage.world.put_agent(agent);
        eventually("all sources are read", || match stage.world.meta().synced {
            1 => Ok(()),
            _ => Err(stage.world.agent_log()),
        });
        stage.world.settle();
        assert_eq!(stage.answers("10.96.0.11:80"), names(["b-0", "b-1"]));
        stage.world.request(Tcp, DIALLED).unwrap();
    });
    stage.world.assert_same_as_fresh_agent();
}

#[test]
fn thousands_of_new_services_beside_a_rejected_one_are_served_after_a_restart() {
    const NEW: usize = 6_000;
    let stage = Stage::started("unread-many");
    let text = write_then_kill_agent(&stage);
    // The Service and its slices are rejected.
    let damaged = text.replacen("port: 80 }", "port: eighty }", 1);
    stage.world.write_file(FILE, &damaged.replace("addresses: [\"", "addresses: [\"x"));
    let pod = stage.pool[2].address();
    let address = |number: usize| format!("10.97.{}.{}", number / 250, number % 250 + 1);
    let items = (0..NEW).flat_map(|number| {
        let name = format!("new-{number}");
        let service = serde_json::json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": address(number), "ports": [{"port": 80}]},
        });
        let slice = serde_json::json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "ports": [{"port": pod.port()}], "endpoints": [{"addresses": [pod.ip()]}],
        });
        [service, slice]
    });
    let list = serde_json::json!({
        "apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>(),
    });
    stage.world.write_file("new.json", &list.to_string());
    stage.start();
    let all_fit = within(Duration::from_secs(120), || {
        let status = stage.world.status();
        match (status["short"].as_u64(), status["synced"].as_bool()) {
            (Some(0), Some(true)) if status["frontends"].as_u64() > Some(NEW as u64) => Ok(()),
            _ => Err(format!("{status}: {}", stage.world.agent_log())),
        }
    });
    all_fit.unwrap_or_else(|last| panic!("expected all Services to fit into larger maps: {last}"));
    for number in (0..NEW).step_by(NEW / 30) {
        let to = format!("{}:80", address(number));
        assert_eq!(stage.world.request(Tcp, to.as_str()).unwrap(), "b-2", "{to}");
    }
    assert_eq!(stage.answers("10.96.0.11:80"), names(["b-0", "b-1"]), "retained");
}

#[test]
fn a_rejected_service_yields_its_address_to_a_readable_claimant() {
    let stage = Stage::started("unread-gives");
    stage.service("unread", "10.96.0.11").backends(&stage.pool[..2]).write();
    stage.world.settle();
    let text = fs::read_to_string(stage.world.yaml().join(FILE)).unwrap();
    let is_answered_by = |row: &str, expected: [&str; 2]| {
        eventually(row, || match stage.answers("10.96.0.11:80") {
            answers if answers == names(expected) => Ok(()),
            other => Err(format!("{other:?}: {}", stage.world.agent_log())),
        });
    };
    for is_restarted in [false, true] {
        let row = format!("restarted: {is_restarted}");
        if is_restarted {
            stage.world.take_agent().kill();
        }
        stage.world.write_file(FILE, &text.replacen("port: 80 }", "port: eighty }", 1));
        if is_restarted {
            stage.start();
        }
        stage.world.settle();
        is_answered_by(&format!("{row}: no other claims it"), ["b-0", "b-1"]);
        // From here on both Services claim the address, so neither is served as it asks.
        stage.service("victim", "10.96.0.11").backends(&stage.pool[2..]).write();
        is_answered_by(&format!("{row}: another claims it"), ["b-2", "b-3"]);
        stage.world.remove("default/victim");
        stage.world.write_file(FILE, &text);
        stage.world.settle();
        is_answered_by(&format!("{row}: repaired"), ["b-0", "b-1"]);
    }
    stage.world.assert_same_as_fresh_agent();
}
