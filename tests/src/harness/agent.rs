//! The program under test as a process: started until it says `ready`, stopped, killed.

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

/// How long it may take to be ready and to end, on a busy machine: there the kernel alone may take 20 s
/// to see that no program runs any more over what was freed.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many lines of its log a failure shows.
const TAIL: usize = 40;

/// A running agent, killed when dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    log: PathBuf,
    /// What it says on its standard output.
    said: Mutex<mpsc::Receiver<String>>,
    /// Answers its system calls, if it was started so; longer than the child lives.
    _supervisor: Option<Supervisor>,
}

impl Agent {
    /// Starts it and waits until it is ready. It appends to the log.
    pub(crate) fn start(namespace: &Namespace, command: Command, log: &Path) -> Self {
        let agent = Self::launch(namespace, command, log, None);
        agent.wait_until_ready();
        agent
    }

    /// Starts it, and does not wait.
    pub(crate) fn launch(
        namespace: &Namespace,
        mut command: Command,
        log: &Path,
        faults: Option<&Faults>,
    ) -> Self {
        let file = File::options().create(true).append(true).open(log);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(file.expect("a file can be made in the temporary folder"));
        let supervisor = faults.map(|faults| faults.over(&mut command));
        let mut child = namespace.spawn(command);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (say, said) = mpsc::channel();
        thread::spawn(move || {
            // Reads on after `ready`, so that the agent never meets a closed pipe.
            for line in stdout.lines().map_while(Result::ok) {
                let _ = say.send(line);
            }
        });
        Self { child, log: log.to_owned(), said: Mutex::new(said), _supervisor: supervisor }
    }

    /// Waits until it says that it is ready, or that it serves what an earlier agent wrote.
    ///
    /// # Panics
    /// When it ends before, or is not in good time.
    pub fn wait_until_ready(&self) {
        match self.said.lock().unwrap().recv_timeout(patient(PATIENCE)) {
            Ok(line) if line == "ready" || line == "serving" => {}
            said => panic!("the agent is not ready but {said:?}; its log:\n{}", tail(&self.log)),
        }
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait(mut self) -> ExitStatus {
        self.ended().unwrap_or_else(|| panic!("the agent goes on; its log:\n{}", tail(&self.log)))
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        let ended = within(PATIENCE, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        ended.ok()
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
        self.ended().unwrap_or_else(|| {
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
