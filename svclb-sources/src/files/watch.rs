//! inotify: the folders that are watched, and the events in them.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Holds a thousand events with long names.
const BUFFER: usize = 256 << 10;

/// The events of an entry of a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EntryChange {
    /// A writer closed it.
    Written,
    /// It was written to or cut, and the writer may go on.
    Modified,
    /// Its owner, mode or link count changed.
    Attributes,
    /// It was created: empty, or a link.
    Created,
    /// It was moved here, whole.
    MovedHere,
    /// It was removed or moved away.
    Vanished,
}

/// An event of inotify.
#[derive(Clone, Debug)]
pub(super) enum FolderEvent {
    /// An event of an entry of a folder.
    Entry(Arc<Path>, OsString, EntryChange),
    /// A watched folder is not where it was.
    FolderGone,
    /// The kernel dropped events.
    Lost,
}

/// The watched folders.
#[derive(Debug)]
pub(super) struct Watch {
    fd: AsyncFd<Inotify>,
    folders: HashMap<WatchDescriptor, WatchedFolder>,
    buffer: Box<[u8]>,
}

/// A watched folder.
#[derive(Debug, Default)]
struct WatchedFolder {
    /// The paths that lead to it: with a bind mount, there are several.
    paths: Vec<Arc<Path>>,
    /// The contents of its files matter, by one of its paths at least.
    contents: bool,
}

impl Watch {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = Inotify::init()?;
        // SAFETY: an `Inotify` owns its descriptor, always names the same one and closes it only when
        // dropped, which the `AsyncFd` that owns it then does after deregistering.
        let fd = unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) }?;
        Ok(Self { fd, folders: HashMap::new(), buffer: vec![0; BUFFER].into() })
    }

    /// Watches these folders and no others; with true those in which the contents of files matter, with false
    /// those that a path only leads through. Returns true when one of them was not watched before.
    ///
    /// A folder that is gone meanwhile is passed over: the folder that holds it reports when it is there
    /// again. So is one that a path only leads through and that may be entered but not read, such as another
    /// user's home: a folder in it reports itself when it is moved or removed.
    pub(super) fn cover(&mut self, wanted: &BTreeMap<PathBuf, bool>) -> io::Result<bool> {
        let mut folders: HashMap<WatchDescriptor, WatchedFolder> = HashMap::new();
        let mut failure = None;
        // In path order, so that a folder's holder is watched before the folder.
        for (folder, contents) in wanted {
            // The kernel has one watch for a folder, whatever paths lead to it. The events that another
            // path needs must not be lost, not for a moment either.
            let mask = mask(*contents) | WatchMask::MASK_ADD;
            match self.fd.get_ref().watches().add(folder, mask) {
                Ok(descriptor) => {
                    let watched = folders.entry(descriptor).or_default();
                    watched.paths.push(folder.as_path().into());
                    watched.contents |= contents;
                }
                Err(error) => {
                    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
                    let kind = error.kind();
                    let is_denied = kind == PermissionDenied;
                    if matches!(kind, NotFound | NotADirectory) || is_denied && !contents {
                        tracing::debug!(folder = %folder.display(), %error, "not watched");
                    } else if !is_denied || failure.is_none() {
                        // An error of one folder alone is reported only without a worse one.
                        failure = Some((folder, error));
                    }
                }
            }
        }
        let before = std::mem::replace(&mut self.folders, folders);
        let is_new = self.folders.iter().any(|(descriptor, folder)| {
            before.get(descriptor).is_none_or(|before| folder.contents && !before.contents)
        });
        for (descriptor, before) in before {
            match self.folders.get(&descriptor) {
                // Fails when the folder is gone, which is one reason to be here.
                None => drop(self.fd.get_ref().watches().remove(descriptor)),
                // Stops the events of its files. If this fails, they only wake us for nothing.
                Some(now) if before.contents && !now.contents => {
                    if let Some(path) = now.paths.first() {
                        drop(self.fd.get_ref().watches().add(path, mask(false)));
                    }
                }
                Some(_) => {}
            }
        }
        let Some((folder, error)) = failure else { return Ok(is_new) };
        let advice = match error.kind() {
            io::ErrorKind::StorageFull => ": raise the sysctl fs.inotify.max_user_watches",
            io::ErrorKind::PermissionDenied => ": let svclb read the folder, not only enter it",
            _ => "",
        };
        Err(io::Error::new(
            error.kind(),
            format!("cannot watch {}: {error}{advice}", folder.display()),
        ))
    }

    /// Waits until there may be events, which must be drained then. Cancel-safe.
    pub(super) async fn ready(&self) -> io::Result<()> {
        // Cleared before the queue is emptied: what comes later makes it ready again.
        self.fd.readable().await.map(|mut guard| guard.clear_ready())
    }

    /// Makes each read fail (EINVAL: no event fits into the buffer), or succeed again.
    #[cfg(test)]
    pub(super) fn break_reads(&mut self, breaks: bool) {
        self.buffer = vec![0; if breaks { 16 } else { BUFFER }].into();
    }

    /// Takes the events so far, without waiting.
    pub(super) fn drain(&mut self) -> io::Result<Vec<FolderEvent>> {
        let mut found = Vec::new();
        loop {
            match self.fd.get_mut().read_events(&mut self.buffer) {
                Ok(events) => {
                    for event in events {
                        collect(&self.folders, &event, &mut found);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

/// The events that the kernel reports of a folder.
fn mask(contents: bool) -> WatchMask {
    let entries = WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    match contents {
        true => entries | WatchMask::MODIFY | WatchMask::CLOSE_WRITE | WatchMask::ATTRIB,
        false => entries,
    }
}

fn collect(
    folders: &HashMap<WatchDescriptor, WatchedFolder>,
    event: &inotify::Event<&std::ffi::OsStr>,
    found: &mut Vec<FolderEvent>,
) {
    if event.mask.contains(EventMask::Q_OVERFLOW) {
        return found.push(FolderEvent::Lost);
    }
    // Otherwise the event is of a folder that is no longer watched.
    let Some(WatchedFolder { paths, .. }) = folders.get(&event.wd) else { return };
    let Some(name) = event.name else {
        let gone =
            EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED | EventMask::UNMOUNT;
        if event.mask.intersects(gone) {
            found.push(FolderEvent::FolderGone);
        }
        return;
    };
    let kinds = [
        (EventMask::CLOSE_WRITE, EntryChange::Written),
        (EventMask::MODIFY, EntryChange::Modified),
        (EventMask::ATTRIB, EntryChange::Attributes),
        (EventMask::CREATE, EntryChange::Created),
        (EventMask::MOVED_TO, EntryChange::MovedHere),
        (EventMask::MOVED_FROM, EntryChange::Vanished),
        (EventMask::DELETE, EntryChange::Vanished),
    ];
    for (_, what) in kinds.iter().filter(|(mask, _)| event.mask.contains(*mask)) {
        found.extend(
            paths.iter().map(|path| FolderEvent::Entry(Arc::clone(path), name.into(), *what)),
        );
    }
}
