//! The benches. In every round, each measures its peers one after the other.
//!
//! * [`datapath`]: connects, datagrams, names, releases, threads, and throughput of connections.
//! * [`scale`]: connects among increasing numbers of frontends.
//! * [`memory`]: memory of the maps and of the agent, by content.
//! * [`sync`]: starts with a large cluster, with and without pins; resident memory.
//! * [`churn`]: changes among many endpoints.

pub(crate) mod churn;
pub(crate) mod datapath;
pub(crate) mod memory;
pub(crate) mod scale;
pub(crate) mod sync;

use crate::lane::programs::{Programs, Runs};

/// The extent of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Effort {
    /// Number of rounds of each bench.
    pub(crate) rounds: u32,
    /// Number of calls of each kind in one round of the datapath's benches.
    pub(crate) calls: u32,
}

/// Returns the time of a run of svclb's programs on these hooks minus that of empty programs, nanoseconds.
pub(crate) fn net(hooks: &[&str], svclb: &Programs, empty: &Programs) -> f64 {
    let each =
        |programs: &Programs| -> f64 { hooks.iter().map(|hook| programs.of(hook).each()).sum() };
    each(svclb) - each(empty)
}

/// Checks that the programs on these hooks ran in each call. The kernel once missed one of 8,000 runs, so a
/// hundredth may be missing.
pub(crate) fn check_runs(programs: &Programs, hooks: &[&str], calls: u64) -> anyhow::Result<()> {
    for hook in hooks {
        let Runs { count, .. } = programs.of(hook);
        anyhow::ensure!(
            count >= calls - calls / 100,
            "the program on {hook} ran {count} times in {calls} calls: is it attached?"
        );
    }
    Ok(())
}
