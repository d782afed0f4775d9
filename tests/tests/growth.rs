//! Maps that are too small, or far too large: others take their place while every connect is
//! translated, and what sockets and clients remember stays.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the set-up of a test: what fails in it fails the test"
)]

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use svclb_tests::{Backend, Remembered, Tcp, World, counter, within};

const HELLO: &str = "10.96.0.10:80";
/// Frontends of each of the Services that [`many`] writes: at 100 external IPs and a ClusterIP, ten ports.
const EACH: usize = 1010;
/// Longer than reading and writing all of it takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// So many Services and their slices, all answered at 10.244.0.1:8080.
fn many(services: usize) -> String {
    let mut text = String::new();
    for service in 0..services {
        let (high, low) = (service / 200, service % 200);
        let ports = (0..10).map(|port| format!("{{name: p{port}, port: {}}}", 1000 + port));
        let addresses = (0..100).map(|address| format!("198.{}.{low}.{address}", 18 + high));
        let (ports, addresses): (Vec<_>, Vec<_>) = (ports.collect(), addresses.collect());
        let targets = (0..10).map(|port| format!("{{name: p{port}, port: 8080}}"));
        write!(
            text,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{service}, namespace: many}}, \
             spec: {{clusterIP: 10.97.{high}.{low}, externalIPs: [{}], ports: [{}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s{service}, \
             namespace: many, labels: {{kubernetes.io/service-name: s{service}}}}}, addressType: IPv4, \
             ports: [{}], endpoints: [{{addresses: [10.244.0.1]}}]}}\n",
            addresses.join(", "),
            ports.join(", "),
            targets.collect::<Vec<_>>().join(", "),
        )
        .unwrap();
    }
    text
}

fn number(status: &Value, name: &str) -> usize {
    usize::try_from(status[name].as_u64().unwrap()).unwrap()
}

/// Waits until the maps hold so many frontends of [`many`] and nobody is short of room.
fn wait_for(world: &World, services: usize) {
    let held = within(PATIENCE, || {
        let status = world.status();
        let done = number(&status, "frontends") >= services * EACH && number(&status, "short") == 0;
        if done { Ok(()) } else { Err(format!("{status:#}\n{}", world.agent_log())) }
    });
    held.unwrap_or_else(|last| panic!("the frontends do not come: {last}"));
}

fn stage(name: &str) -> (World, Vec<Backend>) {
    let world = World::new(name);
    let backends = Remembered::prepare(&world);
    (world, backends)
}

#[test]
fn maps_grow_from_1000_to_100000_frontends_and_shrink_again_and_no_connect_notices() {
    let (world, _backends) = stage("growth");
    world.write_file("many.yaml", &many(1));
    wait_for(&world, 1);
    let small = world.status();
    let remembered = Remembered::of(&world);

    let (rounds, ()) = world.without_a_gap(Tcp, HELLO, || {
        world.write_file("many.yaml", &many(100));
        wait_for(&world, 100);
    });
    assert!(rounds > 10, "the client connected {rounds} times only");
    let large = world.status();
    assert!(number(&large, "index_lines") >= 4 * 100 * EACH, "{large}");
    remembered.sockets_do();
    remembered.clients_do(&world);
    let (translated, not_service) = (counter(&large, "translated"), counter(&large, "not_service"));
    assert!(translated >= u64::from(rounds), "{large}");
    for service in [0, 1, 17, 50, 99] {
        for to in [format!("10.97.0.{service}:1003"), format!("198.18.{service}.77:1009")] {
            assert_eq!(world.ask(Tcp, to.as_str()).unwrap(), "a", "{to}");
        }
    }
    let status = world.status();
    assert_eq!(counter(&status, "not_service"), not_service, "counters go on: {status}");

    // They stay as they are while the agent runs: what went may come back.
    world.write_file("many.yaml", &many(1));
    let gone = within(PATIENCE, || match number(&world.status(), "frontends") {
        left if left < 2 * EACH => Ok(()),
        left => Err(left.to_string()),
    });
    gone.unwrap();
    assert_eq!(world.status()["index_lines"], large["index_lines"]);
    let (rounds, ()) = world.without_a_gap(Tcp, HELLO, || {
        world.take_agent().kill();
        world.start_agent();
        let shrunk = within(PATIENCE, || match world.status() {
            status if status["index_lines"] == small["index_lines"] => Ok(()),
            status => Err(format!("{status}\n{}", world.agent_log())),
        });
        shrunk.unwrap();
    });
    assert!(rounds > 10, "the client connected {rounds} times only");
    remembered.sockets_do();
    remembered.clients_do(&world);
    world.write_file("many.yaml", "");
    world.settle();
    assert_eq!(world.ask(Tcp, HELLO).unwrap(), "a");
}

#[test]
fn an_agent_that_is_killed_while_maps_grow_leaves_what_the_next_one_finishes() {
    let (world, _backends) = stage("growth-killed");
    let remembered = Remembered::of(&world);
    let (rounds, ()) = world.without_a_gap(Tcp, HELLO, || {
        // Later each time, so that it dies before, in and after the change of maps.
        for round in 0..12_u32 {
            world.write_file("many.yaml", &many(6 * (round as usize + 1)));
            std::thread::sleep(Duration::from_millis(20) * (round + 1));
            world.take_agent().kill();
            world.start_agent();
        }
        wait_for(&world, 72);
    });
    assert!(rounds > 10, "the client connected {rounds} times only");
    remembered.sockets_do();
    remembered.clients_do(&world);
    let left = world.pins();
    let left = world.inside(move || {
        let versions = std::fs::read_dir(left).unwrap().map(|entry| entry.unwrap().path());
        versions
            .flat_map(|version| [version.join("next"), version.join("commit")])
            .filter(|folder| folder.exists())
            .count()
    });
    assert_eq!(left, 0, "folders of maps that were being filled");
    assert_eq!(world.ask(Tcp, "198.18.71.77:1009").unwrap(), "a");
}
