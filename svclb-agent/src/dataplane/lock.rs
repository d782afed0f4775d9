//! One agent at a time over a folder of pins.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::meta;
use super::pins::Pins;

/// Held while it lives. It is the kernel's (flock(2), on the folder itself), so that it ends with its
/// holder, however that ends; a holder in another container counts too.
#[derive(Debug)]
pub struct Lock(File);

impl Lock {
    /// Takes the lock of a folder, which is made if it is not there.
    ///
    /// # Errors
    /// When an agent holds it, with its process, or the folder cannot be made.
    pub fn take(pins: &Pins) -> Result<Self> {
        loop {
            pins.make_root()?;
            if let Some(lock) = Self::of(pins)? {
                return Ok(lock);
            }
        }
    }

    /// Whether it is still that of the folder: somebody may have removed that, and made another.
    pub fn is_of(&self, pins: &Pins) -> bool {
        is_at(&self.0, pins.root())
    }

    /// Takes the lock of a folder; none when it is not there.
    ///
    /// # Errors
    /// When an agent holds it, with its process.
    pub fn of(pins: &Pins) -> Result<Option<Self>> {
        let root = pins.root();
        let cannot = || format!("cannot lock {}", root.display());
        let folder = match File::open(root) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(cannot),
        };
        match lock_in_time(&folder) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "an agent runs with the pins {} already{}: end it first, or name other pins by --pins",
                root.display(),
                holder(pins, &folder).map_or(String::new(), |pid| format!(" (process {pid})")),
            ),
            Err(TryLockError::Error(error)) => return Err(error).with_context(cannot),
        }
        // Whoever held it before may have removed the folder.
        Ok(is_at(&folder, root).then_some(Self(folder)))
    }
}

/// How long a child of a holder that was killed may take to come to its exec: until then it holds what
/// that held.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes the lock, or finds that somebody has it and keeps it.
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

/// Whether somebody has the lock of a folder. It is shared for a moment, which who takes it waits out.
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
    let inode = fs::metadata(pins.root()).ok()?.ino();
    holder_in(&fs::read_to_string("/proc/locks").ok()?, inode)
}

fn is_at(folder: &File, path: &Path) -> bool {
    let number = |data: fs::Metadata| (data.dev(), data.ino());
    let held = folder.metadata().map(number);
    held.is_ok_and(|held| fs::metadata(path).is_ok_and(|there| number(there) == held))
}

/// The process that has the lock, as far as this pid namespace shows; otherwise who wrote the maps last.
fn holder(pins: &Pins, folder: &File) -> Option<u32> {
    let inode = folder.metadata().ok()?.ino();
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    holder_in(&locks, inode).or_else(|| Some(meta::read(pins).ok()?.agent).filter(|pid| *pid != 0))
}

/// Looks for a lock like `3: FLOCK  ADVISORY  WRITE 708 00:30:12 0 EOF` (proc(5)).
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let [kind, _, _, pid, file] = [(); 5].map(|()| words.next());
        let of = file?.rsplit(':').next()?.parse() == Ok(inode);
        let pid = pid?.parse().ok().filter(|pid| *pid != 0);
        pid.filter(|_| of && kind == Some("FLOCK"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_its_file() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:19:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 12 00:19:78 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 00:19:77 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 14 00:19:77 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 0 00:19:79 0 EOF\n";
        let rows = [(77, Some(13)), (78, Some(12)), (79, None), (80, None)];
        for (inode, expected) in rows {
            assert_eq!(holder_in(locks, inode), expected, "{inode}");
        }
        assert_eq!(holder_in("", 1), None);
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
        fs::remove_dir(pins.root()).unwrap();
        let third = Lock::take(&pins).unwrap();
        drop((second, third));
    }
}
