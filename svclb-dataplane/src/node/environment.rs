//! Checks of what svclb needs of a node. Each error says what is wrong and what to do.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use caps::{CapSet, CapsHashSet};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};
use procfs::process::MountInfo;

use crate::bpf::btf::BTF;
use crate::node::cgroups::CGROUP2;
use crate::node::kernel;
use crate::node::mounts;
use crate::node::privileges;

/// The oldest kernel whose verifier and hooks this program was measured on.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Checks everything that the agent needs before it makes a map.
///
/// # Errors
/// One line for the first thing that is missing: what is wrong and what to do.
pub fn check(pins: &Path, cgroup: &Path) -> Result<()> {
    let held = caps::read(None, CapSet::Effective);
    check_rights(&held.context("cannot read capabilities")?)?;
    let (release, version) = kernel::running()?;
    check_kernel(&release)?;
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(io::Error::from);
    check_locked_memory(version, limit.context("cannot tell the limit of locked memory")?.0)?;
    check_btf(Path::new(BTF))?;
    check_cgroup(cgroup)?;
    check_bpffs(pins)
}

/// Bytes that the maps of a small cluster take, with room to grow once. A smaller limit, such as the
/// kernel's default of 64 KiB, was not set on purpose.
const LEAST_LOCKED: u64 = 64 << 20;

/// Checks a limit of locked memory, in bytes.
fn check_locked_memory((major, minor): (u32, u32), limit: u64) -> Result<()> {
    ensure!(
        (major, minor) >= kernel::MEMORY_OF_CGROUP || limit >= LEAST_LOCKED,
        "kernel {major}.{minor} counts maps as locked memory, and this process may lock {limit} bytes \
         only: start it with CAP_SYS_RESOURCE, or with a higher limit (`ulimit -l unlimited`, or \
         LimitMEMLOCK=infinity for the container runtime's service)"
    );
    Ok(())
}

fn check_rights(held: &CapsHashSet) -> Result<()> {
    let missing = privileges::missing(held);
    ensure!(
        missing.is_empty(),
        "svclb may not load and attach eBPF programs: it lacks {}; run it as root (with sudo), or give \
         its container these capabilities",
        privileges::names(&missing)
    );
    Ok(())
}

/// Checks that svclb runs on a kernel of this release.
///
/// # Errors
/// When it is too old.
pub fn check_kernel(release: &str) -> Result<()> {
    let release = release.trim();
    let (major, minor) = kernel::version(release)?;
    let (oldest_major, oldest_minor) = OLDEST_KERNEL;
    ensure!(
        (major, minor) >= OLDEST_KERNEL,
        "the kernel is {release}, too old: svclb needs {oldest_major}.{oldest_minor} or later"
    );
    Ok(())
}

/// Checks that the kernel shows its types at this path.
///
/// # Errors
/// When it has not.
pub fn check_btf(path: &Path) -> Result<()> {
    ensure!(
        path.exists(),
        "the kernel has no BTF ({} is missing): use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        path.display()
    );
    Ok(())
}

fn check_cgroup(cgroup: &Path) -> Result<()> {
    ensure!(
        cgroup.is_dir(),
        "the cgroup {} is not there: give the mount point of cgroup2, or a cgroup below it, by --cgroup",
        cgroup.display()
    );
    ensure!(
        file_system(cgroup)? == CGROUP2_SUPER_MAGIC,
        "{} is not on a cgroup2 file system: give the mount point of cgroup2, or a cgroup below it, by --cgroup",
        cgroup.display()
    );
    Ok(())
}

/// Checks that the pins are, or would be, on a bpffs.
///
/// # Errors
/// When they are not.
pub fn check_bpffs(pins: &Path) -> Result<()> {
    let existing = pins.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    ensure!(
        is_bpffs(existing)?,
        "{} is not on a bpffs: mount one (`mount -t bpf -o mode=0700 bpf /sys/fs/bpf`) or give a folder on one by --pins",
        pins.display()
    );
    Ok(())
}

/// Returns true if a path is on a bpffs.
///
/// # Errors
/// When it cannot be looked at.
pub fn is_bpffs(path: &Path) -> Result<bool> {
    Ok(file_system(path)? == BPF_FS_MAGIC)
}

fn file_system(path: &Path) -> Result<FsType> {
    let found = statfs(path).map_err(io::Error::from);
    Ok(found.with_context(|| format!("cannot look at {}", path.display()))?.filesystem_type())
}

/// The root of the mounted cgroup2, which need not be at /sys/fs/cgroup.
///
/// # Errors
/// When none is mounted.
pub fn cgroup2_root() -> Result<PathBuf> {
    first_below(mounts::of_type(CGROUP2)?, Path::new("/")).context(
        "no cgroup2 is mounted: mount one (`mount -t cgroup2 cgroup2 /sys/fs/cgroup`) or name it by --cgroup",
    )
}

/// The cgroup that `named` means: itself, or the cgroup2 mounted beneath it. One manifest can so name
/// the node's /sys/fs/cgroup, be that cgroup2 or a folder of cgroup v1 with cgroup2 under `unified`.
///
/// # Errors
/// When it cannot be looked at.
pub fn cgroup2_at(named: &Path) -> Result<PathBuf> {
    // A folder that does not exist is reported by `check`.
    let Ok(folder) = named.canonicalize() else { return Ok(named.to_owned()) };
    if file_system(&folder)? == CGROUP2_SUPER_MAGIC {
        return Ok(folder);
    }
    Ok(first_below(mounts::of_type(CGROUP2)?, &folder).unwrap_or(folder))
}

/// The mount point of the first cgroup2 in `folder`.
fn first_below(mounts: Vec<MountInfo>, folder: &Path) -> Option<PathBuf> {
    mounts.into_iter().map(|mount| mount.mount_point).find(|point| point.starts_with(folder))
}

#[cfg(test)]
mod tests {
    use caps::Capability;

    use super::*;
    use crate::node::mounts::parse;

    #[test]
    fn the_rights_that_are_missing_are_named() {
        use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
        let rows: [(&[Capability], &str); 4] = [
            (&[CAP_SYS_ADMIN], ""),
            (&[CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON], ""),
            (&[CAP_BPF, CAP_NET_ADMIN], "it lacks CAP_PERFMON;"),
            (&[], "it lacks CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON; run it as root (with sudo)"),
        ];
        for (held, expected) in rows {
            let said = check_rights(&held.iter().copied().collect());
            let said = said.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(expected) && said.is_empty() == expected.is_empty(), "{said}");
        }
    }

    #[test]
    fn old_kernels_are_refused_by_name() {
        for release in ["5.10.0-30-amd64\n", "6.1", "6.18.44-x", "7.2.0+", "10.0.1"] {
            assert!(check_kernel(release).is_ok(), "{release}");
        }
        for release in ["5.9.16", "4.19.0-27-amd64", "3.10.0-1160.el7"] {
            let error = check_kernel(release).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("the kernel is {release}, too old: svclb needs 5.10 or later")
            );
        }
        assert!(check_kernel("mainline").is_err());
    }

    #[test]
    fn before_5_11_the_limit_of_locked_memory_must_let_maps_be_made() {
        let rows = [
            ((5, 10), 64 << 10, false),
            ((5, 10), LEAST_LOCKED, true),
            ((5, 10), libc::RLIM_INFINITY, true),
            ((5, 11), 64 << 10, true),
            ((6, 1), 0, true),
        ];
        for (version, limit, expected) in rows {
            let said = check_locked_memory(version, limit);
            assert_eq!(said.is_ok(), expected, "{version:?} {limit}: {said:?}");
            let said = said.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(expected || said.contains("ulimit -l unlimited"), "{said}");
        }
    }

    #[test]
    fn cgroup2_is_found_by_its_type_wherever_it_is_mounted() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        let anywhere = |mounts| first_below(parse(mounts, CGROUP2), Path::new("/"));
        assert_eq!(anywhere(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let blank = "1 2 0:1 / /a\\040b rw - cgroup2 x rw";
        assert_eq!(anywhere(blank), Some("/a b".into()));
        assert_eq!(anywhere("1 2 0:1 / /x rw - cgroup cgroup2 rw"), None);
    }

    #[test]
    fn of_two_cgroup2_mounts_the_one_in_the_named_folder_is_taken() {
        let pod = "31 23 0:28 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n\
                   41 31 0:38 /../.. /host/cgroup/unified ro - cgroup2 cgroup2 rw\n";
        let found = |folder| first_below(parse(pod, CGROUP2), Path::new(folder));
        assert_eq!(found("/host/cgroup"), Some("/host/cgroup/unified".into()));
        assert_eq!(found("/host/cgrou"), None);
    }

    #[test]
    fn a_named_folder_without_cgroup2_stays_itself() {
        for path in ["/proc", "/no/such/cgroup"] {
            assert_eq!(cgroup2_at(Path::new(path)).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn a_kernel_without_btf_is_refused() {
        let error = check_btf(Path::new("/no/such/btf")).unwrap_err().to_string();
        assert!(error.contains("no BTF") && error.contains("CONFIG_DEBUG_INFO_BTF"), "{error}");
    }

    #[test]
    fn a_folder_that_is_no_cgroup2_and_no_bpffs_is_refused() {
        let error = check_cgroup(Path::new("/proc")).unwrap_err().to_string();
        assert!(error.contains("not on a cgroup2"), "{error}");
        let error = check_cgroup(Path::new("/no/such/cgroup")).unwrap_err().to_string();
        assert!(error.contains("not there"), "{error}");
        let error = check_bpffs(Path::new("/proc/svclb")).unwrap_err().to_string();
        assert!(error.contains("mount -t bpf -o mode=0700 bpf"), "{error}");
    }
}
