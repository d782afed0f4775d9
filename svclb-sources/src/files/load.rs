//! The bytes of a file.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The longest file that is read: 128 MiB, enough for the endpoints of a cluster of 500,000.
pub(super) const LONGEST: u64 = 128 << 20;

/// Reads the bytes of a file.
pub(super) fn load(path: &Path) -> io::Result<Vec<u8>> {
    // Does not wait for a writer, should a pipe have taken the file's place.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(LONGEST)).unwrap_or(0));
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        let limit = LONGEST >> 20;
        return Err(io::Error::other(format!(
            "it is longer than {limit} MiB: split it into several files"
        )));
    }
    Ok(bytes)
}

/// Returns true for an error that may pass without a change of the file, such as too many open files. The
/// errors of [`load`] about the file itself are of the kind `Other`, which no error of the system is.
pub(super) fn may_pass(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::Other
}
