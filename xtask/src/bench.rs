//! `cargo xtask bench` and `cargo xtask simulate`: build the program of bench/ and run it as root.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::{cluster, environment, run, setup, shell};

/// The stored run from which docs/performance.md is generated.
const STORED: &str = "docs/performance.json";
/// The folder of that page.
const PAGE: &str = "docs";

/// Options of a run.
#[derive(Debug, clap::Args)]
pub(crate) struct Wanted {
    /// Run only these benches [possible values: connect, udp, names, release, scale, threads, throughput, memory, sync, churn]
    benches: Vec<String>,
    /// Print all figures as JSON instead of tables
    #[arg(long, conflicts_with = "check")]
    json: bool,
    /// Print only the figures that miss their targets, and fail if there are any
    #[arg(long)]
    check: bool,
    /// Store the run in docs/performance.json, and write docs/performance.md and its plots from it
    #[arg(long, conflicts_with = "benches")]
    bless: bool,
    /// Number of rounds of each bench
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Number of calls of each kind in one round
    #[arg(long, value_name = "N")]
    calls: Option<u32>,
}

/// Builds svclb and the benches, and runs the benches.
///
/// # Errors
/// Something is missing or does not build; a bench fails; or, with `check`, a target is not met.
pub(crate) fn run(wanted: &Wanted) -> anyhow::Result<()> {
    setup::ensure(setup::Need::Bench)?;
    let [svclb, bench] = build()?;
    let components = cluster::ensure()?;
    let environment: [(&str, &OsStr); 2] =
        [("SVCLB_BIN", svclb.as_os_str()), (cluster::VARIABLE, &components)];
    let mut measure = shell::as_root(&bench, &environment)?;
    measure.arg("run").args(&wanted.benches);
    for (flag, is_given) in [("--json", wanted.json), ("--check", wanted.check)] {
        measure.args(is_given.then_some(flag));
    }
    if wanted.bless {
        measure.args(["--store", STORED]);
    }
    for (flag, number) in [("--rounds", wanted.rounds), ("--calls", wanted.calls)] {
        if let Some(number) = number {
            measure.arg(flag).arg(number.to_string());
        }
    }
    let stored = shell::root().join(STORED);
    let before = fs::read(&stored).ok();
    let status = measure.status().with_context(|| shell::cannot_start(&measure))?;
    // A run that misses targets is stored too; only a run that failed left the file as it was.
    if wanted.bless && fs::read(&stored).ok() != before {
        let mut page = shell::command(&bench);
        page.args(["page", STORED, PAGE]);
        shell::run(page).context("docs/performance.md is not written")?;
    }
    if !status.success() {
        bail!("see above");
    }
    Ok(())
}

/// Builds and starts the simulation of a large cluster, with these arguments.
///
/// # Errors
/// Something is missing or does not build; or the simulation fails.
pub(crate) fn simulate(arguments: &[String]) -> anyhow::Result<()> {
    setup::ensure(setup::Need::Run)?;
    let [svclb, bench] = build()?;
    let mut simulate = shell::as_root(&bench, &[("SVCLB_BIN", svclb.as_os_str())])?;
    simulate.arg("simulate").args(arguments);
    shell::run(simulate)
}

/// Builds the program `svclb` as it ships, and the benches.
fn build() -> anyhow::Result<[PathBuf; 2]> {
    shell::log("building");
    let svclb = run::build(&["--release", "--package", "svclb-agent", "--bin", "svclb"], &[])?;
    let mut found = None;
    let arguments = ["--profile", "measure", "--package", "svclb-bench"];
    run::artifacts("build", &arguments, &[], |artifact| {
        found = artifact.executable.map(Into::into).or(found.take());
    })?;
    environment::check()?;
    Ok([svclb, found.context("cargo built no program `svclb-bench`")?])
}
