//! The folder entries that a path leads through, symbolic links included. A change of any of them changes
//! what the path means: so a swap of a ConfigMap mount's `..data`, or a folder that is removed and created
//! again, is noticed.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// The number of symbolic links that the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// An entry of a folder: the path of the folder, free of links, and the name in it.
pub(super) type FolderEntry = (PathBuf, OsString);

/// The entries that a path leads through.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail {
    /// The entries in their order. The last one may be missing.
    pub(super) steps: Vec<FolderEntry>,
    /// The path without links; `None` when an entry is missing.
    pub(super) real: Option<PathBuf>,
    /// One of the entries is a link.
    pub(super) is_linked: bool,
}

/// Follows an absolute path.
pub(super) fn trail(path: &Path) -> Trail {
    let mut trail = Trail::default();
    let mut here = PathBuf::from("/");
    let mut links = 0;
    // A stack of components, the first on top.
    let mut ahead = Vec::new();
    let push = |ahead: &mut Vec<OsString>, path: &Path| {
        let components = path.components().rev().filter(|it| *it != Component::CurDir);
        ahead.extend(components.map(|it| it.as_os_str().to_owned()));
    };
    push(&mut ahead, path);
    while let Some(name) = ahead.pop() {
        if name == "/" {
            here = PathBuf::from("/");
            continue;
        }
        if name == ".." {
            here.pop();
            continue;
        }
        let entry = here.join(&name);
        trail.steps.push((here.clone(), name));
        let Ok(metadata) = entry.symlink_metadata() else { return trail };
        if !metadata.is_symlink() {
            here = entry;
            continue;
        }
        links += 1;
        trail.is_linked = true;
        let Ok(target) = entry.read_link() else { return trail };
        if links > MOST_LINKS {
            return trail;
        }
        push(&mut ahead, &target);
    }
    trail.real = Some(here);
    trail
}
