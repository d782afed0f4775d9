//! The program under test as a process: started until it prints `ready`, stopped, killed.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::failing::{Faults, Supervisor};
use super::namespace::Namespace;
use super::wait::{patient, within};

/// Limit for becoming ready and for exiting on a busy machine, where one RCU grace period alone may take
/// 20 s.
const PATIENCE: Duration = Duration::from_secs(120);
/// Lines of the agent's log that a failure prints.
const TAIL: usize = 40;

/// A running agent, killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: PathBuf,
    /// Lines of the agent's standard output.
    stdout: Mutex<mpsc::Receiver<String>>,
    /// Answers the agent's system calls if it was started with faults; outlives the child.
    _supervisor: Option<Supervisor>,
}

impl Agent {
    /// Starts the agent, appending to `log`, and waits until it is ready.
    pub(crate) fn start(namespace: &Namespace, command: Command, log: &Path) -> Self {
        let agent = Self::launch(namespace, command, log, None);
        agent.wait_until_ready();
        agent
    }

    /// Starts the agent without waiting until it is ready.
    pub(crate) fn launch(
        namespace: &Namespace,
        mut command: Command,
        log: &Path,
        faults: Option<&Faults>,
    ) -> Self {
        let file = File::options().create(true).append(true).open(log);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(file.expect("a file can be made in the temporary folder"));
        let supervisor = faults.map(|faults| faults.supervise(&mut command));
        let mut child = namespace.spawn(command);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            // Reads on after `ready`, so that the agent never meets a closed pipe.
            for line in stdout.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self { child, log: log.to_owned(), stdout: Mutex::new(lines), _supervisor: supervisor }
    }

    /// Waits until the agent prints `ready`, or `serving` when it goes on with what an earlier agent
    /// wrote.
    ///
    /// # Panics
    /// If the agent exits before that, or the limit passes.
    pub fn wait_until_ready(&self) {
        match self.stdout.lock().unwrap().recv_timeout(patient(PATIENCE)) {
            Ok(line) if line == "ready" || line == "serving" => {}
            other => panic!(
                "expected the agent to print `ready` or `serving`, got {other:?}; its log:\n{}",
                tail(&self.log)
            ),
        }
    }

    /// Waits until the agent exits by itself.
    ///
    /// # Panics
    /// If it does not exit within the limit.
    pub fn wait(mut self) -> ExitStatus {
        self.wait_for_exit().unwrap_or_else(|| {
            panic!("the agent did not exit by itself; its log:\n{}", tail(&self.log))
        })
    }

    fn wait_for_exit(&mut self) -> Option<ExitStatus> {
        let exited = within(PATIENCE, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        exited.ok()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the agent at once (SIGKILL).
    pub fn kill(mut self) {
        self.end();
    }

    /// Ends the agent cleanly (SIGTERM) and returns its exit status.
    ///
    /// # Panics
    /// If it does not exit within the limit.
    pub fn stop(mut self) -> ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).expect("a child can be sent SIGTERM");
        self.wait_for_exit().unwrap_or_else(|| {
            panic!("the agent did not exit after SIGTERM; its log:\n{}", tail(&self.log))
        })
    }

    fn end(&mut self) {
        // Both calls fail only if the agent has exited before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

/// The last lines of a log file.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
