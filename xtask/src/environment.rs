//! Checks that the machine can run the kernel tests. Each problem is one line with advice.

use std::path::Path;

/// Oldest kernel on which the datapath loads.
const OLDEST_KERNEL: (u32, u32) = (5, 10);
/// Capabilities that the kernel tests use, by number (include/uapi/linux/capability.h).
const CAPABILITIES: [(u32, &str); 3] =
    [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (39, "CAP_BPF")];

/// Files of /proc and /sys that describe a machine.
struct Machine<'a> {
    /// `/proc/sys/kernel/osrelease`.
    release: &'a str,
    /// True if the kernel has `/sys/kernel/btf/vmlinux`.
    has_btf: bool,
    /// `/proc/filesystems`.
    filesystems: &'a str,
    /// `/proc/self/mountinfo`.
    mounts: &'a str,
    /// `/proc/self/status`.
    status: &'a str,
}

/// Checks this machine.
///
/// # Errors
/// One line for each problem.
pub(crate) fn check() -> anyhow::Result<()> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let lacks = lacks(&Machine {
        release: read("/proc/sys/kernel/osrelease").trim(),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        filesystems: &read("/proc/filesystems"),
        mounts: &read("/proc/self/mountinfo"),
        status: &read("/proc/self/status"),
    });
    anyhow::ensure!(
        lacks.is_empty(),
        "the kernel tests cannot run here:\n  {}",
        lacks.join("\n  ")
    );
    Ok(())
}

fn lacks(machine: &Machine<'_>) -> Vec<String> {
    let mut lacks = Vec::new();
    let (major, minor) = OLDEST_KERNEL;
    if kernel(machine.release).is_none_or(|version| version < OLDEST_KERNEL) {
        lacks.push(format!(
            "kernel {:?} is older than {major}.{minor}: boot a newer one",
            machine.release
        ));
    }
    if !machine.has_btf {
        lacks.push(
            "no /sys/kernel/btf/vmlinux: boot a kernel with CONFIG_DEBUG_INFO_BTF=y, or mount \
             sysfs (mount -t sysfs sysfs /sys)"
                .to_owned(),
        );
    }
    if !machine.filesystems.lines().any(|line| line.trim_start_matches("nodev").trim() == "bpf") {
        lacks.push("no bpf file system: boot a kernel with CONFIG_BPF_SYSCALL=y".to_owned());
    }
    match cgroup2(machine.mounts) {
        None => lacks.push(
            "no cgroup2 is mounted: mkdir -p /mnt/cgroup2 && mount -t cgroup2 none \
             /mnt/cgroup2"
                .to_owned(),
        ),
        Some((path, false)) => {
            lacks.push(format!("cgroup2 at {path} is read-only: mount -o remount,rw {path}"));
        }
        Some((_, true)) => {}
    }
    // sudo does not enlarge the bounding set of this process.
    let bounding =
        field(machine.status, "CapBnd").and_then(|set| u64::from_str_radix(set, 16).ok());
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(number, _)| bounding.is_some_and(|set| set >> number & 1 == 0))
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        lacks.push(format!(
            "even root lacks {} here: run in a more privileged container, or outside of one",
            missing.join(", ")
        ));
    }
    lacks
}

/// Returns the first two numbers of a kernel's release.
fn kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Returns the mount point of a cgroup2 and whether it is writable. Prefers a writable mount.
pub(crate) fn cgroup2(mounts: &str) -> Option<(&str, bool)> {
    let found = mounts.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        if filesystem.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(4);
        let path = fields.next()?;
        Some((path, fields.next()?.split(',').any(|option| option == "rw")))
    });
    found.max_by_key(|(_, is_writable)| *is_writable)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Machine<'static> = Machine {
        release: "6.1.0-50-cloud-amd64",
        has_btf: true,
        filesystems: "nodev\tsysfs\nnodev\tbpf\n\text4\n",
        mounts: "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
        status: "Name:\tx\nCapBnd:\t000001ffffffffff\n",
    };
    const READ_ONLY: &str = "41 31 0:38 / /sys/fs/cgroup ro,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_good_machine_lacks_nothing() {
        assert_eq!(lacks(&GOOD), Vec::<String>::new());
    }

    #[test]
    fn each_lack_is_one_line_that_says_what_to_do() {
        let rows = [
            ("old kernel", Machine { release: "5.4.0-1", ..GOOD }, "boot a newer one"),
            ("strange kernel", Machine { release: "linux", ..GOOD }, "boot a newer one"),
            ("no BTF", Machine { has_btf: false, ..GOOD }, "CONFIG_DEBUG_INFO_BTF"),
            ("no bpffs", Machine { filesystems: "nodev\tbpf2\n", ..GOOD }, "CONFIG_BPF_SYSCALL"),
            ("no cgroup2", Machine { mounts: "1 1 0:1 / / rw - ext4 x rw\n", ..GOOD }, "mount -t"),
            ("read-only", Machine { mounts: READ_ONLY, ..GOOD }, "remount,rw /sys/fs/cgroup"),
            (
                "few rights",
                Machine { status: "CapBnd:\t0000000000201000\n", ..GOOD },
                "CAP_BPF here",
            ),
        ];
        for (row, machine, expected) in rows {
            let lacks = lacks(&machine);
            assert_eq!(lacks.len(), 1, "{row}: {lacks:?}");
            assert!(lacks[0].contains(expected), "{row}: {lacks:?}");
            assert!(!lacks[0].contains('\n'), "{row}");
        }
    }

    #[test]
    fn a_writable_cgroup2_is_preferred() {
        let both = format!("{READ_ONLY}{}", GOOD.mounts);
        assert_eq!(cgroup2(&both), Some(("/sys/fs/cgroup/unified", true)));
    }
}
