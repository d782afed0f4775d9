//! Simulates a cluster of thousands of nodes for one agent, which writes real maps: emits all watch events as
//! fast as possible, and measures their backlog, their duration, and the agent's resources.
//!
//! * [`cluster`]: the cluster and its events.
//! * [`agent`]: the agent, in a separate process inside a world.

pub(crate) mod agent;
mod cluster;
mod memory;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde::{Deserialize, Serialize};
use serde_json::json;
use svclb_tests::World;

use crate::book::Unit;
use crate::report::with_unit;
use crate::times::rate;

/// Options of a simulation.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Simulation {
    /// Number of nodes, in three zones
    #[arg(long, default_value_t = 5_000)]
    nodes: usize,
    /// Number of Services
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Number of endpoints of each of the largest 500 Services; the others have fewer
    #[arg(long, default_value_t = 250)]
    endpoints: usize,
    /// Number of Services that are rolled out at the same time
    #[arg(long, default_value_t = 400)]
    restarts: usize,
    /// Seed of the cluster and its events
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The results of one part.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Part {
    what: String,
    events: u64,
    seconds: f64,
    /// Processor time of the agent's thread.
    processor_seconds: f64,
    most_waiting: u64,
    /// Longest time from an event to its effect in the maps, seconds.
    longest: f64,
    resident: f64,
}

/// The results of all parts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    parts: Vec<Part>,
    /// Number of ready endpoints at the end.
    ready: usize,
}

/// Runs a simulation, and shows its results.
///
/// # Errors
/// The agent cannot be started, or ends; or its maps do not agree with the events.
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
        serde_json::from_slice(&output.stdout).context("the agent printed no results")?;
    let status = world.status();
    let found = ["backends", "failures", "short"].map(|name| &status[name]);
    ensure!(
        found == [&json!(ready), &json!(0), &json!(0)],
        "the maps have [backends, failures, short] {found:?}, but {ready} endpoints are ready"
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
            with_unit(part.seconds * 1_000.0, Unit::Milliseconds),
            with_unit(rate(part.events, part.seconds), Unit::PerSecond),
            with_unit(part.processor_seconds * 1_000.0, Unit::Milliseconds),
            part.most_waiting.to_string(),
            with_unit(part.longest * 1_000.0, Unit::Milliseconds),
            with_unit(part.resident, Unit::Bytes),
        ]);
    }
    table
}

/// Paths of the agent.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Places {
    /// The pins
    #[arg(long)]
    pins: PathBuf,
    /// The cgroup
    #[arg(long)]
    cgroup: PathBuf,
}
