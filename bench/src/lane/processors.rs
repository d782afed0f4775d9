//! Pins the threads of lanes to processors, as the scheduler would choose another one in each lane.

use std::sync::OnceLock;

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Returns the processors that this process could use before the first of its threads was pinned.
fn all() -> &'static [usize] {
    static ALL: OnceLock<Vec<usize>> = OnceLock::new();
    ALL.get_or_init(|| {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        (0..CpuSet::count()).filter(|at| set.is_set(*at).unwrap_or_default()).collect()
    })
}

/// Returns their number.
pub(super) fn count() -> usize {
    all().len().max(1)
}

/// Returns the processor of clients.
pub(super) fn of_clients() -> usize {
    count() - 1
}

/// Pins this thread to a processor. Threads that it starts inherit that.
pub(super) fn pin(at: usize) -> anyhow::Result<()> {
    let processor = *all().get(at).context("the kernel reports no processors")?;
    let mut one = CpuSet::new();
    one.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &one)
        .with_context(|| format!("cannot pin a thread to processor {processor}"))
}
