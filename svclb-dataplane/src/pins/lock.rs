//! One agent at a time over a folder of pins.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use procfs::{FromRead as _, LockType};
use thiserror::Error;

use crate::bpf::sys;
use crate::pins::Pins;
use crate::pins::folder;
use crate::pins::own;

/// The lock, held while this lives. It is the kernel's (flock(2), on the folder itself), so that it ends with its
/// holder, however that ends; a holder in another container counts too.
#[derive(Debug)]
pub struct Lock(File);

/// Another agent has the lock.
#[derive(Debug, Error)]
#[error(
    "an agent runs with the pins {root} already{who}: end it first, or name other pins by --pins",
    root = .root.display(),
    who = .holder.map_or(String::new(), |pid| format!(" (process {pid})"))
)]
pub struct AlreadyLocked {
    root: PathBuf,
    /// Its process, where that is known.
    holder: Option<u32>,
}

/// The most attempts while another process goes on replacing the folder.
const TRIES: u32 = 100;

impl Lock {
    /// Takes the lock of a folder, which is made if it is not there.
    ///
    /// # Errors
    /// [`AlreadyLocked`] when an agent has it; others when the folder cannot be made or locked, or is another
    /// user's.
    pub fn take(pins: &Pins) -> Result<Self> {
        for _ in 0..TRIES {
            folder::make(pins.root())?;
            if let Some(lock) = Self::of(pins)? {
                return Ok(lock);
            }
        }
        bail!("cannot lock {}: another process goes on removing it", pins.root().display())
    }

    /// Returns true if the folder at the path is still the locked one: it may have been removed and made again.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn is_of(&self, pins: &Pins) -> Result<bool> {
        is_at(&self.0, pins.root())
            .with_context(|| format!("cannot look at {}", pins.root().display()))
    }

    /// Takes the lock of a folder; none when there is no folder. What of it was open to others is closed.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn of(pins: &Pins) -> Result<Option<Self>> {
        let root = pins.root();
        let cannot = || format!("cannot lock {}", root.display());
        for _ in 0..TRIES {
            let opened = sys::if_found(own::open(root, 0));
            if opened.is_err() {
                // The folder's owner explains more than this error.
                own::close(root)?;
            }
            let Some(folder) = opened.with_context(cannot)? else { return Ok(None) };
            own::close_opened(&folder, root)?;
            let locked = lock_in_time(&folder);
            if matches!(locked, Err(TryLockError::WouldBlock)) {
                let holder = holder(pins, &folder);
                return Err(AlreadyLocked { root: root.to_owned(), holder }.into());
            }
            locked.map_err(io::Error::from).with_context(cannot)?;
            // The agent that had the lock before may have removed the folder, and another may be there.
            if is_at(&folder, root).with_context(cannot)? {
                pins.close_versions()?;
                return Ok(Some(Self(folder)));
            }
        }
        bail!("cannot lock {}: another process goes on replacing it", root.display())
    }
}

/// The most time that a child of a killed agent takes to reach its exec: until then it holds the lock.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes the lock, or finds that another process has and keeps it.
fn lock_in_time(folder: &File) -> Result<(), TryLockError> {
    let start = Instant::now();
    loop {
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

/// Returns true if the lock of a folder is taken. This takes a shared lock for a moment, which an agent that
/// starts waits out.
///
/// # Errors
/// When the folder cannot be opened.
pub fn is_held(pins: &Pins) -> io::Result<bool> {
    match File::open(pins.root())?.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The process that has the lock of a folder, as far as this pid namespace shows. The lock is not touched.
pub fn seen_holder(pins: &Pins) -> Option<u32> {
    seen_holder_of(&fs::metadata(pins.root()).ok()?)
}

/// Returns true if a folder is the one at a path.
fn is_at(folder: &File, path: &Path) -> io::Result<bool> {
    let number = |data: fs::Metadata| (data.dev(), data.ino());
    let Some(there) = sys::if_found(fs::metadata(path))? else { return Ok(false) };
    Ok(number(there) == number(folder.metadata()?))
}

/// The process that has the lock, as far as this pid namespace shows; otherwise the last one that wrote the maps.
fn holder(pins: &Pins, folder: &File) -> Option<u32> {
    let seen = folder.metadata().ok().and_then(|data| seen_holder_of(&data));
    seen.or_else(|| Some(pins.meta().ok()?.agent).filter(|pid| *pid != 0))
}

fn seen_holder_of(folder: &fs::Metadata) -> Option<u32> {
    let locks = parse_locks(&fs::read_to_string("/proc/locks").ok()?);
    holder_of(&locks, folder.dev(), folder.ino())
}

/// Reads a /proc/locks. A line that procfs cannot read, as of a lease that is being broken, hides no other.
fn parse_locks(text: &str) -> Vec<procfs::Lock> {
    let lines = text.lines().filter_map(|line| procfs::Locks::from_read(line.as_bytes()).ok());
    lines.flat_map(|locks| locks.0).collect()
}

/// Looks for a lock of flock(2) on a file. The kernel lists processes that wait for it after its holder.
fn holder_of(locks: &[procfs::Lock], device: u64, inode: u64) -> Option<u32> {
    let file = (libc::major(device), libc::minor(device), inode);
    let on_file = locks.iter().filter(|lock| {
        lock.lock_type == LockType::FLock && (lock.devmaj, lock.devmin, lock.inode) == file
    });
    on_file.filter_map(|lock| u32::try_from(lock.pid?).ok()).find(|pid| *pid != 0)
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_its_file() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:19:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 00:19:78 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 15 fd:01:77 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 13 00:19:77 0 EOF\n\
                     4: -> FLOCK  ADVISORY  WRITE 14 00:19:77 0 EOF\n\
                     5: FLOCK  ADVISORY  WRITE 0 00:19:79 0 EOF\n\
                     6: OFDLCK ADVISORY  READ -1 00:19:80 0 EOF\n\
                     7: LEASE  BREAKER   WRITE 16 <none>:0 0 EOF\n\
                     8: FLOCK  ADVISORY  WRITE 17 00:19:82 0 EOF\n";
        let locks = parse_locks(locks);
        let (one, other) = (libc::makedev(0, 0x19), libc::makedev(0xfd, 1));
        let rows = [
            ("held and waited for", one, 77, Some(13)),
            ("the same number on another device", other, 77, Some(15)),
            ("held", one, 78, Some(12)),
            ("behind a line that cannot be read", one, 82, Some(17)),
            ("only on another device", other, 78, None),
            ("by a process of another namespace", one, 79, None),
            ("another kind of lock", one, 80, None),
            ("no lock", one, 81, None),
        ];
        for (row, device, inode, expected) in rows {
            assert_eq!(holder_of(&locks, device, inode), expected, "{row}");
        }
    }

    /// Takes the lock, also when a child that another test forked has not come to its exec: until then
    /// it holds what this process held.
    fn given_back(pins: &Pins) -> Lock {
        let start = Instant::now();
        loop {
            match Lock::take(pins) {
                Err(_) if start.elapsed() < Duration::from_secs(10) => thread::yield_now(),
                taken => return taken.unwrap(),
            }
        }
    }

    #[test]
    fn a_second_one_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::new(&folder.path().join("pins"));
        assert!(Lock::of(&pins).unwrap().is_none(), "there is no folder");
        let first = Lock::take(&pins).unwrap();
        let refused = Lock::take(&pins).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        let second = given_back(&pins);
        // A folder that was made anew is another one.
        assert!(second.is_of(&pins).unwrap());
        fs::remove_dir(pins.root()).unwrap();
        assert!(!second.is_of(&pins).unwrap(), "there is none");
        let third = Lock::take(&pins).unwrap();
        assert!(!second.is_of(&pins).unwrap() && third.is_of(&pins).unwrap());
    }

    #[test]
    fn that_nothing_can_be_told_of_a_folder_does_not_mean_that_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let above = folder.path().join("above");
        let pins = Pins::new(&above.join("pins"));
        let lock = Lock::take(&pins).unwrap();
        fs::rename(&above, folder.path().join("elsewhere")).unwrap();
        fs::write(&above, "no folder").unwrap();
        let said = lock.is_of(&pins).unwrap_err().to_string();
        assert!(said.contains("cannot look at") && said.contains("above/pins"), "{said}");
        let said = Lock::take(&pins).unwrap_err();
        assert!(!said.is::<AlreadyLocked>(), "the lock is free: {said:#}");
    }

    #[test]
    fn a_folder_that_was_replaced_while_its_lock_was_waited_for_is_looked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let pins = Pins::new(&folder.path().join("pins"));
        let first = Lock::take(&pins).unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| Lock::of(&pins));
            // Both have it open.
            let is_of = |link: io::Result<PathBuf>| link.is_ok_and(|path| path == pins.root());
            let open = || {
                let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
                open.filter(|entry| is_of(fs::read_link(entry.path()))).count()
            };
            while open() < 2 && !waits.is_finished() {
                thread::yield_now();
            }
            fs::remove_dir(pins.root()).unwrap();
            fs::create_dir(pins.root()).unwrap();
            drop(first);
            let lock = waits.join().unwrap().unwrap().expect("there is a folder");
            assert!(lock.is_of(&pins).unwrap());
        });
    }
}
