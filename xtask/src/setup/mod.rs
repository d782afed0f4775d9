//! `cargo xtask setup` installs what is missing. It prints nothing if nothing is missing.

mod apt;
mod packages;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::provider::{self, Compiler, LINKED, Linker};
use crate::shell;
use apt::Apt;
use packages::{Package, Use};

/// Version of bpf-linker to install. [`provider::OLDEST_LINKER`] and later ones work.
const LINKER_VERSION: &str = "0.13.0";
/// Versions of LLVM with which this bpf-linker can be built.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// Sysroot of the distribution's compiler.
const DISTRIBUTION: &str = "/usr";
/// Components of rustup that `check` needs, and a program of each.
const COMPONENTS: [(&str, &str); 2] = [("rustfmt", "cargo-fmt"), ("clippy", "cargo-clippy")];

/// The part of the set-up that a task needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// For building and running.
    Run,
    /// For checks too.
    All,
    /// For the tests with a real cluster.
    Cluster,
    /// For tests in guests with other kernels.
    Vm,
    /// For programs for another architecture.
    Cross,
    /// For the test that installs the Debian package.
    Package,
    /// For benches.
    Bench,
}

/// Installs what is missing.
///
/// # Errors
/// Something cannot be installed here: the error lists it, with its purpose.
pub(crate) fn ensure(need: Need) -> anyhow::Result<()> {
    let before = Missing::find(need)?;
    if before.is_empty() {
        return Ok(());
    }
    let installed = before.install();
    let after = Missing::find(need)?;
    installed.map_err(|error| after.cannot_install(&format!("{error:#}")))?;
    if after.is_empty() {
        shell::log("everything is installed");
        return Ok(());
    }
    Err(after.cannot_install("something is still missing after the installation"))
}

/// Installs packages of the distribution that only some machines need.
///
/// # Errors
/// There is no apt, or it fails.
pub(crate) fn install(packages: &[&str]) -> anyhow::Result<()> {
    Apt::new().install(packages)
}

/// Installs the standard library for a target.
///
/// # Errors
/// rustup cannot.
pub(crate) fn ensure_target(target: &str) -> anyhow::Result<()> {
    let mut print = shell::command("rustc");
    print.args(["--print", "target-libdir", "--target", target]);
    if Path::new(shell::text(&mut print)?.trim()).is_dir() {
        return Ok(());
    }
    let mut add = shell::command("rustup");
    add.args(["target", "add", target]);
    shell::run_quietly(&format!("adding {target} to the Rust toolchain"), add)
}

/// Everything that a machine lacks.
struct Missing {
    packages: Vec<&'static Package>,
    components: Vec<&'static str>,
    /// The reason why eBPF programs cannot be built.
    provider: Option<String>,
}

impl Missing {
    fn find(need: Need) -> anyhow::Result<Self> {
        let is_wanted = |package: &&Package| match package.used_by {
            Use::Always => true,
            Use::Linker => false,
            Use::Cluster => need == Need::Cluster,
            Use::Vm => need == Need::Vm,
            Use::Bench => need == Need::Bench,
            Use::Cross(arch) => matches!(need, Need::Cross | Need::Vm) && arch.is_foreign(),
            Use::Package => need == Need::Package,
        };
        let packages = packages::ALL.iter().filter(is_wanted);
        Ok(Self {
            packages: packages.filter(|package| !package.is_installed()).collect(),
            components: if need == Need::All { missing_components()? } else { Vec::new() },
            provider: provider::find().err(),
        })
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty() && self.components.is_empty() && self.provider.is_none()
    }

    fn install(&self) -> anyhow::Result<()> {
        if !self.components.is_empty() {
            let mut rustup = shell::command("rustup");
            rustup.args(["component", "add"]).args(&self.components);
            let what = format!("adding {} to the Rust toolchain", self.components.join(" and "));
            shell::run_quietly(&what, rustup)?;
        }
        let apt = Apt::new();
        if !self.packages.is_empty() {
            let names: Vec<&str> = self.packages.iter().map(|package| package.name).collect();
            apt.install(&names)?;
        }
        if self.provider.is_some() {
            install_provider(&apt)?;
        }
        Ok(())
    }

    /// Lists what the user has to install, one line each.
    fn cannot_install(&self, why: &str) -> anyhow::Error {
        let mut text = format!("{why}\nmissing:");
        for package in &self.packages {
            text.push_str(&format!(
                "\n  {} (Debian's package {}): {}",
                package.program, package.name, package.why
            ));
        }
        for component in &self.components {
            text.push_str(&format!(
                "\n  {component}: `cargo xtask check` uses it: `rustup component add {component}`"
            ));
        }
        if let Some(lack) = &self.provider {
            text.push_str(&format!("\n  a way to compile the eBPF programs ({lack}). {ADVICE}"));
        }
        anyhow::anyhow!(text)
    }
}

/// Commands for machines on which set-up cannot install a compiler and a linker for eBPF.
const ADVICE: &str = "Either of:\n    \
    rustup toolchain install nightly --component rust-src   (or, with a nightly: rustup component \
    add rust-src --toolchain nightly)\n    \
    Debian 12: apt-get install rustc-web rust-web-src && rustup toolchain link svclb-bpf /usr\n  \
    and then, with the headers of the LLVM that the compiler was built with (22 for example):\n    \
    LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked \
    --no-default-features --features llvm-22";

/// Returns the components that the toolchain in use lacks.
fn missing_components() -> anyhow::Result<Vec<&'static str>> {
    let sysroot = sysroot()?;
    let lacking = COMPONENTS.iter().filter(|(_, file)| !sysroot.join("bin").join(file).is_file());
    Ok(lacking.map(|(component, _)| *component).collect())
}

/// Returns the folder of the toolchain in use.
///
/// # Errors
/// rustc does not run.
pub(crate) fn sysroot() -> anyhow::Result<PathBuf> {
    let sysroot = shell::text(shell::command("rustc").args(["--print", "sysroot"]))
        .context("rustc does not run: install rustup first, with the stable toolchain")?;
    Ok(PathBuf::from(sysroot.trim()))
}

/// Installs a compiler with the source of its core, and a linker that can read its bitcode.
fn install_provider(apt: &Apt) -> anyhow::Result<()> {
    let compilers = provider::compilers().map_err(anyhow::Error::msg)?;
    let linker = provider::linker().filter(Linker::is_current);
    // No compiler and linker fit together. An installed compiler will do if a linker can be built for it.
    let compiler = match compilers.iter().find(|it| it.is_usable() && can_link(apt, it)) {
        Some(compiler) => {
            shell::log(&format!("compiler for eBPF: {}", describe(compiler)));
            compiler.clone()
        }
        None => link_distribution(apt)?,
    };
    match linker {
        Some(linker) if linker.reads(&compiler) => Ok(()),
        _ => install_linker(apt, &compiler),
    }
}

fn describe(compiler: &Compiler) -> String {
    format!("{} ({}, LLVM {})", compiler.toolchain, compiler.release, compiler.llvm)
}

fn llvm_package(llvm: u32) -> String {
    format!("llvm-{llvm}-dev")
}

fn llvm_prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

fn has_llvm(llvm: u32) -> bool {
    llvm_prefix(llvm).join("include/llvm-c/Core.h").is_file()
}

/// True if bpf-linker can be built with the LLVM of this compiler.
fn can_link(apt: &Apt, compiler: &Compiler) -> bool {
    LINKER_LLVM.contains(&compiler.llvm)
        && (has_llvm(compiler.llvm) || apt.candidate(&llvm_package(compiler.llvm)).is_some())
}

/// Installs the distribution's compiler and its source, and registers them with rustup.
fn link_distribution(apt: &Apt) -> anyhow::Result<Compiler> {
    shell::log(
        "compiler for eBPF: no rustup nightly with rust-src fits, so the distribution's is used",
    );
    if !Path::new(DISTRIBUTION).join("bin/rustc").is_file()
        || !provider::has_core(Path::new(DISTRIBUTION))
    {
        let pair = packages::DISTRIBUTION_RUST
            .iter()
            .find(|[compiler, source]| {
                let new_enough = |version: String| provider::is_new_enough(&version);
                apt.candidate(compiler).is_some_and(new_enough)
                    && apt.candidate(source).is_some_and(new_enough)
            })
            .context("this distribution has no Rust that is new enough")?;
        apt.install(pair)?;
    }
    let mut link = shell::command("rustup");
    link.args(["toolchain", "link", LINKED, DISTRIBUTION]);
    shell::run_quietly(&format!("registering it with rustup as {LINKED}"), link)?;
    let compilers = provider::compilers().map_err(anyhow::Error::msg)?;
    let compiler = compilers.into_iter().find(|compiler| compiler.toolchain == LINKED);
    match compiler {
        Some(compiler) if compiler.is_usable() => Ok(compiler),
        Some(compiler) => bail!(
            "{} is too old or lacks the source of its core in {}",
            describe(&compiler),
            compiler.sysroot.display()
        ),
        None => bail!("`rustup run {LINKED} rustc` does not work"),
    }
}

/// Builds bpf-linker with the LLVM of the compiler, so that it can read its bitcode.
fn install_linker(apt: &Apt, compiler: &Compiler) -> anyhow::Result<()> {
    let llvm = compiler.llvm;
    if !LINKER_LLVM.contains(&llvm) {
        bail!(
            "bpf-linker {LINKER_VERSION} does not support LLVM {llvm}, which {} uses",
            compiler.toolchain
        );
    }
    let mut wanted: Vec<&str> = packages::ALL
        .iter()
        .filter(|package| package.used_by == Use::Linker && !package.is_installed())
        .map(|package| package.name)
        .collect();
    let headers = llvm_package(llvm);
    if !has_llvm(llvm) {
        wanted.push(&headers);
    }
    if !wanted.is_empty() {
        apt.install(&wanted)?;
    }
    let feature = format!("llvm-{llvm}");
    let mut install = shell::cargo(["install", "bpf-linker", "--version", LINKER_VERSION]);
    install.args(["--locked", "--force", "--no-default-features", "--features", &feature]);
    install.env("LLVM_PREFIX", llvm_prefix(llvm));
    // It uses a temporary target folder, and has no debug information, which would be ten times as large.
    install.env_remove("CARGO_TARGET_DIR").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
    let what = format!("building bpf-linker {LINKER_VERSION} with LLVM {llvm} (about a minute)");
    shell::run_quietly(&what, install)
}
