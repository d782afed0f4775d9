//! `cargo xtask fuzz` builds the targets in fuzz/ with the flags of cargo-fuzz, but with the toolchain in
//! use and without cargo-fuzz itself, and runs them.
//!
//! Runs start from fuzz/corpus/. New inputs and failures are kept below the target folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context as _, bail, ensure};

use crate::counts::Counts;
use crate::{setup, shell};

/// The binaries of fuzz/Cargo.toml.
const TARGETS: [&str; 3] = ["yaml", "objects", "translate"];
/// Least number of inputs per second. A run with fewer fails, as it would find nothing. Two cores that are
/// busy with tests try at least forty times as many.
const LEAST: [(&str, u64); 3] = [("yaml", 20), ("objects", 50), ("translate", 75)];
/// Largest number of runs of a target that has not yet tried enough inputs: guests that run at the same
/// time may leave it hardly any processor time for a while.
const ROUNDS: u32 = 5;
/// Default duration of a run, seconds.
const SECONDS: u64 = 60;
/// Seed of the runs of `cargo xtask test`, which are repeatable as far as a machine's speed allows. Each run
/// of `cargo xtask fuzz` has a random seed.
const SEED: u32 = 5;
/// Length of the longest input, bytes.
const LONGEST: u32 = 4096;
/// Time limit for one input, seconds: far more than a slow machine needs.
const HANG: u32 = 30;
/// Memory limit for one input, MB.
const MEMORY: u32 = 2048;
/// The flags that cargo-fuzz passes to rustc, without the sanitizers: those need a nightly, and hardly any
/// of the tested code is unsafe. A stable rustc accepts all of these.
const FLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Ccodegen-units=1",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Number of last lines of a target's output that are shown when it fails.
const TAIL: usize = 40;

/// Runs one target or all of them in sequence, or one of them on one input.
///
/// # Errors
/// A target does not build, or fails: the error names the input and the command to run it again.
pub(crate) fn run(
    target: Option<&str>,
    seconds: Option<u64>,
    input: Option<&Path>,
) -> anyhow::Result<()> {
    setup::ensure(setup::Need::Run)?;
    if let Some(target) = target {
        ensure!(TARGETS.contains(&target), "no target {target:?}: expected one of {TARGETS:?}");
    }
    let folder = build()?;
    if let (Some(target), Some(input)) = (target, input) {
        let mut command = shell::command(folder.join(target));
        command.arg(std::path::absolute(input)?);
        return shell::run(command);
    }
    let chosen = TARGETS.into_iter().filter(|it| target.is_none_or(|target| *it == target));
    let mut failed = Vec::new();
    for target in chosen {
        if let Err(error) = once(&folder, target, seconds.unwrap_or(SECONDS), None) {
            eprintln!("{error:#}");
            failed.push(target);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Targets that run in the background.
pub(crate) struct Background(Option<JoinHandle<(Counts, Vec<String>)>>);

/// Builds the targets whose name, as that of a test `fuzz_TARGET`, contains `filter`, and runs them in
/// sequence in the background.
///
/// # Errors
/// They do not build.
pub(crate) fn start(filter: Option<&str>) -> anyhow::Result<Background> {
    let filter = filter.unwrap_or_default();
    let chosen: Vec<&str> =
        TARGETS.into_iter().filter(|target| format!("fuzz_{target}").contains(filter)).collect();
    if chosen.is_empty() {
        return Ok(Background(None));
    }
    shell::log("building the fuzz targets");
    let folder = build()?;
    let each = move || {
        let (mut counts, mut failures) = (Counts::default(), Vec::new());
        for target in chosen {
            match once(&folder, target, SECONDS, Some(SEED)) {
                Ok(()) => counts.passed += 1,
                Err(error) => {
                    failures.push(format!("{error:#}"));
                    counts.failed += 1;
                }
            }
        }
        (counts, failures)
    };
    Ok(Background(Some(std::thread::spawn(each))))
}

impl Background {
    /// Waits for their end, and counts each target as a test. Errors are appended to `failures`.
    pub(crate) fn finish(self, failures: &mut Vec<String>) -> Counts {
        let Some(thread) = self.0 else { return Counts::default() };
        shell::log("waiting for the fuzz targets");
        let panicked =
            || (Counts { failed: 1, ..Counts::default() }, vec!["it panicked".to_owned()]);
        let (counts, errors) = thread.join().unwrap_or_else(|_| panicked());
        failures.extend(errors);
        counts
    }
}

/// Builds all targets, and returns their folder.
fn build() -> anyhow::Result<PathBuf> {
    if shell::find("g++").is_none() {
        setup::install(&["g++"]).context("libFuzzer is built with g++")?;
    }
    let host = host()?;
    let target = below_target("build");
    let mut cargo = shell::cargo(["build", "--release", "--quiet", "--bins", "--locked"]);
    cargo.args(["--manifest-path", "fuzz/Cargo.toml", "--target", &host]);
    cargo.arg("--target-dir").arg(&target);
    // This variable overrides flags of the user and of configuration files.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    shell::run(cargo).context("the fuzz targets do not build")?;
    Ok(target.join(host).join("release"))
}

/// Returns a folder below the target folder.
fn below_target(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    shell::root().join(target.unwrap_or_else(|| "target".into())).join("fuzz").join(name)
}

/// Returns the platform that rustc builds for. With an explicit target, flags do not apply to build scripts.
fn host() -> anyhow::Result<String> {
    let output = shell::text(shell::command("rustc").arg("-vV"))?;
    let host = output.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// Runs a target for this number of seconds, and again while it has tried too few inputs.
fn once(folder: &Path, target: &str, seconds: u64, seed: Option<u32>) -> anyhow::Result<()> {
    let artifacts = below_target("artifacts").join(target);
    let corpus = below_target("corpus").join(target);
    for folder in [&artifacts, &corpus] {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut tried = 0;
    for round in 0..ROUNDS {
        shell::log(&format!("fuzzing {target} for {seconds} s"));
        // Another run with the same seed would try the same inputs.
        let seed = seed.map(|seed| seed + round);
        tried += finish(command(folder, target, seconds, seed, [&artifacts, &corpus]), target)?;
        if check_rate(target, tried, seconds).is_ok() {
            break;
        }
    }
    check_rate(target, tried, seconds)
}

/// Returns the command for one run of a target.
fn command(
    folder: &Path,
    target: &str,
    seconds: u64,
    seed: Option<u32>,
    [artifacts, corpus]: [&Path; 2],
) -> Command {
    // It is killed when this thread ends for whatever reason. The tests have priority over it.
    let mut command = shell::command("setpriv");
    command.args(["--pdeathsig", "KILL", "nice", "-n", "5"]).arg(folder.join(target));
    command.args([
        &format!("-artifact_prefix={}/", artifacts.display()),
        &format!("-max_total_time={seconds}"),
        &format!("-max_len={LONGEST}"),
        &format!("-timeout={HANG}"),
        &format!("-rss_limit_mb={MEMORY}"),
        "-print_final_stats=1",
    ]);
    command.args(seed.map(|seed| format!("-seed={seed}")));
    // libFuzzer writes new inputs to the first folder.
    command.arg(corpus).arg(shell::root().join("fuzz/corpus").join(target));
    command
}

/// Runs a target to its end, and returns how many inputs it tried.
///
/// # Errors
/// An input failed.
fn finish(mut command: Command, target: &str) -> anyhow::Result<u64> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .with_context(|| shell::cannot_start(&command))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    if output.status.success() {
        let tried = executions(&text).context("libFuzzer printed no number of inputs")?;
        shell::log(&format!("fuzzed {target}: {tried} inputs, nothing found"));
        return Ok(tried);
    }
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        eprintln!("    {line}");
    }
    match failed_input(&text) {
        Some(input) => bail!(
            "fuzzing {target} failed on {input}\nrun it again: cargo xtask fuzz {target} --input {input}"
        ),
        None => bail!("fuzzing {target} failed ({})", output.status),
    }
}

/// Checks that a target tried as many inputs as it does on a slow machine.
fn check_rate(target: &str, tried: u64, seconds: u64) -> anyhow::Result<()> {
    let each = LEAST.iter().find(|(name, _)| *name == target).map_or(1, |(_, each)| *each);
    let least = each.saturating_mul(seconds);
    ensure!(
        tried >= least,
        "fuzzing {target} tried {tried} inputs in {ROUNDS} runs of {seconds} s; at least {least} are expected\n\
         `cargo xtask fuzz {target}` on an idle machine should try forty times as many. If it does, the machine \
         was too busy; if not, an input, the build or the corpus (fuzz/corpus/{target}) has become slow"
    );
    Ok(())
}

/// Returns the number of inputs that were tried.
fn executions(output: &str) -> Option<u64> {
    let number =
        |line: &str| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok();
    output.lines().find_map(number)
}

/// Returns the file with the input that failed.
fn failed_input(output: &str) -> Option<&str> {
    output.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_libfuzzers_output() {
        let good =
            "#2\tINITED\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec: 20\n";
        assert_eq!((executions(good), failed_input(good)), (Some(1234), None));
        let bad =
            "==1== ERROR\nartifact_prefix='/a/'; Test unit written to /a/crash-0\nBase64: AA==\n";
        assert_eq!((executions(bad), failed_input(bad)), (None, Some("/a/crash-0")));
    }

    #[test]
    fn a_run_with_too_few_inputs_fails_with_advice() {
        for target in TARGETS {
            let (_, each) = LEAST.into_iter().find(|(name, _)| *name == target).unwrap();
            assert!(each > 0);
            check_rate(target, each * SECONDS, SECONDS).unwrap();
            let error = check_rate(target, each * SECONDS - 1, SECONDS).unwrap_err().to_string();
            assert!(error.contains(&format!("`cargo xtask fuzz {target}`")), "{error}");
            check_rate(target, 0, SECONDS).unwrap_err();
        }
    }

    #[test]
    fn the_targets_are_the_binaries_of_the_manifest() {
        let manifest = std::fs::read_to_string(shell::root().join("fuzz/Cargo.toml")).unwrap();
        for target in TARGETS {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    }
}
