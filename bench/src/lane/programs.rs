//! Reads the run times of the programs on a cgroup from the kernel, and attaches empty programs for comparison.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;
use aya::programs::{ProgramInfo, loaded_programs};
use std::os::fd::OwnedFd;

use svclb_dataplane::bpf::inspect::{self, Whose};
use svclb_dataplane::hooks::HOOKS;
use svclb_tests::ThirdPartyProgram;

/// Makes the kernel count run times, on the whole machine, until the descriptor is closed.
pub(crate) fn count() -> anyhow::Result<OwnedFd> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime)
        .context("the kernel does not count run times (bpf(2), BPF_ENABLE_STATS)")
}

/// Runs of the programs on a hook.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Runs {
    /// Number of runs.
    pub(crate) count: u64,
    /// Duration of all runs.
    pub(crate) nanoseconds: u64,
}

impl Runs {
    /// Returns the mean duration of a run, nanoseconds.
    pub(crate) fn each(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let each = self.nanoseconds as f64 / self.count.max(1) as f64;
        each
    }
}

/// Runs of the programs on a cgroup, by hook.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Programs(BTreeMap<&'static str, Runs>);

impl Programs {
    /// Reads the runs so far.
    ///
    /// # Errors
    /// A program cannot be queried.
    pub(crate) fn read(cgroup: &Path) -> anyhow::Result<Self> {
        let programs = loaded_programs().filter_map(Result::ok);
        let loaded: BTreeMap<u32, ProgramInfo> = programs.map(|it| (it.id(), it)).collect();
        let mut all = BTreeMap::new();
        for hook in &HOOKS {
            let runs: &mut Runs = all.entry(hook.name).or_default();
            for id in inspect::programs(cgroup, hook, Whose::Own)? {
                let program = loaded.get(&id).context("a program of the hooks is gone")?;
                runs.count += program.run_count();
                runs.nanoseconds += u64::try_from(program.run_time().as_nanos())?;
            }
        }
        Ok(Self(all))
    }

    /// Returns the runs since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let taken = self.0.iter().map(|(hook, runs)| {
            let before = before.of(hook);
            let count = runs.count - before.count;
            (*hook, Runs { count, nanoseconds: runs.nanoseconds - before.nanoseconds })
        });
        Self(taken.collect())
    }

    /// Returns the runs on one hook.
    pub(crate) fn of(&self, hook: &str) -> Runs {
        self.0.get(hook).copied().unwrap_or_default()
    }
}

/// Empty programs, one on each hook.
#[derive(Debug)]
pub(crate) struct Empty(
    #[expect(dead_code, reason = "they are detached when it is dropped")] Vec<ThirdPartyProgram>,
);

impl Empty {
    /// Attaches them.
    ///
    /// # Errors
    /// The kernel rejects one.
    pub(crate) fn attach(cgroup: &Path) -> anyhow::Result<Self> {
        let all = HOOKS.iter().map(|hook| {
            let kind = match hook.name {
                "sock_release" => svclb_tests::ProgramKind::Socket,
                _ => svclb_tests::ProgramKind::Address,
            };
            ThirdPartyProgram::attach_to(cgroup, kind, hook.number, false)
        });
        Ok(Self(all.collect()))
    }
}
