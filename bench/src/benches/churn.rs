//! Changes in a large cluster: how soon a client meets one, alone and among others, beside kube-proxy's; and
//! what a thousand a second take.
//!
//! * `watched`: the Service that a client dials. `load`, `largest`: what changes beside it.

mod largest;
mod load;
mod watched;

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use svclb_tests::World;

use super::Effort;
use super::memory::resident;
use super::sync;
use crate::book::{Book, Unit};
use crate::lane::Peer;
use crate::lane::proxy::Cluster;
use crate::times::{Times, rate};
use largest::Largest;
use load::Load;
use watched::{Client, Late, Watched};

const BENCH: &str = "churn";
/// Of a change: how late a client meets it after its watch event came to whoever serves the client, and
/// after the API server was asked for it.
pub(crate) const EVENT: &str = "watch event to the first connect that knows";
const REQUEST: &str = "request to the first connect that knows";
pub(crate) const AMONG_FEW: &str =
    "request to the first connect that knows, among 100 changes a second";
pub(crate) const AMONG_MANY: &str =
    "request to the first connect that knows, among as many as can be";
pub(crate) const BESIDE_LARGEST: &str =
    "request to the first connect that knows, beside changes of the largest Service";
pub(crate) const BESIDE_SLICES: &str =
    "request to the first connect that knows, beside changes of such slices without a Service";
/// For so long they change.
const LARGEST: Duration = Duration::from_secs(30);
/// How many changes a round measures one by one, and how many of kube-proxy's.
const CHANGES: usize = 100;
const FEW_CHANGES: usize = 10;
/// kube-proxy waits a second from one write to the next: a change that is alone does not meet that.
const QUIET: Duration = Duration::from_millis(1_500);
const FEW: Load = Load { rate: 100, time: Duration::from_secs(30) };
/// More than an API server takes that shares two processors: it takes what it can.
const MANY: Load = Load { rate: 1_000, time: Duration::from_secs(60) };
/// How often all of it is measured, at most: it takes more than a minute.
const MINUTES: u32 = 3;

/// Measures all of it: svclb, and then kube-proxy. Both at once would take each other's processors.
///
/// # Errors
/// A change does not reach a client.
pub(crate) fn run(book: &mut Book, cluster: &Cluster, effort: Effort) -> anyhow::Result<()> {
    let mut watched = Watched::create(cluster);
    svclb(book, &mut watched, effort)?;
    kube_proxy(book, &mut watched, effort)
}

fn svclb(book: &mut Book, watched: &mut Watched<'_>, effort: Effort) -> anyhow::Result<()> {
    let world = World::builder("bench-churn").without_agent().start();
    let plane = watched.cluster.plane();
    let relay = Arc::new(plane.relay(&world));
    sync::start(&world, plane)?;
    let (agent, client) = (world.take_agent(), Client::start(&world, relay)?);
    let mut churn = Churn { book, peer: Peer::Svclb, pid: agent.pid(), client };
    for _ in 0..effort.rounds {
        churn.alone(watched, CHANGES, Duration::ZERO)?;
    }
    // What it keeps for the next changes it has after the first minute, with an audit.
    MANY.run(watched.cluster, 0)?;
    let before = resident(agent.pid())?;
    for _ in 0..effort.rounds.min(MINUTES) {
        churn.among_few(watched)?;
        let Among { changes, taken, times } = churn.among(watched, MANY)?;
        churn.add_times(AMONG_MANY, &times);
        churn.add("changes, as many as can be", Unit::PerSecond, changes);
        churn.add("processor, for those", Unit::Percent, taken);
        // Should the API server not have taken so many.
        let by_proportion = taken * (1_000.0 / changes).max(1.0);
        let what = "processor, for 1,000 changes a second by proportion";
        churn.add(what, Unit::Percent, by_proportion);
    }
    let growth = resident(agent.pid())? - before;
    churn.add("growth of resident memory in these minutes", Unit::Bytes, growth);
    // The API server and this process do the same in both.
    for (what, has_service) in [(BESIDE_SLICES, false), (BESIDE_LARGEST, true)] {
        let largest = Largest::create(watched.cluster, has_service);
        for _ in 0..effort.rounds.min(MINUTES) {
            // The agent takes all of it in first.
            watched.change(&churn.client)?;
            let (times, ()) = watched.among(&churn.client, |_, _| largest.rewrite(LARGEST))?;
            churn.add_times(what, &times);
        }
    }
    Ok(())
}

fn kube_proxy(book: &mut Book, watched: &mut Watched<'_>, effort: Effort) -> anyhow::Result<()> {
    let world = World::builder("bench-churn").without_agent().start();
    let mut proxy = watched.cluster.launch(&world, Peer::Nftables)?;
    let client = Client::start(&world, proxy.relay())?;
    proxy.wait(|| Ok(client.dials(0)?.is_some()))?;
    let mut churn = Churn { book, peer: Peer::Nftables, pid: proxy.pid(), client };
    for _ in 0..effort.rounds.min(MINUTES) {
        churn.alone(watched, FEW_CHANGES, QUIET).with_context(|| proxy.said())?;
        churn.among_few(watched).with_context(|| proxy.said())?;
    }
    Ok(())
}

/// What is measured of one peer.
struct Churn<'a> {
    book: &'a mut Book,
    peer: Peer,
    /// The process that follows the cluster.
    pid: u32,
    client: Client,
}

/// What came of changes among others.
struct Among {
    /// How many others there were a second.
    changes: f64,
    /// What percentage of a processor they took.
    taken: f64,
    /// How late those of the watched Service were met, after the API server was asked for them.
    times: Times,
}

impl Churn<'_> {
    fn add(&mut self, what: &str, unit: Unit, value: f64) {
        self.book.add(BENCH, what, self.peer, unit, value);
    }

    fn add_times(&mut self, what: &str, times: &Times) {
        self.book.add_times(BENCH, what, self.peer, times);
    }

    /// Changes with nothing else, each so long after the one before was met.
    fn alone(
        &mut self,
        watched: &mut Watched<'_>,
        count: usize,
        apart: Duration,
    ) -> anyhow::Result<()> {
        // It comes after whatever is still under way, and is not counted.
        watched.change(&self.client)?;
        let change = |_| {
            thread::sleep(apart);
            watched.change(&self.client)
        };
        let late: Vec<Late> = (0..count).map(change).collect::<anyhow::Result<_>>()?;
        let of = |which: fn(&Late) -> u64| Times::of(late.iter().map(which).collect());
        self.add_times(EVENT, &of(|late| late.event));
        self.add_times(REQUEST, &of(|late| late.request));
        Ok(())
    }

    /// Changes among so many others that whoever follows keeps up.
    fn among_few(&mut self, watched: &mut Watched<'_>) -> anyhow::Result<()> {
        let Among { changes, taken, times } = self.among(watched, FEW)?;
        self.add_times(AMONG_FEW, &times);
        self.add("changes, of 100 asked for", Unit::PerSecond, changes);
        self.add("processor, for those of 100", Unit::Percent, taken);
        Ok(())
    }

    fn among(&self, watched: &mut Watched<'_>, load: Load) -> anyhow::Result<Among> {
        // Without the time in which the last of its own changes is met, after the others.
        let (times, (changes, taken)) = watched.among(&self.client, |cluster, first| {
            let (before, start) = (processor(self.pid)?, Instant::now());
            let count = load.run(cluster, first)?;
            let (taken, seconds) = (processor(self.pid)? - before, start.elapsed().as_secs_f64());
            Ok((rate(count, seconds), 100.0 * taken / seconds))
        })?;
        Ok(Among { changes, taken, times })
    }
}

/// What a process took of processors so far, with its children that ended, seconds (proc(5), stat):
/// kube-proxy writes by a program of its own.
fn processor(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Its name, in brackets, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat is not as it was")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok());
    // utime, stime, cutime and cstime.
    let all = [11, 12, 13, 14].map(ticks).into_iter().sum::<Option<f64>>();
    // SAFETY: a question without arguments in memory.
    let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    #[expect(clippy::cast_precision_loss, reason = "a hundred")]
    let seconds = all.context("/proc/PID/stat is not as it was")? / a_second as f64;
    Ok(seconds)
}
