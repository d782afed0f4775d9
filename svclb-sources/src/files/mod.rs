//! `--from`: Kubernetes objects in files and folders of files, followed while they change.
//!
//! * A folder means its `*.yaml`, `*.yml` and `*.json`, not those of folders in it. `*.json` is JSON,
//!   everything else YAML; a file may hold several documents and lists.
//! * A rejected object keeps its previous state. While a file holds a rejected document that does not
//!   say which object it is, everything that the file held before and holds no more stays.
//! * An object in several places: the last document of a file, and the last file in path order (the
//!   order of the arguments, then of the names in a folder), counts; the others are reported.
//!
//! When a file is read:
//! * As soon as a writer closes it, or it is moved or linked into place: no timer delays that.
//! * While it is being written (written to or made, and not closed yet), not before it was left alone
//!   for [`QUIET`]. So a cut file of a writer that will go on is not taken for a whole one. At the start
//!   all files are waited for, but for 1 s at most.
//! * A file that vanished or was emptied is held for [`QUIET`] before what it held is taken away: editors
//!   and `git` replace a file by removing it and making it anew, and every write in place empties it
//!   first, which can be seen a moment before its event.
//!
//! What the system refuses for a while (to read a file, to list or watch a folder) is tried again by a
//! timer; until then what was there before stays. What is wrong with a file itself is not: only somebody
//! who touches it can put it right.

mod layout;
mod load;
mod objects;
#[cfg(test)]
mod tests;
mod trail;
mod wait;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use svclb_objects::file;

use crate::batch::Batch;
use layout::{Entries, FileKey, Stamp, Target};
use objects::FileObjects;
use wait::{Wait, due};
use watch::{Event, Watch, What};

/// How long a file that is being written, or vanished, is left alone.
pub const QUIET: Duration = Duration::from_millis(100);
/// How often a file that is written again and again is read before one of the states counts.
const READS: u32 = 3;
/// How long the first batch waits at most for files that are written all the time. It goes without them
/// then, and says that they may hold any object.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// What is told of a folder that cannot be watched.
const UNFOLLOWED: &str = "changes of files cannot be followed";

/// The files, followed.
#[derive(Debug)]
pub struct Files {
    node: String,
    /// [`QUIET`], except in tests.
    quiet: Duration,
    targets: Vec<Target>,
    entries: HashMap<PathBuf, Entries>,
    watch: Watch,
    state: FileObjects,
    /// Stamps of what was read last.
    read: HashMap<FileKey, Stamp>,
    /// To be read now, and since when.
    dirty: BTreeMap<FileKey, Instant>,
    /// Being written.
    writing: BTreeMap<FileKey, Wait>,
    /// Vanished.
    leaving: BTreeMap<FileKey, Wait>,
    /// Could not be read: since when, and when it is tried again.
    failed: BTreeMap<FileKey, Wait>,
    /// Arguments to look at anew.
    rescan: BTreeSet<usize>,
    /// Not everything could be listed or watched: since when, when it is tried again, and what was told.
    blind: Option<(Wait, String)>,
    /// Found empty, though it held something: since when.
    emptied: HashMap<FileKey, Instant>,
    /// Entries that appeared on a way that is to be looked at anew (folder and name), and whether they
    /// are known to be whole: moved or closed.
    made: HashMap<(PathBuf, OsString), bool>,
    /// Files that the first batch went without, and that were not read yet.
    late: BTreeSet<FileKey>,
    /// When the first batch goes without those that are still being written; none once it went.
    first: Option<Instant>,
}

impl Files {
    /// Follows these files and folders. Must be called in a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When one of the paths does not exist or cannot be read, or inotify is out of reach.
    pub fn new<P: AsRef<Path>>(paths: &[P]) -> Result<Self> {
        let mut targets = Vec::with_capacity(paths.len());
        for path in paths.iter().map(AsRef::as_ref) {
            if let Some(problem) = layout::refuse(path) {
                bail!("--from {}: {problem}", path.display());
            }
            targets.push(Target::new(path).with_context(|| format!("--from {}", path.display()))?);
        }
        ensure!(!targets.is_empty(), "--from: expected at least one file or folder");
        let mut files = Self {
            node: String::new(),
            quiet: QUIET,
            rescan: (0..targets.len()).collect(),
            targets,
            entries: HashMap::new(),
            watch: Watch::new()
                .context("cannot start inotify (sysctl fs.inotify.max_user_instances?)")?,
            state: FileObjects::default(),
            read: HashMap::new(),
            dirty: BTreeMap::new(),
            writing: BTreeMap::new(),
            leaving: BTreeMap::new(),
            failed: BTreeMap::new(),
            blind: None,
            emptied: HashMap::new(),
            made: HashMap::new(),
            late: BTreeSet::new(),
            first: Some(Instant::now() + LONGEST_WAIT),
        };
        // Watched before anything is read, so that nothing is missed in between.
        let now = Instant::now();
        match files.survey(now)? {
            // Its files can be read all the same, and a timer looks at them.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                files.surveyed(Err(error).context(UNFOLLOWED), now);
            }
            watched => watched.context(UNFOLLOWED)?,
        }
        Ok(files)
    }

    /// The name of the own node: of all Node objects, only its counts. Without this, none does.
    #[must_use]
    pub fn node(mut self, name: &str) -> Self {
        name.clone_into(&mut self.node);
        self
    }

    /// Waits for news. The first are all that the files hold, even if that is nothing, as soon as none of
    /// them is being written. May be dropped while it waits.
    pub async fn next(&mut self) -> Batch {
        loop {
            if let Some(batch) = self.work() {
                return batch;
            }
            if !self.rescan.is_empty() || !self.dirty.is_empty() {
                // Noticed while others were read.
                continue;
            }
            let waits = self.writing.values().chain(self.leaving.values());
            let again = self.failed.values().chain(self.blind.iter().map(|(wait, _)| wait));
            let until = waits.chain(again).map(|wait| wait.until).min();
            let ready = async {
                match until {
                    Some(until) => tokio::time::timeout_at(until.into(), self.watch.ready()).await,
                    None => Ok(self.watch.ready().await),
                }
            };
            let ready = ready.await;
            // On a timer, too: an event that is there already goes before what a silence means.
            if let Ok(Err(error)) = ready {
                tracing::error!(%error, "cannot wait for changes of files");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            self.drain(Instant::now());
        }
    }

    /// Does all that can be done now.
    fn work(&mut self) -> Option<Batch> {
        let now = Instant::now();
        let mut seen = now;
        if self.blind.as_ref().is_some_and(|(wait, _)| wait.until <= now) {
            self.rescan.extend(0..self.targets.len());
        }
        while !self.rescan.is_empty() {
            let surveyed = self.survey(now);
            let surveyed = surveyed.and_then(|watched| watched.context(UNFOLLOWED));
            self.surveyed(surveyed, now);
            self.drain(Instant::now());
        }
        for (file, wait) in due(&mut self.writing, now) {
            self.dirty.entry(file).or_insert(wait.since);
        }
        for (file, wait) in due(&mut self.failed, now) {
            self.failed.insert(file.clone(), Wait::again(wait.since, now));
            self.dirty.entry(file).or_insert(now);
        }
        for (file, wait) in due(&mut self.leaving, now) {
            seen = seen.min(wait.since);
            self.state.remove(&file);
        }
        while let Some((file, since)) = self.dirty.pop_first() {
            if self.read_settled(&file) {
                seen = seen.min(since);
            }
        }
        if self.first.is_some_and(|latest| !self.writing.is_empty() && now < latest) {
            return None;
        }
        let whole = self.first.take().is_some();
        if whole {
            // What an agent before this one knew of them must not go as long as they are not read.
            self.late.extend(self.writing.keys().cloned());
            self.report_node();
        }
        let batch = self.state.take(!self.late.is_empty())?;
        Some(Batch { whole, seen, ..batch })
    }

    /// Reports that there are Nodes, and none is the own one: most often its name is mistyped. Files without
    /// any Node say nothing about names.
    fn report_node(&self) {
        if let Some(other) = self.state.other_node() {
            tracing::warn!(
                node = self.node,
                other = %other.name.name,
                "no Node of this name is in the files of --from, which have others: neither its zone nor \
                 its addresses are known, and no endpoint is local; give the name by --node",
            );
        }
    }

    /// Reads a file, unless it is being written meanwhile. True when it was read, or that failed.
    fn read_settled(&mut self, file: &FileKey) -> bool {
        let Some(path) = self.real(file) else { return false };
        for _ in 0..READS {
            let stamp = std::fs::metadata(&path).map(|metadata| Stamp::of(&metadata));
            let bytes = load::load(&path);
            if matches!(&bytes, Err(error) if error.kind() == io::ErrorKind::NotFound) {
                return false;
            }
            // What was read is only worth something if nobody wrote while it was.
            self.drain(Instant::now());
            let again = self.dirty.remove(file).is_some();
            if self.writing.contains_key(file) || self.leaving.contains_key(file) {
                return false;
            }
            if again {
                continue;
            }
            if bytes.as_ref().is_ok_and(Vec::is_empty) && self.state.has_objects(file) {
                let now = Instant::now();
                let since = *self.emptied.entry(file.clone()).or_insert(now);
                if now < since + self.quiet {
                    self.writing.insert(file.clone(), Wait { since, until: since + self.quiet });
                    return false;
                }
            }
            self.emptied.remove(file);
            if matches!(&bytes, Err(error) if load::may_pass(error)) {
                let now = Instant::now();
                self.failed.entry(file.clone()).or_insert(Wait::again(now, now));
                self.read.remove(file);
            } else {
                self.failed.remove(file);
                if let Ok(stamp) = stamp {
                    self.read.insert(file.clone(), stamp);
                }
            }
            self.late.remove(file);
            let contents = file::contents(&file.path, bytes, &self.node);
            self.state.put(file, contents);
            return true;
        }
        // Written faster than it can be read: the next event, or the silence after it, decides.
        let now = Instant::now();
        self.writing.insert(file.clone(), Wait { since: now, until: now + self.quiet });
        false
    }

    fn real(&self, file: &FileKey) -> Option<PathBuf> {
        let found = self.targets.get(file.target)?.files.get(file)?;
        Some(found.real.0.join(&found.real.1))
    }

    /// Looks anew at the arguments that asked for it, and watches what they depend on now, as far as it
    /// can: the answer to a good look is how that went.
    fn survey(&mut self, now: Instant) -> Result<io::Result<()>> {
        let mut numbers = std::mem::take(&mut self.rescan);
        if self.blind.is_some() {
            // Which of them are the blind spots is not kept.
            numbers.extend(0..self.targets.len());
        }
        let first = self.scan(&numbers);
        let watched = self.watch.cover(&layout::folders(&self.entries));
        // Once more: what changed before it was watched is seen now, what changes later is an event.
        let scanned = self.scan(&numbers);
        self.compare(&numbers, now);
        // What was watched is what the first look found.
        first.and(scanned).map(|()| watched)
    }

    /// Sees to it that a survey that failed is tried again. Told when that changes, not at each attempt.
    fn surveyed(&mut self, surveyed: Result<()>, now: Instant) {
        let before = self.blind.take();
        let Err(error) = surveyed else {
            if before.is_some() {
                tracing::info!("all changes of files are followed again");
            }
            return;
        };
        let error = format!("{error:#}");
        let since = before.as_ref().map_or(now, |(wait, _)| wait.since);
        if before.is_none_or(|(_, told)| told != error) {
            tracing::error!(error, "a change of files may be missed; trying again");
        }
        self.blind = Some((Wait::again(since, now), error));
    }

    fn scan(&mut self, numbers: &BTreeSet<usize>) -> Result<()> {
        let mut done = Ok(());
        for number in numbers {
            let Some(target) = self.targets.get_mut(*number) else { continue };
            if let Err(error) = target.scan(*number, self.quiet) {
                let path = target.path.display();
                done = Err(error).with_context(|| format!("--from {path}: cannot be looked at"));
            }
        }
        self.entries = layout::entries(&self.targets);
        done
    }

    /// What a look at these arguments found, against what was read.
    fn compare(&mut self, numbers: &BTreeSet<usize>, now: Instant) {
        let owned: HashSet<FileKey> = self.owned();
        for number in numbers {
            let Some(target) = self.targets.get(*number) else { continue };
            for (file, found) in target.files.iter().filter(|(file, _)| owned.contains(*file)) {
                self.leaving.remove(file);
                if self.read.get(file) == Some(&found.stamp) || self.writing.contains_key(file) {
                    continue;
                }
                if self.made.get(&found.real).copied().unwrap_or(found.whole) {
                    self.dirty.entry(file.clone()).or_insert(now);
                } else {
                    self.writing.insert(file.clone(), Wait { since: now, until: now + self.quiet });
                }
            }
        }
        let gone = self.state.files().filter(|file| !owned.contains(*file));
        for file in gone.cloned().collect::<Vec<_>>() {
            self.vanish(file, now);
        }
        self.made.clear();
    }

    /// Every file, once: one that two arguments mean belongs to the first.
    fn owned(&self) -> HashSet<FileKey> {
        let files = self.entries.values().flat_map(|entries| entries.files.values());
        files.filter_map(|keys| keys.first().cloned()).collect()
    }

    fn vanish(&mut self, file: FileKey, now: Instant) {
        self.writing.remove(&file);
        self.dirty.remove(&file);
        self.emptied.remove(&file);
        self.failed.remove(&file);
        self.read.remove(&file);
        self.late.remove(&file);
        if self.state.mark_gone(&file) {
            self.leaving.entry(file).or_insert(Wait { since: now, until: now + self.quiet });
        }
    }

    /// Takes the events that are there.
    fn drain(&mut self, now: Instant) {
        let events = match self.watch.drain() {
            Ok(events) => events,
            Err(error) => {
                tracing::error!(%error, "cannot read changes of files");
                vec![Event::Lost]
            }
        };
        for event in events {
            match event {
                Event::Entry(folder, name, what) => self.entry(&folder, &name, what, now),
                Event::FolderGone => self.rescan.extend(0..self.targets.len()),
                Event::Lost => {
                    self.rescan.extend(0..self.targets.len());
                    self.read.values_mut().for_each(|stamp| *stamp = Stamp::default());
                }
            }
        }
    }

    fn entry(&mut self, folder: &Path, name: &OsStr, what: What, now: Instant) {
        let Some(entries) = self.entries.get(folder) else { return };
        let place = (folder.to_path_buf(), name.to_owned());
        if matches!(what, What::Created | What::MovedHere | What::Vanished) {
            if let Some(numbers) = entries.ways.get(name) {
                self.rescan.extend(numbers);
                self.made.insert(place, what == What::MovedHere);
            }
            if layout::counts(name) {
                for number in entries.folder_of.clone() {
                    self.look(number, folder, name, what, now);
                }
            }
            return;
        }
        if what == What::Written
            && let Some(whole) = self.made.get_mut(&place)
        {
            *whole = true;
        }
        let Some(file) = entries.files.get(name).and_then(|files| files.first()).cloned() else {
            return;
        };
        match what {
            What::Modified => {
                self.emptied.remove(&file);
                self.dirty.remove(&file);
                let since = self.writing.get(&file).map_or(now, |wait| wait.since);
                self.writing.insert(file, Wait { since, until: now + self.quiet });
            }
            // Whoever writes it will close it.
            What::Attributes if self.writing.contains_key(&file) => {}
            _ => {
                self.leaving.remove(&file);
                let since = self.writing.remove(&file).map_or(now, |wait| wait.since);
                self.dirty.entry(file).or_insert(since);
            }
        }
    }

    /// Looks at one entry of a folder that is an argument: adding a file among thousands must not cost
    /// a look at all of them.
    fn look(&mut self, number: usize, folder: &Path, name: &OsStr, what: What, now: Instant) {
        let Some(target) = self.targets.get_mut(number) else { return };
        let file = target.key(number, name);
        let direct = (folder.to_path_buf(), name.to_owned());
        let was_link = target.files.get(&file).is_some_and(|found| found.real != direct);
        // What a link depends on has to be watched, or not any more; and what cannot be looked at now is
        // looked at again.
        if target.entry(number, folder, name, self.quiet).unwrap_or(true) || was_link {
            self.rescan.insert(number);
            return;
        }
        let after = target.files.get(&file).cloned();
        let keys = self.entries.entry(direct.0).or_default().files.entry(direct.1).or_default();
        match after {
            None => {
                keys.remove(&file);
                self.vanish(file, now);
            }
            Some(found) => {
                keys.insert(file.clone());
                if keys.first() != Some(&file) {
                    return;
                }
                self.leaving.remove(&file);
                // Also when a removal is told of and something new is there already.
                if what != What::MovedHere && !found.whole {
                    self.dirty.remove(&file);
                    self.writing.insert(file, Wait { since: now, until: now + self.quiet });
                } else {
                    self.writing.remove(&file);
                    self.dirty.entry(file).or_insert(now);
                }
            }
        }
    }
}
