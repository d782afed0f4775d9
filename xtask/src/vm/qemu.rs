//! Boots a guest: QEMU with emulated processors, from its start to its end.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::console::{Console, End};
use crate::program::Arch;
use crate::shell;

/// Time limit for one test binary in a guest.
const BINARY: Duration = Duration::from_secs(900);
/// Time limit between two lines of a guest, which is longer than that of a binary.
const SILENCE: Duration = Duration::from_secs(960);
/// Time limit for a guest.
const WHOLE: Duration = Duration::from_secs(3600);
/// Factor for the time limits of waits in tests.
const PATIENCE: u32 = 10;

/// Switches off what slows down an emulated processor and does not matter to the tests, such as separate
/// page tables for system calls.
const FASTER: &str = "nopti spectre_v2=off retbleed=off init_on_alloc=0 apparmor=0";

/// A guest to boot.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    /// Its architecture.
    pub(super) arch: Arch,
    /// The kernel.
    pub(super) image: &'a Path,
    /// The archive with everything else.
    pub(super) archive: &'a Path,
    /// True if other processes have priority over it.
    pub(super) is_background: bool,
    /// File to which its console is written.
    pub(super) log: PathBuf,
}

impl Guest<'_> {
    /// Boots it and waits for its end.
    ///
    /// # Errors
    /// QEMU cannot be started, or its console cannot be written. Failures in the guest are no errors.
    pub(super) fn run(&self) -> anyhow::Result<(Console, End)> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut log = File::create(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut child = command.spawn().with_context(|| shell::cannot_start(&command))?;
        let (sender, receiver) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut reader = BufReader::new(stdout);
                let mut line = Vec::new();
                while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                    let text = String::from_utf8_lossy(&line);
                    if sender.send(text.trim_end_matches(['\r', '\n']).to_owned()).is_err() {
                        return;
                    }
                    line.clear();
                }
            });
        }
        let mut console = Console::default();
        let start = Instant::now();
        let stopped = loop {
            if start.elapsed() > WHOLE {
                // The machine works, but the tests do not end.
                console.time_out(WHOLE);
                break Some(format!("not done after {WHOLE:?}"));
            }
            match receiver.recv_timeout(SILENCE) {
                Ok(line) => {
                    writeln!(log, "{line}")?;
                    console.line(&line);
                }
                Err(RecvTimeoutError::Timeout) => break Some(format!("silent for {SILENCE:?}")),
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        };
        if stopped.is_some() {
            child.kill().context("cannot stop QEMU")?;
        }
        let output = child.wait_with_output()?;
        log.write_all(&output.stderr)?;
        let end = console.end(stopped.as_deref());
        // If QEMU failed before the guest printed anything, its own message is about its arguments.
        let refused = output.status.code().is_some_and(|code| code != 0);
        ensure!(
            stopped.is_some() || !refused || !console.release.is_empty(),
            "`{}` failed ({}): {}",
            shell::command_line(&command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok((console, end))
    }

    fn command(&self) -> Command {
        // It is killed when this thread ends for whatever reason.
        let mut command = shell::command("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if self.is_background {
            command.args(["nice", "-n", "5"]);
        }
        let (program, arguments, console) = match self.arch {
            // With cx16, kernel 6.12 panicked in a guest: a fault of the emulator.
            Arch::Amd64 => ("qemu-system-x86_64", &["-cpu", "max,-cx16"][..], "ttyS0"),
            Arch::Arm64 => (
                "qemu-system-aarch64",
                // Emulating the default algorithm for pointer authentication would take most of the time.
                &["-machine", "virt", "-cpu", "max,pauth-impdef=on"][..],
                "ttyAMA0",
            ),
        };
        command.arg(program).args(arguments);
        command.args(["-accel", "tcg", "-smp", "2", "-m", "1024", "-nodefaults", "-no-reboot"]);
        command.args(["-no-user-config", "-display", "none", "-serial", "stdio"]);
        command.arg("-kernel").arg(self.image).arg("-initrd").arg(self.archive);
        // The kernel passes parameters with a `=` and without a dot to the first process as its environment.
        let line = format!(
            "console={console} loglevel=3 panic=-1 random.trust_cpu=on {FASTER} SVCLB_PATIENCE={PATIENCE} \
             SVCLB_GUEST_LIMIT={}",
            BINARY.as_secs()
        );
        command.args(["-append", &line]);
        command
    }
}
