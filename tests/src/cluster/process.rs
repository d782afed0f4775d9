//! A component as a process with a log, killed on drop.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::control_plane::PATIENCE;
use crate::harness::agent::tail;
use crate::harness::namespace::Namespace;
use crate::harness::wait::within;

/// A running component of the cluster.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the component in the namespace. Its output goes to `NAME.log` in the folder.
    pub(crate) fn start(
        namespace: &Namespace,
        folder: &Path,
        name: &str,
        mut command: Command,
    ) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file =
            File::options().create(true).append(true).open(&log).expect("a file can be made");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a descriptor is duplicated"));
        command.stderr(file).current_dir(folder);
        Self { name: name.to_owned(), child: namespace.spawn(command), log }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the component by SIGTERM, as in production, and waits until it has exited.
    ///
    /// # Panics
    /// If it does not exit within the limit.
    pub(crate) fn terminate(mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).expect("a child can be sent SIGTERM");
        let ended = within(PATIENCE, || match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        ended.unwrap_or_else(|last| panic!("{} did not exit after SIGTERM: {last}", self.name));
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Checks that the component still runs: none exits by itself.
    ///
    /// # Errors
    /// The component has exited, with its log.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            ended => {
                Err(format!("{} has exited ({ended:?}); its log:\n{}", self.name, self.log_tail()))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both calls fail only if the component has exited before.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the log of {} ended with:\n{}", self.name, self.log_tail());
        }
    }
}
