//! The agent of a simulation: the real reconciler with real maps and hooks, and a source in the same process.
//! Another thread emits the events and measures the backlog.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use svclb_agent::reconcile::{Reconciler, Sizing};
use svclb_common::layout::Meta;
use svclb_core::catalog::Catalog;
use svclb_core::model::{Node, Update};
use svclb_dataplane::pins::Pins;
use svclb_dataplane::pins::lock::Lock;
use svclb_dataplane::programs::installed::Installed;
use svclb_dataplane::programs::object::Features;
use svclb_sources::{Objects, Source};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::cluster::{Cluster, Size};
use super::memory::{Memory, TimedUpdate};
use super::{Outcome, Part, Places, Simulation};
use crate::benches::memory::resident;

/// Long enough that no audit runs in a simulation.
const AUDIT: Duration = Duration::from_secs(3_600);
/// Interval in which the backlog is measured.
const LOOK: Duration = Duration::from_micros(200);

/// Runs all parts, and prints the results.
///
/// # Errors
/// The maps cannot be made, or are lost.
pub(crate) fn run(places: &Places, simulation: &Simulation) -> anyhow::Result<()> {
    let Simulation { nodes, services, endpoints, restarts, seed } = *simulation;
    let mut cluster = Cluster::new(Size { nodes, services, endpoints }, seed);
    let (sender, receiver) = unbounded_channel();
    let objects = cluster.objects();
    let count = objects.len() as u64;
    let memory = Memory::new(objects, receiver);
    let done = memory.done();
    let begin = Instant::now();
    let (when_ready, ready) = oneshot::channel();
    let places = places.clone();
    // It runs until the process ends. If it fails, the process ends.
    let agent = thread::spawn(move || {
        let ended = serve(&places, memory, when_ready);
        crate::log(&format!("the agent ended: {ended:?}"));
        std::process::exit(1);
    });
    let Ok(clock) = ready.blocking_recv() else {
        // It logs the reason, and ends the process.
        agent.join().map_err(|_| anyhow::anyhow!("the agent panicked"))?;
        anyhow::bail!("the agent ended");
    };
    let seconds = begin.elapsed().as_secs_f64();
    let mut parts = vec![Part {
        what: format!("start, {} endpoints", cluster.endpoints()),
        events: count,
        seconds,
        processor_seconds: clock.seconds(),
        most_waiting: count,
        longest: seconds,
        resident: resident(std::process::id())?,
    }];
    let mut line = Line { sender, done, clock, sent: 0 };
    parts.push(line.measure(&format!("{restarts} Services are rolled out"), |event| {
        cluster.restart(restarts, event);
    })?);
    parts.push(line.measure("a zone is lost", |event| cluster.lose_zone(event))?);
    crate::print(&serde_json::to_string(&Outcome { parts, ready: cluster.ready() })?);
    Ok(())
}

/// The connection to the agent.
struct Line {
    sender: UnboundedSender<TimedUpdate>,
    done: Arc<AtomicU64>,
    clock: Clock,
    /// Number of events sent so far.
    sent: u64,
}

impl Line {
    /// Sends all events of a part, and waits until the maps have them.
    fn measure(
        &mut self,
        what: &str,
        events: impl FnOnce(&mut dyn FnMut(Update)),
    ) -> anyhow::Result<Part> {
        let (before, processor, begin) = (self.sent, self.clock.seconds(), Instant::now());
        let sent = AtomicU64::new(before);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let (most_waiting, longest) = thread::scope(|scope| {
            let (sent, is_over, done) = (&sent, &is_over, &self.done);
            let watcher = scope.spawn(move || watch(sent, is_over, done));
            events(&mut |event| {
                // The agent receives events as long as this process runs.
                let _ = self.sender.send((Instant::now(), event));
                sent.fetch_add(1, Ordering::Release);
            });
            is_over.store(true, Ordering::Release);
            watcher.join().map_err(|_| anyhow::anyhow!("a thread panicked"))
        })?;
        self.sent = sent.load(Ordering::Acquire);
        Ok(Part {
            what: what.to_owned(),
            events: self.sent - before,
            seconds: begin.elapsed().as_secs_f64(),
            processor_seconds: self.clock.seconds() - processor,
            most_waiting,
            longest,
            resident: resident(std::process::id())?,
        })
    }
}

/// Measures the backlog until all events are written. Returns the largest number of waiting events, and the
/// longest time that an event waited, seconds.
fn watch(
    sent: &AtomicU64,
    is_over: &std::sync::atomic::AtomicBool,
    done: &AtomicU64,
) -> (u64, f64) {
    let (mut most, mut longest) = (0, Duration::ZERO);
    // Numbers of sent events, with the time.
    let mut marks = std::collections::VecDeque::new();
    loop {
        let over = is_over.load(Ordering::Acquire);
        let (sent, done) = (sent.load(Ordering::Acquire), done.load(Ordering::Acquire));
        most = most.max(sent.saturating_sub(done));
        if marks.back().is_none_or(|(count, _)| *count < sent) {
            marks.push_back((sent, Instant::now()));
        }
        while let Some((count, at)) = marks.front()
            && *count <= done
        {
            longest = longest.max(at.elapsed());
            marks.pop_front();
        }
        if over && done >= sent {
            return (most, longest.as_secs_f64());
        }
        thread::sleep(LOOK);
    }
}

/// Runs the reconciler until the process ends.
fn serve(
    places: &Places,
    memory: Memory,
    when_ready: oneshot::Sender<Clock>,
) -> anyhow::Result<()> {
    let clock = Clock::of_this_thread()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let pins = Pins::new(&places.pins);
        let lock = Lock::take(&pins)?;
        let features = Features::of_kernel()?;
        let mut kernel =
            Installed::new(pins.clone(), lock, places.cgroup.clone(), features, false)?;
        let mut source = Source::new(Objects::Other(Box::new(memory)), None);
        let first = source.next().await;
        let catalog = Catalog::new(Node { name: "node-0".into(), ..Node::default() });
        let row = Meta { agent: std::process::id(), ..Meta::default() };
        let sizing = Sizing::default();
        let reconciler =
            Reconciler::anew(catalog, &mut kernel, first, &row, None, sizing, Arc::default())?;
        let mut when_ready = Some(when_ready);
        let ready = |_| {
            let sender = when_ready.take().context("the agent became ready a second time")?;
            sender.send(clock).map_err(|_| anyhow::anyhow!("the main thread has ended"))
        };
        reconciler.run(source, kernel, AUDIT, ready).await
    })
}

/// Processor time of a thread, which other threads can read too (pthread_getcpuclockid(3)).
#[derive(Clone, Copy, Debug)]
struct Clock(libc::clockid_t);

impl Clock {
    fn of_this_thread() -> anyhow::Result<Self> {
        let mut clock = 0;
        // SAFETY: the thread runs, and the pointer is to a local variable.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        anyhow::ensure!(failed == 0, "a thread has no clock (error {failed})");
        Ok(Self(clock))
    }

    fn seconds(self) -> f64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a local variable, which is unchanged if the thread has ended.
        unsafe { libc::clock_gettime(self.0, &raw mut time) };
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or_default(),
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        )
        .as_secs_f64()
    }
}
