//! `cargo xtask test`: every test that this machine can run, with one total.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::counts::Counts;
use crate::{cluster, environment, fuzz, image, run, setup, shell, vm};

/// Crates whose tests use the kernel as root. They come last: what fails before is easier to read.
const PRIVILEGED: [&str; 4] = ["svclb-sources", "svclb-dataplane", "svclb-agent", "svclb-tests"];
/// Order of the other crates: what is built upon comes first.
const ORDER: [&str; 4] = ["svclb-common", "svclb-core", "svclb-objects", "xtask"];
/// All crates that are built for the host.
const HOST: [&str; 3] = ["--workspace", "--exclude", "svclb-ebpf"];
/// Binaries of `svclb-tests` that start a real cluster, by the beginnings of their names.
const CLUSTER: [&str; 6] = ["cluster", "control_plane", "kube", "manifests", "oracle", "scale"];
/// Binaries of `svclb-tests` that use the image.
const WITH_IMAGE: [&str; 3] = ["image", "manifests", "scale"];
/// Begins the names of the variables that tests read: where things are, which worlds are compared.
const OURS: &str = "SVCLB_";
/// Others of the user's that they get.
const OTHERS: [&str; 2] = ["RUST_BACKTRACE", "TMPDIR"];
/// Tells tests where the image archive is.
const IMAGE: &str = "SVCLB_IMAGE";
/// Tells tests where the built program `svclb` is.
const PROGRAM: &str = "SVCLB_BIN";
/// Lines printed by the failed tests of one binary that are repeated at the end of a run.
const FAILURE_LINES: usize = 200;

/// A built test binary.
struct Binary {
    /// Its crate.
    package: String,
    /// The folder of its crate.
    folder: PathBuf,
    /// The target's name.
    name: String,
    /// The program.
    path: PathBuf,
}

/// The test that compares svclb with kube-proxy.
const ORACLE: &str = "clients_are_answered_as_with_kube_proxy";

/// Compares svclb with kube-proxy in so many random worlds, from this seed on.
///
/// # Errors
/// As [`run()`].
pub(crate) fn oracle(worlds: Option<u64>, seed: Option<u64>) -> anyhow::Result<()> {
    let said = |name, number: Option<u64>| Some((name, OsString::from(number?.to_string())));
    let variables = [said("SVCLB_ORACLE_WORLDS", worlds), said("SVCLB_ORACLE_SEED", seed)];
    let variables: Vec<_> = variables.into_iter().flatten().collect();
    run_with(Some(ORACLE), false, &["--nocapture".to_owned()], &variables)
}

/// The test in which everything happens at once.
const SOAK: &str = "all_answers_are_right_and_nothing_grows_under_continuous_change";

/// Runs it for so many minutes.
///
/// # Errors
/// As [`run()`].
pub(crate) fn soak(minutes: u64) -> anyhow::Result<()> {
    let seconds = OsString::from(minutes.saturating_mul(60).to_string());
    let variables = [("SVCLB_SOAK_SECONDS", seconds)];
    run_with(Some(SOAK), false, &["--nocapture".to_owned()], &variables)
}

/// Runs the tests whose name contains `filter`, with `args` for each runner; without a filter, and with
/// `vm`, also the quick ones in guests with other kernels.
///
/// # Errors
/// A test fails, none matches, or the machine lacks something: the error says what to do.
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
    shell::say("building");
    let svclb = run::build(&[&HOST[..], &["--bins"]].concat(), &[])?;
    let (unprivileged, privileged) = split(binaries()?, filter)?;

    // Before the first test runs: a long run must not end with a lack that was there at its start.
    if !privileged.is_empty() {
        environment::check()?;
        shell::as_root("true", &[]).context("the kernel tests need root")?;
    }
    let components = match privileged.iter().any(Binary::needs_cluster) {
        true => cluster::ensure()?,
        false => OsString::new(),
    };
    let image = match privileged.iter().any(Binary::needs_image) {
        true => image::for_tests()?.into(),
        false => OsString::new(),
    };

    let fuzzing = fuzz::start(filter)?;
    // The last that is built: guests run beside all that follows.
    let guests = with_guests.then(vm::beside).transpose()?;
    let mut total = Counts::default();
    let mut failures = Vec::new();
    for (binary, needs_root) in unprivileged
        .iter()
        .map(|binary| (binary, false))
        .chain(privileged.iter().map(|binary| (binary, true)))
    {
        let title = format!("{} {}", binary.package, binary.name);
        shell::say(&title);
        let mut given =
            vec![(PROGRAM, svclb.as_os_str()), (cluster::VARIABLE, &components), (IMAGE, &image)];
        given.extend(variables.iter().map(|(name, value)| (*name, value.as_os_str())));
        let mut test = binary.command(&given, needs_root)?;
        test.args(filter).args(args);
        total.add(counted(test, &title, &mut failures)?);
    }
    shell::say("examples in the documentation");
    let mut documentation = shell::cargo(["test", "--doc", "--quiet", "--locked"]);
    documentation.args(HOST).arg("--no-fail-fast").arg("--").args(filter);
    total.add(counted(documentation, "documentation", &mut failures)?);
    total.add(fuzzing.finish());
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

impl Binary {
    /// The runner, in the environment that cargo would give it.
    fn command(&self, given: &[(&str, &OsStr)], needs_root: bool) -> anyhow::Result<Command> {
        let users = std::env::vars_os();
        let environment =
            environment(users.filter_map(|(name, value)| Some((name.into_string().ok()?, value))));
        let mut environment: Vec<(&str, &OsStr)> =
            environment.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        environment.push(("CARGO_MANIFEST_DIR", self.folder.as_os_str()));
        // Behind what the user has: the last one counts.
        environment.extend(given.iter().filter(|(_, value)| !value.is_empty()));
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

    /// Whether its tests start a real cluster.
    fn needs_cluster(&self) -> bool {
        self.package == "svclb-tests" && CLUSTER.iter().any(|it| self.name.starts_with(it))
    }

    /// Whether its tests start the program from its image.
    fn needs_image(&self) -> bool {
        self.package == "svclb-tests" && WITH_IMAGE.contains(&self.name.as_str())
    }

    /// Whether it has a test of such a name.
    fn has(&self, filter: &str) -> anyhow::Result<bool> {
        let mut list = Command::new(&self.path);
        list.args(["--list", filter]).current_dir(&self.folder).stderr(Stdio::inherit());
        let output = list.output().with_context(|| shell::cannot_start(&list))?;
        Ok(output.stdout.split(|byte| *byte == b'\n').any(|line| line.ends_with(b": test")))
    }
}

/// What a runner gets of the user's environment, also by sudo, and the PATH on which set-up found its
/// tools.
fn environment(users: impl Iterator<Item = (String, OsString)>) -> BTreeMap<String, OsString> {
    let mut path = OsString::new();
    let mut kept = BTreeMap::new();
    for (name, value) in users {
        if name == "PATH" {
            path = value;
        } else if name.starts_with(OURS) || OTHERS.contains(&&name[..]) {
            kept.insert(name, value);
        }
    }
    kept.insert("PATH".to_owned(), shell::path(&path));
    kept
}

/// Builds every test binary, in the order in which they run.
fn binaries() -> anyhow::Result<Vec<Binary>> {
    let mut found = BTreeMap::new();
    run::artifacts("test", &[&HOST[..], &["--no-run"]].concat(), &[], |artifact| {
        if let (true, Some(path)) = (artifact.profile.test, artifact.executable) {
            let folder: PathBuf = artifact.manifest_path.with_file_name("").into();
            let package = package(&artifact.package_id.repr, &folder);
            let key = (rank(&package), package.clone(), artifact.target.name.clone(), path.clone());
            let name = artifact.target.name;
            found.insert(key, Binary { package, folder, name, path: path.into() });
        }
    })?;
    Ok(found.into_values().collect())
}

/// The name in a package's id, which leaves it out where the folder has the same:
/// `path+file:///svclb/tests#svclb-tests@0.1.0`, `path+file:///svclb/xtask#0.1.0`.
fn package(id: &str, folder: &Path) -> String {
    let named = id.rsplit_once('#').and_then(|(_, rest)| Some(rest.split_once('@')?.0));
    let folder = folder.file_name().unwrap_or_default().to_string_lossy();
    named.map_or(folder.into_owned(), str::to_owned)
}

/// Place of a crate in the run.
fn rank(package: &str) -> usize {
    let among = |names: &[&str]| names.iter().position(|name| *name == package);
    match (among(&ORDER), among(&PRIVILEGED)) {
        (Some(at), _) => at,
        (_, Some(at)) => ORDER.len() + 1 + at,
        _ => ORDER.len(),
    }
}

/// The binaries that have a test of such a name: those that run as the user, and those as root.
fn split(
    binaries: Vec<Binary>,
    filter: Option<&str>,
) -> anyhow::Result<(Vec<Binary>, Vec<Binary>)> {
    let mut with_tests = Vec::new();
    for binary in binaries {
        if binary.has(filter.unwrap_or_default())? {
            with_tests.push(binary);
        }
    }
    Ok(with_tests.into_iter().partition(|it| !PRIVILEGED.contains(&it.package.as_str())))
}

/// Runs a test binary and returns its counts. One that exits unsuccessfully without a failed test is
/// itself a failure. What a failed test printed is appended to `failures`, since a log of a whole run is
/// long and often only its end is at hand.
fn counted(command: Command, title: &str, failures: &mut Vec<String>) -> anyhow::Result<Counts> {
    let name = shell::typed(&command);
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
    fn a_runner_gets_what_tests_read_and_nothing_else_of_the_users() {
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
    fn a_package_is_known_by_its_name_or_else_its_folder() {
        let rows = [
            ("path+file:///svclb/tests#svclb-tests@0.1.0", "/svclb/tests/", "svclb-tests"),
            ("path+file:///svclb/xtask#0.1.0", "/svclb/xtask/", "xtask"),
        ];
        for (id, folder, expected) in rows {
            assert_eq!(package(id, Path::new(folder)), expected, "{id}");
        }
    }

    #[test]
    fn a_runner_that_dies_counts_as_a_failure() {
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
