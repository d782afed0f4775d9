//! Measures svclb's datapath and agent side by side with direct connections and with kube-proxy, in one run.
//! `cargo xtask bench` builds it and runs it as root; docs/performance.md shows a run.
//!
//! * [`lane`]: one peer with its client and servers.
//! * [`benches`]: the measurements.
//! * [`book`]: the figures. [`run`]: the figures with the machine, as they are stored.
//! * [`times`]: durations of calls. [`targets`]: bounds of the figures.
//! * [`report`]: tables, plots and the page.
//! * [`simulate`]: one agent in a simulated cluster of thousands of nodes.

mod benches;
mod book;
mod lane;
mod report;
mod run;
mod simulate;
mod targets;
mod times;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};

use benches::datapath::{self, Part};
use benches::{Effort, churn, memory, scale, sync};
use run::Run;
use svclb_dataplane::probe;

#[derive(Parser)]
#[command(about = "Measures svclb side by side with direct connections and kube-proxy")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run benches and show the figures
    Run {
        /// Run only these benches
        benches: Vec<Bench>,
        /// Print all figures as JSON instead of tables
        #[arg(long, conflicts_with = "check")]
        json: bool,
        /// Print only the figures that miss their targets, and fail if there are any
        #[arg(long)]
        check: bool,
        /// Store the run in this file
        #[arg(long, value_name = "FILE")]
        store: Option<PathBuf>,
        /// Number of rounds of each bench
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Number of calls of each kind in one round
        #[arg(long, default_value_t = 40_000)]
        calls: u32,
    },
    /// Write the page and the plots of a stored run, or check that they belong to it
    Page {
        /// The stored run
        run: PathBuf,
        /// The folder of the page
        folder: PathBuf,
        /// Only check them
        #[arg(long)]
        check: bool,
    },
    /// Feed one agent the events of a simulated cluster of thousands of nodes (docs/scale.md)
    Simulate {
        #[command(flatten)]
        simulation: simulate::Simulation,
    },
    /// Run the agent of a simulation
    #[command(hide = true)]
    SimulatedAgent {
        #[command(flatten)]
        places: simulate::Places,
        #[command(flatten)]
        simulation: simulate::Simulation,
    },
    /// Run the client by which the agent of a simulation probes translation: it starts its own program
    #[command(hide = true, name = probe::CLIENT)]
    ProbeClient,
    /// Run the process of a lane
    #[command(hide = true)]
    Lane {
        /// The cgroup of its client
        #[arg(long)]
        cgroup: PathBuf,
        /// Addresses of its servers
        addresses: Vec<IpAddr>,
    },
}

/// A part of a run that can be measured alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Bench {
    /// connect(2): to a Service, to another destination, refused
    Connect,
    /// Datagrams of unconnected sockets, to one and to eight Services
    Udp,
    /// getpeername(2)
    Names,
    /// Closing sockets
    Release,
    /// Connects among 10 to 100,000 frontends
    Scale,
    /// Connects in 1, 2 and 4 threads
    Threads,
    /// Bytes and packets after the connection
    Throughput,
    /// Memory of the maps and of the agent
    Memory,
    /// Starts of the agent with 5,000 Services and 250,000 endpoints, and its resident memory
    Sync,
    /// Changes in a cluster of that size
    Churn,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Lane { cgroup, addresses } => lane::client::run(&cgroup, &addresses),
        Task::ProbeClient => {
            print(&probe::client());
            Ok(())
        }
        Task::Simulate { simulation } => simulate::run(&simulation),
        Task::SimulatedAgent { places, simulation } => simulate::agent::run(&places, &simulation),
        Task::Run { benches, json, check, store, rounds, calls } => {
            let measured = measure(&benches, Effort { rounds, calls });
            measured.and_then(|run| show(&run, json, check.then_some(benches.is_empty()), store))
        }
        Task::Page { run, folder, check } => {
            Run::read(&run).and_then(|run| report::page::write(&run, &folder, check))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints a line of the result.
#[expect(clippy::print_stdout, reason = "the result of a command is its standard output")]
fn print(line: &str) {
    println!("{line}");
}

/// Logs the step that begins.
fn log(what: &str) {
    eprintln!("==> {what}");
}

fn measure(named: &[Bench], effort: Effort) -> anyhow::Result<Run> {
    let has = |bench| named.is_empty() || named.contains(&bench);
    let mut run = Run::begin(effort)?;
    let book = &mut run.book;
    let parts = [
        (Bench::Connect, Part::Connect),
        (Bench::Udp, Part::Udp),
        (Bench::Names, Part::Names),
        (Bench::Release, Part::Release),
        (Bench::Threads, Part::Threads),
        (Bench::Throughput, Part::Throughput),
    ];
    let parts: Vec<Part> =
        parts.into_iter().filter(|(bench, _)| has(*bench)).map(|(_, part)| part).collect();
    if !parts.is_empty() {
        log("calls of a client");
        datapath::run(book, &parts, effort)?;
    }
    if has(Bench::Scale) {
        log("connects among many frontends");
        scale::run(book, effort)?;
    }
    if has(Bench::Memory) {
        log("memory");
        memory::run(book, effort)?;
    }
    if has(Bench::Sync) || has(Bench::Churn) {
        let cluster = sync::cluster()?;
        if has(Bench::Sync) {
            log("starts over a large cluster");
            sync::run(book, &cluster, effort)?;
        }
        if has(Bench::Churn) {
            log("changes in a large cluster");
            churn::run(book, &cluster, effort)?;
        }
    }
    let has_proxy = run.book.figures().iter().any(|it| it.peer == lane::Peer::Nftables);
    run.kubernetes = has_proxy.then(lane::proxy::version).flatten();
    Ok(run)
}

/// Shows a run. With `check`, compares it with the targets: with all of them if `Some(true)`, else with those
/// that the run measured.
fn show(run: &Run, json: bool, check: Option<bool>, store: Option<PathBuf>) -> anyhow::Result<()> {
    let text = run.text()?;
    if let Some(file) = store {
        fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(is_all) = check {
        let missed = targets::missed(&run.book, is_all);
        missed.iter().for_each(|line| print(line));
        anyhow::ensure!(missed.is_empty(), "{} targets are not met", missed.len());
    } else if json {
        print(&run.raw()?);
    } else {
        print(&report::table::all(run));
    }
    Ok(())
}
