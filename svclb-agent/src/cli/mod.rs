//! The command `svclb`: its subcommands and flags, and the modules that run them.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod affinity;
mod agent;
mod bundle;
mod check;
mod config;
mod generated;
#[cfg(test)]
mod golden;
mod list;
mod node;
mod output;
mod plan;
mod ready;
mod schema;
mod snapshot;
mod sockets;
mod sources;
mod top;
mod trace;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::builder::{PathBufValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueHint};
use svclb_core::text;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use config::Parsed;
pub(crate) use list::NOTES;
use output::OutputFormat;
use svclb_dataplane::pins::Pins;
use svclb_dataplane::probe;
use svclb_dataplane::probe::trial;
use svclb_sources::kube::plugin::guard;

/// Gives Kubernetes Services to the processes of this node at the socket.
#[derive(Debug, Parser)]
#[command(name = "svclb", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep the maps in step with a source of Services, until stopped; translation goes on after that
    Agent(Box<agent::AgentArgs>),
    /// List services: what is dialled and how many backends it has
    Services(ListArgs),
    /// List backends: what each service's clients are given
    Backends(ListArgs),
    /// List live sockets that dialled a Service, and what they were given
    Sockets(sockets::SocketsArgs),
    /// List session affinity: the backends that clients keep, and for how long
    Affinity(ListArgs),
    /// Show services by new connections a second and live sockets, on a terminal until `q`
    Top(top::TopArgs),
    /// Check the installation on this node, and report what is wrong and what to do
    Check(ListArgs),
    /// Show the state of maps and hooks
    Status(StatusArgs),
    /// Show the settings of the agent and where each comes from, or those that an agent with other flags would have
    Config(config::ConfigArgs),
    /// Write an archive for a report: status, checks, maps, settings, log and kernel; also without an agent
    SupportBundle(bundle::BundleArgs),
    /// Show what an agent that starts would change, without changing anything
    Plan(Box<plan::PlanArgs>),
    /// Compare the maps with a source, row by row: exit code 0 if they are equal, 1 if not, 2 after an error
    Diff(Box<plan::PlanArgs>),
    /// Explain what a connection to an address or a Service would get now: exit code 0 if a backend, 1 if none
    Trace(Box<trace::TraceArgs>),
    /// Detach every hook and remove every map and pin
    Uninstall(node::UninstallArgs),
    /// Mount a bpffs at PATH unless it is on one
    MountBpffs(node::MountBpffsArgs),
    /// Print a script with which a shell completes commands and flags of svclb
    Completions(generated::CompletionsArgs),
    /// Write the man pages of svclb and of each command to a folder
    Man(generated::ManArgs),
    /// Print the JSON Schema of what commands print with `-o json`
    Schema(schema::SchemaArgs),
}

/// Commands with which svclb starts parts of itself. A parser of their own keeps them out of everything that
/// people see: help, suggestions for a mistyped command, completions, man pages and docs/cli.md.
#[derive(Debug, Parser)]
#[command(name = "svclb")]
enum InternalCommand {
    /// Runs the child's part of the agent's probe
    #[command(name = probe::CLIENT)]
    ProbeClient {
        /// A Service to dial instead of the agent's own
        dialled: Option<SocketAddr>,
    },
    /// Runs an exec plugin of a kubeconfig within limits
    #[command(name = guard::NAME)]
    GuardPlugin(guard::GuardArgs),
}

#[derive(Debug, Args)]
struct PinsArgs {
    /// Folder on bpffs with the maps and links
    #[arg(long, value_name = "PATH", env = "SVCLB_PINS", default_value = "/sys/fs/bpf/svclb")]
    #[arg(value_parser = PathBufValueParser::new().map(|path| Pins::new(&path)))]
    #[arg(value_hint = ValueHint::DirPath)]
    pins: Pins,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    pins: PinsArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(Debug, Args)]
#[command(mut_arg("output", |output| output.value_parser(OutputFormat::without_names())))]
struct StatusArgs {
    #[command(flatten)]
    list: ListArgs,
    /// Print `ready` (exit code 0), or why an agent is not ready (exit code 1): for readiness probes
    #[arg(long)]
    ready: bool,
}

/// Exit code of `svclb diff` and `svclb trace` after an error, as of diff(1): their 1 is an answer.
const TROUBLE: u8 = 2;

/// Runs the command line. An error is one line on standard error, and exit code 1, or 2 of commands whose 1 is an answer.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let first = arguments.get(1).cloned().unwrap_or_default();
    let has_answers = first == "diff" || first == "trace";
    let failure = if has_answers { ExitCode::from(TROUBLE) } else { ExitCode::FAILURE };
    let result = if InternalCommand::has_subcommand(&first.to_string_lossy()) {
        run_internal(InternalCommand::parse())
    } else {
        config::parse(&arguments).and_then(run)
    };
    match result {
        Ok(code) => code,
        // A reader that went away (`svclb services | head`) is no fault.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("svclb: {}", text::line(&format!("{error:#}")));
            failure
        }
    }
}

fn run(Parsed { cli, settings }: Parsed) -> Result<ExitCode> {
    match cli.command {
        Command::Diff(args) => return plan::diff(&args),
        Command::Trace(args) => return trace::trace(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Agent(args) => agent::run(*args, &settings),
        Command::SupportBundle(args) => bundle::bundle(&args),
        Command::Config(args) => config::config(&args),
        Command::Services(args) => list::services(&args.pins.pins, args.output),
        Command::Backends(args) => list::backends(&args.pins.pins, args.output),
        Command::Sockets(args) => sockets::sockets(&args),
        Command::Affinity(args) => affinity::affinity(&args),
        Command::Top(args) => top::top(&args),
        Command::Check(args) => check::check(&args),
        Command::Status(args) if args.ready => ready::ready(&args.list.pins.pins),
        Command::Status(args) => list::status(&args.list.pins.pins, args.list.output),
        Command::Uninstall(args) => node::uninstall(&args),
        Command::MountBpffs(args) => node::mount_bpffs(&args),
        Command::Completions(args) => generated::completions(&args),
        Command::Man(args) => generated::man(&args),
        Command::Schema(args) => schema::schema(&args),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn run_internal(command: InternalCommand) -> Result<ExitCode> {
    match command {
        InternalCommand::GuardPlugin(args) => return guard::run(&args),
        InternalCommand::ProbeClient { dialled: None } => output::line(&probe::client()),
        InternalCommand::ProbeClient { dialled: Some(dialled) } => {
            trial::client(dialled, output::line)
        }
    }?;
    Ok(ExitCode::SUCCESS)
}

/// A runtime on this thread, for commands that stay.
fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")
}

/// Takes SIGINT and SIGTERM from here on. Returns a wait for the first of them.
fn stop_signals() -> Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
