//! Which folder entries a path leads through, symbolic links included: a change of any of them changes
//! what the path means. That is how a swap of a ConfigMap mount's `..data`, or a folder that is removed
//! and made again, is noticed.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// How many symbolic links the kernel follows (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// The way to a path.
#[derive(Clone, Debug, Default)]
pub(super) struct Trail {
    /// Each entry on the way: the folder, free of links, and the name in it. The last one may be missing.
    pub(super) steps: Vec<(PathBuf, OsString)>,
    /// Where the way ends, free of links; `None` when something on it is missing.
    pub(super) real: Option<PathBuf>,
}

/// Follows an absolute path.
pub(super) fn trail(path: &Path) -> Trail {
    let mut trail = Trail::default();
    let mut here = PathBuf::from("/");
    let mut links = 0;
    let mut ahead: Vec<OsString> = Vec::new();
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
        let Ok(target) = entry.read_link() else { return trail };
        if links > MOST_LINKS {
            return trail;
        }
        push(&mut ahead, &target);
    }
    trail.real = Some(here);
    trail
}

/// Puts a path's components on the stack, the first on top.
fn push(ahead: &mut Vec<OsString>, path: &Path) {
    let components = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir => Some(OsString::from("/")),
        Component::CurDir | Component::Prefix(_) => None,
    });
    ahead.extend(components);
}
