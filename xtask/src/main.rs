//! `cargo xtask`: set-up, demonstration, tests and checks. The only script language of the project.

mod bench;
// A part of svclb-dataplane's build script, kept and tested here.
#[cfg(test)]
mod btf;
mod check;
mod cluster;
mod counts;
mod demo;
mod environment;
mod fuzz;
mod image;
mod licences;
mod locks;
mod named_tests;
mod provider;
mod run;
mod setup;
mod shell;
mod test;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a newcomer reads below the list of tasks.
const HINT: &str = "New here? `cargo xtask run` builds svclb and shows what it does, in a network \
    of its own, with nothing left behind.";

/// Everything that one does with this checkout
#[derive(Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 100, after_help = HINT)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing to build and test: the eBPF compiler and linker, a few packages
    ///
    /// The other tasks call it. It says what it does, and nothing if all is there. Where it cannot
    /// install (not root and no sudo, or no apt) it says what is missing and what each is for.
    Setup {
        /// Also build the components of a real cluster for the tests, and print where they are
        ///
        /// kube-apiserver and others, as tests/components/ pins them, into the user's cache. What
        /// KUBEBUILDER_ASSETS has in the same version is taken from there.
        #[arg(long)]
        cluster: bool,
        /// Also install what `vm` needs: QEMU, a cross compiler
        #[arg(long)]
        vm: bool,
    },
    /// Show svclb at work on this machine; with ARGS, run `svclb agent ARGS`
    ///
    /// Without ARGS it runs the demonstration: Services from YAML, real backends and clients, in a
    /// private network namespace and cgroup. No cluster is needed. Asks for sudo if not root.
    #[command(override_usage = "cargo xtask run [-- ARGS]...")]
    Run {
        /// Arguments of `svclb agent`, such as `--from DIR`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run every test that this machine can run, also on its kernel
    ///
    /// Without a filter also the quick ones of `vm`, in guests beside the others.
    /// Ends with a line `N passed, N failed`. Builds as you and asks for sudo to run if not root.
    #[command(override_usage = "cargo xtask test [FILTER] [-- ARGS]...")]
    Test {
        /// Only tests whose name contains this
        filter: Option<String>,
        /// Not in guests with other kernels
        #[arg(long, conflicts_with = "filter")]
        no_vm: bool,
        /// Arguments of each test binary, such as `--nocapture`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run the tests of the datapath on other kernels, in guests of QEMU (docs/kernels.md)
    ///
    /// Fetches the kernels first, as packages by apt, into the user's cache. Without FILTER and
    /// --kernels, what passed becomes docs/kernels.json and the README's table.
    Vm {
        /// Only tests whose name contains this
        filter: Option<String>,
        /// Only these [default: 5.10,6.1,6.12,newest,6.12-arm64]
        #[arg(long, value_delimiter = ',', value_name = "KERNEL", value_parser = vm::kernel::named)]
        kernels: Vec<&'static vm::kernel::Series>,
        /// Look for newer packages of the kernels
        #[arg(long)]
        update: bool,
    },
    /// Run the fuzz targets on random input: objects in files, objects of an API server, the maps
    ///
    /// docs/fuzzing.md tells more. Tests run each for a minute.
    Fuzz {
        /// Only this one: yaml, objects or translate
        target: Option<String>,
        /// How long each runs [default: 60]
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
        /// Run the target on this file alone
        #[arg(long, value_name = "FILE", requires = "target")]
        input: Option<PathBuf>,
    },
    /// Let Services change, agents die and maps fail for a while, and check every client's answer
    Soak {
        /// How long
        #[arg(long, value_name = "N", default_value_t = 10)]
        minutes: u64,
    },
    /// Measure what svclb costs, beside nothing and beside kube-proxy, in one run (docs/performance.md)
    Bench {
        #[command(flatten)]
        wanted: bench::Wanted,
    },
    /// Let one agent follow all events of a cluster of thousands of nodes (docs/scale.md)
    #[command(override_usage = "cargo xtask simulate [-- ARGS]...")]
    Simulate {
        /// Arguments of the simulation, such as `--services 1000`; `--help` shows them
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Compare svclb with the real kube-proxy in random worlds (docs/oracle.md)
    Oracle {
        /// How many [default: as many as in `cargo xtask test`]
        #[arg(long, value_name = "N")]
        worlds: Option<u64>,
        /// Seed of the first; the others follow it [default: 1]
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Write an image of svclb for containers to a file, and print the file's name
    ///
    /// An OCI image archive with the static program, for `ctr images import`, `kind load
    /// image-archive`, `podman load` and `docker load`. No container engine is needed to build it.
    Image {
        /// Where to write it [default: among the built files]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Architecture [default: this machine's]
        #[arg(long, value_enum)]
        arch: Option<image::Arch>,
    },
    /// Check format, lints, docs, dependencies, licences and generated files
    Check {
        /// Write goldens and generated files anew instead of comparing them
        #[arg(long)]
        bless: bool,
    },
    /// The demonstration alone, as root: `run` calls it by sudo
    #[command(hide = true)]
    Demo {
        /// The built program `svclb`
        svclb: PathBuf,
    },
    /// A client of the demonstration
    #[command(hide = true)]
    DemoClient {
        #[command(subcommand)]
        task: demo::client::ClientTask,
    },
}

fn set_up(cluster: bool, vm: bool) -> anyhow::Result<()> {
    setup::ensure(setup::Need::All)?;
    if vm {
        setup::ensure(setup::Need::Vm)?;
    }
    if !cluster {
        return Ok(());
    }
    let folders = cluster::ensure()?;
    shell::print(&format!("{}={}", cluster::VARIABLE, folders.display()));
    Ok(())
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Setup { cluster, vm } => set_up(cluster, vm),
        Task::Run { args } => run::run(&args),
        Task::Test { filter, no_vm, args } => test::run(filter.as_deref(), !no_vm, &args),
        Task::Soak { minutes } => test::soak(minutes),
        Task::Fuzz { target, seconds, input } => {
            fuzz::run(target.as_deref(), seconds, input.as_deref())
        }
        Task::Bench { wanted } => bench::run(&wanted),
        Task::Simulate { args } => bench::simulate(&args),
        Task::Oracle { worlds, seed } => test::oracle(worlds, seed),
        Task::Vm { filter, kernels, update } => vm::run(&kernels, filter.as_deref(), update),
        Task::Image { output, arch } => image::run(output.as_deref(), arch),
        Task::Check { bless } => check::run(bless),
        Task::Demo { svclb } => demo::run(&svclb),
        Task::DemoClient { task } => demo::client::run(&task),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
