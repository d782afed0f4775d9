//! The guard alone: what it leaves when it, or what started it, is killed.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::stage::{are_gone, eventually};

/// A guard below a shell that stands for the agent, and a plugin that hangs.
struct Guarded {
    folder: tempfile::TempDir,
    agent: Child,
}

impl Guarded {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plugin = r#"
( setsid sleep 300 & echo $! >> "$0/processes" )
sh -c 'trap "" TERM HUP; exec sleep 301' & echo $! >> "$0/processes"
echo $$ >> "$0/processes"
exec sleep 300
"#;
        let agent = r#""$0" guard-plugin $$ -- sh -c "$1" "$2" & echo $! > "$2/guard"; wait; echo "$?" > "$2/code""#;
        let mut command = Command::new("sh");
        command.args(["-c", agent, env!("CARGO_BIN_EXE_svclb"), plugin]).arg(folder.path());
        let agent = command.stdin(Stdio::null()).spawn().unwrap();
        let it = Self { folder, agent };
        eventually("the plugin runs", || it.lines("processes").len() == 3);
        it
    }

    fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn guard(&self) -> Pid {
        Pid::from_raw(self.lines("guard")[0].parse().unwrap())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

#[test]
fn killed_agent_leaves_no_process_of_a_plugin() {
    let mut guarded = Guarded::start();
    let processes = guarded.lines("processes");
    assert!(!are_gone(&processes));
    guarded.agent.kill().unwrap();
    eventually("all are gone", || are_gone(&processes));
    let guard = [guarded.guard().to_string()];
    eventually("the guard is gone", || are_gone(&guard));
}

#[test]
fn guard_that_is_told_to_ends_all_and_then_itself() {
    let guarded = Guarded::start();
    let processes = guarded.lines("processes");
    kill(guarded.guard(), Signal::SIGTERM).unwrap();
    eventually("it ended", || !guarded.lines("code").is_empty());
    assert!(are_gone(&processes), "not one is there after the guard: {processes:?}");
}

#[test]
fn plugin_ends_with_its_guard() {
    let guarded = Guarded::start();
    let processes = guarded.lines("processes");
    kill(guarded.guard(), Signal::SIGKILL).unwrap();
    eventually("the plugin is gone", || are_gone(&processes[2..]));
    // Out of a killed guard's reach: docs/limits.md.
    for process in &processes[..2] {
        let _ = kill(Pid::from_raw(process.parse().unwrap()), Signal::SIGKILL);
    }
}

#[test]
fn guard_of_an_agent_that_is_gone_runs_nothing() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_svclb"));
    // Process 1 did not start it.
    let output = command.args(["guard-plugin", "1", "--", "echo", "it runs"]).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
}
