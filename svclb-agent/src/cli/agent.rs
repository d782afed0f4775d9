//! `svclb agent`: from the command line to a running reconciler.

pub(super) mod budget;
mod log;
mod observe;
pub(super) mod source;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use svclb_common::layout::Meta;
use svclb_core::catalog::Catalog;
use svclb_core::model::Node;
use tokio::task::spawn_blocking;

use crate::memory;
use crate::observe::Observed;
use crate::reconcile::{Reconciler, Sizing, random_seed};
use svclb_dataplane::interface::Dataplane as _;
use svclb_dataplane::maps::{self, Maps};
use svclb_dataplane::node::environment;
use svclb_dataplane::pins::lock::Lock;
use svclb_dataplane::pins::meta;
use svclb_dataplane::pins::{Found, Pins};
use svclb_dataplane::programs::foreign;
use svclb_dataplane::programs::installed::Installed;
use svclb_dataplane::programs::object::Features;
use svclb_sources::Source;

use super::config::{self, FileArgs, SettingView};
use super::{PinsArgs, runtime, stop_signals};

/// Time to wait for the sources before the maps of an earlier agent are adopted without them.
const SOON: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub(super) struct AgentArgs {
    #[command(flatten)]
    _file: FileArgs,
    #[command(flatten)]
    source: source::SourceArgs,
    #[command(flatten)]
    log: log::LogArgs,
    #[command(flatten)]
    budget: budget::BudgetArgs,
    #[command(flatten)]
    observe: observe::ObserveArgs,
    /// Serve the sockets of this cgroup and those below it [default: the root of the mounted cgroup2]
    #[arg(long, value_name = "PATH", env = "SVCLB_CGROUP")]
    cgroup: Option<PathBuf>,
    #[command(flatten)]
    pins: PinsArgs,
    /// Replace programs that an agent with other pins left on this cgroup when it ended
    #[arg(long)]
    replace: bool,
    /// Places of the origins array when the maps are made, a power of two [default: by need]
    #[arg(long, value_name = "N", hide = true)]
    origins: Option<u32>,
    /// Lines of the index when the maps are made, a power of two [default: by need]
    #[arg(long, value_name = "N", hide = true)]
    index_lines: Option<u32>,
    /// Slots when the maps are made [default: by need]
    #[arg(long, value_name = "N", hide = true)]
    slots: Option<u32>,
    /// Period of comparing the maps with their desired state
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..), hide = true)]
    audit: u64,
    /// Do as on a kernel without this feature
    #[arg(long, value_name = "FEATURE", hide = true)]
    without: Vec<Feature>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Feature {
    SetRetval,
    KernSock,
}

/// Runs the agent until it is told to stop.
pub(super) fn run(args: AgentArgs, settings: &[SettingView]) -> Result<()> {
    memory::keep_large_apart();
    args.log.start();
    // Open as long as the agent runs.
    let _settings = config::publish(settings).inspect_err(|error| {
        tracing::warn!("`svclb config` cannot show the settings of this agent: {error:#}");
    });
    let runtime = runtime()?;
    let served = runtime.block_on(serve(args));
    // A credential plugin that hangs must not hold up the end.
    runtime.shutdown_background();
    served
}

async fn serve(args: AgentArgs) -> Result<()> {
    svclb_dataplane::node::privileges::lower(args.source.files())?;
    let cgroup = match &args.cgroup {
        Some(cgroup) => environment::cgroup2_at(cgroup)?,
        None => environment::cgroup2_root()?,
    };
    let pins = &args.pins.pins;
    environment::check(pins.root(), &cgroup)?;
    // From here on a signal is a clean end, at whatever point.
    let stopped = stop_signals()?;
    let observed = Arc::<Observed>::default();
    tokio::select! {
        result = follow(&args, pins, &cgroup, &observed) => return result,
        () = observed.turn_until_running() => {}
        () = stopped => {}
    }
    // Maps and links outlive the agent: that is what pins are for.
    tracing::info!(
        pins = %pins.root().display(),
        "stopping; translation goes on with what the maps hold, until `svclb uninstall`",
    );
    Ok(())
}

async fn follow(
    args: &AgentArgs,
    pins: &Pins,
    cgroup: &Path,
    observed: &Arc<Observed>,
) -> Result<()> {
    let node = args.source.node()?;
    let budget = args.budget.budget();
    let mut source = args.source.open(&node, budget).await?;
    let lock = Lock::take(pins)?;
    args.observe.start(pins, observed);
    // Finishes or discards staging maps of an agent that was killed.
    pins.finish()?;
    pins.abandon()?;
    let replaced = foreign::check(cgroup, pins, args.replace)?;
    let found = pins.found()?;
    if source.is_kube() && !matches!(found, Found::Nothing) {
        source.remember(api_servers(pins).await);
    }
    if matches!(found, Found::Ours) {
        meta::begin(&pins.current(), std::process::id(), now()?)?;
    }
    let features = args.features()?;
    let mut dataplane =
        Installed::new(pins.clone(), lock, cgroup.to_owned(), features, args.log.log_bpf)?;
    let mut row = Meta { agent: std::process::id(), agent_started: now()?, ..Meta::default() };
    let node = Node { name: node.as_str().into(), ..Node::default() };
    let catalog = Catalog::new(node).with_budget(budget);
    let sizing = args.sizing()?;
    if let Found::Others(why) = &found {
        tracing::warn!("{why}: these maps cannot be used; new ones will take their place");
        // Above what sockets may remember of maps that were made otherwise, or cannot be read.
        row.first_generation = (1 << 31) | (u32::try_from(random_seed() >> 34)?);
    }
    let reconciler = if matches!(found, Found::Ours) {
        let maps = dataplane.adopt(&pins.meta()?)?;
        let maps = Adopted { maps, row, sizing, observed: Arc::clone(observed) };
        adopt(catalog, &mut source, &mut dataplane, maps).await?
    } else {
        let first = source.next().await;
        let ids = maps::services(pins)?;
        let observed = Arc::clone(observed);
        Reconciler::anew(catalog, &mut dataplane, first, &row, ids.as_deref(), sizing, observed)?
    };
    // Every hook has this agent's programs too by now.
    replaced.remove()?;
    let ready = |is_synced: bool| {
        let (cgroup, pins) = (cgroup.display(), pins.root().display());
        if is_synced {
            tracing::info!(%cgroup, %pins, "ready");
        } else {
            tracing::warn!(
                %cgroup, %pins,
                "serving what an earlier agent wrote; not ready before the sources are known",
            );
        }
        super::output::line(if is_synced { "ready" } else { "serving" })?;
        Ok(std::io::stdout().flush()?)
    };
    reconciler.run(source, dataplane, Duration::from_secs(args.audit), ready).await
}

/// Returns the endpoints of the API server that an earlier agent knew, as paths to it.
pub(super) async fn api_servers(pins: &Pins) -> Vec<SocketAddr> {
    let pins = pins.clone();
    let read = spawn_blocking(move || maps::api_servers(&pins)).await;
    let read = read.context("the thread that reads the maps died").and_then(|read| read);
    read.unwrap_or_else(|error| {
        tracing::warn!("cannot read which API servers an earlier agent knew: {error:#}");
        Vec::new()
    })
}

/// Maps of an earlier agent, and how they are adopted.
struct Adopted {
    maps: Maps,
    row: Meta,
    sizing: Sizing,
    observed: Arc<Observed>,
}

/// Adopts the maps of an earlier agent. They stay as they are while the sources are not known; programs and
/// hooks are renewed in any case.
async fn adopt(
    catalog: Catalog,
    source: &mut Source,
    dataplane: &mut Installed,
    Adopted { maps, row, sizing, observed }: Adopted,
) -> Result<Reconciler<Maps>> {
    let grace = dataplane.grace_period();
    // Reads the maps while the source lists its objects; mostly both take a moment.
    let over =
        spawn_blocking(move || Reconciler::over(catalog, maps, &row, sizing, grace, observed));
    let (over, first) = tokio::join!(over, tokio::time::timeout(SOON, source.next()));
    let mut reconciler = over.context("the thread that reads the maps died")??;
    if let Ok(batch) = first {
        reconciler.ingest(batch);
    }
    // A step that fails stays with its object and is tried again, as in an agent that runs: what the
    // maps hold is served, however many do.
    reconciler.pass();
    // The maps are right before new programs read them; the old ones read them already.
    dataplane.attach()?;
    reconciler.make_room(dataplane);
    Ok(reconciler)
}

impl AgentArgs {
    fn features(&self) -> Result<Features> {
        let mut features = Features::of_kernel()?;
        features.set_retval &= !self.without.contains(&Feature::SetRetval);
        features.kern_sock =
            features.kern_sock.filter(|_| !self.without.contains(&Feature::KernSock));
        if features.kern_sock.is_none() {
            tracing::warn!(
                "cannot tell the kernel's own sockets from others (subflows of MPTCP, NFS): each connect \
                 of theirs to a Service takes a place of svclb_origins until the maps are made anew; the \
                 kernel's BTF does not describe sk_kern_sock, or it is locked down for confidentiality",
            );
        }
        Ok(features)
    }

    fn sizing(&self) -> Result<Sizing> {
        let Self { index_lines, slots, origins, .. } = *self;
        for (flag, value) in [("--index-lines", index_lines), ("--origins", origins)] {
            if let Some(value) = value.filter(|value| !value.is_power_of_two() || *value < 8) {
                bail!("{flag} {value}: expected a power of two from 8");
            }
        }
        Ok(Sizing { index_lines, slots, origins })
    }
}

/// Seconds since the epoch.
fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}
