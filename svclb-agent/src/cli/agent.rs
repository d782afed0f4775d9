//! `svclb agent`: from the command line to a running reconciler.

mod log;
mod source;

use std::convert::Infallible;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use aya_log::EbpfLogger;
use clap::{Args, ValueEnum};
use svclb_common::layout::Meta;
use svclb_core::catalog::Catalog;
use svclb_core::model::Node;
use svclb_core::size::{Sizes, sizes};
use tokio::signal::unix::{SignalKind, signal};

use crate::dataplane::installed::Installed;
use crate::dataplane::lock::Lock;
use crate::dataplane::maps::Maps;
use crate::dataplane::object::{self, Features, Settings};
use crate::dataplane::pins::Pins;
use crate::dataplane::{attach, environment, meta, probe};
use crate::reconcile::{self, Reconciler, Told};

use super::PinsArgs;

/// How often hooks and pins are looked after: some twenty short system calls.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    #[command(flatten)]
    source: source::SourceArgs,
    #[command(flatten)]
    log: log::LogArgs,
    /// Serve the sockets of this cgroup and those below it [default: the root of the mounted cgroup2]
    #[arg(long, value_name = "PATH", env = "SVCLB_CGROUP")]
    cgroup: Option<PathBuf>,
    #[command(flatten)]
    pins: PinsArgs,
    /// Places of the origins array when the maps are made, a power of two [default: by need]
    #[arg(long, value_name = "N", hide = true)]
    origins: Option<u32>,
    /// Lines of the index when the maps are made, a power of two [default: by need]
    #[arg(long, value_name = "N", hide = true)]
    index_lines: Option<u32>,
    /// Slots when the maps are made [default: by need]
    #[arg(long, value_name = "N", hide = true)]
    slots: Option<u32>,
    /// Do as on a kernel without this feature
    #[arg(long, value_name = "FEATURE", hide = true)]
    without: Vec<Feature>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Feature {
    SetRetval,
    Mptcp,
}

/// Runs the agent until it is told to stop.
pub(super) fn run(args: AgentArgs) -> Result<()> {
    args.log.start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(serve(args));
    // A credential plugin that hangs must not hold up the end.
    runtime.shutdown_background();
    served
}

async fn serve(args: AgentArgs) -> Result<()> {
    let cgroup = match &args.cgroup {
        Some(cgroup) => environment::cgroup2_at(cgroup)?,
        None => environment::cgroup2_root()?,
    };
    environment::check(&args.pins.pins, &cgroup)?;
    let pins = Pins::new(&args.pins.pins);
    // From here on a signal is a clean end, at whatever point.
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        result = follow(&args, &pins, &cgroup) => result,
        _ = interrupt.recv() => leave(&pins),
        _ = terminate.recv() => leave(&pins),
    }
}

/// Says what stays. Maps and links outlive the agent: that is what pins are for.
fn leave(pins: &Pins) -> Result<()> {
    tracing::info!(
        pins = %pins.root().display(),
        "stopping; translation goes on with what the maps hold, until `svclb uninstall`",
    );
    Ok(())
}

async fn follow(args: &AgentArgs, pins: &Pins, cgroup: &Path) -> Result<()> {
    let node = args.source.node()?;
    let mut source = args.source.open(&node).await?;
    let _lock = Lock::take(pins)?;
    meta::begin(pins, std::process::id(), now()?)?;
    let mut catalog = Catalog::new(Node { name: node.as_str().into(), ..Node::default() });
    // Until all is known, nothing is written: what an earlier agent left goes on.
    let mut told = Told::default();
    reconcile::hear(&mut catalog, &mut told, source.next().await);
    for update in probe::appear() {
        catalog.apply(update);
    }

    pins.make()?;
    let settings = settings(args, pins, catalog.counts())?;
    let row = Meta {
        index_lines: settings.sizes.index_lines,
        spill_lines: settings.sizes.spill_lines,
        slots: settings.sizes.slots,
        origins: settings.sizes.origins,
        seed: settings.seed,
        agent: std::process::id(),
        agent_started: now()?,
        ..Meta::default()
    };
    let mut object = object::load(pins, &settings)?;
    let mut reconciler = Reconciler::over(catalog, told, Maps::open(pins, true)?, row)?;
    // The maps are right before anything reads them; after a restart the old programs read already.
    if let Some(failed) = reconciler.pass().failed.into_iter().next() {
        return Err(failed.error).context("cannot fill the maps");
    }
    attach::attach(&mut object, cgroup, pins)?;
    probe::run(cgroup)?;
    reconciler.update(probe::vanish());
    reconciler.pass();
    reconciler.prove()?;
    if args.log.log_bpf {
        tokio::spawn(log::pass_on(EbpfLogger::init(&mut object)?));
    }
    tracing::info!(cgroup = %cgroup.display(), pins = %pins.root().display(), "ready");
    let installed = Installed::new(object, cgroup, pins)?;
    super::output::line("ready")?;
    std::io::stdout().flush()?;
    tokio::select! {
        ended = reconciler.run(source) => ended,
        never = look_after(installed) => match never {},
    }
}

/// Looks now and then whether somebody took away what is installed, and puts it back.
async fn look_after(mut installed: Installed) -> Infallible {
    let mut told = None;
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let (lines, done) = installed.look_after();
        for line in lines {
            tracing::warn!("{line}: somebody else took it away, and it is there again");
        }
        let wrong = done.err().map(|error| format!("{error:#}"));
        if let Some(error) = wrong.as_ref().filter(|_| wrong != told) {
            tracing::error!(error, "cannot put back what somebody else took away; trying again");
        }
        told = wrong;
    }
}

/// Seconds since the epoch.
fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// What to load: adopted maps keep their sizes and seed, new ones are made for what is there now.
fn settings(args: &AgentArgs, pins: &Pins, counts: (usize, usize)) -> Result<Settings> {
    let mut features = Features::of_kernel()?;
    features.set_retval &= !args.without.contains(&Feature::SetRetval);
    features.mptcp &= !args.without.contains(&Feature::Mptcp);
    let log = args.log.log_bpf;
    if pins.adoptable()? {
        let meta = Maps::open(pins, false)?.meta()?;
        if meta.layout != 0 {
            let capacity = pins.capacity()?;
            let told = [meta.index_lines.wrapping_add(meta.spill_lines), meta.slots, meta.origins];
            ensure!(
                told == capacity
                    && meta.index_lines.is_power_of_two()
                    && meta.origins.is_power_of_two(),
                "svclb_meta in {} tells of other maps (lines, slots, origins {told:?}) than are there \
                 ({capacity:?}): remove them with `svclb uninstall --pins {}`",
                pins.root().display(),
                pins.root().display(),
            );
            let sizes = Sizes {
                index_lines: meta.index_lines,
                spill_lines: meta.spill_lines,
                slots: meta.slots,
                origins: meta.origins,
            };
            return Ok(Settings { sizes, seed: meta.seed, features, log });
        }
        // Maps that no pass ever finished filling, and so nobody's: nothing is lost with them.
        pins.uninstall()?;
        pins.make()?;
    }
    let (frontends, backends) = counts;
    let mut sizes = sizes(frontends, backends);
    if let Some(lines) = args.index_lines {
        sizes.index_lines = power_of_two("--index-lines", lines)?;
    }
    if let Some(origins) = args.origins {
        sizes.origins = power_of_two("--origins", origins)?;
    }
    sizes.slots = args.slots.unwrap_or(sizes.slots);
    Ok(Settings { sizes, seed: random_seed()?, features, log })
}

fn power_of_two(flag: &str, value: u32) -> Result<u32> {
    ensure!(
        value.is_power_of_two() && value >= 8,
        "{flag} {value}: expected a power of two from 8"
    );
    Ok(value)
}

fn random_seed() -> Result<u64> {
    let mut seed = [0_u8; 8];
    // SAFETY: the buffer is as long as said.
    let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    ensure!(got == 8, "cannot get a random seed: {}", std::io::Error::last_os_error());
    Ok(u64::from_ne_bytes(seed))
}
