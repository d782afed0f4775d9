//! The owner and mode of a folder of pins: it belongs to this user alone. A bpffs that is mounted without a
//! mode is open to all (01777), so any user could make the folder first, keep its lock, and move its pins.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use nix::unistd::geteuid;

/// The permission bits of group and others.
pub const OTHERS: u32 = 0o077;
/// The bits with which group and others may change a folder.
const WRITE: u32 = 0o022;
/// The permission bits of the owner of a folder.
const OWNER: u32 = 0o700;

/// Checks that a folder is this user's, and closes it to all others. This is logged unless the folder is empty
/// and no other user could write to it, like one that the kubelet has just made.
///
/// # Errors
/// When it is another user's, no folder, or cannot be looked at or closed.
pub fn close(folder: &Path) -> Result<()> {
    // To look at it needs no right to it.
    let opened = match open(folder, libc::O_PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            bail!("{} is no folder: remove it, or name another by --pins", folder.display())
        }
        opened => opened.with_context(|| format!("cannot look at {}", folder.display()))?,
    };
    close_opened(&opened, folder)
}

/// Opens a folder, and nothing that leads to one.
///
/// # Errors
/// The kernel's; ENOTDIR for what is no folder.
pub fn open(folder: &Path, flags: libc::c_int) -> io::Result<File> {
    let flags = flags | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags).open(folder)
}

/// As [`close`], of a folder that is open.
///
/// # Errors
/// As [`close`].
pub fn close_opened(opened: &File, folder: &Path) -> Result<()> {
    let mode = judge(opened, folder, geteuid().as_raw())?;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    // Not by its path, where there may be another one meanwhile; fchmod(2) takes no O_PATH.
    let opened = format!("/proc/self/fd/{}", opened.as_raw_fd());
    let is_empty = fs::read_dir(&opened).is_ok_and(|mut entries| entries.next().is_none());
    fs::set_permissions(opened, fs::Permissions::from_mode(OWNER))
        .with_context(|| format!("cannot close {} to others", folder.display()))?;
    if is_empty && mode & WRITE == 0 {
        return Ok(());
    }
    tracing::warn!(
        folder = %folder.display(), was = format!("{mode:04o}"),
        "a folder of the pins was open to others, and is its owner's alone now",
    );
    Ok(())
}

/// Returns the mode of an opened folder, after checking its owner.
fn judge(opened: &File, folder: &Path, owner: u32) -> Result<u32> {
    let data = opened.metadata().with_context(|| format!("cannot look at {}", folder.display()))?;
    ensure!(
        data.uid() == owner,
        "{} is user {}'s, who may change it at any time: it must be user {owner}'s, as whom svclb runs; \
         find out who made it, and remove it, or name another folder by --pins",
        folder.display(),
        data.uid(),
    );
    Ok(data.mode() & 0o7777)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_folder_of_another_user_and_what_is_no_folder_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let us = geteuid().as_raw();
        let opened = open(root.path(), libc::O_PATH).unwrap();
        assert!(judge(&opened, root.path(), us).is_ok());
        let said = judge(&opened, root.path(), us + 1).unwrap_err().to_string();
        let expected = [format!("is user {us}'s"), format!("must be user {}'s", us + 1)];
        assert!(expected.iter().all(|it| said.contains(it)), "{said}");
        let (link, file) = (root.path().join("link"), root.path().join("file"));
        symlink(root.path(), &link).unwrap();
        fs::write(&file, "").unwrap();
        for path in [link, file] {
            let said = close(&path).unwrap_err().to_string();
            assert!(said.contains("is no folder"), "{said}");
        }
    }
}
