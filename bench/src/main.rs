//! What svclb costs: its datapath and its agent, side by side with nothing and with kube-proxy, in one
//! run. `cargo xtask bench` builds and starts it, as root; docs/performance.md shows a run.
//!
//! * [`lane`]: one peer, with clients and servers of its own.
//! * [`benches`]: what is measured.
//! * [`book`]: what was measured. [`run`]: all of it, with the machine, as it is stored.
//! * [`times`]: how long calls took. [`targets`]: what it should come to.
//! * [`report`]: tables, plots and the page.
//! * [`simulate`]: one agent in a cluster that no machine can run.

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
#[command(about = "Measures what svclb costs, beside nothing and beside kube-proxy")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure, and show what came of it
    Run {
        /// Only these
        benches: Vec<Bench>,
        /// Show everything as JSON instead of tables
        #[arg(long, conflicts_with = "check")]
        json: bool,
        /// Compare with the targets, and say only what falls short; fail if anything does
        #[arg(long)]
        check: bool,
        /// Keep the run in this file
        #[arg(long, value_name = "FILE")]
        store: Option<PathBuf>,
        /// Rounds of each bench
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Calls of a kind in one round
        #[arg(long, default_value_t = 40_000)]
        calls: u32,
    },
    /// Write the page and the plots of a stored run, or look whether they are its own
    Page {
        /// The stored run
        run: PathBuf,
        /// The folder of the page
        folder: PathBuf,
        /// Look only
        #[arg(long)]
        check: bool,
    },
    /// Let one agent follow all events of a cluster of thousands of nodes (docs/scale.md)
    Simulate {
        #[command(flatten)]
        simulation: simulate::Simulation,
    },
    /// Be the agent of a simulation
    #[command(hide = true)]
    SimulatedAgent {
        #[command(flatten)]
        places: simulate::Places,
        #[command(flatten)]
        simulation: simulate::Simulation,
    },
    /// Be the client by which the agent of a simulation proves translation: it starts its own program
    #[command(hide = true, name = probe::CLIENT)]
    ProbeClient,
    /// Be the process of a lane
    #[command(hide = true)]
    Lane {
        /// The cgroup of its client
        #[arg(long)]
        cgroup: PathBuf,
        /// Where its servers are
        addresses: Vec<IpAddr>,
    },
}

/// What can be measured by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Bench {
    /// connect(2): to a Service, to what is none, refused
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
    /// What the maps and the agent take
    Memory,
    /// Starts over 5,000 Services with 250,000 endpoints, and what is resident then
    Sync,
    /// Changes among as many
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

/// Prints what was asked for.
#[expect(clippy::print_stdout, reason = "what was asked for")]
fn print(line: &str) {
    println!("{line}");
}

/// Tells what begins now.
fn say(what: &str) {
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
        say("calls of a client");
        datapath::run(book, &parts, effort)?;
    }
    if has(Bench::Scale) {
        say("connects among many frontends");
        scale::run(book, effort)?;
    }
    if has(Bench::Memory) {
        say("memory");
        memory::run(book, effort)?;
    }
    if has(Bench::Sync) || has(Bench::Churn) {
        let cluster = sync::cluster()?;
        if has(Bench::Sync) {
            say("starts over a large cluster");
            sync::run(book, &cluster, effort)?;
        }
        if has(Bench::Churn) {
            say("changes in a large cluster");
            churn::run(book, &cluster, effort)?;
        }
    }
    let has_proxy = run.book.figures().iter().any(|it| it.peer == lane::Peer::Nftables);
    run.kubernetes = has_proxy.then(lane::proxy::version).flatten();
    Ok(run)
}

/// Shows a run: `check` says whether it is compared with the targets, and whether with all of them.
fn show(run: &Run, json: bool, check: Option<bool>, store: Option<PathBuf>) -> anyhow::Result<()> {
    let text = run.text()?;
    if let Some(file) = store {
        fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(is_all) = check {
        let short = targets::short(&run.book, is_all);
        short.iter().for_each(|line| print(line));
        anyhow::ensure!(short.is_empty(), "{} of the targets are not met", short.len());
    } else if json {
        print(&run.raw()?);
    } else {
        print(&report::table::all(run));
    }
    Ok(())
}
