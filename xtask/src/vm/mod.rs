//! `cargo xtask vm` runs the tests of the datapath on other kernels and on another architecture, in QEMU
//! guests. See docs/kernels.md.

mod console;
mod initramfs;
pub(crate) mod kernel;
mod programs;
mod qemu;
pub(crate) mod record;

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::counts::Counts;
use crate::program::{self, Arch};
use crate::{setup, shell};
use console::{Console, End};
use kernel::{Kernel, Series};
use programs::Programs;
use qemu::Guest;

/// Prefixes of the test binaries that do not run in guests, with the reason.
const LEFT_OUT: &[(&str, &str)] = &[
    ("cluster", "starts a real cluster, whose programs need a larger machine"),
    ("control_plane", "the same"),
    ("kube", "the same"),
    ("manifests", "the same"),
    ("chart", "the same"),
    ("plugin", "the same"),
    ("kubectl_svclb", "about objects of a cluster"),
    ("usage", "of kubectl-svclb: about its command line"),
    ("oracle", "the same, and compares decisions that do not depend on the kernel"),
    ("scale", "load: 10,000 Services in an emulator show nothing of a kernel"),
    ("image", "about a file, not a kernel"),
    ("package", "installs a package of this machine's distribution"),
    ("dry_run", "about sources and output, where no map is"),
    ("plan", "about sources and output"),
    ("trace", "the same"),
    ("output", "the same"),
    ("observe", "about pages over HTTP"),
    ("rbac", "the same"),
    ("sockets_of_processes", "about /proc and socket diagnostics, and load: 100,000 sockets"),
    ("top", "about a terminal"),
    ("commands", "of svclb-agent: about the command line, not a kernel"),
    ("svclb_tests", "the harness's own tests"),
    ("svclb_common", "depends on the architecture, not on the kernel"),
    ("budget", "compares figures of the agent and of this machine's kernel with budgets"),
    ("soak", "load for minutes"),
    ("growth", "load: 100,000 frontends"),
    ("kills", "500 kills under load"),
    ("faults", "about the agent's handling of failed system calls"),
];
/// The binaries that run in the guests of `cargo xtask test`.
const QUICK: [&str; 8] =
    ["affinity", "names", "node_ports", "origins", "own_peer", "refusal", "tcp", "udp"];
/// Single tests that do not run in guests, with the reason.
const SKIPPED: [(&str, &str); 7] = [
    ("a_hundred_thousand_connections_spread_evenly", "load"),
    ("two_hundred_thousand_sockets_leave_no_origin", "load"),
    ("programs_are_replaced_100_times_under_load", "load"),
    ("kube::", "of svclb-sources: about a protocol, not a kernel"),
    (
        "every_map_type_lies_in_the_kernel",
        "of svclb-dataplane: about the object's file, not a kernel",
    ),
    ("golden", "compares files of the repository, which guests lack"),
    ("histories", "of svclb-common: thousands of random histories, minutes in an emulator"),
];
/// The binaries that run in guests of another architecture, which are the slowest.
const FOREIGN: [&str; 4] = ["names", "refusal", "svclb_common", "tcp"];
/// Parts of the names of their tests that run in the guests of `cargo xtask test`.
const FOREIGN_QUICK: [&str; 4] =
    ["layout", "a_cluster_ip_reaches_each", "every_way_of_connecting", "a_refused_socket"];
/// Number of boots of a guest in which the kernel or the emulator fails.
const BOOTS: usize = 2;

/// A set of test binaries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Set {
    Quick,
    All,
}

impl Set {
    fn has(self, arch: Arch, name: &str) -> bool {
        let is_left_out = LEFT_OUT.iter().any(|(start, _)| name.starts_with(start));
        match self {
            _ if arch.is_foreign() => FOREIGN.contains(&name),
            Self::Quick => QUICK.contains(&name),
            Self::All => !is_left_out,
        }
    }
}

/// A guest that is ready to boot.
struct Ready {
    series: &'static Series,
    kernel: Kernel,
    archive: PathBuf,
    log: PathBuf,
}

/// The results of a guest.
#[derive(Debug)]
pub(crate) struct Report {
    /// The series.
    series: &'static Series,
    /// Version of the kernel's package.
    version: String,
    /// Content of its console in the last boot.
    console: Console,
    /// The reason of each boot that broke.
    broken: Vec<String>,
    /// Tests that had failed in boots that broke.
    failures: Vec<String>,
    /// True if the last boot ran all tests.
    is_whole: bool,
    seconds: String,
    log: PathBuf,
}

/// Runs the tests whose name contains `filter` on these kernels (all, if none is given). With `update`,
/// fetches newer packages first. Without a filter, records the kernels on which all tests passed.
///
/// # Errors
/// A test fails, a guest breaks twice, or the machine lacks something: the error has advice.
pub(crate) fn run(
    kernels: &[&'static Series],
    filter: Option<&str>,
    update: bool,
) -> anyhow::Result<()> {
    let all: Vec<&'static Series> = kernel::ALL.iter().collect();
    let kernels = if kernels.is_empty() { &all } else { kernels };
    let ready = prepare(kernels, Set::All, filter, update)?;
    let reports = boot(ready, 2, false)?;
    let total = show(&reports);
    shell::print(&total.to_string());
    if filter.is_none() {
        record::write(&reports)?;
    }
    if total.failed > 0 {
        bail!("{} failed, see above", total.failed);
    }
    if total.passed == 0 {
        bail!("no test's name contains {:?}", filter.unwrap_or_default());
    }
    Ok(())
}

/// Guests that run in the background.
pub(crate) struct Background(JoinHandle<anyhow::Result<Vec<Report>>>);

/// Starts the quick tests in a guest of each kernel, one guest at a time, in the background.
///
/// # Errors
/// Something cannot be built or fetched.
pub(crate) fn start() -> anyhow::Result<Background> {
    let kernels: Vec<&'static Series> = kernel::ALL.iter().collect();
    let ready = prepare(&kernels, Set::Quick, None, false)?;
    Ok(Background(thread::spawn(move || boot(ready, 1, true))))
}

impl Background {
    /// Waits for the guests, shows their results, and compares them with the record.
    ///
    /// # Errors
    /// A guest cannot be started.
    pub(crate) fn finish(self) -> anyhow::Result<Counts> {
        shell::log("guests with other kernels");
        let reports =
            self.0.join().map_err(|_| anyhow::anyhow!("the guests' thread panicked"))??;
        let mut total = show(&reports);
        if total.failed == 0
            && let Err(error) = record::compare(&reports)
        {
            eprintln!("{error:#}");
            total.failed += 1;
        }
        Ok(total)
    }
}

fn prepare(
    kernels: &[&'static Series],
    set: Set,
    filter: Option<&str>,
    update: bool,
) -> anyhow::Result<Vec<Ready>> {
    setup::ensure(setup::Need::Vm)?;
    let is_needed = |arch: &Arch| kernels.iter().any(|series| series.arch == *arch);
    program::ensure_tools(&Arch::ALL.into_iter().filter(is_needed).collect::<Vec<_>>())?;
    let folder = program::target_directory()?.join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut ready = Vec::new();
    for arch in Arch::ALL {
        let kernels: Vec<_> = kernels.iter().filter(|series| series.arch == arch).collect();
        if kernels.is_empty() {
            continue;
        }
        let mut arguments: Vec<&str> = filter.into_iter().collect();
        if set == Set::Quick && arch.is_foreign() {
            arguments.extend(FOREIGN_QUICK);
        }
        arguments.extend(SKIPPED.iter().flat_map(|(test, _)| ["--skip", test]));
        let programs = Programs::build(arch, |name| set.has(arch, name))?;
        for series in kernels {
            let kernel = kernel::find(series, update)?;
            let file = |end: &str| folder.join(format!("{}.{end}", series.name));
            let (archive, log) = (file("cpio"), file("log"));
            programs.pack(&kernel, &arguments, &archive)?;
            ready.push(Ready { series, kernel, archive, log });
        }
    }
    Ok(ready)
}

/// Boots all guests, `at_a_time` of them at once.
fn boot(ready: Vec<Ready>, at_a_time: usize, is_background: bool) -> anyhow::Result<Vec<Report>> {
    let places: Vec<&str> = kernel::ALL.iter().map(|series| series.name).collect();
    let queue = Mutex::new(VecDeque::from(ready));
    let next = || queue.lock().ok()?.pop_front();
    let mut reports = thread::scope(|scope| {
        let work = || {
            let mut reports = Vec::new();
            while let Some(ready) = next() {
                reports.push(ready.run(is_background)?);
            }
            Ok::<_, anyhow::Error>(reports)
        };
        let threads: Vec<_> = (0..at_a_time).map(|_| scope.spawn(work)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| anyhow::anyhow!("a guest's thread panicked"))??);
        }
        Ok::<_, anyhow::Error>(all)
    })?;
    reports.sort_by_key(|report| places.iter().position(|name| *name == report.series.name));
    Ok(reports)
}

impl Ready {
    fn run(self, is_background: bool) -> anyhow::Result<Report> {
        let start = Instant::now();
        let version = self.kernel.version()?;
        let image = self.kernel.image();
        let (mut broken, mut failures) = (Vec::new(), Vec::new());
        loop {
            let (arch, archive, log) = (self.series.arch, &self.archive, self.log.clone());
            let (mut console, end) =
                Guest { arch, image: &image, archive, is_background, log }.run()?;
            let is_whole = end == End::Whole;
            if let End::Broken(why) = end {
                keep(&self.log, broken.len());
                broken.push(why);
                failures.append(&mut console.failures);
            }
            if is_whole || broken.len() == BOOTS {
                // It is large, and quickly written again.
                let _ = fs::remove_file(&self.archive);
                let report = Report {
                    series: self.series,
                    version,
                    console,
                    broken,
                    failures,
                    is_whole,
                    seconds: shell::seconds(start),
                    log: self.log,
                };
                shell::log(&report.line());
                return Ok(report);
            }
        }
    }
}

/// Keeps the console of a boot that broke, as the next boot overwrites it.
fn keep(log: &Path, number: usize) {
    // It is only for people to read.
    let _ = fs::copy(log, log.with_extension(format!("broken-{number}.log")));
}

impl Report {
    fn counts(&self) -> Counts {
        // Failures in boots that broke count too.
        let earlier = self.failures.len() as u64;
        let mut counts = self.console.counts;
        if !self.is_whole {
            // Failures of the last boot are already in `failures`.
            counts.failed = 1;
        }
        counts.failed += earlier;
        counts
    }

    fn line(&self) -> String {
        let retried = match self.broken.len() {
            0 => String::new(),
            times => format!(", the machine broke {times} times"),
        };
        format!(
            "kernel {} ({}): {}{retried}, {}",
            self.series.name,
            self.version,
            self.counts(),
            self.seconds
        )
    }
}

/// Shows the results of guests, and adds them up.
fn show(reports: &[Report]) -> Counts {
    let mut total = Counts::default();
    for report in reports {
        total.add(report.counts());
        shell::print(&report.line());
        for why in &report.broken {
            shell::print(&format!("  a boot broke: {why}"));
        }
        for failure in report.failures.iter().chain(&report.console.failures) {
            shell::print(&format!("  failed: {failure}"));
        }
        if report.counts().failed > 0 {
            shell::print(&format!("  its console: {}", report.log.display()));
        }
    }
    let broken: usize = reports.iter().map(|report| report.broken.len()).sum();
    if broken > 0 {
        shell::print(&format!(
            "{broken} boots broke: the emulator or the kernel failed, not a test"
        ));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_and_clusters_stay_out_of_guests() {
        let host = Arch::host().unwrap();
        let rows = [
            ("tcp", true, true),
            ("churn", true, false),
            ("kube", false, false),
            ("oracle", false, false),
        ];
        for (name, all, quick) in rows {
            assert_eq!(Set::All.has(host, name), all, "{name}");
            assert_eq!(Set::Quick.has(host, name), quick, "{name}");
        }
    }
}
