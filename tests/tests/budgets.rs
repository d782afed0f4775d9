//! Large Services on the real agent: one above a budget is refused and costs nothing, and one below it
//! does not delay other Services for long, however often it changes.
#![expect(clippy::unwrap_used, reason = "a failure in the set-up fails the test")]

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use svclb_tests::{Tcp, World, eventually, within};

const HELLO: &str = "10.96.0.10:80";
/// More ports than a Service may have.
const TOO_MANY: usize = 60_000;
/// Almost as many ports as a Service may have.
const MANY: usize = 9_000;
/// Interval at which the large Service is rewritten.
const OFTEN: Duration = Duration::from_millis(50);
/// Limit for an unrelated change, on any machine: several hundred times the usual duration.
const PATIENCE: Duration = Duration::from_secs(5);

/// A Service with this number of ports.
fn service(name: &str, address: &str, ports: usize) -> String {
    let mut text = String::new();
    for port in 1..=ports {
        let comma = if port == 1 { "" } else { "," };
        write!(text, r#"{comma}{{"name":"p{port}","port":{port}}}"#).unwrap();
    }
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"{name}","namespace":"large"}},
"spec":{{"clusterIP":"{address}","ports":[{text}]}}}}"#
    )
}

/// The slice of a Service, with one endpoint.
fn slice(name: &str, endpoint: &str, ports: usize) -> String {
    let mut text = String::new();
    for port in 1..=ports {
        let comma = if port == 1 { "" } else { "," };
        write!(text, r#"{comma}{{"name":"p{port}","port":8080}}"#).unwrap();
    }
    format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"{name}",
"namespace":"large","labels":{{"kubernetes.io/service-name":"{name}"}}}},"addressType":"IPv4",
"ports":[{text}],"endpoints":[{{"addresses":["{endpoint}"]}}]}}"#
    )
}

fn number(status: &Value, name: &str) -> u64 {
    status[name].as_u64().unwrap()
}

#[test]
fn services_of_sixty_thousand_ports_are_refused_and_use_no_capacity() {
    let world = World::new("refused");
    let (a, b) =
        (world.backend("a", Tcp, "10.244.0.1:8080"), world.backend("b", Tcp, "10.244.0.2:8080"));
    let hello = || world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp);
    hello().backends([&a]).apply();
    let before = world.status();
    for number in 0..3 {
        let (name, address) = (format!("s{number}"), format!("10.97.0.{number}"));
        world.write_file(&format!("{name}.json"), &service(&name, &address, TOO_MANY));
        world.write_file(&format!("{name}-slice.json"), &slice(&name, "10.244.0.1", TOO_MANY));
    }
    eventually("three Services are counted as refused", || {
        match number(&world.status(), "refused") {
            3 => Ok(()),
            found => Err(format!("{found} are refused; the log:\n{}", world.agent_log())),
        }
    });
    hello().backends([&b]).apply();
    assert_eq!(world.request(Tcp, HELLO).unwrap(), "b");
    let after = world.status();
    for same in ["frontends", "index_lines", "slots"] {
        assert_eq!(number(&before, same), number(&after, same), "{same}");
    }
    let log = world.agent_log();
    let words = ["large/s0", "60000 frontends", "10000", "--service-frontends"];
    let is_logged = |line: &str| words.iter().all(|word| line.contains(word));
    assert!(log.lines().any(is_logged), "{log}");
    // One of them shrinks below the budget.
    world.write_file("s1.json", &service("s1", "10.97.0.1", 3));
    let served = || world.request(Tcp, "10.97.0.1:3").map_err(|error| error.to_string());
    eventually("the Service that is now below the budget is served", || match served()? {
        answer if answer == "a" => Ok(()),
        answer => Err(answer),
    });
    // The count is written after the frontend.
    eventually("two Services are counted as refused", || {
        match number(&world.status(), "refused") {
            2 => Ok(()),
            found => Err(format!("{found} are refused")),
        }
    });
}

#[test]
fn a_large_service_that_is_rewritten_all_the_time_does_not_starve_others() {
    let world = World::new("rewritten");
    let pods = ["a", "b"].map(|name| {
        let last = if name == "a" { 1 } else { 2 };
        world.backend(name, Tcp, &format!("10.244.0.{last}:8080"))
    });
    let hello = || world.service("default/hello").cluster_ip("10.96.0.10").port(80, Tcp);
    hello().backends([&pods[0]]).apply();
    world.write_file("large.json", &service("large", "10.97.0.1", MANY));
    world.write_file("slice.json", &slice("large", "10.244.0.1", MANY));
    eventually("the large Service is served", || {
        world.request(Tcp, "10.97.0.1:9000").map(drop).map_err(|error| error.to_string())
    });
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let endpoint = ["10.244.0.2", "10.244.0.1"][turn % 2];
                world.write_file("slice.json", &slice("large", endpoint, MANY));
                thread::sleep(OFTEN);
            }
        });
        for turn in 0..6 {
            let pod = &pods[(turn + 1) % 2];
            hello().backends([pod]).write();
            let expected = ["b", "a"][turn % 2];
            let followed = within(PATIENCE, || match world.request(Tcp, HELLO).unwrap() {
                answer if answer == expected => Ok(()),
                answer => Err(answer),
            });
            if followed.is_err() {
                is_over.store(true, Ordering::Relaxed);
            }
            followed.unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
    });
    // In the end, the last version is served.
    world.write_file("slice.json", &slice("large", "10.244.0.2", MANY));
    for port in [1, MANY / 2, MANY] {
        eventually("the last version of the large Service is served", || {
            match world.request(Tcp, format!("10.97.0.1:{port}").as_str()) {
                Ok(answer) if answer == "b" => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}
