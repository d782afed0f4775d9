//! Which processor a thread of a lane stays on: left to the scheduler, it would be another in each lane.

use std::sync::OnceLock;

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Those that this process may use, as it was before any of its threads stayed on one.
fn all() -> &'static [usize] {
    static ALL: OnceLock<Vec<usize>> = OnceLock::new();
    ALL.get_or_init(|| {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        (0..CpuSet::count()).filter(|at| set.is_set(*at).unwrap_or_default()).collect()
    })
}

/// How many there are.
pub(super) fn count() -> usize {
    all().len().max(1)
}

/// The one that clients are on.
pub(super) fn of_clients() -> usize {
    count() - 1
}

/// Puts this thread on one; threads that it starts are there too.
pub(super) fn stay(at: usize) -> anyhow::Result<()> {
    let processor = *all().get(at).context("the kernel does not say which processors there are")?;
    let mut one = CpuSet::new();
    one.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &one)
        .with_context(|| format!("cannot stay on processor {processor}"))
}
