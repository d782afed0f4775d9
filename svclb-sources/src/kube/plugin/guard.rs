//! The process between the agent and an exec plugin: `svclb guard-plugin`, which the agent starts from its
//! own program. It runs the plugin, and ends only when no process that the plugin started is left, however
//! deep and in whichever session: the kernel makes orphans among them children of this process
//! (`PR_SET_CHILD_SUBREAPER`), so none can leave its tree. It ends them all when the plugin ends, when it
//! receives a signal, and when the agent dies, also by SIGKILL (`PR_SET_PDEATHSIG`).
//!
//! It knows nothing of deadlines, output and credentials; that is the agent's part.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};

/// The subcommand, hidden.
pub const NAME: &str = "guard-plugin";
/// The exit code where the plugin cannot be started, as shells have it.
pub(super) const CANNOT_START: u8 = 127;
/// Added to the number of the signal that ended the plugin, as shells do.
const BY_SIGNAL: u8 = 128;
/// The pause between two searches for killed processes that have not ended.
const PAUSE: Duration = Duration::from_millis(5);
/// Signals that end the plugin. The first one comes when the agent dies.
const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// The arguments of the subcommand.
#[derive(Debug, Args)]
pub struct GuardArgs {
    /// Process id of the agent
    agent: i32,
    /// The plugin and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    plugin: Vec<OsString>,
}

/// Runs a plugin to its end and returns its exit code, or 128 and the number of the signal that ended it.
///
/// # Errors
/// When the kernel refuses to guard the plugin, which then does not run.
pub fn run(args: &GuardArgs) -> Result<ExitCode> {
    prctl::set_child_subreaper(true).context("cannot become the parent of orphans")?;
    // Waited for below. A plugin starts with no signal blocked: the standard library sees to that.
    let mut signals = SigSet::from_iter(ENDING);
    signals.add(Signal::SIGCHLD);
    signals.thread_block().context("cannot block signals")?;
    prctl::set_pdeathsig(Signal::SIGTERM)
        .context("cannot ask for a signal at the agent's death")?;
    ensure!(getppid().as_raw() == args.agent, "the agent that started this is gone");

    let Some((program, arguments)) = args.plugin.split_first() else {
        return Ok(ExitCode::FAILURE);
    };
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: one system call between fork and exec, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?)) };
    let plugin = match command.spawn() {
        Ok(plugin) => Pid::from_raw(plugin.id().cast_signed()),
        Err(error) => {
            eprintln!("cannot start {}: {error}", program.display());
            return Ok(ExitCode::from(CANNOT_START));
        }
    };
    let code = wait_for(plugin, &signals)?;
    end_children();
    Ok(ExitCode::from(code))
}

/// Waits until the plugin ends, or a signal that ends it.
fn wait_for(plugin: Pid, signals: &SigSet) -> Result<u8> {
    loop {
        let signal = signals.wait().context("cannot wait for signals")?;
        if signal != Signal::SIGCHLD {
            return Ok(by_signal(signal));
        }
        // One signal may stand for several children, and orphans are children, too.
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            match status {
                WaitStatus::StillAlive => break,
                WaitStatus::Exited(child, code) if child == plugin => {
                    return Ok(u8::try_from(code).unwrap_or(u8::MAX));
                }
                WaitStatus::Signaled(child, signal, _) if child == plugin => {
                    return Ok(by_signal(signal));
                }
                _ => {}
            }
        }
    }
}

fn by_signal(signal: Signal) -> u8 {
    // Signals have numbers up to 64.
    u8::try_from(signal as i32).map_or(u8::MAX, |number| BY_SIGNAL.saturating_add(number))
}

/// Ends every process below this one. When one ends, the kernel makes its children those of this process
/// before it can be waited for, so the next search finds them.
fn end_children() {
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
        }
        // A child's process id stays its own until it is waited for, which happens here only.
        for child in children() {
            let _ = kill(child, Signal::SIGKILL);
        }
        thread::sleep(PAUSE);
    }
}

/// Returns the children of this process, zombies among them.
fn children() -> Vec<Pid> {
    let own = nix::unistd::getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    processes.map(Pid::from_raw).filter(|process| parent(*process) == Some(own)).collect()
}

/// Returns the parent of a process (proc_pid_stat(5): the fourth field; the second is a name in parentheses,
/// which may hold any byte).
fn parent(process: Pid) -> Option<Pid> {
    let stat = fs::read(format!("/proc/{process}/stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}
