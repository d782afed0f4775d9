//! The benches. Each goes through its peers in every round, one after the other.
//!
//! * [`datapath`]: connects, datagrams, names, releases; threads; what comes after a connection.
//! * [`scale`]: connects among more and more frontends.
//! * [`memory`]: of the kernel and of the agent, by what there is.
//! * [`sync`]: a start over a large cluster, over nothing and over pins; what is resident then.
//! * [`churn`]: changes among many endpoints.

pub(crate) mod churn;
pub(crate) mod datapath;
pub(crate) mod memory;
pub(crate) mod scale;
pub(crate) mod sync;

use crate::lane::programs::{Programs, Runs};

/// How much is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Effort {
    /// Rounds of each bench.
    pub(crate) rounds: u32,
    /// Calls of a kind in one round of the datapath's benches.
    pub(crate) calls: u32,
}

/// What the programs on these hooks take in a run, beyond those that do nothing, nanoseconds.
pub(crate) fn net(hooks: &[&str], ours: &Programs, empty: &Programs) -> f64 {
    let each =
        |programs: &Programs| -> f64 { hooks.iter().map(|hook| programs.of(hook).each()).sum() };
    each(ours) - each(empty)
}

/// Whether the programs on these hooks ran as often as they were called. Once, one in 8,000 runs was not
/// counted, so a hundredth may be missing.
pub(crate) fn ran(programs: &Programs, hooks: &[&str], calls: u64) -> anyhow::Result<()> {
    for hook in hooks {
        let Runs { count, .. } = programs.of(hook);
        anyhow::ensure!(
            count >= calls - calls / 100,
            "the program on {hook} ran {count} times in {calls} calls: is it attached?"
        );
    }
    Ok(())
}
