//! The first process of a guest of `cargo xtask vm`: it mounts file systems and loads modules, runs each
//! test binary of `/tests` with a time limit, reports the results on the console, and powers the machine
//! off.
//!
//! Its lines begin with `svclb-guest: `, which xtask/src/vm/console.rs reads; everything else on the
//! console comes from the tests or the kernel.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failure here ends the guest, with its reason on the console"
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

/// Paths at which xtask/src/vm/initramfs.rs puts things.
const MODULES: &str = "/modules";
const TESTS: &str = "/tests";
const ARGUMENTS: &str = "/arguments";
const PROGRAM: &str = "/svclb";
/// Environment variable, set by the kernel's command line, with the limit of a test binary in seconds.
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
        run_init();
    }
    assert!(
        std::env::args().nth(1).as_deref() == Some("run"),
        "this is the first process of a guest of `cargo xtask vm`, and has no other use"
    );
    run();
}

/// The init process: mounts file systems, starts the second process and reaps children until that one
/// exits. Unreaped children would look like running processes to the tests.
fn run_init() -> ! {
    for (kind, target) in MOUNTS {
        fs::create_dir_all(target).unwrap();
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
            .unwrap_or_else(|error| panic!("cannot mount {kind} on {target}: {error}"));
    }
    #[expect(clippy::zombie_processes, reason = "the loop below reaps every child")]
    let second = Command::new("/proc/self/exe").arg("run").spawn().unwrap();
    let second = Pid::from_raw(i32::try_from(second.id()).unwrap());
    while wait().unwrap().pid() != Some(second) {}
    power_off()
}

fn power_off() -> ! {
    io::stdout().flush().unwrap();
    let Err(error): Result<Infallible, _> = reboot(RebootMode::RB_POWER_OFF);
    panic!("cannot switch the machine off: {error}");
}

fn run() {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    report(&format!("kernel {}", release.trim()));
    loopback_up().unwrap();
    for module in sorted(MODULES) {
        let file = File::open(&module).unwrap();
        finit_module(file.as_fd(), c"", ModuleInitFlags::empty())
            .unwrap_or_else(|error| panic!("cannot load {}: {error}", module.display()));
    }
    for feature in Feature::ALL {
        let answer = if feature.is_supported() { "yes" } else { "no" };
        report(&format!("feature {} {answer}", feature.name()));
    }
    let limit = std::env::var(LIMIT).ok().and_then(|limit| limit.parse().ok());
    let limit = Duration::from_secs(limit.expect("a number of seconds"));
    let arguments = fs::read_to_string(ARGUMENTS).unwrap();
    for test in sorted(TESTS) {
        let name = test.file_name().unwrap().to_string_lossy();
        report(&format!("begin {name}"));
        let mut command = Command::new(&test);
        command.args(arguments.lines()).env("SVCLB_BIN", PROGRAM).env("TMPDIR", "/tmp");
        let start = Instant::now();
        let how = match bounded(command, limit) {
            Some(status) if status.success() => "well".to_owned(),
            Some(status) => format!("badly: {status}"),
            None => format!("badly: stopped after {limit:?}"),
        };
        report(&format!("end {name} {} {how}", start.elapsed().as_secs()));
    }
    report("done");
}

/// Runs a command to its end. After `limit` it kills the command and its process group, and returns no
/// status.
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

fn report(what: &str) {
    println!("svclb-guest: {what}");
}

/// The paths in a folder, sorted.
fn sorted(folder: impl AsRef<Path>) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
