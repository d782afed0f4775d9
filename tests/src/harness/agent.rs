//! The program under test as a process: started until it says `ready`, stopped, killed.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::namespace::Namespace;
use super::wait::within;

/// How long it may take to be ready, on a busy machine, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many lines of its log a failure shows.
const TAIL: usize = 40;

/// A running agent, killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: PathBuf,
}

impl Agent {
    /// Starts it and waits until it is ready. It appends to the log.
    pub(crate) fn start(namespace: &Namespace, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(file.expect("a file can be made in the temporary folder"));
        let mut child = namespace.spawn(command);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let agent = Self { child, log: log.to_owned() };
        let (say, hear) = mpsc::channel();
        thread::spawn(move || {
            // Reads on after `ready`, so that the agent never meets a closed pipe.
            for line in stdout.lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        match hear.recv_timeout(PATIENCE) {
            Ok(line) if line == "ready" => agent,
            said => panic!("the agent is not ready but {said:?}; its log:\n{}", tail(log)),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once: SIGKILL.
    pub fn kill(mut self) {
        self.end();
    }

    /// Ends it cleanly: SIGTERM.
    ///
    /// # Panics
    /// When it does not end.
    pub fn stop(mut self) -> ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).expect("a child can be told to stop");
        let ended = within(PATIENCE, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        ended.unwrap_or_else(|_| {
            panic!("the agent goes on after SIGTERM; its log:\n{}", tail(&self.log))
        })
    }

    fn end(&mut self) {
        // Both fail only when it has ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

/// The end of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}
