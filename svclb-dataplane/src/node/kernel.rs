//! The version of the running kernel.

use std::fs;

use anyhow::{Context as _, Result, bail};

/// From this kernel on maps count as their maker's memory cgroup's, and not as locked memory.
pub const MEMORY_OF_CGROUP: (u32, u32) = (5, 11);

/// The running kernel's release, and its first two numbers.
///
/// # Errors
/// When /proc cannot be read.
pub fn running() -> Result<(String, (u32, u32))> {
    let path = "/proc/sys/kernel/osrelease";
    let release = fs::read_to_string(path)
        .with_context(|| format!("cannot read {path}: is /proc mounted?"))?;
    let release = release.trim().to_owned();
    let version = version(&release)?;
    Ok((release, version))
}

/// The first two numbers of a release.
///
/// # Errors
/// When it does not begin with them.
pub fn version(release: &str) -> Result<(u32, u32)> {
    let mut numbers = release.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        bail!("cannot tell the kernel's version from {release:?}: expected MAJOR.MINOR");
    };
    Ok((major, minor))
}
