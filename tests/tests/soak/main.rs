//! Everything at once for a while: Services change, agents are killed and replaced, map writes fail,
//! maps grow and shrink, and clients check every answer. In the end nothing has grown.
#![expect(clippy::unwrap_used, reason = "a failure in the set-up fails the test")]

#[path = "../kills/chronicle.rs"]
mod chronicle;

use std::collections::BTreeSet;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chronicle::{Chronicle, SERVICES, addresses, by_connect, by_send, protocol};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use svclb_tests::{Faults, Kind, Operation, Protocol, World, counter, eventually};

/// Environment variable with the duration in seconds, which `cargo xtask soak` sets.
const VARIABLE: &str = "SVCLB_SOAK_SECONDS";
const SECONDS: u64 = 60;
const SEED: u64 = 0x5eed_0006;
const CLIENTS: usize = 4;
/// Number of actions on one agent before the maps are checked.
const ACTIONS: usize = 40;
const PAUSE: Duration = Duration::from_millis(1);
/// More frontends than the smallest maps hold: 32 lines.
const MANY: usize = 400;
/// Words of the log when maps have grown, or shrunk at a start.
const RESIZED: &str = "maps of other sizes are in use";
/// Errors of map writes. Not E2BIG, which makes a service unplaced: while larger maps are refused too, a
/// renamed port loses its address (decisions/0010), which is no version of the Services.
const ERRORS: [i32; 2] = [libc::ENOMEM, libc::EPERM];

#[test]
fn all_answers_are_right_and_nothing_grows_under_continuous_change() {
    let seconds = env::var(VARIABLE).map_or(SECONDS, |text| {
        text.parse().unwrap_or_else(|error| panic!("{VARIABLE}={text:?} is not a number: {error}"))
    });
    println!("{seconds} s, seed {SEED:#x}");
    // Small maps, so that they grow and shrink again and again.
    let world = World::builder("soak")
        .agent_args(["--index-lines", "32", "--slots", "256"])
        .without_agent()
        .start();
    let pools: Vec<_> = (0..SERVICES)
        .map(|number| world.backends(&format!("s{number}"), protocol(number), 4))
        .collect();
    let chronicle = Chronicle::new(&world, &pools);
    let faults = Faults::new();
    world.start_agent_with_faults(Some(&faults));
    chronicle.mark_settled();
    let rounds = [const { AtomicUsize::new(0) }; CLIENTS];
    let done = AtomicBool::new(false);
    let (actions, resized) = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (world, chronicle, rounds, done) = (&world, &chronicle, &rounds[number], &done);
                scope.spawn(move || {
                    let mut random = ChaCha8Rng::seed_from_u64(SEED + 1 + number as u64);
                    while !done.load(Ordering::Relaxed) {
                        send_request(world, chronicle, &mut random);
                        rounds.fetch_add(1, Ordering::Relaxed);
                        // The pause leaves processor time of a small machine to the agents.
                        thread::sleep(PAUSE);
                    }
                })
            })
            .collect();
        let soaked = catch_unwind(AssertUnwindSafe(|| {
            let mut soak = Soak::new(&world, &chronicle, faults);
            soak.run_minimum();
            let (begun, half) = (Instant::now(), Duration::from_secs(seconds / 2));
            let is_going = |until: Duration| {
                begun.elapsed() < until && !clients.iter().any(|client| client.is_finished())
            };
            while is_going(half) {
                soak.with_kills();
            }
            // The other half has only one agent, which must not grow.
            soak.restart();
            for _ in 0..20 {
                soak.without_kills();
            }
            soak.wait_until_written();
            let (early, objects) = (Used::of(&world), kernel_objects(&world).len());
            while is_going(2 * half) {
                for _ in 0..ACTIONS {
                    soak.without_kills();
                }
                // From here on the clients accept no older answers.
                soak.wait_until_written();
            }
            soak.wait_until_written();
            let late = Used::of(&world);
            println!("{early:?} became {late:?}");
            late.assert_no_more_than(&early);
            eventually("no more maps, links and programs than before", || {
                let now = kernel_objects(&world);
                if now.len() <= objects { Ok(()) } else { Err(format!("{objects}: {now:?}")) }
            });
            (soak.actions, world.agent_log().matches(RESIZED).count())
        }));
        done.store(true, Ordering::Relaxed);
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        ended.into_iter().for_each(|it| it.unwrap_or_else(|panic| resume_unwind(panic)));
        soaked.unwrap_or_else(|panic| resume_unwind(panic))
    });
    println!("{actions:?}; maps were resized {resized} times; rounds of the clients: {rounds:?}");
    for rounds in &rounds {
        assert!(
            rounds.load(Ordering::Relaxed) > 100,
            "expected more than 100 rounds of each client, got {rounds:?}"
        );
    }
    assert!(actions.kills > 0 && actions.refused > 0 && resized > 0, "{actions:?}, {resized}");
    chronicle.end();
    world.settle();
    let status = world.status();
    assert_eq!((counter(&status, "torn"), counter(&status, "unrecorded")), (0, 0), "{status}");
    world.wait_until_origins_released();
    world.take_agent().kill();
    world.start_agent_with_faults(None);
    world.assert_same_as_fresh_agent();
    let objects = kernel_objects(&world);
    world.take_agent().stop();
    assert!(world.svclb(&["uninstall"]).status.success());
    world.wait_until_freed(&objects);
}

/// Sends one request and checks the answer.
fn send_request(world: &World, chronicle: &Chronicle<'_>, random: &mut ChaCha8Rng) {
    let addresses = addresses();
    let (protocol, to) = &addresses[random.random_range(0..addresses.len())];
    let window = chronicle.begin();
    let answer = if *protocol == Protocol::Udp && random.random_range(0..2) == 0 {
        by_send(&world.socket(Kind::Udp4), to)
    } else {
        by_connect(world, *protocol, to)
    };
    chronicle.check(window, *protocol, to, answer);
}

/// The number of actions of each kind.
#[derive(Debug, Default)]
struct Actions {
    changes: usize,
    kills: usize,
    /// Calls that were to fail, and those that did.
    faults: usize,
    refused: usize,
    /// Changes between more Services than the maps hold and few.
    sizes: usize,
}

struct Soak<'a> {
    world: &'a World,
    chronicle: &'a Chronicle<'a>,
    random: ChaCha8Rng,
    faults: Faults,
    is_large: bool,
    actions: Actions,
}

impl<'a> Soak<'a> {
    fn new(world: &'a World, chronicle: &'a Chronicle<'a>, faults: Faults) -> Self {
        let random = ChaCha8Rng::seed_from_u64(SEED);
        Self { world, chronicle, random, faults, is_large: false, actions: Actions::default() }
    }

    /// Actions that even the shortest run needs, whatever the random choices: a failing write, and
    /// larger maps.
    fn run_minimum(&mut self) {
        self.fail(Operation::Update, 1);
        self.change();
        eventually("a write is refused", || match self.faults.failed().len() {
            0 => Err(self.world.agent_log()),
            _ => Ok(()),
        });
        let lines = || self.world.meta().index_lines;
        let before = lines();
        self.resize();
        eventually("larger maps are in use", || {
            if lines() > before && self.world.agent_log().contains(RESIZED) {
                Ok(())
            } else {
                Err(format!("{before} lines before: {}", self.world.agent_log()))
            }
        });
    }

    fn with_kills(&mut self) {
        match self.random.random_range(0..8) {
            0 => self.restart(),
            _ => self.without_kills(),
        }
    }

    /// Kills the agent and starts another, which replaces all programs.
    fn restart(&mut self) {
        self.actions.kills += 1;
        self.world.take_agent().kill();
        // No fault may hit the start, because it would end the agent.
        self.clear();
        let version = self.chronicle.version();
        self.world.start_agent_with_faults(Some(&self.faults));
        self.chronicle.mark_written(version);
    }

    fn without_kills(&mut self) {
        match self.random.random_range(0..12) {
            0 => {
                let count = self.random.random_range(1..6);
                let operation = match self.random.random_range(0..2) {
                    0 => Operation::Update,
                    _ => Operation::Delete,
                };
                self.fail(operation, count);
            }
            1 => self.resize(),
            _ => self.change(),
        }
        thread::sleep(Duration::from_millis(self.random.random_range(0..60)));
    }

    fn fail(&mut self, operation: Operation, count: usize) {
        self.actions.faults += count;
        let error = ERRORS[self.random.random_range(0..ERRORS.len())];
        self.faults.fail(operation, "", error, count);
    }

    fn resize(&mut self) {
        self.actions.sizes += 1;
        self.is_large = !self.is_large;
        self.world.write_file("many.yaml", &many(if self.is_large { MANY } else { 0 }));
    }

    fn change(&mut self) {
        self.actions.changes += 1;
        self.chronicle.change(&mut self.random);
    }

    fn clear(&mut self) {
        self.actions.refused += self.faults.clear().len();
    }

    /// Waits until all changes are written.
    fn wait_until_written(&mut self) {
        self.clear();
        self.world.write_file("many.yaml", &many(0));
        self.is_large = false;
        self.chronicle.end();
        self.world.settle();
        self.chronicle.mark_settled();
    }
}

/// A Service with this number of external IPs.
fn many(addresses: usize) -> String {
    let mut text = String::new();
    if addresses > 0 {
        let addresses: Vec<_> =
            (0..addresses).map(|it| format!("198.18.{}.{}", it / 200, it % 200)).collect();
        write!(
            text,
            "{{apiVersion: v1, kind: Service, metadata: {{name: many, namespace: many}}, spec: \
             {{clusterIP: 10.97.0.1, externalIPs: [{}], ports: [{{port: 80}}]}}}}",
            addresses.join(", ")
        )
        .unwrap();
    }
    text
}

/// Resources of the agent's process.
#[derive(Debug)]
struct Used {
    threads: usize,
    descriptors: usize,
    /// In KiB.
    resident: u64,
}

impl Used {
    fn of(world: &World) -> Self {
        let agent = world.take_agent();
        let folder = format!("/proc/{}", agent.pid());
        world.put_agent(agent);
        let status = fs::read_to_string(format!("{folder}/status")).unwrap();
        let number = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_ascii_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            threads: usize::try_from(number("Threads:")).unwrap(),
            descriptors: fs::read_dir(format!("{folder}/fd")).unwrap().count(),
            resident: number("VmRSS:"),
        }
    }

    fn assert_no_more_than(&self, early: &Self) {
        // A wait for a grace period has a thread for a moment; a set of maps has about ten descriptors.
        assert!(self.threads <= early.threads + 2, "{self:?} after {early:?}");
        assert!(self.descriptors <= early.descriptors + 4, "{self:?} after {early:?}");
        assert!(
            self.resident <= early.resident + early.resident / 8 + 4096,
            "{self:?} after {early:?}"
        );
    }
}

/// The maps, programs and links that the agent has open or that are pinned. Nothing else keeps one in
/// the kernel except attached programs, and their links are pinned.
fn kernel_objects(world: &World) -> BTreeSet<(&'static str, u64)> {
    let mut objects: BTreeSet<_> = world.objects_in(&world.version()).into_iter().collect();
    let agent = world.take_agent();
    for opened in fs::read_dir(format!("/proc/{}/fdinfo", agent.pid())).unwrap().flatten() {
        let info = fs::read_to_string(opened.path()).unwrap_or_default();
        for (field, kind) in [("map_id:", "map"), ("prog_id:", "prog"), ("link_id:", "link")] {
            let ids = info.lines().filter_map(|line| line.strip_prefix(field)?.trim().parse().ok());
            objects.extend(ids.map(|id| (kind, id)));
        }
    }
    world.put_agent(agent);
    objects
}
