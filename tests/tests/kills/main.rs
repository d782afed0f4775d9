//! The agent is killed again and again, at whatever point it is, while Services change and clients
//! connect: translation goes on, nobody reaches a Service that he did not dial, and the next agent comes
//! to what a first one would write.
#![expect(clippy::unwrap_used, reason = "the set-up of a test: what fails in it fails the test")]

mod chronicle;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use chronicle::{Chronicle, SERVICES, addresses, by_connect, by_send, protocol};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use svclb_tests::{Kind, Protocol, Socket, World};

/// How often the agent is killed.
const VARIABLE: &str = "SVCLB_KILLS";
const KILLS: usize = 500;
/// Repeats a history of changes; when a kill comes is up to the machine all the same.
const SEED: u64 = 0x5eed_0005;
/// Clients that connect by TCP or UDP, and those that send from unconnected sockets.
const DIALLERS: usize = 3;
const SENDERS: usize = 1;
const PAUSE: Duration = Duration::from_millis(1);

#[test]
fn an_agent_that_is_killed_at_any_time_leaves_translation_and_is_continued_by_the_next() {
    let kills = env::var(VARIABLE).map_or(KILLS, |text| {
        text.parse().unwrap_or_else(|error| panic!("{VARIABLE}={text:?} is no number: {error}"))
    });
    println!("{kills} kills, seed {SEED:#x}");
    let world = World::builder("kills").without_agent().start();
    let pools: Vec<_> = (0..SERVICES)
        .map(|number| world.backends(&format!("s{number}"), protocol(number), 4))
        .collect();
    let chronicle = Chronicle::new(&world, &pools);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    world.start_agent_with_faults(None);
    chronicle.settled();
    let begun = Instant::now();
    let rounds = [const { AtomicUsize::new(0) }; DIALLERS + SENDERS];
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..DIALLERS + SENDERS)
            .map(|number| {
                let (world, chronicle, round, done) = (&world, &chronicle, &rounds[number], &done);
                scope.spawn(move || {
                    let mut client = Client::new(world, chronicle, number);
                    while !done.load(Ordering::Relaxed) {
                        client.round();
                        round.fetch_add(1, Ordering::Relaxed);
                        // Leaves something of a small machine to the agents.
                        thread::sleep(PAUSE);
                    }
                })
            })
            .collect();
        let killed = catch_unwind(AssertUnwindSafe(|| {
            world.take_agent().kill();
            let mut killer = Killer { world: &world, chronicle: &chronicle, start: None };
            for _ in 0..kills {
                // A client that failed is told below.
                if clients.iter().any(|client| client.is_finished()) {
                    break;
                }
                killer.kill(&mut random);
            }
            world.start_agent_with_faults(None);
            chronicle.settled();
        }));
        done.store(true, Ordering::Relaxed);
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        ended.into_iter().for_each(|it| it.unwrap_or_else(|panic| resume_unwind(panic)));
        killed.unwrap_or_else(|panic| resume_unwind(panic));
    });
    println!("{:?}; the clients did {rounds:?} rounds", begun.elapsed());
    for (number, rounds) in rounds.iter().enumerate() {
        let rounds = rounds.load(Ordering::Relaxed);
        assert!(rounds > kills, "client {number} did {rounds} rounds only");
    }
    chronicle.end();
    world.settle();
    let status = world.status();
    assert_eq!(svclb_tests::counter(&status, "torn"), 0, "{status}");
    world.assert_same_as_fresh_agent();
    // Nothing is left to put right, either.
    world.take_agent().kill();
    let told = world.agent_log().len();
    world.start_agent_with_faults(None);
    let log = world.agent_log().split_off(told);
    assert!(!log.contains("putting right"), "{log}");
    world.wait_until_origins_released();
}

/// Starts agents, changes Services, and kills.
struct Killer<'a> {
    world: &'a World,
    chronicle: &'a Chronicle<'a>,
    /// How long the last start took that was waited for.
    start: Option<Duration>,
}

impl Killer<'_> {
    fn kill(&mut self, random: &mut ChaCha8Rng) {
        for _ in 0..random.random_range(0..3) {
            self.chronicle.change(random);
        }
        let (begun, version) = (Instant::now(), self.chronicle.version());
        let agent = self.world.launch_agent(None);
        // While it starts, or once it is ready: while it takes in a change. A start is some tenths of a
        // second, for the kernel's verifier, so most are not waited for.
        let early = self.start.filter(|_| random.random_range(0..5) != 0);
        if let Some(start) = early {
            let wait = start.mul_f64(random.random_range(0.0..1.1));
            if random.random_range(0..2) == 0 {
                thread::sleep(wait / 2);
                self.chronicle.change(random);
            }
            thread::sleep(wait.saturating_sub(begun.elapsed()));
        } else {
            self.world.wait_until_written(&agent);
            self.start = Some(begun.elapsed());
            self.chronicle.written(version);
            for _ in 0..random.random_range(1..4) {
                self.chronicle.change(random);
                thread::sleep(Duration::from_micros(random.random_range(0..4_000)));
            }
            if random.random_range(0..3) == 0 {
                // Beyond the time that a Service stays whose file vanished.
                thread::sleep(Duration::from_millis(random.random_range(0..120)));
            }
        }
        agent.kill();
    }
}

/// Asks at every address, and looks who answers.
struct Client<'a> {
    world: &'a World,
    chronicle: &'a Chronicle<'a>,
    random: ChaCha8Rng,
    dialled: Vec<(Protocol, String)>,
    /// An unconnected socket, and how often it was used.
    sends: Option<(Socket, usize)>,
    is_sender: bool,
}

impl<'a> Client<'a> {
    fn new(world: &'a World, chronicle: &'a Chronicle<'a>, number: usize) -> Self {
        let is_sender = number >= DIALLERS;
        let dialled = addresses().into_iter();
        let dialled = dialled.filter(|(protocol, _)| !is_sender || *protocol == Protocol::Udp);
        let random = ChaCha8Rng::seed_from_u64(SEED + 1 + number as u64);
        Self { world, chronicle, random, dialled: dialled.collect(), sends: None, is_sender }
    }

    fn round(&mut self) {
        let (protocol, to) = &self.dialled[self.random.random_range(0..self.dialled.len())];
        let window = self.chronicle.begin();
        let answer = if self.is_sender {
            let (socket, used) =
                self.sends.get_or_insert_with(|| (self.world.socket(Kind::Udp4), 0));
            *used += 1;
            let answer = by_send(socket, to);
            if *used == 50 {
                self.sends = None;
            }
            answer
        } else {
            by_connect(self.world, *protocol, to)
        };
        self.chronicle.check(window, *protocol, to, answer);
    }
}
