//! Replacement of maps that are too small or far too large, while every connect is translated and
//! sockets and clients keep their backends.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failure in the set-up fails the test")]

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
/// One of the first frontends of [`many`], which always exists.
const OLD: &str = "198.18.0.77:1009";
/// Frontends of each Service of [`many`]: ten ports at 100 external IPs and a ClusterIP.
const EACH: usize = 1010;
/// The backends of the Services of [`many`].
const PODS: [(&str, &str); 2] = [("even", "10.244.0.2"), ("odd", "10.244.0.3")];
/// A number of Services that needs larger maps than one Service.
const LARGE: usize = 6;
/// Backends of each Service of [`wide`].
const WIDTH: usize = 10_000;
/// Limit for reading and writing all Services.
const PATIENCE: Duration = Duration::from_secs(120);

/// The YAML of Services with their slices. [`PODS`] are their backends in turn, and of no other
/// Services.
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

/// The output of `svclb status -o json`. While maps are being replaced, there is a moment in which the
/// command fails.
fn status_of(world: &World) -> Value {
    eventually("svclb status succeeds", || {
        let output = world.svclb(&["status", "-o", "json"]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(serde_json::from_slice(&output.stdout).unwrap())
        } else {
            Err(stderr)
        }
    })
}

fn number(status: &Value, name: &str) -> usize {
    usize::try_from(status[name].as_u64().unwrap()).unwrap()
}

/// Waits until the maps hold all frontends of this many Services of [`many`] and no service is unplaced.
fn wait_for(world: &World, services: usize) {
    let held = within(PATIENCE, || {
        let status = status_of(world);
        let done = number(&status, "frontends") >= services * EACH && number(&status, "short") == 0;
        if done { Ok(()) } else { Err(format!("{status:#}\n{}", world.agent_log())) }
    });
    held.unwrap_or_else(|last| panic!("the frontends must be installed: {last}"));
}

/// Removes all Services of [`many`] but the first.
fn remove_all_but_one(world: &World) {
    world.write_file("many.yaml", &many(1));
    let gone = within(PATIENCE, || match number(&status_of(world), "frontends") {
        left if left < 2 * EACH => Ok(()),
        left => Err(left.to_string()),
    });
    gone.unwrap_or_else(|left| panic!("the frontends must be removed, left: {left}"));
}

/// Waits until the index has this number of lines.
fn wait_for_lines(world: &World, lines: &Value) {
    let held = within(PATIENCE, || match status_of(world) {
        status if status["index_lines"] == *lines => Ok(()),
        status => Err(format!("{status}\n{}", world.agent_log())),
    });
    held.unwrap_or_else(|last| panic!("the index must get {lines} lines: {last}"));
}

/// Creates a world with the Services of [`StickyClients`] and one Service of [`many`].
fn set_up(name: &str, faults: Option<&Faults>) -> (World, Vec<Backend>) {
    // All Services are in one namespace.
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

/// Runs `task` and asserts that clients of two Services reach their own pods without interruption.
/// Returns the number of connects.
fn uninterrupted(world: &World, task: impl FnOnce()) -> u32 {
    let clients = [ContinuousClient::tcp(HELLO, &["a"]), ContinuousClient::tcp(OLD, &["even"])];
    let (rounds, ()) = world.assert_all_uninterrupted(clients, task);
    assert!(
        rounds.iter().all(|it| *it >= at_least(10)),
        "expected at least 10 connects of each client, got {rounds:?}"
    );
    rounds.iter().sum()
}

/// Asserts that two frontends of each of these Services reach the right pod.
fn assert_answered(world: &World, services: &[usize]) {
    for service in services {
        for to in [format!("10.97.0.{service}:1003"), format!("198.18.{service}.77:1009")] {
            assert_eq!(world.request(Tcp, to.as_str()).unwrap(), PODS[service % 2].0, "{to}");
        }
    }
}

#[test]
fn maps_grow_from_1000_to_100000_frontends_and_shrink_without_interruption() {
    let (world, _backends) = set_up("growth", None);
    let small = status_of(&world);
    let sticky = StickyClients::of(&world);

    let rounds = uninterrupted(&world, || {
        world.write_file("many.yaml", &many(100));
        wait_for(&world, 100);
    });
    let large = status_of(&world);
    assert!(number(&large, "index_lines") >= 4 * 100 * EACH, "{large}");
    sticky.assert_sockets_keep_backend();
    sticky.assert_client_keeps_backend(&world);
    let (translated, not_service) = (counter(&large, "translated"), counter(&large, "not_service"));
    assert!(translated >= u64::from(rounds), "{large}");
    assert_answered(&world, &[0, 1, 17, 50, 99]);
    let status = status_of(&world);
    assert_eq!(counter(&status, "not_service"), not_service, "counters go on: {status}");

    // Maps do not shrink while the agent runs, because the Services may come back.
    remove_all_but_one(&world);
    assert_eq!(status_of(&world)["index_lines"], large["index_lines"]);
    uninterrupted(&world, || {
        world.take_agent().kill();
        world.start_agent();
        wait_for_lines(&world, &small["index_lines"]);
    });
    sticky.assert_sockets_keep_backend();
    sticky.assert_client_keeps_backend(&world);
    world.write_file("many.yaml", "");
    world.settle();
    assert_eq!(world.request(Tcp, HELLO).unwrap(), "a");
}

/// The YAML of Services with ten ports and a thousand endpoints each, which no client dials.
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
fn slots_grow_with_the_backends_and_shrink_without_interruption() {
    const SERVICES: usize = 12;
    let (world, _backends) = set_up("growth-slots", None);
    let small = status_of(&world);
    let sticky = StickyClients::of(&world);
    let wait_for = |what: &str, is_so: &dyn Fn(&Value) -> bool| {
        let held = within(PATIENCE, || match status_of(&world) {
            status if is_so(&status) && number(&status, "short") == 0 => Ok(()),
            status => Err(format!("{status:#}\n{}", world.agent_log())),
        });
        held.unwrap_or_else(|last| panic!("{what}: {last}"));
    };
    uninterrupted(&world, || {
        world.write_file("wide.yaml", &wide(SERVICES));
        wait_for("the backends must be installed", &|it| {
            number(it, "backends") >= SERVICES * WIDTH
        });
    });
    let large = status_of(&world);
    assert!(number(&large, "slots") >= SERVICES * WIDTH, "{large}");
    assert!(number(&large, "slots") > 4 * number(&small, "slots"), "{large}");
    assert_eq!(large["index_lines"], small["index_lines"], "the index must not grow");
    sticky.assert_sockets_keep_backend();

    uninterrupted(&world, || {
        world.write_file("wide.yaml", "");
        wait_for("the backends must be removed", &|it| number(it, "backends") < WIDTH);
        assert_eq!(
            status_of(&world)["slots"],
            large["slots"],
            "the slots must not shrink while the agent runs"
        );
        world.take_agent().kill();
        world.start_agent();
        wait_for("the slots must shrink after a restart", &|it| it["slots"] == small["slots"]);
    });
    assert_eq!(status_of(&world)["index_lines"], small["index_lines"]);
    sticky.assert_sockets_keep_backend();
    sticky.assert_client_keeps_backend(&world);
    assert_eq!(world.request(Tcp, HELLO).unwrap(), "a");
}

/// The folders of maps that have not replaced others yet.
fn unfinished_folders(world: &World) -> Vec<&'static str> {
    let folder = world.version();
    let is_there = move |name: &&str| folder.join(name).exists();
    world.inside(|| ["next", "commit"].into_iter().filter(is_there).collect())
}

/// The phase of a replacement of maps in which the agent is killed.
#[derive(Clone, Copy, Debug)]
enum KillPoint {
    /// While the new maps are filled, this many milliseconds after that began.
    Filling(u64),
    /// As soon as the new maps are filled and replace the old ones.
    Switching,
}

/// Kills the agent in the next replacement of maps, and returns the folders that it left.
fn kill_in_a_replacement(world: &World, kill_point: KillPoint) -> Vec<&'static str> {
    let (next, index) = (world.version().join("next"), world.pinned("maps", "svclb_index"));
    // The test polls in the namespace and without a pause, because the switch is very short.
    let seen = world.inside(move || {
        let inode = || fs::metadata(&index).map(|data| data.ino()).unwrap_or_default();
        let (first, start) = (inode(), Instant::now());
        // The inode of the index changes if the replacement was too quick to be observed.
        let waits_for = |there: bool| next.exists() != there && inode() == first;
        while waits_for(true) && start.elapsed() < PATIENCE {}
        match kill_point {
            KillPoint::Filling(later) => thread::sleep(Duration::from_millis(later)),
            KillPoint::Switching => while waits_for(false) && start.elapsed() < PATIENCE {},
        }
        start.elapsed() < PATIENCE
    });
    assert!(seen, "the agent must create other maps: {}", world.agent_log());
    world.take_agent().kill();
    unfinished_folders(world)
}

#[test]
fn a_replacement_of_maps_whose_agent_is_killed_is_finished_by_the_next() {
    use KillPoint::{Filling, Switching};
    let (world, _backends) = set_up("growth-killed", None);
    let small = status_of(&world)["index_lines"].clone();
    let sticky = StickyClients::of(&world);
    let mut left = Vec::new();
    uninterrupted(&world, || {
        for kill_point in [Filling(0), Switching, Filling(60), Filling(250)] {
            // Larger maps, while the agent runs.
            world.write_file("many.yaml", &many(LARGE));
            left.push((kill_point, kill_in_a_replacement(&world, kill_point)));
            world.start_agent();
            wait_for(&world, LARGE);
            assert_eq!(
                unfinished_folders(&world),
                [""; 0],
                "{kill_point:?}: unfinished maps must be removed"
            );
            assert_answered(&world, &[0, 1, LARGE - 1]);
            // Smaller maps, right after its start.
            remove_all_but_one(&world);
            world.take_agent().kill();
            world.put_agent(world.launch_agent(None));
            left.push((kill_point, kill_in_a_replacement(&world, kill_point)));
            world.start_agent();
            wait_for_lines(&world, &small);
            assert_eq!(
                unfinished_folders(&world),
                [""; 0],
                "{kill_point:?}: unfinished maps must be removed"
            );
            assert_answered(&world, &[0]);
        }
    });
    let unfinished_folders = left.iter().filter(|(_, left)| !left.is_empty()).count();
    assert!(
        unfinished_folders >= 2,
        "expected at least 2 agents killed during a replacement: {left:?}"
    );
    sticky.assert_sockets_keep_backend();
    sticky.assert_client_keeps_backend(&world);
    assert_eq!(world.request(Tcp, HELLO).unwrap(), "a");
}

/// Waits until this many calls have failed: the agent retries.
fn wait_for_failures(faults: &Faults, world: &World, count: usize, row: &str) {
    let failed = within(PATIENCE, || match faults.failed().len() {
        failed if failed >= count => Ok(()),
        failed => Err(format!("{failed} of {count} calls failed: {}", world.agent_log())),
    });
    failed.unwrap_or_else(|last| panic!("{row}: {last}"));
}

/// Makes the maps small again.
fn shrink(world: &World, faults: &Faults, small: &Value) {
    remove_all_but_one(world);
    world.take_agent().kill();
    world.start_agent_with_faults(Some(faults));
    wait_for_lines(world, small);
}

#[test]
fn while_larger_maps_are_refused_served_services_stay_served_and_unplaced_ones_are_reported() {
    let rows = [
        (Operation::CreateMap, "svclb_index"),
        (Operation::CreateMap, "svclb_frontends"),
        (Operation::Map, "svclb_index"),
        (Operation::LoadProgram, "svclb_connect4"),
    ];
    let faults = Faults::new();
    let (world, _backends) = set_up("growth-refused", Some(&faults));
    let small = status_of(&world)["index_lines"].clone();
    let sticky = StickyClients::of(&world);
    for (operation, name) in rows {
        let row = format!("{operation:?} of {name}");
        let log_start = world.agent_log().len();
        faults.fail(operation, name, libc::ENOMEM, usize::MAX);
        uninterrupted(&world, || {
            world.write_file("many.yaml", &many(LARGE));
            wait_for_failures(&faults, &world, 3, &row);
            let status = status_of(&world);
            assert_eq!(status["index_lines"], small, "{row}");
            assert!(number(&status, "short") > 0, "{row}: expected unplaced services: {status}");
            let log = world.agent_log().split_off(log_start);
            let words = ["ERROR", "cannot make maps of other sizes", name, "allocate memory"];
            let is_logged = |line: &&str| words.iter().all(|word| line.contains(word));
            assert_eq!(log.lines().filter(is_logged).count(), 1, "{row}: {log}");
            let is_short = |line: &&str| line.contains("ERROR") && line.contains("many/s");
            assert!(
                log.lines().any(|line| is_short(&line)),
                "{row}: expected a line that names an unplaced service: {log}"
            );
            eventually(
                &format!("{row}: no unfinished maps are left"),
                || match unfinished_folders(&world) {
                    left if left.is_empty() => Ok(()),
                    left => Err(format!("{left:?}")),
                },
            );
            // The replacement completes without any further change.
            faults.clear();
            wait_for(&world, LARGE);
        });
        assert_answered(&world, &[0, 1, LARGE - 1]);
        sticky.assert_sockets_keep_backend();
        sticky.assert_client_keeps_backend(&world);
        shrink(&world, &faults, &small);
    }
}

#[test]
fn a_partial_switch_to_larger_maps_interrupts_nothing_and_is_finished_later() {
    let faults = Faults::new();
    let (world, _backends) = set_up("growth-half", Some(&faults));
    let small = status_of(&world)["index_lines"].clone();
    let sticky = StickyClients::of(&world);
    // The number of hooks, of nine, that have the new programs, and whether the agent is killed then.
    for (switched, is_killed) in [(1, true), (4, false), (8, true), (8, false)] {
        let row = format!("{switched} hooks, killed {is_killed}");
        let log_start = world.agent_log().len();
        faults.fail_after(switched, Operation::UpdateLink, "", libc::ENOMEM, usize::MAX);
        uninterrupted(&world, || {
            world.write_file("many.yaml", &many(LARGE));
            // An attempt makes one call for each remaining hook.
            let left = HOOKS.len() - switched;
            wait_for_failures(&faults, &world, 1 + 2 * left, &row);
            let log = world.agent_log().split_off(log_start);
            let words = ["ERROR", "not every hook runs the new programs yet", "allocate memory"];
            let is_logged = |line: &str| words.iter().all(|word| line.contains(word));
            assert!(log.lines().any(is_logged), "{row}: {log}");
            // Old and new programs work together, with and without an agent. Services that did not fit
            // are still waiting.
            let work = || {
                sticky.assert_sockets_keep_backend();
                sticky.assert_client_keeps_backend(&world);
                assert_answered(&world, &[0; 4]);
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
            eventually(&format!("{row}: the other hooks have the new programs"), || {
                let calls = faults.calls();
                let done =
                    calls.iter().filter(|call| call.operation == Operation::UpdateLink).count();
                if done == rest { Ok(()) } else { Err(format!("{done}: {}", world.agent_log())) }
            });
            wait_for(&world, LARGE);
            assert_eq!(unfinished_folders(&world), [""; 0], "{row}");
        });
        assert_answered(&world, &[0, 1, LARGE - 1]);
        sticky.assert_sockets_keep_backend();
        sticky.assert_client_keeps_backend(&world);
        shrink(&world, &faults, &small);
    }
}

#[test]
fn a_switch_that_cannot_begin_leaves_the_old_maps_in_use() {
    let faults = Faults::new();
    let (world, _backends) = set_up("growth-not", Some(&faults));
    let small = status_of(&world)["index_lines"].clone();
    faults.fail(Operation::UpdateLink, "", libc::ENOMEM, usize::MAX);
    uninterrupted(&world, || {
        world.write_file("many.yaml", &many(LARGE));
        // The agent goes on and retries.
        wait_for_failures(&faults, &world, 2, "no hook");
        let log = world.agent_log();
        let words = ["ERROR", "these stay", "cannot replace the program", "allocate memory"];
        let is_logged = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(log.lines().any(is_logged), "{log}");
        assert_eq!(status_of(&world)["index_lines"], small);
        assert_answered(&world, &[0; 10]);
        faults.clear();
        wait_for(&world, LARGE);
        assert_eq!(unfinished_folders(&world), [""; 0]);
    });
    assert_answered(&world, &[0, 1, LARGE - 1]);
}
