//! The mounts that this process sees.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use procfs::process::MountInfo;

/// The characters that the kernel escapes in paths (`show_mountinfo` of fs/proc_namespace.c). A backslash is
/// one of them, so it is replaced last.
const ESCAPES: [(&str, &str); 4] =
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];

/// Returns the mounts of one type.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn of_type(name: &str) -> Result<Vec<MountInfo>> {
    let path = "/proc/self/mountinfo";
    let read = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    // The path of one mount that is not text must not hide the others.
    Ok(parse(&String::from_utf8_lossy(&read), name))
}

/// Reads the mounts of one type of a mountinfo (proc_pid_mountinfo(5)), and leaves out lines that are not
/// understood.
pub(crate) fn parse(mountinfo: &str, name: &str) -> Vec<MountInfo> {
    let mounts = mountinfo.lines().filter_map(|line| MountInfo::from_line(line).ok());
    // procfs leaves paths escaped.
    let plain = |mount: MountInfo| MountInfo {
        root: unescape(&mount.root),
        mount_point: PathBuf::from(unescape(&mount.mount_point.to_string_lossy())),
        ..mount
    };
    mounts.filter(|mount| mount.fs_type == name).map(plain).collect()
}

fn unescape(path: &str) -> String {
    ESCAPES.iter().fold(path.to_owned(), |path, (escape, plain)| path.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_mounts_are_unescaped() {
        let rows = [
            (r"/a\040b", "/a b"),
            (r"/a\011b", "/a\tb"),
            (r"/a\012b", "/a\nb"),
            (r"/a\134b", r"/a\b"),
            (r"/a\040\040\134\012", "/a  \\\n"),
            // A backslash before digits is no escape.
            (r"/a\134040", r"/a\040"),
            (r"/a\134134", r"/a\134"),
        ];
        for (escaped, expected) in rows {
            let line = format!("31 23 0:28 {escaped} {escaped} rw shared:9 - bpf bpf rw,mode=700");
            let mounts = parse(&line, "bpf");
            assert_eq!((mounts.len(), &*mounts[0].root), (1, expected), "{escaped}");
            assert_eq!(mounts[0].mount_point.to_str(), Some(expected), "{escaped}");
        }
    }

    #[test]
    fn line_that_is_not_understood_does_not_hide_the_others() {
        let mounts =
            parse("rubbish\n\n1 2 0:1 / /x rw - cgroup2 none rw\n3 4 0:2 / /y rw -\n", "cgroup2");
        let points: Vec<_> = mounts.iter().map(|mount| mount.mount_point.to_str()).collect();
        assert_eq!(points, [Some("/x")]);
    }
}
