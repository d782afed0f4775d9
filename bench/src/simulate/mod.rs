//! One agent in a cluster of thousands of nodes: all of its watch events, as fast as they can be said, into
//! real maps. How many wait meanwhile, how long all takes, what the agent uses.
//!
//! * [`cluster`]: the cluster and its events.
//! * [`agent`]: the agent, in a process of its own inside a world.

pub(crate) mod agent;
mod cluster;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::{Deserialize, Serialize};
use serde_json::json;
use svclb_tests::World;

use crate::book::Unit;
use crate::report::shown;
use crate::times::rate;

/// What is simulated.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Simulation {
    /// Nodes of the cluster, in three zones
    #[arg(long, default_value_t = 5_000)]
    nodes: usize,
    /// Services
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Endpoints of the largest 500; the others have fewer
    #[arg(long, default_value_t = 250)]
    endpoints: usize,
    /// Services that are rolled out at the same time
    #[arg(long, default_value_t = 400)]
    restarts: usize,
    /// Of the cluster and its events
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// What came of one part.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Part {
    what: String,
    events: u64,
    seconds: f64,
    /// Of the agent's thread.
    processor_seconds: f64,
    most_waiting: u64,
    /// The longest that one took from being said to being written.
    longest: f64,
    resident: f64,
}

/// What came of all.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    parts: Vec<Part>,
    /// How many endpoints are ready at the end.
    ready: usize,
}

/// Runs it, and shows what came of it.
///
/// # Errors
/// The agent cannot be started, or ends; or its maps do not hold what was said.
pub(crate) fn run(simulation: &Simulation) -> anyhow::Result<()> {
    let world = World::builder("bench-simulation").without_agent().start();
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("simulated-agent").arg("--pins").arg(world.pins());
    command.arg("--cgroup").arg(world.cgroup());
    for (flag, number) in [
        ("--nodes", simulation.nodes),
        ("--services", simulation.services),
        ("--endpoints", simulation.endpoints),
        ("--restarts", simulation.restarts),
    ] {
        command.arg(flag).arg(number.to_string());
    }
    command.arg("--seed").arg(simulation.seed.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let output = world.spawn(command).wait_with_output()?;
    ensure!(output.status.success(), "the agent ended with {}", output.status);
    let Outcome { parts, ready } =
        serde_json::from_slice(&output.stdout).context("the agent said nothing")?;
    let status = world.status();
    let found = ["backends", "failures", "short"].map(|name| &status[name]);
    ensure!(
        found == [&json!(ready), &json!(0), &json!(0)],
        "the maps hold [backends, failures, short] {found:?}, and {ready} endpoints are ready"
    );
    crate::print(&table(&parts).to_string());
    Ok(())
}

fn table(parts: &[Part]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header([
        "what",
        "events",
        "all written after",
        "events per second",
        "processor",
        "most events waiting",
        "longest from event to maps",
        "resident",
    ]);
    for part in parts {
        table.add_row([
            part.what.clone(),
            part.events.to_string(),
            shown(part.seconds * 1_000.0, Unit::Milliseconds),
            shown(rate(part.events, part.seconds), Unit::PerSecond),
            shown(part.processor_seconds * 1_000.0, Unit::Milliseconds),
            part.most_waiting.to_string(),
            shown(part.longest * 1_000.0, Unit::Milliseconds),
            shown(part.resident, Unit::Bytes),
        ]);
    }
    table
}

/// Where the agent's process keeps what it makes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Places {
    /// The pins
    #[arg(long)]
    pins: PathBuf,
    /// The cgroup
    #[arg(long)]
    cgroup: PathBuf,
}
