//! `cargo xtask test` runs every test that this machine can run, and prints one total.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::counts::Counts;
use crate::program::{self, Arch, For};
use crate::{cluster, dist, environment, fuzz, image, run, setup, shell, vm};

/// Crates whose tests use the kernel as root. They run last, as failures of the others are easier to read.
const PRIVILEGED: [&str; 4] = ["svclb-sources", "svclb-dataplane", "svclb-agent", "svclb-tests"];
/// Order of the other crates: dependencies come first.
const ORDER: [&str; 4] = ["svclb-common", "svclb-core", "svclb-objects", "xtask"];
/// Prefixes of the binaries of `svclb-tests` that start a real cluster.
const CLUSTER: [&str; 8] =
    ["chart", "cluster", "control_plane", "kube", "manifests", "oracle", "plugin", "scale"];
/// Binaries of `svclb-tests` that use this machine's architecture in the image.
const WITH_IMAGE: [&str; 2] = ["manifests", "scale"];
/// Binaries of `svclb-tests` that look at what ships, for all architectures.
const WITH_RELEASE: [&str; 2] = ["image", "package"];
/// Prefix of the variables that configure tests.
const PREFIX: &str = "SVCLB_";
/// Other variables of the user that test binaries get.
const KEPT: [&str; 2] = ["RUST_BACKTRACE", "TMPDIR"];
/// Variable with the path of the image archive.
const IMAGE: &str = "SVCLB_IMAGE";
/// Variable with the folder of the release.
const RELEASE: &str = "SVCLB_DIST";
/// Variable with the path of the program `svclb`.
const PROGRAM: &str = "SVCLB_BIN";
/// Number of lines printed by the failed tests of one binary that are repeated at the end of a run.
const FAILURE_LINES: usize = 200;

/// A built test binary.
pub(crate) struct Binary {
    /// Its crate.
    package: String,
    /// The folder of its crate.
    folder: PathBuf,
    /// Its name as a target of the crate.
    name: String,
    /// Its file.
    path: PathBuf,
}

/// The test that compares svclb with kube-proxy.
const ORACLE: &str = "clients_are_answered_as_with_kube_proxy";

/// Compares svclb with kube-proxy in this number of random worlds, from this seed on.
///
/// # Errors
/// As [`run()`].
pub(crate) fn oracle(worlds: Option<u64>, seed: Option<u64>) -> anyhow::Result<()> {
    let variable = |name, number: Option<u64>| Some((name, OsString::from(number?.to_string())));
    let variables = [variable("SVCLB_ORACLE_WORLDS", worlds), variable("SVCLB_ORACLE_SEED", seed)];
    let variables: Vec<_> = variables.into_iter().flatten().collect();
    run_with(Some(ORACLE), false, &["--nocapture".to_owned()], &variables)
}

/// The test that combines all faults and loads.
const SOAK: &str = "all_answers_are_right_and_nothing_grows_under_continuous_change";

/// Runs [`SOAK`] for this number of minutes.
///
/// # Errors
/// As [`run()`].
pub(crate) fn soak(minutes: u64) -> anyhow::Result<()> {
    let seconds = OsString::from(minutes.saturating_mul(60).to_string());
    let variables = [("SVCLB_SOAK_SECONDS", seconds)];
    run_with(Some(SOAK), false, &["--nocapture".to_owned()], &variables)
}

/// Runs the tests whose name contains `filter`, with `args` for each test binary. Without a filter, and
/// with `vm`, it also runs the quick tests in guests with other kernels.
///
/// # Errors
/// A test fails, none matches, or the machine lacks something: the error has advice.
pub(crate) fn run(filter: Option<&str>, vm: bool, args: &[String]) -> anyhow::Result<()> {
    run_with(filter, vm && filter.is_none(), args, &[])
}

fn run_with(
    filter: Option<&str>,
    with_guests: bool,
    args: &[String],
    variables: &[(&str, OsString)],
) -> anyhow::Result<()> {
    setup::ensure(setup::Need::Run)?;
    shell::log("building");
    let (svclb, binaries) = build()?;
    let (unprivileged, privileged) = split(binaries, filter)?;

    // Now rather than in the middle of a long run.
    if !privileged.is_empty() {
        environment::check()?;
        shell::as_root("true", &[]).context("the kernel tests need root")?;
    }
    let components = match privileged.iter().any(Binary::needs_cluster) {
        true => cluster::ensure()?,
        false => OsString::new(),
    };
    let (image, release) = shipped(&privileged)?;

    let fuzzing = fuzz::start(filter)?;
    // Last, as guests run concurrently with everything that follows.
    let guests = with_guests.then(vm::start).transpose()?;
    let mut total = Counts::default();
    let mut failures = Vec::new();
    for (binary, needs_root) in unprivileged
        .iter()
        .map(|binary| (binary, false))
        .chain(privileged.iter().map(|binary| (binary, true)))
    {
        let title = format!("{} {}", binary.package, binary.name);
        shell::log(&title);
        let mut environment = vec![
            (PROGRAM, svclb.as_os_str()),
            (cluster::VARIABLE, &components),
            (IMAGE, &image),
            (RELEASE, &release),
        ];
        environment.extend(variables.iter().map(|(name, value)| (*name, value.as_os_str())));
        let mut test = binary.command(&environment, needs_root)?;
        test.args(filter).args(args);
        total.add(counted(test, &title, &mut failures)?);
    }
    shell::log("examples in the documentation");
    let mut documentation = shell::cargo(["test", "--doc", "--quiet", "--locked"]);
    documentation.args(run::HOST).arg("--no-fail-fast").arg("--").args(filter);
    total.add(counted(documentation, "documentation", &mut failures)?);
    total.add(fuzzing.finish(&mut failures));
    if let Some(guests) = guests {
        total.add(guests.finish()?);
    }

    if total.ignored > 0 {
        shell::print(&format!("{} marked `#[ignore]` did not run", total.ignored));
    }
    failures.iter().for_each(|line| shell::print(line));
    shell::print(&total.to_string());
    if total.failed > 0 {
        bail!("{} failed, see above", total.failed);
    }
    if total.passed == 0 {
        bail!("no test's name contains {:?}", filter.unwrap_or_default());
    }
    Ok(())
}

/// Builds the image and the release, as far as these binaries use them. The guests of `cargo xtask vm` use the
/// same programs.
fn shipped(binaries: &[Binary]) -> anyhow::Result<(OsString, OsString)> {
    let is_release = binaries.iter().any(|it| it.is_one_of(&WITH_RELEASE));
    let archs = match is_release {
        true => Arch::ALL.to_vec(),
        false if binaries.iter().any(|it| it.is_one_of(&WITH_IMAGE)) => vec![Arch::host()?],
        false => return Ok(Default::default()),
    };
    program::ensure_tools(&archs)?;
    let programs = image::programs(&archs, For::Tests)?;
    let image = image::build(None, &programs)?.into();
    let own = programs.iter().find(|program| !program.arch.is_foreign());
    match own.filter(|_| is_release) {
        Some(own) => {
            setup::ensure(setup::Need::Package)?;
            Ok((image, dist::write(&programs, own)?.into()))
        }
        None => Ok((image, OsString::new())),
    }
}

impl Binary {
    /// Returns the command that runs it, with the environment that cargo would set and `more` variables.
    fn command(&self, more: &[(&str, &OsStr)], needs_root: bool) -> anyhow::Result<Command> {
        let users = std::env::vars_os();
        let environment =
            environment(users.filter_map(|(name, value)| Some((name.into_string().ok()?, value))));
        let mut environment: Vec<(&str, &OsStr)> =
            environment.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        environment.push(("CARGO_MANIFEST_DIR", self.folder.as_os_str()));
        // These override the user's variables, as the last one of a name counts.
        environment.extend(more.iter().filter(|(_, value)| !value.is_empty()));
        let mut command = if needs_root {
            shell::as_root(&self.path, &environment)?
        } else {
            let mut command = Command::new(&self.path);
            command.envs(environment);
            command
        };
        command.current_dir(&self.folder);
        Ok(command)
    }

    /// True if its tests start a real cluster.
    fn needs_cluster(&self) -> bool {
        self.package == "svclb-tests" && CLUSTER.iter().any(|it| self.name.starts_with(it))
    }

    /// True if it is one of these binaries of `svclb-tests`.
    fn is_one_of(&self, names: &[&str]) -> bool {
        self.package == "svclb-tests" && names.contains(&self.name.as_str())
    }

    /// Returns the path of its tests: its crate, and its name if the crate has several binaries.
    pub(crate) fn place(&self) -> String {
        match self.package.replace('-', "_") == self.name {
            true => self.package.clone(),
            false => format!("{}::{}", self.package, self.name),
        }
    }

    /// Returns the names of its tests that contain `filter`.
    ///
    /// # Errors
    /// It cannot be started, or fails.
    pub(crate) fn tests(&self, filter: &str) -> anyhow::Result<Vec<String>> {
        let mut list = Command::new(&self.path);
        list.args(["--list", filter]).current_dir(&self.folder);
        let lines = shell::text(&mut list)?;
        Ok(lines
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .map(str::to_owned)
            .collect())
    }
}

/// Selects the variables of the user's environment that a test binary gets, with and without sudo, and adds
/// the folders of system tools to PATH.
fn environment(users: impl Iterator<Item = (String, OsString)>) -> BTreeMap<String, OsString> {
    let mut path = OsString::new();
    let mut kept = BTreeMap::new();
    for (name, value) in users {
        if name == "PATH" {
            path = value;
        } else if name.starts_with(PREFIX) || KEPT.contains(&&name[..]) {
            kept.insert(name, value);
        }
    }
    kept.insert("PATH".to_owned(), shell::path(&path));
    kept
}

/// Builds the program `svclb`, which cargo builds for the tests of its crate, and every test binary, in
/// the order in which they run.
///
/// # Errors
/// They do not build.
pub(crate) fn build() -> anyhow::Result<(PathBuf, Vec<Binary>)> {
    let mut svclb = None;
    let mut found = BTreeMap::new();
    run::artifacts("test", &[&run::HOST[..], &["--no-run"]].concat(), &[], |artifact| {
        svclb = run::program(&artifact).or(svclb.take());
        let package = run::package(&artifact);
        if let (true, Some(path)) = (artifact.profile.test, artifact.executable) {
            let folder: PathBuf = artifact.manifest_path.with_file_name("").into();
            let key = (rank(&package), package.clone(), artifact.target.name.clone(), path.clone());
            let name = artifact.target.name;
            found.insert(key, Binary { package, folder, name, path: path.into() });
        }
    })?;
    let svclb = svclb.context("cargo built no program `svclb`")?;
    Ok((svclb, found.into_values().collect()))
}

/// Returns the position of a crate in the run.
fn rank(package: &str) -> usize {
    let among = |names: &[&str]| names.iter().position(|name| *name == package);
    match (among(&ORDER), among(&PRIVILEGED)) {
        (Some(at), _) => at,
        (_, Some(at)) => ORDER.len() + 1 + at,
        _ => ORDER.len(),
    }
}

/// Selects the binaries with tests whose name contains `filter`, and separates those that run as the user
/// from those that run as root.
fn split(
    binaries: Vec<Binary>,
    filter: Option<&str>,
) -> anyhow::Result<(Vec<Binary>, Vec<Binary>)> {
    let mut with_tests = Vec::new();
    for binary in binaries {
        if !binary.tests(filter.unwrap_or_default())?.is_empty() {
            with_tests.push(binary);
        }
    }
    Ok(with_tests.into_iter().partition(|it| !PRIVILEGED.contains(&it.package.as_str())))
}

/// Runs a test binary and returns its counts. A binary that fails without a failed test counts as one. The
/// output of failed tests is appended to `failures`, to be repeated at the end of the run: its log is long,
/// and often only the end of a log is at hand.
fn counted(command: Command, title: &str, failures: &mut Vec<String>) -> anyhow::Result<Counts> {
    let name = shell::command_line(&command);
    let mut total = Counts::default();
    let mut is_failure = false;
    let mut text = Vec::new();
    let succeeded = shell::watch(command, |line| {
        is_failure |= line == "failures:";
        if let Some(counts) = Counts::parse(line) {
            total.add(counts);
            is_failure = false;
        }
        if is_failure && text.len() < FAILURE_LINES {
            text.push(format!("    {line}"));
        }
    })?;
    if !succeeded && total.failed == 0 {
        text.push(format!("    `{name}` exited without a test result"));
        total.failed += 1;
    }
    if !text.is_empty() {
        failures.push(format!("==> failed in {title}"));
        failures.append(&mut text);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_run_from_the_bottom_up_and_those_with_root_last() {
        let mut crates = ["svclb-tests", "xtask", "another", "svclb-agent", "svclb-common"];
        crates.sort_by_key(|name| rank(name));
        assert_eq!(crates, ["svclb-common", "xtask", "another", "svclb-agent", "svclb-tests"]);
    }

    #[test]
    fn a_test_binary_gets_only_the_variables_that_tests_read() {
        let users = [
            ("HOME", "/home/a"),
            ("PATH", "/usr/bin"),
            ("RUST_BACKTRACE", "1"),
            ("SVCLB_ORACLE_SEED", "7"),
            ("SVCLB_ORACLE_WORLDS", "1000"),
            ("TMPDIR", "/var/tmp"),
        ];
        let users = users.map(|(name, value)| (name.to_owned(), value.into()));
        let found = environment(users.into_iter());
        let found: Vec<(&str, &str)> =
            found.iter().map(|(name, value)| (&name[..], value.to_str().unwrap())).collect();
        let expected = [
            ("PATH", "/usr/bin:/usr/sbin:/sbin"),
            ("RUST_BACKTRACE", "1"),
            ("SVCLB_ORACLE_SEED", "7"),
            ("SVCLB_ORACLE_WORLDS", "1000"),
            ("TMPDIR", "/var/tmp"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_binary_without_a_result_counts_as_a_failure() {
        let mut failures = Vec::new();
        let dead = counted(Command::new("false"), "false", &mut failures).unwrap();
        assert_eq!((dead.passed, dead.failed), (0, 1));
        assert_eq!(failures, ["==> failed in false", "    `false` exited without a test result"]);
        let mut failures = Vec::new();
        let empty = counted(Command::new("true"), "true", &mut failures).unwrap();
        assert_eq!((empty.passed, empty.failed), (0, 0));
        assert!(failures.is_empty());
    }

    #[test]
    fn output_of_a_failed_test_is_repeated() {
        let text = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nwhy\n\n\
                    test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured\nafter\n";
        let mut printing = Command::new("printf");
        printing.arg(text);
        let mut failures = Vec::new();
        let counts = counted(printing, "crate binary", &mut failures).unwrap();
        assert_eq!((counts.passed, counts.failed), (1, 1));
        let expected = ["failures:", "", "---- a stdout ----", "why", ""];
        let expected = expected.map(|line| format!("    {line}"));
        assert_eq!(failures[0], "==> failed in crate binary");
        assert_eq!(failures[1..], expected);
    }
}
