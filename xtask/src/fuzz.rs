//! `cargo xtask fuzz`: the targets in fuzz/, built as cargo-fuzz builds them, but by the toolchain in use
//! and without cargo-fuzz itself.
//!
//! What a run finds is kept below the target folder; fuzz/corpus/ is what it starts from.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context as _, bail, ensure};

use crate::counts::Counts;
use crate::{setup, shell};

/// What is fuzzed: binaries of fuzz/Cargo.toml.
const TARGETS: [&str; 3] = ["yaml", "objects", "translate"];
/// So many inputs for each second a target has to try, or it is told as a failure: a run that tries next
/// to nothing finds nothing either. Two cores that are busy with tests make forty times that and more.
const LEAST: [(&str, u64); 3] = [("yaml", 20), ("objects", 50), ("translate", 75)];
/// A target that has not tried so many goes on, so many times as long at most: beside guests it may get
/// next to nothing of the machine for a while.
const ROUNDS: u32 = 5;
/// How long each runs, seconds.
const SECONDS: u64 = 60;
/// Where the randomness of tests begins: the same each time, as far as a machine's speed allows. By hand
/// every run is another.
const SEED: u32 = 5;
/// The longest input, bytes.
const LONGEST: u32 = 4096;
/// An input that takes longer is a hang, seconds: far more than a slow machine needs.
const HANG: u32 = 30;
/// An input may take so much memory, MB.
const MEMORY: u32 = 2048;
/// What cargo-fuzz tells rustc, without the sanitizers: those need a nightly, and our code is safe but
/// for a few words. All of it is known to a stable rustc.
const FLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Ccodegen-units=1",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Lines of a target's output that are shown when it fails.
const TAIL: usize = 40;

/// Runs a target, or all, one after the other; or one of them on one input.
///
/// # Errors
/// A target does not build, or finds something: the error names the input and how to run it again.
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
        return shell::show(command);
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

/// Targets that run beside something else.
pub(crate) struct Beside(Option<JoinHandle<Counts>>);

/// Builds the targets whose name, as that of a test `fuzz_TARGET`, contains `filter`, and starts them one
/// after the other, beside whatever comes now.
///
/// # Errors
/// They do not build.
pub(crate) fn start(filter: Option<&str>) -> anyhow::Result<Beside> {
    let filter = filter.unwrap_or_default();
    let chosen: Vec<&str> =
        TARGETS.into_iter().filter(|target| format!("fuzz_{target}").contains(filter)).collect();
    if chosen.is_empty() {
        return Ok(Beside(None));
    }
    shell::say("building what fuzzes");
    let folder = build()?;
    let each = move || {
        let mut counts = Counts::default();
        for target in chosen {
            match once(&folder, target, SECONDS, Some(SEED)) {
                Ok(()) => counts.passed += 1,
                Err(error) => {
                    eprintln!("{error:#}");
                    counts.failed += 1;
                }
            }
        }
        counts
    };
    Ok(Beside(Some(std::thread::spawn(each))))
}

impl Beside {
    /// Waits for them: how many ran without a find, and how many did not.
    pub(crate) fn finish(self) -> Counts {
        let Some(thread) = self.0 else { return Counts::default() };
        shell::say("waiting for what fuzzes");
        let died = Counts { failed: 1, ..Counts::default() };
        thread.join().unwrap_or(died)
    }
}

/// Builds all targets; gives the folder that they are in.
fn build() -> anyhow::Result<PathBuf> {
    if shell::find("g++").is_none() {
        setup::install(&["g++"]).context("libFuzzer is built with g++")?;
    }
    let host = host()?;
    let target = below_target("build");
    let mut cargo = shell::cargo(["build", "--release", "--quiet", "--bins", "--locked"]);
    cargo.args(["--manifest-path", "fuzz/Cargo.toml", "--target", &host]);
    cargo.arg("--target-dir").arg(&target);
    // Above all that a user or a configuration file has.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    shell::show(cargo).context("the fuzz targets do not build")?;
    Ok(target.join(host).join("release"))
}

/// A folder below the target folder.
fn below_target(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    shell::root().join(target.unwrap_or_else(|| "target".into())).join("fuzz").join(name)
}

/// The platform that rustc builds for. Named, so that flags are not those of build scripts.
fn host() -> anyhow::Result<String> {
    let mut rustc = shell::command("rustc");
    let output = rustc.arg("-vV").output().with_context(|| shell::cannot_start(&rustc))?;
    let output = String::from_utf8_lossy(&output.stdout);
    let host = output.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// Runs a target for so many seconds.
fn once(folder: &Path, target: &str, seconds: u64, seed: Option<u32>) -> anyhow::Result<()> {
    let artifacts = below_target("artifacts").join(target);
    let corpus = below_target("corpus").join(target);
    for folder in [&artifacts, &corpus] {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut tried = 0;
    for round in 0..ROUNDS {
        shell::say(&format!("fuzzing {target} for {seconds} s"));
        // Not the same once more.
        let seed = seed.map(|seed| seed + round);
        tried += finish(round_of(folder, target, seconds, seed, [&artifacts, &corpus]), target)?;
        if enough(target, tried, seconds).is_ok() {
            break;
        }
    }
    enough(target, tried, seconds)
}

/// One run of a target.
fn round_of(
    folder: &Path,
    target: &str,
    seconds: u64,
    seed: Option<u32>,
    [artifacts, corpus]: [&Path; 2],
) -> Command {
    // Ends with this thread, however that ends. What is tested meanwhile goes first.
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
    // New inputs go to the first.
    command.arg(corpus).arg(shell::root().join("fuzz/corpus").join(target));
    command
}

/// Runs it to its end and gives how many inputs it tried.
///
/// # Errors
/// What it found.
fn finish(mut command: Command, target: &str) -> anyhow::Result<u64> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .with_context(|| shell::cannot_start(&command))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().collect();
    if output.status.success() {
        let tried = executions(&text).context("libFuzzer did not say how much it tried")?;
        shell::say(&format!("fuzzed {target}: {tried} inputs, nothing found"));
        return Ok(tried);
    }
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        eprintln!("    {line}");
    }
    match artifact(&text) {
        Some(input) => bail!(
            "fuzzing {target} found {input}\nrun it again: cargo xtask fuzz {target} --input {input}"
        ),
        None => bail!("fuzzing {target} failed ({})", output.status),
    }
}

/// Whether so many inputs are what a target tries in that time, also on a slow machine.
fn enough(target: &str, tried: u64, seconds: u64) -> anyhow::Result<()> {
    let each = LEAST.iter().find(|(name, _)| *name == target).map_or(1, |(_, each)| *each);
    let least = each.saturating_mul(seconds);
    ensure!(
        tried >= least,
        "fuzzing {target} tried {tried} inputs in {ROUNDS} times {seconds} s, {least} are the least\nlook what is slow: \
         `cargo xtask fuzz {target}` with nothing beside it should try forty times that. If it does, the \
         machine is too busy; if not, an input, the build or the corpus (fuzz/corpus/{target}) has become \
         slow"
    );
    Ok(())
}

/// How many inputs were tried.
fn executions(output: &str) -> Option<u64> {
    let number =
        |line: &str| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok();
    output.lines().find_map(number)
}

/// The file with the input that something was found by.
fn artifact(output: &str) -> Option<&str> {
    output.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_understood() {
        let good =
            "#2\tINITED\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec: 20\n";
        assert_eq!((executions(good), artifact(good)), (Some(1234), None));
        let bad =
            "==1== ERROR\nartifact_prefix='/a/'; Test unit written to /a/crash-0\nBase64: AA==\n";
        assert_eq!((executions(bad), artifact(bad)), (None, Some("/a/crash-0")));
    }

    #[test]
    fn a_run_that_tries_next_to_nothing_fails_and_says_what_to_do() {
        for target in TARGETS {
            let (_, each) = LEAST.into_iter().find(|(name, _)| *name == target).unwrap();
            assert!(each > 0);
            enough(target, each * SECONDS, SECONDS).unwrap();
            let error = enough(target, each * SECONDS - 1, SECONDS).unwrap_err().to_string();
            assert!(error.contains(&format!("`cargo xtask fuzz {target}`")), "{error}");
            enough(target, 0, SECONDS).unwrap_err();
        }
    }

    #[test]
    fn the_targets_are_those_of_the_folder() {
        let manifest = std::fs::read_to_string(shell::root().join("fuzz/Cargo.toml")).unwrap();
        for target in TARGETS {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
    }
}
