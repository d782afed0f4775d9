//! Which files the `--from` arguments mean now, and which folder entries that depends on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::trail::{Trail, trail};

/// A file in path order: by its place among the `--from` arguments, then by its path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct FileKey {
    /// The argument that it belongs to.
    pub(super) target: usize,
    /// Its path as the argument names it.
    pub(super) path: Arc<Path>,
}

/// Tells one state of a file from another without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Stamp {
    identity: (u64, u64, u64),
    times: (i64, i64, i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            identity: (metadata.dev(), metadata.ino(), metadata.size()),
            times: (
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ),
        }
    }
}

/// A file that an argument means.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The folder it really lies in, and its name there.
    pub(super) real: (PathBuf, OsString),
    /// Its state.
    pub(super) stamp: Stamp,
    /// Nobody can be in the middle of writing it: it was reached over a link, which is made last, or
    /// was written a while ago.
    pub(super) whole: bool,
}

/// What one argument means now.
#[derive(Debug, Default)]
pub(super) struct Target {
    /// The argument.
    pub(super) path: PathBuf,
    absolute: PathBuf,
    /// The folder it is, free of links; `None` when it is a file or missing.
    pub(super) folder: Option<PathBuf>,
    /// Its files.
    pub(super) files: BTreeMap<FileKey, Found>,
    steps: BTreeSet<(PathBuf, OsString)>,
    /// Folders in which something on the way is missing, and may be written.
    awaiting: BTreeSet<PathBuf>,
}

/// What the entries of one folder are to us.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Arguments whose way leads over the entry.
    pub(super) ways: HashMap<OsString, BTreeSet<usize>>,
    /// Something is missing here that may be written.
    awaited: bool,
    /// Arguments that are this folder.
    pub(super) folder_of: Vec<usize>,
    /// Files that are the entry.
    pub(super) files: HashMap<OsString, BTreeSet<FileKey>>,
}

/// Whether a folder's entry of this name counts: YAML and JSON, but nothing hidden (which leaves
/// `.web.yaml.swp`, `.#web.yaml` and `..data` out) and no leftovers of editors (`web.yaml~`, `4913`).
pub(super) fn counts(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    matches!(extension, Some("yaml" | "yml" | "json"))
        && !name.as_encoded_bytes().starts_with(b".")
        && !name.as_encoded_bytes().starts_with(b"#")
}

impl Target {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let absolute = std::path::absolute(path)?;
        Ok(Self { path: path.to_path_buf(), absolute, ..Self::default() })
    }

    /// Looks at the argument's folder, or file, as it is now. A file of a folder that was modified less
    /// than `quiet` ago is not `whole` unless a link leads to it.
    ///
    /// # Errors
    /// When it, or an entry of it, cannot be looked at. That does not mean that it is gone: what was found
    /// there before stays.
    pub(super) fn scan(&mut self, number: usize, quiet: Duration) -> io::Result<()> {
        let way = trail(&self.absolute);
        // Why a way leads nowhere, the whole path tells.
        let end = way.real.as_deref().unwrap_or(&self.absolute);
        let metadata = there(fs::metadata(end))?;
        let is_folder = metadata.as_ref().is_some_and(Metadata::is_dir);
        let names = if is_folder { there(list(end))?.unwrap_or_default() } else { Vec::new() };
        let before = std::mem::take(&mut self.files);
        self.steps.clear();
        self.awaiting.clear();
        self.folder = None;
        let linked = way.steps.iter().any(|(folder, name)| folder.join(name).is_symlink());
        let (Some(real), Some(metadata)) = (self.follow(way), metadata) else { return Ok(()) };
        let mut done = Ok(());
        if is_folder {
            for name in names.iter().filter(|name| counts(name)) {
                if let Err(error) = self.entry(number, &real, name, quiet) {
                    let key = self.key(number, name);
                    self.files.extend(before.get(&key).map(|found| (key, found.clone())));
                    let error = format!("{}: {error}", Path::new(name).display());
                    done = Err(io::Error::other(error));
                }
            }
            self.folder = Some(real);
        } else {
            let key = FileKey { target: number, path: self.path.as_path().into() };
            self.note(key, &real, &metadata, linked, quiet);
        }
        done
    }

    /// Keeps the way in mind. Returns where it ends.
    fn follow(&mut self, way: Trail) -> Option<PathBuf> {
        if way.real.is_none() {
            self.awaiting.extend(way.steps.last().map(|(folder, _)| folder.clone()));
        }
        self.steps.extend(way.steps);
        way.real
    }

    /// Looks at one entry of the argument's folder. True when it is a symbolic link.
    ///
    /// # Errors
    /// When it cannot be looked at; what was found before stays.
    pub(super) fn entry(
        &mut self,
        number: usize,
        folder: &Path,
        name: &OsStr,
        quiet: Duration,
    ) -> io::Result<bool> {
        let key = self.key(number, name);
        let entry = folder.join(name);
        let found = there(entry.symlink_metadata())?;
        if !found.as_ref().is_some_and(Metadata::is_symlink) {
            self.files.remove(&key);
            if let Some(metadata) = found {
                self.note(key, &entry, &metadata, false, quiet);
            }
            return Ok(false);
        }
        let way = trail(&entry);
        let metadata = there(fs::metadata(way.real.as_deref().unwrap_or(&entry)))?;
        self.files.remove(&key);
        if let (Some(real), Some(metadata)) = (self.follow(way), metadata) {
            self.note(key, &real, &metadata, true, quiet);
        }
        Ok(true)
    }

    /// The key of an entry of the argument's folder.
    pub(super) fn key(&self, number: usize, name: &OsStr) -> FileKey {
        FileKey { target: number, path: self.path.join(name).into() }
    }

    fn note(
        &mut self,
        key: FileKey,
        real: &Path,
        metadata: &Metadata,
        linked: bool,
        quiet: Duration,
    ) {
        let (Some(folder), Some(name)) = (real.parent(), real.file_name()) else { return };
        if metadata.is_file() {
            let old = metadata.modified().ok().and_then(|time| time.elapsed().ok());
            // A second hard link is made of a file that exists.
            let whole = linked || metadata.nlink() > 1 || old.is_none_or(|old| old >= quiet);
            let real = (folder.to_path_buf(), name.to_owned());
            self.files.insert(key, Found { real, stamp: Stamp::of(metadata), whole });
        }
    }
}

/// The names in a folder.
fn list(folder: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// What was found; `None` when there is nothing to find, which any other error leaves open.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        found => found.map(Some),
    }
}

/// The entries that matter, by folder. A file that two arguments mean belongs to the first.
pub(super) fn entries(targets: &[Target]) -> HashMap<PathBuf, Entries> {
    let mut found: HashMap<PathBuf, Entries> = HashMap::new();
    for (number, target) in targets.iter().enumerate() {
        for (folder, name) in &target.steps {
            let ways = &mut found.entry(folder.clone()).or_default().ways;
            ways.entry(name.clone()).or_default().insert(number);
        }
        for folder in &target.awaiting {
            found.entry(folder.clone()).or_default().awaited = true;
        }
        if let Some(folder) = &target.folder {
            found.entry(folder.clone()).or_default().folder_of.push(number);
        }
        for (key, file) in &target.files {
            let files = &mut found.entry(file.real.0.clone()).or_default().files;
            files.entry(file.real.1.clone()).or_default().insert(key.clone());
        }
    }
    found
}

/// The folders to watch: true where the contents of entries matter.
pub(super) fn folders(entries: &HashMap<PathBuf, Entries>) -> BTreeMap<PathBuf, bool> {
    let contents = |entries: &Entries| {
        entries.awaited || !entries.folder_of.is_empty() || !entries.files.is_empty()
    };
    entries.iter().map(|(folder, entries)| (folder.clone(), contents(entries))).collect()
}

/// Where an argument leads to nothing, or to what can be neither read nor listed: why.
pub(super) fn refuse(path: &Path) -> Option<String> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Some("there is no such file or folder: make it first".to_owned());
        }
        Err(error) => return Some(format!("{error}")),
    };
    if metadata.is_dir() {
        return fs::read_dir(path).err().map(|error| format!("cannot be listed: {error}"));
    }
    (!metadata.is_file())
        .then(|| "it is neither a file nor a folder: expected Kubernetes YAML".to_owned())
}
