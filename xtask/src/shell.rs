//! Runs other programs and logs progress. Progress goes to standard error; standard output has only the
//! result of a task.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

/// Number of last lines of a failed program that are shown.
const TAIL: usize = 40;
/// Folders of system tools that a user's PATH may lack.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Returns the folder of the workspace. cargo's variable takes precedence, because two checkouts that share
/// a target folder may share this program; without cargo it is the checkout that built this program.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let here = std::env::var_os("CARGO_MANIFEST_DIR");
        let here = here.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        here.parent().map_or_else(|| here.clone(), Path::to_owned)
    });
    &ROOT
}

/// Returns a command that runs in the workspace's folder.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Returns a cargo command with these arguments.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = command("cargo");
    command.args(arguments);
    command
}

/// True if this process runs as root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Finds a program on PATH or in the folders of system tools.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = path(&std::env::var_os("PATH").unwrap_or_default());
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Appends to a PATH the folders of system tools that it lacks.
pub(crate) fn path(named: &OsStr) -> OsString {
    let mut folders: Vec<PathBuf> = match named.is_empty() {
        true => Vec::new(),
        false => std::env::split_paths(named).collect(),
    };
    for folder in SYSTEM.map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    // Joining cannot fail: none of the folders contains a separator.
    std::env::join_paths(folders).unwrap_or_else(|_| named.to_owned())
}

/// Returns a command that runs `program` as root: directly, or by sudo.
///
/// # Errors
/// Not root, and there is no sudo.
pub(crate) fn as_root(
    program: impl AsRef<OsStr>,
    environment: &[(&str, &OsStr)],
) -> anyhow::Result<Command> {
    if is_root() {
        let mut command = command(program);
        command.envs(environment.iter().copied());
        return Ok(command);
    }
    let sudo = find("sudo").context("not root, and there is no sudo: run this as root")?;
    Ok(by_sudo(&sudo, program.as_ref(), environment))
}

/// sudo drops the caller's environment, so each variable is passed as an argument of `env`.
fn by_sudo(sudo: &Path, program: &OsStr, environment: &[(&str, &OsStr)]) -> Command {
    let mut command = command(sudo);
    command.arg("env");
    for (name, value) in environment {
        let mut pair = OsString::from(name);
        pair.push("=");
        pair.push(value);
        command.arg(pair);
    }
    command.arg(program);
    command
}

/// Logs the step that begins.
pub(crate) fn log(what: &str) {
    eprintln!("==> {what}");
}

/// Prints a line of the result of a task.
#[expect(clippy::print_stdout, reason = "the result of a task is its standard output")]
pub(crate) fn print(line: &str) {
    println!("{line}");
    // A reader that closes its pipe has read enough.
    let _ = std::io::stdout().flush();
}

/// Formats the time since `start` for a line of progress.
pub(crate) fn seconds(start: Instant) -> String {
    format!("{:.1} s", start.elapsed().as_secs_f64())
}

/// Formats a command as it would be typed in a shell.
pub(crate) fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs a command and shows its output.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn run(mut command: Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| cannot_start(&command))?;
    if !status.success() {
        bail!("`{}` failed ({status})", command_line(&command));
    }
    Ok(())
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// It cannot be started, or fails: with its standard error.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = command.output().with_context(|| cannot_start(command))?;
    stdout_of(output, &command_line(command))
}

/// Runs a command and returns its standard output as text.
///
/// # Errors
/// As [`output()`].
pub(crate) fn text(command: &mut Command) -> anyhow::Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// Returns the standard output of a command that has ended.
///
/// # Errors
/// It failed: with its standard error.
pub(crate) fn stdout_of(output: Output, name: &str) -> anyhow::Result<Vec<u8>> {
    let Output { status, stdout, stderr } = output;
    ensure!(
        status.success(),
        "`{name}` failed ({status}): {}",
        String::from_utf8_lossy(&stderr).trim()
    );
    Ok(stdout)
}

/// Logs `what`, runs a command without its output, and logs how long it took. If it fails, its last lines
/// are shown.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn run_quietly(what: &str, mut command: Command) -> anyhow::Result<()> {
    let start = Instant::now();
    log(what);
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(&command))?;
    if output.status.success() {
        eprintln!("    done in {}", seconds(start));
        return Ok(());
    }
    let text =
        [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
    let lines: Vec<&str> = text.iter().flat_map(|part| part.lines()).collect();
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        eprintln!("    {line}");
    }
    bail!("`{}` failed ({})", command_line(&command), output.status)
}

/// Runs a command, and copies each line of its standard error to that of this process and to `look`.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn watch_errors(mut command: Command, mut look: impl FnMut(&str)) -> anyhow::Result<()> {
    let mut child =
        command.stderr(Stdio::piped()).spawn().with_context(|| cannot_start(&command))?;
    if let Some(stderr) = child.stderr.take() {
        each_line(stderr, |line| {
            eprintln!("{line}");
            look(line);
        })?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("`{}` failed ({status})", command_line(&command));
    }
    Ok(())
}

/// Runs a command, and copies each line of its standard output to that of this process and to `look`. Returns true if it
/// succeeded.
///
/// # Errors
/// It cannot be started.
pub(crate) fn watch(command: Command, mut look: impl FnMut(&str)) -> anyhow::Result<bool> {
    read_lines(command, |line| {
        print(line);
        look(line);
    })
}

/// Runs a command and passes each line of its standard output to `look`. Returns true if it succeeded.
///
/// # Errors
/// It cannot be started.
pub(crate) fn read_lines(mut command: Command, look: impl FnMut(&str)) -> anyhow::Result<bool> {
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| cannot_start(&command))?;
    if let Some(stdout) = child.stdout.take() {
        each_line(stdout, look)?;
    }
    Ok(child.wait()?.success())
}

fn each_line(stream: impl Read, mut then: impl FnMut(&str)) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        then(String::from_utf8_lossy(&line).trim_end_matches('\n'));
        line.clear();
    }
    Ok(())
}

/// The error text for a command that does not start.
pub(crate) fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", command_line(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_system_tools_come_last_in_the_path() {
        let rows = [
            ("a user's", "/home/a/bin:/usr/bin", "/home/a/bin:/usr/bin:/usr/sbin:/sbin"),
            ("root's", "/usr/sbin:/usr/bin:/sbin", "/usr/sbin:/usr/bin:/sbin"),
            ("none", "", "/usr/sbin:/sbin"),
        ];
        for (row, named, expected) in rows {
            assert_eq!(path(OsStr::new(named)), expected, "{row}");
        }
    }

    #[test]
    fn every_variable_passes_through_sudo() {
        let environment = [("A", OsStr::new("1")), ("B", OsStr::new("two words"))];
        let command = by_sudo(Path::new("/usr/bin/sudo"), OsStr::new("/test"), &environment);
        let arguments: Vec<&OsStr> = command.get_args().collect();
        assert_eq!(arguments, ["env", "A=1", "B=two words", "/test"]);
    }
}
