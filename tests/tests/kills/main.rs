//! The agent is killed again and again at random points while Services change and clients connect:
//! translation goes on, no client reaches a Service that it did not dial, and the next agent converges
//! to what a fresh agent would write.
#![expect(clippy::unwrap_used, reason = "a failure in the set-up fails the test")]

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

/// Environment variable with the number of kills.
const VARIABLE: &str = "SVCLB_KILLS";
const KILLS: usize = 500;
/// Repeats the history of changes. The moments of the kills depend on the machine all the same.
const SEED: u64 = 0x5eed_0005;
/// Clients that connect over TCP or UDP, and clients that send from unconnected sockets.
const DIALLERS: usize = 3;
const SENDERS: usize = 1;
const PAUSE: Duration = Duration::from_millis(1);

#[test]
fn an_agent_killed_at_any_time_never_interrupts_translation_and_the_next_one_continues() {
    let kills = env::var(VARIABLE).map_or(KILLS, |text| {
        text.parse().unwrap_or_else(|error| panic!("{VARIABLE}={text:?} is not a number: {error}"))
    });
    println!("{kills} kills, seed {SEED:#x}");
    let world = World::builder("kills").without_agent().start();
    let pools: Vec<_> = (0..SERVICES)
        .map(|number| world.backends(&format!("s{number}"), protocol(number), 4))
        .collect();
    let chronicle = Chronicle::new(&world, &pools);
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    world.start_agent_with_faults(None);
    chronicle.mark_settled();
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
                        // The pause leaves processor time of a small machine to the agents.
                        thread::sleep(PAUSE);
                    }
                })
            })
            .collect();
        let killed = catch_unwind(AssertUnwindSafe(|| {
            world.take_agent().kill();
            let mut killer = Killer { world: &world, chronicle: &chronicle, start: None };
            for _ in 0..kills {
                // The panic of a client is resumed below.
                if clients.iter().any(|client| client.is_finished()) {
                    break;
                }
                killer.kill(&mut random);
            }
            world.start_agent_with_faults(None);
            chronicle.mark_settled();
        }));
        done.store(true, Ordering::Relaxed);
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        ended.into_iter().for_each(|it| it.unwrap_or_else(|panic| resume_unwind(panic)));
        killed.unwrap_or_else(|panic| resume_unwind(panic));
    });
    println!("{:?}; rounds of the clients: {rounds:?}", begun.elapsed());
    for (number, rounds) in rounds.iter().enumerate() {
        let rounds = rounds.load(Ordering::Relaxed);
        assert!(rounds > kills, "client {number}: expected more than {kills} rounds, got {rounds}");
    }
    chronicle.end();
    world.settle();
    let status = world.status();
    assert_eq!(svclb_tests::counter(&status, "torn"), 0, "{status}");
    world.assert_same_as_fresh_agent();
    // The next agent finds nothing to repair.
    world.take_agent().kill();
    let log_start = world.agent_log().len();
    world.start_agent_with_faults(None);
    let log = world.agent_log().split_off(log_start);
    assert!(!log.contains("putting right"), "{log}");
    world.wait_until_origins_released();
}

/// Starts agents, changes Services and kills the agents.
struct Killer<'a> {
    world: &'a World,
    chronicle: &'a Chronicle<'a>,
    /// Duration of the last start that was awaited.
    start: Option<Duration>,
}

impl Killer<'_> {
    fn kill(&mut self, random: &mut ChaCha8Rng) {
        for _ in 0..random.random_range(0..3) {
            self.chronicle.change(random);
        }
        let (begun, version) = (Instant::now(), self.chronicle.version());
        let agent = self.world.launch_agent(None);
        // The agent is killed while it starts, or later while it applies changes. A start takes some
        // tenths of a second, for the kernel's verifier, so most starts are not awaited.
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
            self.chronicle.mark_written(version);
            for _ in 0..random.random_range(1..4) {
                self.chronicle.change(random);
                thread::sleep(Duration::from_micros(random.random_range(0..4_000)));
            }
            if random.random_range(0..3) == 0 {
                // Longer than the time for which a Service stays after its file has vanished.
                thread::sleep(Duration::from_millis(random.random_range(0..120)));
            }
        }
        agent.kill();
    }
}

/// Sends requests to all addresses and checks the answers.
struct Client<'a> {
    world: &'a World,
    chronicle: &'a Chronicle<'a>,
    random: ChaCha8Rng,
    dialled: Vec<(Protocol, String)>,
    /// An unconnected socket, with the number of its requests.
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
