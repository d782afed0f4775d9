//! Network namespaces, by which clients are known.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use svclb_common::cookie::NetnsCookie;

use crate::bpf::sys;

/// Returns the cookie of this process's network namespace; 0 on kernels before 5.14, which have none.
///
/// # Errors
/// When no socket can be made.
pub fn own_cookie() -> Result<NetnsCookie> {
    sys::netns_cookie().context("cannot read the cookie of this network namespace")
}

/// Returns the cookie of a process's network namespace. Another one than this process's is entered for it, by a
/// thread that ends.
///
/// # Errors
/// When there is no such process, or its network namespace may not be entered (CAP_SYS_ADMIN).
pub fn cookie_of(pid: i32) -> Result<NetnsCookie> {
    let path = format!("/proc/{pid}/ns/net");
    let opened = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    if opened.metadata()?.ino() == fs::metadata("/proc/self/ns/net")?.ino() {
        return own_cookie();
    }
    let inside = thread::spawn(move || {
        setns(opened, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter {path}, which takes CAP_SYS_ADMIN"))?;
        own_cookie()
    });
    inside.join().map_err(|_| anyhow!("the thread in the network namespace died"))?
}
