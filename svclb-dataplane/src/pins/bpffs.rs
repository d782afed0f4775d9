//! Mounts a bpffs on nodes whose system has not done it.

use std::io;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::mount::MsFlags;

use crate::node::environment;

/// Mounts a bpffs at an existing folder unless it is on one. Returns true if it mounted one.
///
/// # Errors
/// When the folder is not there, or the kernel refuses.
pub fn mount(folder: &Path) -> Result<bool> {
    if environment::is_bpffs(folder)? {
        return Ok(false);
    }
    // As systemd mounts it.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("bpf"), folder, Some("bpf"), flags, Some("mode=0700"))
        .map_err(io::Error::from)
        .with_context(|| {
            format!("cannot mount a bpffs at {}: CAP_SYS_ADMIN is needed", folder.display())
        })?;
    Ok(true)
}

/// Mounts one that only this thread sees, and goes with it.
#[cfg(test)]
pub(crate) fn mount_apart(folder: &Path) -> Result<()> {
    use nix::sched::{CloneFlags, unshare};

    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    nix::mount::mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(folder).map(drop)
}
