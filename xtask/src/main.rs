//! `cargo xtask`: set-up, demonstration, tests and checks. The project has no other scripts.

mod bench;
// A part of svclb-dataplane's build script, kept and tested here.
#[cfg(test)]
mod btf;
mod check;
mod cluster;
mod counts;
mod demo;
mod dist;
mod environment;
mod fuzz;
mod image;
mod licences;
mod locks;
mod named_tests;
mod program;
mod provider;
mod run;
mod setup;
mod shell;
mod test;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Shown below the list of tasks.
const HINT: &str = "New here? `cargo xtask run` builds svclb and demonstrates it in a network \
    namespace of its own. It leaves nothing behind.";

/// Build, test, check and measure svclb
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
    /// The other tasks call it. It prints each step, and nothing if everything is installed. Where it
    /// cannot install (not root and no sudo, or no apt) it lists what is missing and the purpose of each.
    Setup {
        /// Also build the components of a real cluster for the tests, and print their folders
        ///
        /// Builds kube-apiserver and others in the versions of tests/components/ into the user's cache.
        /// Programs in the folder KUBEBUILDER_ASSETS that have the same version are used instead.
        #[arg(long)]
        cluster: bool,
        /// Also install QEMU and a cross compiler for the task `vm`
        #[arg(long)]
        vm: bool,
    },
    /// Demonstrate svclb on this machine; with ARGS, run `svclb agent ARGS`
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
    /// Without a filter, the quick tests of `vm` run in guests at the same time. The last line is
    /// `N passed, N failed`. Builds as the current user, and runs tests by sudo where they need root.
    #[command(override_usage = "cargo xtask test [FILTER] [-- ARGS]...")]
    Test {
        /// Run only tests whose name contains this
        filter: Option<String>,
        /// Boot no guests with other kernels
        #[arg(long, conflicts_with = "filter")]
        no_vm: bool,
        /// Arguments for each test binary, such as `--nocapture`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run the tests of the datapath on other kernels, in QEMU guests (docs/kernels.md)
    ///
    /// Fetches the kernels first, as packages by apt, into the user's cache. Without FILTER, the kernels
    /// on which every test passed are recorded in docs/kernels.json and in the README's table.
    Vm {
        /// Run only tests whose name contains this
        filter: Option<String>,
        /// Boot only these kernels [default: 5.10,6.1,6.12,newest,6.12-arm64]
        #[arg(long, value_delimiter = ',', value_name = "KERNEL", value_parser = vm::kernel::named)]
        kernels: Vec<&'static vm::kernel::Series>,
        /// Fetch newer packages of the kernels, if there are any
        #[arg(long)]
        update: bool,
    },
    /// Run the fuzz targets on random input: objects in files, objects of an API server, the maps
    ///
    /// See docs/fuzzing.md. `cargo xtask test` runs each target for a minute.
    Fuzz {
        /// Run only this target: yaml, objects or translate
        target: Option<String>,
        /// Seconds for each target [default: 60]
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
        /// Run the target on this input only
        #[arg(long, value_name = "FILE", requires = "target")]
        input: Option<PathBuf>,
    },
    /// Check every client's answer while Services change, agents are killed and map writes fail
    Soak {
        /// Duration in minutes
        #[arg(long, value_name = "N", default_value_t = 10)]
        minutes: u64,
    },
    /// Measure svclb side by side with direct connections and kube-proxy (docs/performance.md)
    Bench {
        #[command(flatten)]
        wanted: bench::Wanted,
    },
    /// Feed one agent the events of a simulated cluster of thousands of nodes (docs/scale.md)
    #[command(override_usage = "cargo xtask simulate [-- ARGS]...")]
    Simulate {
        /// Arguments for the simulation, such as `--services 1000`; `-- --help` lists them
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Compare svclb with the real kube-proxy in random worlds (docs/oracle.md)
    Oracle {
        /// Number of worlds [default: as in `cargo xtask test`]
        #[arg(long, value_name = "N")]
        worlds: Option<u64>,
        /// Seed of the first world; each further world has the next number [default: 1]
        #[arg(long, value_name = "N")]
        seed: Option<u64>,
    },
    /// Write a container image of svclb to a file, and print the file's path
    ///
    /// An OCI image archive with static programs for amd64 and arm64, for `ctr images import`, `kind load
    /// image-archive`, `podman load` and `docker load`. No container engine is needed to build it.
    Image {
        /// File to write [default: in the target folder]
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Only for this architecture; may be given several times [default: all]
        #[arg(long, value_enum)]
        arch: Vec<program::Arch>,
        /// Build it a second time in a fresh clone elsewhere, and compare
        #[arg(long, conflicts_with = "output")]
        check_reproducible: bool,
    },
    /// Write what a release has to a folder, and print the folder's path
    ///
    /// For each architecture an archive with the program, completions and man pages, a Debian package for
    /// machines without Kubernetes, and an SBOM; and SHA256SUMS.
    Dist {
        /// Only for this architecture; may be given several times [default: all]
        #[arg(long, value_enum)]
        arch: Vec<program::Arch>,
    },
    /// Check format, lints, docs, dependencies, licences and generated files, without running other tests
    Check {
        /// Rewrite goldens and generated files instead of comparing them
        #[arg(long)]
        bless: bool,
    },
    /// Run only the demonstration, as root: `run` starts it by sudo
    #[command(hide = true)]
    Demo {
        /// The built program `svclb`
        svclb: PathBuf,
    },
    /// Run a client of the demonstration
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
        Task::Image { arch, check_reproducible: true, .. } => image::check_reproducible(&arch),
        Task::Image { output, arch, .. } => image::run(output.as_deref(), &arch),
        Task::Dist { arch } => dist::run(&arch),
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
