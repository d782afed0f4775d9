//! `--from`: Kubernetes objects in files and folders of files, followed while they change.
//!
//! * A folder means its `*.yaml`, `*.yml` and `*.json`, not those of folders in it. `*.json` is JSON,
//!   everything else YAML; a file may hold several documents and lists.
//! * A rejected object keeps its previous state. While a file holds a rejected document that does not
//!   say which object it is, objects that the file had before and lacks now keep their state.
//! * An object in several places: the last document of a file, and the last file in path order (the
//!   order of the arguments, then of the names in a folder), counts; the others are reported.
//!
//! Events of inotify mark what has to be looked at. A look compares the stamps of files with those that
//! were read last, so the next look makes up for a lost event. When a file is read:
//! * As soon as a writer closes it, or it is moved or linked into place: no timer delays that.
//! * While it is being written (written to or created, and not closed yet), not before it was left alone
//!   for [`QUIET`]. So a cut file of a writer that will go on is not taken for a whole one. The first batch
//!   waits for all files, but for 1 s at most.
//! * The objects of a file that vanished or was emptied stay for [`QUIET`]: editors and `git` replace a file
//!   by removing it and creating it again, and every write in place empties it first, which can be seen a
//!   moment before its event.
//!
//! An error of the system (to read a file, to list or watch a folder) is tried again by a timer; until then
//! the previous state stays. An error in a file itself is not: only a change of the file corrects it.

mod layout;
mod load;
mod objects;
#[cfg(test)]
mod tests;
mod tracked;
mod trail;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use svclb_objects::file;

use crate::batch::Batch;
use layout::{Argument, FileKey, Stamp};
use objects::FileObjects;
use tracked::{Failing, FileState, Tracked};
use trail::FolderEntry;
use watch::{EntryChange, FolderEvent, Watch};

/// The time for which a file that is being written, or vanished, is left alone.
pub const QUIET: Duration = Duration::from_millis(100);
/// The longest time that the first batch waits for files that are written all the time. Then it goes
/// without them, and reports that they may hold any object.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// The files, followed.
#[derive(Debug)]
pub struct Files {
    node: String,
    /// [`QUIET`], except in tests.
    quiet: Duration,
    arguments: Vec<Argument>,
    watch: Watch,
    files: BTreeMap<FileKey, Tracked>,
    places: HashMap<FolderEntry, FileKey>,
    objects: FileObjects,
    /// The arguments to look at again.
    marked: BTreeSet<usize>,
    /// Entries that came or went since the last look, and whether their writers are known to have finished.
    appeared: HashMap<FolderEntry, bool>,
    /// Not everything could be listed or watched, and the error that was logged.
    blind: Option<(Failing, String)>,
    /// When the first batch goes without files that are still being written; `None` once it went.
    first: Option<Instant>,
}

impl Files {
    /// Follows these files and folders. Must be called in a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When one of the paths does not exist or cannot be read, or inotify is not available.
    pub fn new<P: AsRef<Path>>(paths: &[P]) -> Result<Self> {
        let mut arguments = Vec::with_capacity(paths.len());
        for path in paths.iter().map(AsRef::as_ref) {
            if let Some(problem) = layout::refuse(path) {
                bail!("--from {}: {problem}", path.display());
            }
            arguments
                .push(Argument::new(path).with_context(|| format!("--from {}", path.display()))?);
        }
        ensure!(!arguments.is_empty(), "--from: expected at least one file or folder");
        let mut files = Self {
            node: String::new(),
            quiet: QUIET,
            marked: (0..arguments.len()).collect(),
            arguments,
            watch: Watch::new()
                .context("cannot start inotify (sysctl fs.inotify.max_user_instances?)")?,
            files: BTreeMap::new(),
            places: HashMap::new(),
            objects: FileObjects::default(),
            appeared: HashMap::new(),
            blind: None,
            first: Some(Instant::now() + LONGEST_WAIT),
        };
        let now = Instant::now();
        match files.look(now) {
            // Its files can be read all the same, and a timer looks at them.
            Err(error) if !is_denied(&error) => return Err(error),
            looked => files.retry_look(looked, now),
        }
        Ok(files)
    }

    /// Sets the name of the own node: of all Node objects, only its counts. Without this, none does.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        name.clone_into(&mut self.node);
        self
    }

    /// Waits for changes. The first batch is all that the files hold, even if that is nothing, as soon as
    /// none of them is being written. Cancel-safe.
    pub async fn next(&mut self) -> Batch {
        loop {
            if let Some(batch) = self.work() {
                return batch;
            }
            if !self.marked.is_empty() || self.files.values().any(Tracked::is_changed) {
                // It was noticed while others were read.
                tokio::task::yield_now().await;
                continue;
            }
            let blind = self.blind.iter().map(|(failing, _)| failing.until);
            let until = self.files.values().filter_map(Tracked::until).chain(blind).min();
            let ready = match until {
                Some(until) => tokio::time::timeout_at(until.into(), self.watch.ready()).await,
                None => Ok(self.watch.ready().await),
            };
            if let Ok(Err(error)) = ready {
                tracing::error!(%error, "cannot wait for changes of files");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            // After a timer, too: an event that is there outweighs the end of a quiet time.
            self.take_events(Instant::now());
        }
    }

    /// Does all that can be done now.
    fn work(&mut self) -> Option<Batch> {
        let now = Instant::now();
        if self.blind.as_ref().is_some_and(|(failing, _)| failing.until <= now) {
            self.mark_all();
        }
        while !self.marked.is_empty() {
            let looked = self.look(now);
            let drained = self.drain(Instant::now());
            self.retry_look(looked.and(drained), now);
        }
        let mut seen = now;
        let due = self.files.iter().filter(|(_, tracked)| tracked.is_due(now));
        for file in due.map(|(file, _)| file.clone()).collect::<Vec<_>>() {
            if let Some(since) = self.settle(&file, now) {
                seen = seen.min(since);
            }
        }
        let is_early = self.first.is_some_and(|latest| now < latest);
        if is_early && self.files.values().any(Tracked::is_unread) {
            return None;
        }
        let whole = self.first.take().is_some();
        if whole {
            for tracked in self.files.values_mut() {
                // The previous agent's state of their objects must not go as long as they are not read.
                tracked.is_late = tracked.is_unread();
            }
            self.report_node();
        }
        let batch = self.objects.take(self.files.values().any(|tracked| tracked.is_late))?;
        Some(Batch { whole, seen, ..batch })
    }

    /// Warns that there are Nodes but not the own one: most often its name is mistyped.
    fn report_node(&self) {
        if let Some(other) = self.objects.other_node() {
            tracing::warn!(
                node = self.node,
                other = %other.name.name,
                "no Node of this name is in the files of --from, which have others: neither its zone nor \
                 its addresses are known, and no endpoint is local; give the name by --node",
            );
        }
    }

    /// Reads or removes a file, if that is still due. Returns when its change was noticed.
    fn settle(&mut self, file: &FileKey, now: Instant) -> Option<Instant> {
        let tracked = *self.files.get(file).filter(|tracked| tracked.is_due(now))?;
        if !matches!(tracked.state, FileState::Gone { .. }) {
            return self.read(file);
        }
        if !self.marked.is_empty() {
            // It may be back.
            return None;
        }
        self.files.remove(file);
        self.objects.remove(file);
        tracked.since
    }

    /// Reads a file, unless it is written meanwhile. Returns when its change was noticed.
    fn read(&mut self, file: &FileKey) -> Option<Instant> {
        let (folder, name) = &self.arguments.get(file.argument)?.files.get(file)?.real;
        let path = folder.join(name);
        let tracked = self.files.get_mut(file)?;
        let before = std::mem::replace(&mut tracked.state, FileState::Ready);
        let stamp = path.metadata().ok().map(|metadata| Stamp::of(&metadata));
        let bytes = load::load(&path);
        let now = Instant::now();
        self.take_events(now);
        let tracked = self.files.get_mut(file)?;
        if tracked.state != FileState::Ready {
            return None;
        }
        match &bytes {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) if load::may_pass(error) => {
                let since = if let FileState::Failed(it) = before { it.since } else { now };
                tracked.state = FileState::Failed(Failing::again(since, now));
            }
            Ok(bytes)
                if bytes.is_empty()
                    && !matches!(before, FileState::Settling { .. })
                    && self.objects.has_objects(file) =>
            {
                tracked.change(FileState::Settling { until: now + self.quiet }, now);
                return None;
            }
            _ => {}
        }
        (tracked.stamp, tracked.is_late) = (stamp, false);
        let since = tracked.since.take();
        self.objects.put(file, file::contents(&file.path, bytes, &self.node));
        Some(since.unwrap_or(now))
    }

    /// Looks at the marked arguments, and watches what all of them depend on now.
    fn look(&mut self, now: Instant) -> Result<()> {
        if self.blind.is_some() {
            // The arguments that failed are not kept.
            self.mark_all();
        }
        let numbers = std::mem::take(&mut self.marked);
        let mut scanned = self.scan(&numbers);
        let watched = self.watch.cover(&layout::folders(&self.arguments));
        if !matches!(watched, Ok(false)) {
            // Earlier changes of a newly watched folder are found now; later ones are events.
            scanned = scanned.and(self.scan(&numbers));
        }
        self.places = layout::places(&self.arguments);
        self.compare(&numbers, now);
        scanned?;
        watched.map(drop).context("changes of files cannot be followed")
    }

    /// Sees to it that a look that failed is tried again. Logs when that changes, not at each attempt.
    fn retry_look(&mut self, looked: Result<()>, now: Instant) {
        let before = self.blind.take();
        let Err(error) = looked else {
            if before.is_some() {
                tracing::info!("all changes of files are followed again");
            }
            return;
        };
        let error = format!("{error:#}");
        let since = before.as_ref().map_or(now, |(failing, _)| failing.since);
        if before.is_none_or(|(_, logged)| logged != error) {
            tracing::error!(error, "a change of files may be missed; trying again");
        }
        self.blind = Some((Failing::again(since, now), error));
    }

    fn scan(&mut self, numbers: &BTreeSet<usize>) -> Result<()> {
        let mut done = Ok(());
        for number in numbers {
            let Some(argument) = self.arguments.get_mut(*number) else { continue };
            if let Err(error) = argument.scan(*number, self.quiet) {
                let path = argument.path.display();
                done = Err(anyhow!("--from {path}: cannot be looked at: {error}"));
            }
        }
        done
    }

    /// Compares the files of these arguments with what was read of them.
    fn compare(&mut self, numbers: &BTreeSet<usize>, now: Instant) {
        let (places, until) = (&self.places, now + self.quiet);
        let arguments = numbers.iter().filter_map(|number| self.arguments.get(*number));
        for (file, found) in arguments.flat_map(|argument| &argument.files) {
            if places.get(&found.real) == Some(file) {
                let tracked = self.files.entry(file.clone()).or_insert(Tracked::missing(now));
                tracked.compare(found, self.appeared.get(&found.real).copied(), now, until);
            }
        }
        self.appeared.clear();
        let present: HashSet<&FileKey> = places.values().collect();
        self.files.retain(|file, tracked| {
            if present.contains(file) || matches!(tracked.state, FileState::Gone { .. }) {
                return true;
            }
            let since = Some(tracked.since.unwrap_or(now));
            *tracked = Tracked { since, ..Tracked::missing(until) };
            self.objects.mark_gone(file)
        });
    }

    fn mark_all(&mut self) {
        self.marked.extend(0..self.arguments.len());
    }

    /// Takes the events that are there. If they cannot be read, a timer looks at all files. One that runs
    /// already is not delayed.
    fn take_events(&mut self, now: Instant) {
        let drained = self.drain(now);
        if self.blind.is_none() {
            self.retry_look(drained, now);
        }
    }

    /// Takes the events that are there.
    ///
    /// # Errors
    /// They cannot be read: every file may have changed.
    fn drain(&mut self, now: Instant) -> Result<()> {
        let events = self.watch.drain().context("changes of files cannot be read");
        for event in events.inspect_err(|_| self.forget_stamps())? {
            match event {
                FolderEvent::Entry(folder, name, what) => {
                    self.ingest((folder.to_path_buf(), name), what, now);
                }
                FolderEvent::FolderGone => self.mark_all(),
                FolderEvent::Lost => {
                    self.mark_all();
                    self.forget_stamps();
                }
            }
        }
        Ok(())
    }

    /// Lets the next look read all files again.
    fn forget_stamps(&mut self) {
        self.files.values_mut().for_each(|tracked| tracked.stamp = None);
    }

    fn ingest(&mut self, entry: FolderEntry, what: EntryChange, now: Instant) {
        let is_whole = matches!(what, EntryChange::Written | EntryChange::MovedHere);
        if let Some(tracked) = self.places.get(&entry).and_then(|file| self.files.get_mut(file)) {
            match (what, tracked.state) {
                (EntryChange::Modified, _) => {
                    tracked.change(FileState::Settling { until: now + self.quiet }, now);
                }
                // Its writer will close it.
                (EntryChange::Attributes, FileState::Settling { .. }) => {}
                (EntryChange::Created | EntryChange::Vanished, _) => {}
                // It is another file now: the look finds it.
                (EntryChange::MovedHere, _) if entry.0.join(&entry.1).is_symlink() => {}
                _ => tracked.change(FileState::Changed, now),
            }
        }
        if matches!(what, EntryChange::Written | EntryChange::Modified) {
            self.appeared.entry(entry).and_modify(|whole| *whole = is_whole);
        } else if what != EntryChange::Attributes {
            let numbered = self.arguments.iter().enumerate();
            let affected = numbered.filter(|(_, argument)| argument.depends_on(&entry));
            let mut affected = affected.map(|(number, _)| number).peekable();
            if affected.peek().is_some() {
                self.marked.extend(affected);
                self.appeared.insert(entry, is_whole);
            }
        }
    }
}

/// Returns true for a folder that may be entered but not read.
fn is_denied(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}
