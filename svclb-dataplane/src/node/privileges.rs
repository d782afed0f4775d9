//! The few capabilities that the agent needs. It gives up the rest before it reads a file, connects to an
//! API server or starts a thread (docs/privileges.md).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use caps::{CapSet, Capability, CapsHashSet};
use libc::RLIM_INFINITY;
use nix::sys::resource::{Resource, setrlimit};

use crate::node::kernel;

/// Every capability that the agent needs, on every kernel from 5.10 on. The manifests grant these and no
/// other, and docs/privileges.md says how each was found: tests compare all three.
pub const NEEDS: [Capability; 3] = [
    // Making maps, loading programs.
    Capability::CAP_BPF,
    // Loading programs that run on a cgroup's sockets.
    Capability::CAP_NET_ADMIN,
    // Programs in which the verifier sees a pointer of the kernel.
    Capability::CAP_PERFMON,
];

/// Returns the needed capabilities that are not held. CAP_SYS_ADMIN stands for each of them, as in the kernel
/// (`bpf_capable`, `perfmon_capable` and `bpf_net_capable` of include/linux).
pub fn missing(held: &CapsHashSet) -> Vec<Capability> {
    let is_held = |it: &Capability| held.contains(it) || held.contains(&Capability::CAP_SYS_ADMIN);
    NEEDS.into_iter().filter(|capability| !is_held(capability)).collect()
}

/// Gives up for good every privilege that the agent does not need, and every way to get it back. `read` are
/// the files and folders that it has to read.
///
/// Capabilities are a thread's: this comes before the first thread, and those to come inherit it.
///
/// # Errors
/// When the kernel refuses to take privileges away.
pub fn lower<'a>(read: impl IntoIterator<Item = &'a Path>) -> Result<()> {
    if kernel::running()?.1 < kernel::MEMORY_OF_CGROUP {
        raise_locked_memory();
    }
    let permitted = caps::read(None, CapSet::Permitted).context("cannot read capabilities")?;
    let owner = fs::metadata("/proc/self").context("cannot look at /proc/self")?.uid();
    // Another user's file may be closed to all others.
    let is_of_other = |path| fs::metadata(path).is_ok_and(|data| data.uid() != owner);
    let keep = needed(&permitted, read.into_iter().any(is_of_other));
    drop_bounding(&permitted)?;
    let cannot = "cannot give up capabilities";
    caps::clear(None, CapSet::Ambient).context(cannot)?;
    caps::clear(None, CapSet::Inheritable).context(cannot)?;
    // The effective set must be a part of the permitted one, so it shrinks first.
    caps::set(None, CapSet::Effective, &keep).context(cannot)?;
    caps::set(None, CapSet::Permitted, &keep).context(cannot)?;
    nix::sys::prctl::set_no_new_privs().context("cannot set no_new_privs")?;
    tracing::debug!(keeps = names(&keep), gave_up = permitted.len() - keep.len(), "capabilities");
    Ok(())
}

/// Names in their order, with commas.
pub fn names<'a>(capabilities: impl IntoIterator<Item = &'a Capability>) -> String {
    let mut names: Vec<String> = capabilities.into_iter().map(ToString::to_string).collect();
    names.sort_unstable();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Returns the capabilities to keep of those that are permitted.
fn needed(permitted: &CapsHashSet, reads_others: bool) -> CapsHashSet {
    let mut wanted = NEEDS.to_vec();
    if wanted.iter().any(|capability| !permitted.contains(capability)) {
        // From a runtime that does not know the others by name.
        wanted.push(Capability::CAP_SYS_ADMIN);
    }
    if reads_others {
        // A user's kubeconfig, read by `sudo svclb`. It lets read, and write nothing.
        wanted.push(Capability::CAP_DAC_READ_SEARCH);
    }
    wanted.into_iter().filter(|capability| permitted.contains(capability)).collect()
}

/// Empties the bounding set, so that a program started from here (an exec credential plugin) gets
/// nothing by being root's. Where CAP_SETPCAP was not given, the set is what the runtime made of it.
fn drop_bounding(permitted: &CapsHashSet) -> Result<()> {
    if !permitted.contains(&Capability::CAP_SETPCAP) {
        return Ok(());
    }
    // It need not be in effect yet.
    let mut effective = caps::read(None, CapSet::Effective).context("cannot read capabilities")?;
    if effective.insert(Capability::CAP_SETPCAP) {
        caps::set(None, CapSet::Effective, &effective).context("cannot use CAP_SETPCAP")?;
    }
    caps::clear(None, CapSet::Bounding).context("cannot empty the bounding set")
}

/// Maps that count as locked memory do not fit its limit, whose default is 64 KiB. A process that may raise it
/// does; for another one its runtime must have.
pub(crate) fn raise_locked_memory() {
    // Refused, it changes nothing.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

#[cfg(test)]
mod as_root_tests;
#[cfg(test)]
mod tests;
