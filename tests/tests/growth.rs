//! Maps that are too small, or far too large: others take their place while every connect is
//! translated, and what sockets and clients remember stays.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the set-up of a test: what fails in it fails the test"
)]

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use svclb_tests::{
    Backend, ContinuousClient, Faults, HOOKS, Operation, StickyClients, Tcp, World, at_least,
    counter, eventually, within,
};

const HELLO: &str = "10.96.0.10:80";
/// One of the first frontends that [`many`] writes, there from the beginning.
const OLD: &str = "198.18.0.77:1009";
/// Frontends of each of the Services that [`many`] writes: at 100 external IPs and a ClusterIP, ten ports.
const EACH: usize = 1010;
/// Who answers at the Services of [`many`].
const PODS: [(&str, &str); 2] = [("even", "10.244.0.2"), ("odd", "10.244.0.3")];
/// So many of them need larger maps than one does.
const LARGE: usize = 6;
/// Backends of each of the Services that [`wide`] writes.
const WIDTH: usize = 10_000;
/// Longer than reading and writing all of it takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// So many Services and their slices, answered by [`PODS`] in turn, and by nobody who answers others.
fn many(services: usize) -> String {
    let mut text = String::new();
    for service in 0..services {
        let (high, low) = (service / 200, service % 200);
        let ports = (0..10).map(|port| format!("{{name: p{port}, port: {}}}", 1000 + port));
        let addresses = (0..100).map(|address| format!("198.{}.{low}.{address}", 18 + high));
        let (ports, addresses): (Vec<_>, Vec<_>) = (ports.collect(), addresses.collect());
        let (_, pod) = PODS[service % 2];
        let targets = (0..10).map(|port| format!("{{name: p{port}, port: 8080}}"));
        write!(
            text,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: s{service}, namespace: many}}, \
             spec: {{clusterIP: 10.97.{high}.{low}, externalIPs: [{}], ports: [{}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s{service}, \
             namespace: many, labels: {{kubernetes.io/service-name: s{service}}}}}, addressType: IPv4, \
             ports: [{}], endpoints: [{{addresses: [{pod}]}}]}}\n",
            addresses.join(", "),
            ports.join(", "),
            targets.collect::<Vec<_>>().join(", "),
        )
        .unwrap();
    }
    text
}

/// What `svclb status -o json` shows. Between two sets of maps there is a moment in which it shows nothing.
fn shown(world: &World) -> Value {
    eventually("svclb status shows something", || {
        let output = world.svclb(&["status", "-o", "json"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(said)
        }
    })
}

fn number(status: &Value, name: &str) -> usize {
    usize::try_from(status[name].as_u64().unwrap()).unwrap()
}

/// Waits until the maps hold so many frontends of [`many`] and nobody is short of room.
fn wait_for(world: &World, services: usize) {
    let held = within(PATIENCE, || {
        let status = shown(world);
        let done = number(&status, "frontends") >= services * EACH && number(&status, "short") == 0;
        if done { Ok(()) } else { Err(format!("{status:#}\n{}", world.agent_log())) }
    });
    held.unwrap_or_else(|last| panic!("the frontends do not come: {last}"));
}

/// Leaves only the first Service of [`many`].
fn leave_one(world: &World) {
    world.write_file("many.yaml", &many(1));
    let gone = within(PATIENCE, || match number(&shown(world), "frontends") {
        left if left < 2 * EACH => Ok(()),
        left => Err(left.to_string()),
    });
    gone.unwrap_or_else(|left| panic!("the frontends do not go: {left}"));
}

/// Waits until the index has so many lines.
fn wait_for_lines(world: &World, lines: &Value) {
    let held = within(PATIENCE, || match shown(world) {
        status if status["index_lines"] == *lines => Ok(()),
        status => Err(format!("{status}\n{}", world.agent_log())),
    });
    held.unwrap_or_else(|last| panic!("the index does not get its {lines} lines: {last}"));
}

/// A world with Services that remember something and one of [`many`].
fn stage(name: &str, faults: Option<&Faults>) -> (World, Vec<Backend>) {
    // All of them are in one namespace.
    let all = ["--namespace-share", "100"];
    let world = World::builder(name).agent_args(all).without_agent().start();
    world.start_agent_with_faults(faults);
    let mut backends = StickyClients::prepare(&world);
    let pods = PODS.map(|(name, ip)| world.backend(name, Tcp, &format!("{ip}:8080")));
    backends.extend(pods);
    world.write_file("many.yaml", &many(1));
    wait_for(&world, 1);
    (world, backends)
}

/// Clients of two Services, each answered by its own pod and by no other, meet nothing of what `task` does.
fn unnoticed(world: &World, task: impl FnOnce()) -> u32 {
    let clients = [ContinuousClient::tcp(HELLO, &["a"]), ContinuousClient::tcp(OLD, &["even"])];
    let (rounds, ()) = world.assert_all_uninterrupted(clients, task);
    assert!(
        rounds.iter().all(|it| *it >= at_least(10)),
        "the clients connected {rounds:?} times only"
    );
    rounds.iter().sum()
}

/// Some of the frontends of these Services are answered by whom they should be.
fn some_are_answered(world: &World, services: &[usize]) {
    for service in services {
        for to in [format!("10.97.0.{service}:1003"), format!("198.18.{service}.77:1009")] {
            assert_eq!(world.request(Tcp, to.as_str()).unwrap(), PODS[service % 2].0, "{to}");
        }
    }
}

#[test]
fn maps_grow_from_1000_to_100000_frontends_and_shrink_again_and_no_connect_notices() {
    let (world, _backends) = stage("growth", None);
    let small = shown(&world);
    let remembered = StickyClients::of(&world);

    let rounds = unnoticed(&world, || {
        world.write_file("many.yaml", &many(100));
        wait_for(&world, 100);
    });
    let large = shown(&world);
    assert!(number(&large, "index_lines") >= 4 * 100 * EACH, "{large}");
    remembered.assert_sockets_keep_backend();
    remembered.assert_client_keeps_backend(&world);
    let (translated, not_service) = (counter(&large, "translated"), counter(&large, "not_service"));
    assert!(translated >= u64::from(rounds), "{large}");
    some_are_answered(&world, &[0, 1, 17, 50, 99]);
    let status = shown(&world);
    assert_eq!(counter(&status, "not_service"), not_service, "counters go on: {status}");

    // They stay as they are while the agent runs: what went may come back.
    leave_one(&world);
    assert_eq!(shown(&world)["index_lines"], large["index_lines"]);
    unnoticed(&world, || {
        world.take_agent().kill();
        world.start_agent();
        wait_for_lines(&world, &small["index_lines"]);
    });
    remembered.assert_sockets_keep_backend();
    remembered.assert_client_keeps_backend(&world);
    world.write_file("many.yaml", "");
    world.settle();
    assert_eq!(world.request(Tcp, HELLO).unwrap(), "a");
}

/// Services of ten ports and a thousand endpoints each, whom nobody dials.
fn wide(services: usize) -> String {
    let mut text = String::new();
    let ports = (0..10).map(|port| format!("{{name: p{port}, port: {}}}", 1000 + port));
    let ports = ports.collect::<Vec<_>>().join(", ");
    let pod = |number: usize| format!("{{addresses: [10.245.{}.{}]}}", number / 200, number % 200);
    let pods = (0..WIDTH / 10).map(pod).collect::<Vec<_>>().join(", ");
    for service in 0..services {
        write!(
            text,
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: w{service}, namespace: wide}}, \
             spec: {{clusterIP: 10.98.0.{service}, ports: [{ports}]}}}}\n---\n\
             {{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: w{service}, \
             namespace: wide, labels: {{kubernetes.io/service-name: w{service}}}}}, addressType: IPv4, \
             ports: [{ports}], endpoints: [{pods}]}}\n",
        )
        .unwrap();
    }
    text
}

#[test]
fn slots_grow_with_the_backends_and_shrink_again_and_no_connect_notices() {
    const SERVICES: usize = 12;
    let (world, _backends) = stage("growth-slots", None);
    let small = shown(&world);
    let remembered = StickyClients::of(&world);
    let wait_for = |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        let held = within(PATIENCE, || match shown(&world) {
            status if is_so(&status) && number(&status, "short") == 0 => Ok(()),
            status => Err(format!("{status:#}\n{}", world.agent_log())),
        });
        held.unwrap_or_else(|last| panic!("{what}: {last}"));
    };
    unnoticed(&world, || {
        world.write_file("wide.yaml", &wide(SERVICES));
        wait_for("the backends do not come", &|it| number(it, "backends") >= SERVICES * WIDTH);
    });
    let large = shown(&world);
    assert!(number(&large, "slots") >= SERVICES * WIDTH, "{large}");
    assert!(number(&large, "slots") > 4 * number(&small, "slots"), "{large}");
    assert_eq!(large["index_lines"], small["index_lines"], "only slots lacked");
    remembered.assert_sockets_keep_backend();

    unnoticed(&world, || {
        world.write_file("wide.yaml", "");
        wait_for("the backends do not go", &|it| number(it, "backends") < WIDTH);
        assert_eq!(shown(&world)["slots"], large["slots"], "what went may come back");
        world.take_agent().kill();
        world.start_agent();
        wait_for("the slots are not as few again", &|it| it["slots"] == small["slots"]);
    });
    assert_eq!(shown(&world)["index_lines"], small["index_lines"]);
    remembered.assert_sockets_keep_backend();
    remembered.assert_client_keeps_backend(&world);
    assert_eq!(world.request(Tcp, HELLO).unwrap(), "a");
}

/// What is there of maps that have not taken the place of others yet.
fn half_made(world: &World) -> Vec<&'static str> {
    let folder = world.version();
    let is_there = move |name: &&str| folder.join(name).exists();
    world.inside(|| ["next", "commit"].into_iter().filter(is_there).collect())
}

/// Where in a change of maps an agent is killed.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// So many milliseconds after it began to make new ones.
    Filling(u64),
    /// As soon as they are filled and take their place.
    Switching,
}

/// Kills the agent in a change of maps that is about to come. Gives what that left half made.
fn killed_in_a_change(world: &World, death: Death) -> Vec<&'static str> {
    let (next, index) = (world.version().join("next"), world.pinned("maps", "svclb_index"));
    // In there, and without a pause: a switch takes a moment.
    let seen = world.inside(move || {
        let inode = || fs::metadata(&index).map(|data| data.ino()).unwrap_or_default();
        let (first, start) = (inode(), Instant::now());
        // Another index has taken its place when all was too quick for us.
        let waits_for = |there: bool| next.exists() != there && inode() == first;
        while waits_for(true) && start.elapsed() < PATIENCE {}
        match death {
            Death::Filling(later) => thread::sleep(Duration::from_millis(later)),
            Death::Switching => while waits_for(false) && start.elapsed() < PATIENCE {},
        }
        start.elapsed() < PATIENCE
    });
    assert!(seen, "no other maps are made: {}", world.agent_log());
    world.take_agent().kill();
    half_made(world)
}

#[test]
fn an_agent_that_is_killed_while_maps_grow_or_shrink_leaves_what_the_next_one_finishes() {
    use Death::{Filling, Switching};
    let (world, _backends) = stage("growth-killed", None);
    let small = shown(&world)["index_lines"].clone();
    let remembered = StickyClients::of(&world);
    let mut left = Vec::new();
    unnoticed(&world, || {
        for death in [Filling(0), Switching, Filling(60), Filling(250)] {
            // Larger maps, while it runs.
            world.write_file("many.yaml", &many(LARGE));
            left.push((death, killed_in_a_change(&world, death)));
            world.start_agent();
            wait_for(&world, LARGE);
            assert_eq!(half_made(&world), [""; 0], "{death:?}: maps that were being filled");
            some_are_answered(&world, &[0, 1, LARGE - 1]);
            // Smaller ones, right after its start.
            leave_one(&world);
            world.take_agent().kill();
            world.put_agent(world.launch_agent(None));
            left.push((death, killed_in_a_change(&world, death)));
            world.start_agent();
            wait_for_lines(&world, &small);
            assert_eq!(half_made(&world), [""; 0], "{death:?}: maps that were being filled");
            some_are_answered(&world, &[0]);
        }
    });
    let half_made = left.iter().filter(|(_, left)| !left.is_empty()).count();
    assert!(half_made >= 2, "hardly an agent died in a change of maps: {left:?}");
    remembered.assert_sockets_keep_backend();
    remembered.assert_client_keeps_backend(&world);
    assert_eq!(world.request(Tcp, HELLO).unwrap(), "a");
}

/// Waits until so many calls failed: it is tried again and again.
fn wait_for_failures(faults: &Faults, world: &World, count: usize, row: &str) {
    let failed = within(PATIENCE, || match faults.failed().len() {
        failed if failed >= count => Ok(()),
        failed => Err(format!("{failed} of {count} calls failed: {}", world.agent_log())),
    });
    failed.unwrap_or_else(|last| panic!("{row}: {last}"));
}

/// Makes the maps as small as they were.
fn shrink(world: &World, faults: &Faults, small: &Value) {
    leave_one(world);
    world.take_agent().kill();
    world.start_agent_with_faults(Some(faults));
    wait_for_lines(world, small);
}

#[test]
fn while_larger_maps_are_refused_what_was_served_stays_served_and_what_is_short_is_shown() {
    let rows = [
        (Operation::CreateMap, "svclb_index"),
        (Operation::CreateMap, "svclb_frontends"),
        (Operation::Map, "svclb_index"),
        (Operation::LoadProgram, "svclb_connect4"),
    ];
    let faults = Faults::new();
    let (world, _backends) = stage("growth-refused", Some(&faults));
    let small = shown(&world)["index_lines"].clone();
    let remembered = StickyClients::of(&world);
    for (operation, name) in rows {
        let row = format!("{operation:?} of {name}");
        let told = world.agent_log().len();
        faults.fail(operation, name, libc::ENOMEM, usize::MAX);
        unnoticed(&world, || {
            world.write_file("many.yaml", &many(LARGE));
            wait_for_failures(&faults, &world, 3, &row);
            let status = shown(&world);
            assert_eq!(status["index_lines"], small, "{row}");
            assert!(number(&status, "short") > 0, "{row}: nobody is short: {status}");
            let log = world.agent_log().split_off(told);
            let words = ["ERROR", "cannot make maps of other sizes", name, "allocate memory"];
            let is_told = |line: &&str| words.iter().all(|word| line.contains(word));
            assert_eq!(log.lines().filter(is_told).count(), 1, "{row}: {log}");
            let is_short = |line: &&str| line.contains("ERROR") && line.contains("many/s");
            assert!(log.lines().any(|line| is_short(&line)), "{row}: nobody is named: {log}");
            eventually(&format!("{row}: nothing is left half made"), || match half_made(&world) {
                left if left.is_empty() => Ok(()),
                left => Err(format!("{left:?}")),
            });
            // It comes to an end without being asked for.
            faults.clear();
            wait_for(&world, LARGE);
        });
        some_are_answered(&world, &[0, 1, LARGE - 1]);
        remembered.assert_sockets_keep_backend();
        remembered.assert_client_keeps_backend(&world);
        shrink(&world, &faults, &small);
    }
}

#[test]
fn half_of_a_switch_to_larger_maps_is_no_gap_and_is_finished_by_the_agent_or_the_next_one() {
    let faults = Faults::new();
    let (world, _backends) = stage("growth-half", Some(&faults));
    let small = shown(&world)["index_lines"].clone();
    let remembered = StickyClients::of(&world);
    // So many of the nine hooks have the new programs; whether the agent dies over it.
    for (switched, is_killed) in [(1, true), (4, false), (8, true), (8, false)] {
        let row = format!("{switched} hooks, killed {is_killed}");
        let told = world.agent_log().len();
        faults.fail_after(switched, Operation::UpdateLink, "", libc::ENOMEM, usize::MAX);
        unnoticed(&world, || {
            world.write_file("many.yaml", &many(LARGE));
            // One try is one call for each hook that is left.
            let left = HOOKS.len() - switched;
            wait_for_failures(&faults, &world, 1 + 2 * left, &row);
            let log = world.agent_log().split_off(told);
            let words = ["ERROR", "not every hook runs the new programs yet", "allocate memory"];
            let is_told = |line: &str| words.iter().all(|word| line.contains(word));
            assert!(log.lines().any(is_told), "{row}: {log}");
            // Hooks of both kinds work together, whether anybody runs or not. Who did not fit waits.
            let work = || {
                remembered.assert_sockets_keep_backend();
                remembered.assert_client_keeps_backend(&world);
                some_are_answered(&world, &[0; 4]);
            };
            work();
            if is_killed {
                world.take_agent().kill();
                work();
                faults.clear();
                world.start_agent_with_faults(Some(&faults));
            } else {
                faults.clear();
            }
            let rest = if is_killed { HOOKS.len() } else { left };
            eventually(&format!("{row}: the other hooks have them, too"), || {
                let calls = faults.calls();
                let done =
                    calls.iter().filter(|call| call.operation == Operation::UpdateLink).count();
                if done == rest { Ok(()) } else { Err(format!("{done}: {}", world.agent_log())) }
            });
            wait_for(&world, LARGE);
            assert_eq!(half_made(&world), [""; 0], "{row}");
        });
        some_are_answered(&world, &[0, 1, LARGE - 1]);
        remembered.assert_sockets_keep_backend();
        remembered.assert_client_keeps_backend(&world);
        shrink(&world, &faults, &small);
    }
}

#[test]
fn an_agent_that_cannot_begin_to_switch_leaves_the_maps_as_they_were() {
    let faults = Faults::new();
    let (world, _backends) = stage("growth-not", Some(&faults));
    let small = shown(&world)["index_lines"].clone();
    faults.fail(Operation::UpdateLink, "", libc::ENOMEM, usize::MAX);
    unnoticed(&world, || {
        world.write_file("many.yaml", &many(LARGE));
        // The agent goes on, and tries again.
        wait_for_failures(&faults, &world, 2, "no hook");
        let log = world.agent_log();
        let words = ["ERROR", "these stay", "cannot replace the program", "allocate memory"];
        let is_told = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(log.lines().any(is_told), "{log}");
        assert_eq!(shown(&world)["index_lines"], small);
        some_are_answered(&world, &[0; 10]);
        faults.clear();
        wait_for(&world, LARGE);
        assert_eq!(half_made(&world), [""; 0]);
    });
    some_are_answered(&world, &[0, 1, LARGE - 1]);
}
