//! A folder of pinned maps and links, and the labels that tell how the maps are laid out.
//!
//! ```text
//! maps/svclb_index      a map
//! layouts/svclb_index   its label: a symbolic link to the text of its layout
//! links/connect4        a hook's link
//! ```

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use svclb_core::table::MapName;

use crate::bpf::sys;
use crate::hooks::HOOKS;
use crate::pins::own;
use crate::shapes::{MAPS, MapShape};

const MAPS_IN: &str = "maps";
const LAYOUTS_IN: &str = "layouts";
const LINKS_IN: &str = "links";

/// Pins of one set of maps. Need not exist.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at this path.
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The pin of a map.
    pub fn map(&self, name: MapName) -> PathBuf {
        self.0.join(MAPS_IN).join(name.as_str())
    }

    /// The pin of a hook's link.
    pub fn link(&self, hook: &str) -> PathBuf {
        self.0.join(LINKS_IN).join(hook)
    }

    /// The folder of the links.
    pub fn links(&self) -> PathBuf {
        self.0.join(LINKS_IN)
    }

    fn label(&self, name: MapName) -> PathBuf {
        self.0.join(LAYOUTS_IN).join(name.as_str())
    }

    /// Makes it, for its owner only.
    ///
    /// # Errors
    /// When it cannot be made, most often because it is not on bpffs, or is another user's.
    pub fn make(&self) -> Result<()> {
        make(&self.0)?;
        [MAPS_IN, LAYOUTS_IN, LINKS_IN].iter().try_for_each(|folder| make(&self.0.join(folder)))
    }

    /// Returns true if any map is pinned here.
    pub fn has_maps(&self) -> bool {
        entries(&self.0.join(MAPS_IN)).is_ok_and(|found| !found.is_empty())
    }

    /// Labels the maps that are pinned here as ours, where that is not done.
    ///
    /// # Errors
    /// When a label cannot be made.
    pub fn label_all(&self) -> Result<()> {
        MAPS.iter().filter(|shape| self.map(shape.name).exists()).try_for_each(|shape| {
            let label = self.label(shape.name);
            let wanted = shape.layout();
            if self.layout_of(shape).is_some_and(|found| found == wanted) {
                return Ok(());
            }
            remove_file(&label)?;
            symlink(wanted, &label).with_context(|| format!("cannot make {}", label.display()))
        })
    }

    /// Reads the label of a map.
    fn layout_of(&self, shape: &MapShape) -> Option<String> {
        let target = fs::read_link(self.label(shape.name)).ok()?;
        target.into_os_string().into_string().ok()
    }

    /// Returns the reason why these programs cannot use this map; none if they can.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn misfit(&self, shape: &MapShape) -> Result<Option<String>> {
        let pin = self.map(shape.name);
        if !pin.exists() {
            return Ok(Some(format!("{} is missing", pin.display())));
        }
        shape.misfit(&pin, self.layout_of(shape).as_deref())
    }

    /// Returns true if another folder has a map that these programs can use, and this folder has none. After a
    /// crash in the middle of [`Self::take_map`] its label is here already.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn lacks(&self, shape: &MapShape, other: &Self) -> Result<bool> {
        let pin = other.map(shape.name);
        if self.map(shape.name).exists() || !pin.exists() {
            return Ok(false);
        }
        let label = other.layout_of(shape).or_else(|| self.layout_of(shape));
        Ok(shape.misfit(&pin, label.as_deref())?.is_none())
    }

    /// Takes a map and its label over from another folder, in the place of what is here.
    ///
    /// # Errors
    /// When a pin cannot be moved.
    pub fn take_map(&self, name: MapName, from: &Self) -> Result<()> {
        // The label comes first: a map with another's label is created again, which loses nothing but time,
        // and is never used with a wrong layout.
        rename(&from.label(name), &self.label(name))?;
        rename(&from.map(name), &self.map(name))
    }

    /// Removes everything in it and itself, links detached. Returns what was removed.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove(&self) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        // Links first: a program without its maps' pins still works, a pin without its program is only
        // memory.
        let links = self.links();
        for path in entries(&links)? {
            // Not by closing the last reference alone: that is asynchronous on 5.10.
            let link =
                sys::open_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
            sys::detach_link(link.as_fd())
                .with_context(|| format!("cannot detach {}", path.display()))?;
            remove_file(&path)?;
            removed.push(path);
        }
        remove_folder(&links)?;
        remove_all(&self.0, &mut removed)?;
        Ok(removed)
    }
}

/// Removes a folder with everything in it, and adds the removed pins, but not their labels, to `removed`.
fn remove_all(folder: &Path, removed: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(folder)? {
        let kind = fs::symlink_metadata(&path).map(|data| data.file_type());
        match kind {
            Ok(kind) if kind.is_dir() => remove_all(&path, removed)?,
            Ok(kind) => {
                remove_file(&path)?;
                if !kind.is_symlink() {
                    removed.push(path);
                }
            }
            Err(_) => {}
        }
    }
    remove_folder(folder)
}

/// Returns the sorted paths in a folder; none if it does not exist.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read {}", folder.display());
    let found = sys::if_found(fs::read_dir(folder)).with_context(cannot)?;
    let paths = found.into_iter().flatten().map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>().with_context(cannot)?;
    paths.sort();
    Ok(paths)
}

/// Returns true for a folder, but not for a symbolic link to one.
pub(crate) fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|data| data.is_dir())
}

/// Closes a folder and all folders in it to all but their owner, which must be this user. A folder that does
/// not exist counts as closed.
///
/// # Errors
/// As [`own::close`].
pub(crate) fn close_all(folder: &Path) -> Result<()> {
    if sys::if_found(fs::symlink_metadata(folder)).is_ok_and(|found| found.is_none()) {
        return Ok(());
    }
    own::close(folder)?;
    entries(folder)?.iter().filter(|it| is_folder(it)).try_for_each(|it| close_all(it))
}

/// Makes a folder and those above it, for their owner only. One that is there is closed to others.
pub(crate) fn make(folder: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make {}; is it on a mounted bpffs?", folder.display()))?;
    own::close(folder)
}

pub(crate) fn remove_file(path: &Path) -> Result<()> {
    removed(fs::remove_file(path), path)
}

fn remove_folder(path: &Path) -> Result<()> {
    removed(fs::remove_dir(path), path)
}

/// Adds the path to an error. A path that is gone already is no error.
fn removed(result: io::Result<()>, path: &Path) -> Result<()> {
    sys::if_found(result).with_context(|| format!("cannot remove {}", path.display())).map(drop)
}

/// Removes a folder unless something is in it or mounted at it, in a folder that may be read-only as a pod's.
pub(crate) fn remove_unused(path: &Path) -> Result<()> {
    use io::ErrorKind::{DirectoryNotEmpty, ReadOnlyFilesystem, ResourceBusy};
    match fs::remove_dir(path) {
        Err(error)
            if matches!(error.kind(), DirectoryNotEmpty | ReadOnlyFilesystem | ResourceBusy) =>
        {
            Ok(())
        }
        result => removed(result, path),
    }
}

/// Returns true if something below a folder has the name of a map or hook of svclb, at a place where svclb
/// pins those.
pub fn has_ours(path: &Path) -> bool {
    let is_ours = |it: &Path| {
        let name = it.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("svclb_") || HOOKS.iter().any(|hook| hook.name == name)
    };
    // The maps in use, and those of a change of maps that was cut off.
    ["", "next", "commit"].iter().map(|it| path.join(it)).any(|set| {
        let below = [MAPS_IN, LAYOUTS_IN, LINKS_IN].map(|it| entries(&set.join(it)));
        below.into_iter().flatten().flatten().any(|it| is_ours(&it))
    })
}

/// Returns true if something other than folders is below a folder, or if that cannot be read.
pub fn has_files(path: &Path) -> bool {
    entries(path).map_or(true, |all| all.iter().any(|it| !is_folder(it) || has_files(it)))
}

/// Moves a pin or a label, in the place of what is there; none that is not there.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    let cannot = || format!("cannot move {} to {}", from.display(), to.display());
    sys::if_found(fs::rename(from, to)).with_context(cannot).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_folder_of_ours_is_closed_with_all_that_are_in_it() {
        let root = tempfile::tempdir().unwrap();
        let deep = root.path().join("v1/maps");
        fs::create_dir_all(&deep).unwrap();
        let all = [root.path(), deep.parent().unwrap(), &deep];
        let mode = |folder: &Path| fs::metadata(folder).unwrap().permissions().mode() & 0o7777;
        for open in [0o777, 0o1777, 0o710, 0o701] {
            for folder in all {
                fs::set_permissions(folder, fs::Permissions::from_mode(open)).unwrap();
            }
            close_all(root.path()).unwrap();
            assert_eq!(all.map(mode), [0o700; 3], "{open:o}");
        }
        close_all(&root.path().join("none")).unwrap();
    }
}
