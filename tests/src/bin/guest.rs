//! The first process of a guest of `cargo xtask vm`: furnishes the machine, runs each test binary of
//! `/tests` with a time limit, says on the console what came of it, and switches the machine off.
//!
//! What it says begins with `svclb-guest: `, as xtask/src/vm/console.rs reads it; everything else on
//! the console is the tests' or the kernel's.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "what fails here ends the guest, with its reason on the console"
)]

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::wait;
use nix::unistd::Pid;
use svclb_tests::{Feature, loopback_up};

/// Where xtask puts things, see xtask/src/vm/initramfs.rs.
const MODULES: &str = "/modules";
const TESTS: &str = "/tests";
const ARGUMENTS: &str = "/arguments";
const PROGRAM: &str = "/svclb";
/// How many seconds a test binary may take, in the environment (by the kernel's command line).
const LIMIT: &str = "SVCLB_GUEST_LIMIT";

const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
];

fn main() {
    if std::process::id() == 1 {
        first();
    }
    assert!(
        std::env::args().nth(1).as_deref() == Some("run"),
        "this is the first process of a guest of `cargo xtask vm`, and nothing else"
    );
    run();
}

/// The first process: collects the dead, so that nobody takes them for living, until the second ends.
fn first() -> ! {
    for (kind, target) in MOUNTS {
        fs::create_dir_all(target).unwrap();
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
            .unwrap_or_else(|error| panic!("cannot mount {kind} on {target}: {error}"));
    }
    #[expect(clippy::zombie_processes, reason = "the loop below waits for whoever ends")]
    let second = Command::new("/proc/self/exe").arg("run").spawn().unwrap();
    let second = Pid::from_raw(i32::try_from(second.id()).unwrap());
    while wait().unwrap().pid() != Some(second) {}
    off()
}

fn off() -> ! {
    io::stdout().flush().unwrap();
    let Err(error): Result<Infallible, _> = reboot(RebootMode::RB_POWER_OFF);
    panic!("cannot switch the machine off: {error}");
}

fn run() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    say(&format!("kernel {}", release.trim()));
    loopback_up().unwrap();
    for module in sorted(MODULES) {
        let file = File::open(&module).unwrap();
        finit_module(file.as_fd(), c"", ModuleInitFlags::empty())
            .unwrap_or_else(|error| panic!("cannot load {}: {error}", module.display()));
    }
    for feature in Feature::ALL {
        let answer = if feature.is_there() { "yes" } else { "no" };
        say(&format!("feature {} {answer}", feature.name()));
    }
    let limit = std::env::var(LIMIT).ok().and_then(|limit| limit.parse().ok());
    let limit = Duration::from_secs(limit.expect("a number of seconds"));
    let arguments = fs::read_to_string(ARGUMENTS).unwrap();
    for test in sorted(TESTS) {
        let name = test.file_name().unwrap().to_string_lossy();
        say(&format!("begin {name}"));
        let mut command = Command::new(&test);
        command.args(arguments.lines()).env("SVCLB_BIN", PROGRAM).env("TMPDIR", "/tmp");
        let start = Instant::now();
        let how = match bounded(command, limit) {
            Some(status) if status.success() => "well".to_owned(),
            Some(status) => format!("badly: {status}"),
            None => format!("badly: stopped after {limit:?}"),
        };
        say(&format!("end {name} {} {how}", start.elapsed().as_secs()));
    }
    say("done");
}

/// Runs a command to its end, or kills it and all that it started: then there is no status.
fn bounded(mut command: Command, limit: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    let mut child = command.process_group(0).spawn().unwrap();
    while start.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(50));
    }
    let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
    killpg(group, Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    None
}

fn say(what: &str) {
    println!("svclb-guest: {what}");
}

/// What a folder holds, by name.
fn sorted(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
