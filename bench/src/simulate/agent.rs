//! The agent of a simulation: the reconciler that ships, over real maps and hooks, with a source in the
//! same process. A thread beside it says the events and looks how far it is.

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
use svclb_sources::memory::{Memory, TimedUpdate};
use svclb_sources::{Objects, Source};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::cluster::{Cluster, Size};
use super::{Outcome, Part, Places, Simulation};
use crate::benches::memory::resident;

/// No audit falls into the simulation.
const AUDIT: Duration = Duration::from_secs(3_600);
/// How often somebody looks how far the agent is.
const LOOK: Duration = Duration::from_micros(200);

/// Runs all parts, and says what came of them.
///
/// # Errors
/// The maps cannot be made, or are lost.
pub(crate) fn run(places: &Places, simulation: &Simulation) -> anyhow::Result<()> {
    let Simulation { nodes, services, endpoints, restarts, seed } = *simulation;
    let mut cluster = Cluster::new(Size { nodes, services, endpoints }, seed);
    let (say, said) = unbounded_channel();
    let objects = cluster.objects();
    let count = objects.len() as u64;
    let memory = Memory::new(objects, said);
    let done = memory.done();
    let begin = Instant::now();
    let (tell, ready) = oneshot::channel();
    let places = places.clone();
    // It goes on until the process ends, and without it nothing goes on.
    let agent = thread::spawn(move || {
        let ended = serve(&places, memory, tell);
        crate::say(&format!("the agent ended: {ended:?}"));
        std::process::exit(1);
    });
    let Ok(clock) = ready.blocking_recv() else {
        // It says why, and ends the process.
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
    let mut line = Line { say, done, clock, said: 0 };
    parts.push(line.measure(&format!("{restarts} Services are rolled out"), |event| {
        cluster.restart(restarts, event);
    })?);
    parts.push(line.measure("a zone is lost", |event| cluster.lose_zone(event))?);
    crate::print(&serde_json::to_string(&Outcome { parts, ready: cluster.ready() })?);
    Ok(())
}

/// The way to the agent.
struct Line {
    say: UnboundedSender<TimedUpdate>,
    done: Arc<AtomicU64>,
    clock: Clock,
    said: u64,
}

impl Line {
    /// Says all events of this, and waits until they are written.
    fn measure(
        &mut self,
        what: &str,
        events: impl FnOnce(&mut dyn FnMut(Update)),
    ) -> anyhow::Result<Part> {
        let (before, processor, begin) = (self.said, self.clock.seconds(), Instant::now());
        let said = AtomicU64::new(before);
        let is_over = std::sync::atomic::AtomicBool::new(false);
        let (most_waiting, longest) = thread::scope(|scope| {
            let (said, is_over, done) = (&said, &is_over, &self.done);
            let watcher = scope.spawn(move || watch(said, is_over, done));
            events(&mut |event| {
                // The agent goes on as long as this process does.
                let _ = self.say.send((Instant::now(), event));
                said.fetch_add(1, Ordering::Release);
            });
            is_over.store(true, Ordering::Release);
            watcher.join().map_err(|_| anyhow::anyhow!("a thread panicked"))
        })?;
        self.said = said.load(Ordering::Acquire);
        Ok(Part {
            what: what.to_owned(),
            events: self.said - before,
            seconds: begin.elapsed().as_secs_f64(),
            processor_seconds: self.clock.seconds() - processor,
            most_waiting,
            longest,
            resident: resident(std::process::id())?,
        })
    }
}

/// Looks how far the agent is until all is written. Gives how many waited at most, and how long the one
/// that waited for longest did, seconds.
fn watch(
    said: &AtomicU64,
    is_over: &std::sync::atomic::AtomicBool,
    done: &AtomicU64,
) -> (u64, f64) {
    let (mut most, mut longest) = (0, Duration::ZERO);
    // Marks along the way: so many were said at that time.
    let mut marks = std::collections::VecDeque::new();
    loop {
        let over = is_over.load(Ordering::Acquire);
        let (said, done) = (said.load(Ordering::Acquire), done.load(Ordering::Acquire));
        most = most.max(said.saturating_sub(done));
        if marks.back().is_none_or(|(count, _)| *count < said) {
            marks.push_back((said, Instant::now()));
        }
        while let Some((count, at)) = marks.front()
            && *count <= done
        {
            longest = longest.max(at.elapsed());
            marks.pop_front();
        }
        if over && done >= said {
            return (most, longest.as_secs_f64());
        }
        thread::sleep(LOOK);
    }
}

/// Follows the source until the process ends.
fn serve(places: &Places, memory: Memory, tell: oneshot::Sender<Clock>) -> anyhow::Result<()> {
    let clock = Clock::of_this_thread()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let pins = Pins::new(&places.pins);
        let lock = Lock::take(&pins)?;
        let features = Features::of_kernel()?;
        let mut ground =
            Installed::new(pins.clone(), lock, places.cgroup.clone(), features, false)?;
        let mut source = Source::new(Objects::Memory(memory), None);
        let first = source.next().await;
        let catalog = Catalog::new(Node { name: "node-0".into(), ..Node::default() });
        let row = Meta { agent: std::process::id(), ..Meta::default() };
        let sizing = Sizing::default();
        let reconciler = Reconciler::anew(catalog, &mut ground, first, &row, None, sizing)?;
        let mut tell = Some(tell);
        let ready = |_| {
            let tell = tell.take().context("the agent is ready a second time")?;
            tell.send(clock).map_err(|_| anyhow::anyhow!("nobody waits for the agent"))
        };
        reconciler.run(source, ground, AUDIT, ready).await
    })
}

/// What a thread took of processors so far, also seen from others (pthread_getcpuclockid(3)).
#[derive(Clone, Copy, Debug)]
struct Clock(libc::clockid_t);

impl Clock {
    fn of_this_thread() -> anyhow::Result<Self> {
        let mut clock = 0;
        // SAFETY: the thread runs, and the value lives here.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
        anyhow::ensure!(failed == 0, "a thread has no clock (error {failed})");
        Ok(Self(clock))
    }

    fn seconds(self) -> f64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the value lives here; a clock of a thread that ended leaves it as it is.
        unsafe { libc::clock_gettime(self.0, &raw mut time) };
        Duration::new(
            u64::try_from(time.tv_sec).unwrap_or_default(),
            u32::try_from(time.tv_nsec).unwrap_or_default(),
        )
        .as_secs_f64()
    }
}
