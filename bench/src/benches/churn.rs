//! Changes in a large cluster: the latency of a change for a client, alone and among others, side by side with
//! kube-proxy; and the processor time of a thousand changes per second.
//!
//! * `watched`: the Service to which a client connects. `load`, `largest`: changes of other objects.

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
use watched::{Client, Latency, Watched};

const BENCH: &str = "churn";
/// Latency of a change for a client, from the arrival of its watch event at svclb or kube-proxy, and from the
/// request to the API server.
pub(crate) const EVENT: &str = "watch event to the first connect to the new backend";
const REQUEST: &str = "request to the first connect to the new backend";
pub(crate) const AMONG_FEW: &str =
    "request to the first connect to the new backend, among 100 changes a second";
pub(crate) const AMONG_MANY: &str =
    "request to the first connect to the new backend, among as many changes as possible";
pub(crate) const BESIDE_LARGEST: &str =
    "request to the first connect to the new backend, beside changes of the largest Service";
pub(crate) const BESIDE_SLICES: &str = "request to the first connect to the new backend, beside changes of such slices without a Service";
/// Duration of the changes of the largest Service.
const LARGEST: Duration = Duration::from_secs(30);
/// Number of single changes in a round, and with kube-proxy.
const CHANGES: usize = 100;
const FEW_CHANGES: usize = 10;
/// kube-proxy waits a second between two writes. After this time, a single change is not delayed by that.
const QUIET: Duration = Duration::from_millis(1_500);
const FEW: Load = Load { rate: 100, time: Duration::from_secs(30) };
/// More than an API server can handle that shares two processors.
const MANY: Load = Load { rate: 1_000, time: Duration::from_secs(60) };
/// Largest number of rounds with load, each of which takes more than a minute.
const MINUTES: u32 = 3;

/// Measures svclb, and then kube-proxy, as they would compete for processors.
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
    // After a minute, which includes an audit, the agent has all buffers for further changes.
    MANY.run(watched.cluster, 0)?;
    let before = resident(agent.pid())?;
    for _ in 0..effort.rounds.min(MINUTES) {
        churn.among_few(watched)?;
        let Among { changes, percent, times } = churn.among(watched, MANY)?;
        churn.add_times(AMONG_MANY, &times);
        churn.add("changes, as many as possible", Unit::PerSecond, changes);
        churn.add("processor, for those", Unit::Percent, percent);
        // The API server may have handled fewer.
        let by_proportion = percent * (1_000.0 / changes).max(1.0);
        let what = "processor, for 1,000 changes a second by proportion";
        churn.add(what, Unit::Percent, by_proportion);
    }
    let growth = resident(agent.pid())? - before;
    churn.add("growth of resident memory in these minutes", Unit::Bytes, growth);
    // The load of the API server and of this process is the same in both cases.
    for (what, has_service) in [(BESIDE_SLICES, false), (BESIDE_LARGEST, true)] {
        let largest = Largest::create(watched.cluster, has_service);
        for _ in 0..effort.rounds.min(MINUTES) {
            // The agent has applied the new objects when this change is effective.
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
        churn.alone(watched, FEW_CHANGES, QUIET).with_context(|| proxy.log())?;
        churn.among_few(watched).with_context(|| proxy.log())?;
    }
    Ok(())
}

/// The measurements of one peer.
struct Churn<'a> {
    book: &'a mut Book,
    peer: Peer,
    /// The process that follows the cluster.
    pid: u32,
    client: Client,
}

/// Results of changes among others.
struct Among {
    /// Rate of the other changes, per second.
    changes: f64,
    /// Processor time for them, percent of one processor.
    percent: f64,
    /// Latency of the changes of the watched Service, from the request to the API server.
    times: Times,
}

impl Churn<'_> {
    fn add(&mut self, what: &str, unit: Unit, value: f64) {
        self.book.add(BENCH, what, self.peer, unit, value);
    }

    fn add_times(&mut self, what: &str, times: &Times) {
        self.book.add_times(BENCH, what, self.peer, times);
    }

    /// Measures changes without load, each `apart` after the previous one was effective.
    fn alone(
        &mut self,
        watched: &mut Watched<'_>,
        count: usize,
        apart: Duration,
    ) -> anyhow::Result<()> {
        // It waits for changes that are still in progress, and is not counted.
        watched.change(&self.client)?;
        let change = |_| {
            thread::sleep(apart);
            watched.change(&self.client)
        };
        let latencies: Vec<Latency> = (0..count).map(change).collect::<anyhow::Result<_>>()?;
        let of = |which: fn(&Latency) -> u64| Times::of(latencies.iter().map(which).collect());
        self.add_times(EVENT, &of(|latency| latency.event));
        self.add_times(REQUEST, &of(|latency| latency.request));
        Ok(())
    }

    /// Measures changes under a load that both peers can handle.
    fn among_few(&mut self, watched: &mut Watched<'_>) -> anyhow::Result<()> {
        let Among { changes, percent, times } = self.among(watched, FEW)?;
        self.add_times(AMONG_FEW, &times);
        self.add("changes, of 100 asked for", Unit::PerSecond, changes);
        self.add("processor, for those of 100", Unit::Percent, percent);
        Ok(())
    }

    fn among(&self, watched: &mut Watched<'_>, load: Load) -> anyhow::Result<Among> {
        // Does not include the time after the load until the last change of the watched Service is effective.
        let (times, (changes, percent)) = watched.among(&self.client, |cluster, first| {
            let (before, start) = (processor(self.pid)?, Instant::now());
            let count = load.run(cluster, first)?;
            let (taken, seconds) = (processor(self.pid)? - before, start.elapsed().as_secs_f64());
            Ok((rate(count, seconds), 100.0 * taken / seconds))
        })?;
        Ok(Among { changes, percent, times })
    }
}

/// Returns the processor time of a process and of its ended children, seconds (proc(5), stat). kube-proxy
/// writes rules by child processes.
fn processor(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the process, in brackets, may contain any characters.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has an unexpected format")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok());
    // utime, stime, cutime and cstime.
    let all = [11, 12, 13, 14].map(ticks).into_iter().sum::<Option<f64>>();
    // SAFETY: sysconf takes no pointers.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    #[expect(clippy::cast_precision_loss, reason = "a hundred")]
    let seconds = all.context("/proc/PID/stat has an unexpected format")? / ticks_per_second as f64;
    Ok(seconds)
}
