//! Running other programs, and telling what is being done. Progress goes to standard error; only what
//! a task is asked for goes to standard output.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::Instant;

use anyhow::{Context as _, bail};

/// Lines of a failed program that are shown.
const TAIL: usize = 40;
/// Folders of the system's tools, which a user's PATH may lack.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The folder of the workspace: as `cargo xtask` names it, since two checkouts that share a target folder
/// may share this program too. Without cargo, that of the checkout it was built from.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let here = std::env::var_os("CARGO_MANIFEST_DIR");
        let here = here.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        here.parent().map_or_else(|| here.clone(), Path::to_owned)
    });
    &ROOT
}

/// A command that runs in the workspace's folder.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// `cargo` with these arguments.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = command("cargo");
    command.args(arguments);
    command
}

/// Whether this process may do what root may.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Where a program is, on PATH or among the system's tools.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = path(&std::env::var_os("PATH").unwrap_or_default());
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// A PATH, and behind it the folders of the system's tools that it lacks.
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
    // What was split can be joined.
    std::env::join_paths(folders).unwrap_or_else(|_| named.to_owned())
}

/// A command that runs `program` as root: itself, or by sudo.
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

/// sudo gives a program none of the caller's variables, so each is an argument of `env`.
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

/// Tells what begins now.
pub(crate) fn say(what: &str) {
    eprintln!("==> {what}");
}

/// Prints a line that the task was asked for.
#[expect(clippy::print_stdout, reason = "the result of a task is its standard output")]
pub(crate) fn print(line: &str) {
    println!("{line}");
    // A closed pipe is the reader's business.
    let _ = std::io::stdout().flush();
}

/// Seconds since `start`, for a line of progress.
pub(crate) fn seconds(start: Instant) -> String {
    format!("{:.1} s", start.elapsed().as_secs_f64())
}

/// How a person would type a command.
pub(crate) fn typed(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs a command with its output shown.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn show(mut command: Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| cannot_start(&command))?;
    if !status.success() {
        bail!("`{}` failed ({status})", typed(&command));
    }
    Ok(())
}

/// Says `what`, runs a command silently, and says how long it took. Its last lines are shown if it
/// fails.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn quietly(what: &str, mut command: Command) -> anyhow::Result<()> {
    let start = Instant::now();
    say(what);
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
    bail!("`{}` failed ({})", typed(&command), output.status)
}

/// Runs a command, passes each line of its standard error on, and hands it to `look`.
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
        bail!("`{}` failed ({status})", typed(&command));
    }
    Ok(())
}

/// Runs a command, passes each line of its standard output on, and hands it to `look`. Says whether
/// it succeeded.
///
/// # Errors
/// It cannot be started.
pub(crate) fn watch(command: Command, mut look: impl FnMut(&str)) -> anyhow::Result<bool> {
    read_lines(command, |line| {
        print(line);
        look(line);
    })
}

/// Runs a command and hands each line of its standard output to `look`. Says whether it succeeded.
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

/// What to say if a command does not start.
pub(crate) fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", typed(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_tools_are_found_behind_all_that_path_names() {
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
    fn sudo_hands_every_variable_on() {
        let environment = [("A", OsStr::new("1")), ("B", OsStr::new("two words"))];
        let command = by_sudo(Path::new("/usr/bin/sudo"), OsStr::new("/test"), &environment);
        let arguments: Vec<&OsStr> = command.get_args().collect();
        assert_eq!(arguments, ["env", "A=1", "B=two words", "/test"]);
    }
}
