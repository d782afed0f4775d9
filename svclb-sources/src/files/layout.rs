//! The files that the `--from` arguments mean now, and the folder entries that this depends on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::trail::{FolderEntry, Trail, trail};

/// A file in path order: by its place among the `--from` arguments, then by its path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct FileKey {
    /// The argument that it belongs to.
    pub(super) argument: usize,
    /// Its path as the argument names it.
    pub(super) path: Arc<Path>,
}

/// Distinguishes the states of a file without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp((u64, u64, u64), (i64, i64), (i64, i64));

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self(
            (metadata.dev(), metadata.ino(), metadata.size()),
            (metadata.mtime(), metadata.mtime_nsec()),
            (metadata.ctime(), metadata.ctime_nsec()),
        )
    }
}

/// A file that an argument means.
#[derive(Clone, Debug)]
pub(super) struct FoundFile {
    /// The entry that it is, free of links.
    pub(super) real: FolderEntry,
    pub(super) stamp: Stamp,
    /// It was reached over a symbolic link, which is created when its target is whole.
    pub(super) is_linked: bool,
    /// It was written a while ago, or has a second hard link, which is created of a whole file.
    pub(super) is_settled: bool,
}

/// An argument, and what it means now.
#[derive(Debug, Default)]
pub(super) struct Argument {
    /// The argument.
    pub(super) path: PathBuf,
    absolute: PathBuf,
    /// The folder that it is, free of links; `None` when it is a file or missing.
    folder: Option<PathBuf>,
    /// Its files.
    pub(super) files: BTreeMap<FileKey, FoundFile>,
    /// The entries that it, and the links in it, lead through.
    steps: BTreeSet<FolderEntry>,
    /// Folders in which one of those entries is missing, and may be written.
    awaiting: BTreeSet<PathBuf>,
}

/// Returns true for the entries of a folder that count: YAML and JSON, but nothing hidden (which leaves
/// `.web.yaml.swp`, `.#web.yaml` and `..data` out) and no leftovers of editors (`web.yaml~`, `4913`).
fn counts(name: &OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    matches!(extension, Some("yaml" | "yml" | "json"))
        && !name.as_encoded_bytes().starts_with(b".")
        && !name.as_encoded_bytes().starts_with(b"#")
}

impl Argument {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let absolute = std::path::absolute(path)?;
        Ok(Self { path: path.to_path_buf(), absolute, ..Self::default() })
    }

    /// Returns true when what it means changes with this entry's coming and going.
    pub(super) fn depends_on(&self, entry: &FolderEntry) -> bool {
        self.steps.contains(entry) || self.folder.as_ref() == Some(&entry.0) && counts(&entry.1)
    }

    /// Looks at the argument's folder, or file, as it is now. A file that was modified less than `quiet` ago
    /// is not settled.
    ///
    /// # Errors
    /// When it, or an entry of it, cannot be looked at. That does not mean that it is gone: what was found
    /// there before stays.
    pub(super) fn scan(&mut self, number: usize, quiet: Duration) -> io::Result<()> {
        let trail = trail(&self.absolute);
        // If the trail is broken, the whole path gives the reason.
        let end = trail.real.as_deref().unwrap_or(&self.absolute);
        let metadata = if_found(fs::metadata(end))?;
        let is_folder = metadata.as_ref().is_some_and(Metadata::is_dir);
        let names = if is_folder { if_found(list(end)) } else { Ok(None) };
        let names = names.inspect_err(|_| {
            // To notice that a known file is gone takes no list.
            self.files.retain(|key, _| !matches!(if_found(key.path.symlink_metadata()), Ok(None)));
        })?;
        let before = std::mem::take(&mut self.files);
        self.steps.clear();
        self.awaiting.clear();
        self.folder = None;
        let is_linked = trail.is_linked;
        let (Some(real), Some(metadata)) = (self.follow(trail), metadata) else { return Ok(()) };
        if !is_folder {
            let key = FileKey { argument: number, path: self.path.as_path().into() };
            self.add(key, &real, &metadata, is_linked, quiet);
            return Ok(());
        }
        let mut done = Ok(());
        for name in names.unwrap_or_default().iter().filter(|name| counts(name)) {
            let key = FileKey { argument: number, path: self.path.join(name).into() };
            if let Err(error) = self.scan_entry(&key, &real.join(name), quiet) {
                self.files.extend(before.get(&key).map(|found| (key, found.clone())));
                done = Err(io::Error::other(format!("{}: {error}", Path::new(name).display())));
            }
        }
        self.folder = Some(real);
        done
    }

    /// Looks at one entry of the argument's folder.
    fn scan_entry(&mut self, key: &FileKey, entry: &Path, quiet: Duration) -> io::Result<()> {
        let Some(metadata) = if_found(entry.symlink_metadata())? else { return Ok(()) };
        if !metadata.is_symlink() {
            self.add(key.clone(), entry, &metadata, false, quiet);
            return Ok(());
        }
        let trail = trail(entry);
        let metadata = if_found(fs::metadata(trail.real.as_deref().unwrap_or(entry)))?;
        if let (Some(real), Some(metadata)) = (self.follow(trail), metadata) {
            self.add(key.clone(), &real, &metadata, true, quiet);
        }
        Ok(())
    }

    /// Adds the entries of a trail to those that matter. Returns where it ends.
    fn follow(&mut self, trail: Trail) -> Option<PathBuf> {
        if trail.real.is_none() {
            self.awaiting.extend(trail.steps.last().map(|(folder, _)| folder.clone()));
        }
        self.steps.extend(trail.steps);
        trail.real
    }

    fn add(
        &mut self,
        key: FileKey,
        real: &Path,
        metadata: &Metadata,
        is_linked: bool,
        quiet: Duration,
    ) {
        let (Some(folder), Some(name)) = (real.parent(), real.file_name()) else { return };
        if metadata.is_file() {
            let age = metadata.modified().ok().and_then(|time| time.elapsed().ok());
            let is_settled = metadata.nlink() > 1 || age.is_none_or(|age| age >= quiet);
            let real = (folder.to_path_buf(), name.to_owned());
            self.files
                .insert(key, FoundFile { real, stamp: Stamp::of(metadata), is_linked, is_settled });
        }
    }
}

/// Returns the names in a folder.
fn list(folder: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect()
}

/// Returns `None` when there is nothing to find, which any other error leaves open.
fn if_found<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        found => found.map(Some),
    }
}

/// Returns every file by its entry. One that two arguments mean belongs to the first.
pub(super) fn places(arguments: &[Argument]) -> HashMap<FolderEntry, FileKey> {
    let mut places = HashMap::new();
    for (key, file) in arguments.iter().flat_map(|argument| &argument.files) {
        places.entry(file.real.clone()).or_insert_with(|| key.clone());
    }
    places
}

/// Returns the folders to watch: true where the contents of entries matter.
pub(super) fn folders(arguments: &[Argument]) -> BTreeMap<PathBuf, bool> {
    let mut folders = BTreeMap::new();
    for argument in arguments {
        let files = argument.files.values().map(|file| &file.real.0);
        let contents = files.chain(&argument.awaiting).chain(&argument.folder).map(|it| (it, true));
        for (folder, contents) in argument.steps.iter().map(|(it, _)| (it, false)).chain(contents) {
            *folders.entry(folder.clone()).or_default() |= contents;
        }
    }
    folders
}

/// Returns why an argument cannot be followed: it is missing, or can be neither read nor listed.
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
