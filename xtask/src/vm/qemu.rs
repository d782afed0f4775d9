//! One boot: QEMU with its processors in software, from the start to the end of the guest.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::console::{Console, End};
use crate::image::Arch;
use crate::shell;

/// How long one test binary may take in a guest.
const BINARY: Duration = Duration::from_secs(900);
/// How long a guest may say nothing: longer than a binary may take.
const SILENCE: Duration = Duration::from_secs(960);
/// How long a guest may take.
const WHOLE: Duration = Duration::from_secs(3600);
/// How many times as long as usual a test may wait for something in a guest.
const PATIENCE: u32 = 10;

/// What costs an emulated processor most and changes nothing that is tested: tables of pages that are
/// exchanged with each system call, and the like.
const FASTER: &str = "nopti spectre_v2=off retbleed=off init_on_alloc=0 apparmor=0";

/// What is booted.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    /// Its architecture.
    pub(super) arch: Arch,
    /// The kernel.
    pub(super) image: &'a Path,
    /// The archive with everything else.
    pub(super) archive: &'a Path,
    /// Whether it gives way to what else runs.
    pub(super) is_beside: bool,
    /// Where its console is written.
    pub(super) log: PathBuf,
}

impl Guest<'_> {
    /// Boots it and waits for its end.
    ///
    /// # Errors
    /// QEMU cannot be started, or its console not be written. What breaks in the guest is no error.
    pub(super) fn run(&self) -> anyhow::Result<(Console, End)> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut log = File::create(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut child = command.spawn().with_context(|| shell::cannot_start(&command))?;
        let (say, hear) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || {
                let mut reader = BufReader::new(stdout);
                let mut line = Vec::new();
                while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                    let text = String::from_utf8_lossy(&line);
                    if say.send(text.trim_end_matches(['\r', '\n']).to_owned()).is_err() {
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
                // The machine runs: it is the tests that do not come to their end.
                console.is_late(WHOLE);
                break Some(format!("not done after {WHOLE:?}"));
            }
            match hear.recv_timeout(SILENCE) {
                Ok(line) => {
                    writeln!(log, "{line}")?;
                    console.line(&line);
                }
                Err(RecvTimeoutError::Timeout) => break Some(format!("no word for {SILENCE:?}")),
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        };
        if stopped.is_some() {
            child.kill().context("cannot stop QEMU")?;
        }
        let output = child.wait_with_output()?;
        log.write_all(&output.stderr)?;
        let end = console.end(stopped.as_deref());
        // Where it ended by itself before the guest said a word, what it says is about its arguments.
        let refused = output.status.code().is_some_and(|code| code != 0);
        ensure!(
            stopped.is_some() || !refused || !console.release.is_empty(),
            "`{}` failed ({}): {}",
            shell::typed(&command),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok((console, end))
    }

    fn command(&self) -> Command {
        // Ends with this thread, however that ends.
        let mut command = shell::command("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if self.is_beside {
            command.args(["nice", "-n", "5"]);
        }
        let (program, arguments, console) = match self.arch {
            // With cx16, a guest's kernel 6.12 panicked: a fault of the emulator's.
            Arch::Amd64 => ("qemu-system-x86_64", &["-cpu", "max,-cx16"][..], "ttyS0"),
            Arch::Arm64 => (
                "qemu-system-aarch64",
                // The default way to authenticate pointers takes most of the time.
                &["-machine", "virt", "-cpu", "max,pauth-impdef=on"][..],
                "ttyAMA0",
            ),
        };
        command.arg(program).args(arguments);
        command.args(["-accel", "tcg", "-smp", "2", "-m", "1024", "-nodefaults", "-no-reboot"]);
        command.args(["-no-user-config", "-display", "none", "-serial", "stdio"]);
        command.arg("-kernel").arg(self.image).arg("-initrd").arg(self.archive);
        // What has no dot and an `=` becomes the first process's environment.
        let line = format!(
            "console={console} loglevel=3 panic=-1 random.trust_cpu=on {FASTER} SVCLB_PATIENCE={PATIENCE} \
             SVCLB_GUEST_LIMIT={}",
            BINARY.as_secs()
        );
        command.args(["-append", &line]);
        command
    }
}
