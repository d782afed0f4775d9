//! Writes tars whose bytes depend on their files only: the image's only layer, and what `cargo xtask dist`
//! packs.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context as _;
use tar::{EntryType, Header};

/// Mount points of container runtimes, and folders that programs expect.
const FOLDERS: [&str; 7] = ["dev", "etc", "host", "proc", "run", "sys", "var"];

/// A file in a tar.
#[derive(Clone)]
pub(crate) struct Entry {
    path: String,
    mode: u32,
    data: Vec<u8>,
}

impl Entry {
    /// An executable file.
    pub(crate) fn program(path: &str, data: Vec<u8>) -> Self {
        Self { path: path.to_owned(), mode: 0o755, data }
    }

    /// A readable file.
    pub(crate) fn file(path: &str, data: Vec<u8>) -> Self {
        Self { path: path.to_owned(), mode: 0o644, data }
    }

    /// Its size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }
}

/// Packs these files in sorted order, with their folders and those of every container.
///
/// # Errors
/// A path does not fit a tar's header.
pub(super) fn root(files: Vec<Entry>) -> anyhow::Result<Vec<u8>> {
    let mut tar = begin(&files, &FOLDERS)?;
    // The only folder that all users may write to.
    append(&mut tar, "tmp/", EntryType::Directory, 0o1777, &[])?;
    finish(tar, files)
}

/// Packs these files in sorted order, with their folders and `more` folders.
///
/// # Errors
/// A path does not fit a tar's header.
pub(crate) fn tar(files: Vec<Entry>, more: &[&str]) -> anyhow::Result<Vec<u8>> {
    finish(begin(&files, more)?, files)
}

fn begin(files: &[Entry], more: &[&str]) -> anyhow::Result<tar::Builder<Vec<u8>>> {
    let paths = more.iter().copied().chain(files.iter().map(|file| &file.path[..]));
    let above = paths.flat_map(|path| Path::new(path).ancestors().skip(1));
    let mut folders: BTreeSet<&str> = above.filter_map(Path::to_str).collect();
    folders.extend(more);
    folders.remove("");
    let mut tar = tar::Builder::new(Vec::new());
    for folder in folders {
        append(&mut tar, &format!("{folder}/"), EntryType::Directory, 0o755, &[])?;
    }
    Ok(tar)
}

fn finish(mut tar: tar::Builder<Vec<u8>>, mut files: Vec<Entry>) -> anyhow::Result<Vec<u8>> {
    files.sort_by(|one, other| one.path.cmp(&other.path));
    for file in &files {
        append(&mut tar, &file.path, EntryType::Regular, file.mode, &file.data)?;
    }
    Ok(tar.into_inner()?)
}

/// Appends an entry that root owns, with the start of the epoch as its time.
pub(crate) fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    data: &[u8],
) -> anyhow::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(data.len() as u64);
    tar.append_data(&mut header, path, data).with_context(|| format!("cannot pack {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_bytes_in_any_order() {
        let make = |names: [&str; 3]| {
            let files = names.map(|name| Entry::file(name, name.as_bytes().to_vec()));
            root(files.into()).unwrap()
        };
        assert_eq!(make(["b", "a/c", "a/b"]), make(["a/b", "b", "a/c"]));
    }

    #[test]
    fn folders_come_before_their_files_and_root_owns_everything() {
        let files = vec![Entry::program("svclb", vec![1]), Entry::file("one/two/three", vec![2])];
        let packed = root(files).unwrap();
        let mut archive = tar::Archive::new(&packed[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            assert_eq!(header.mtime().unwrap(), 0);
            let path = entry.path().unwrap().display().to_string();
            seen.push((path, header.mode().unwrap()));
        }
        let place = |path: &str| seen.iter().position(|(name, _)| name == path).unwrap();
        assert!(place("one/") < place("one/two/") && place("one/two/") < place("one/two/three"));
        assert_eq!(seen[place("svclb")].1, 0o755);
        assert_eq!(seen[place("one/two/three")].1, 0o644);
        assert_eq!(seen[place("tmp/")].1, 0o1777);
    }
}
