//! The pins of maps and links on a bpffs.
//!
//! ```text
//! PINS/v1/             the maps and links in use (`folder`); v1 is the layout's version
//! PINS/v1/next/        maps that are being filled to take their place; worth nothing after a crash
//! PINS/v1/commit/      the same once they are filled: whatever happens now, they are in use next
//! PINS/v0/             those of another version, until ours have taken their place
//! ```
//!
//! * [`folder`]: one such folder; [`places`]: the paths of its maps; [`meta`]: its row of svclb_meta.
//! * [`own`]: the owner and mode of folders; [`lock`]: one agent at a time.
//! * [`bpffs`]: mounts one.
//!
//! Other files in PINS are left alone: others may use the folder too.
//!
//! The rename of `next` to `commit` is the one moment at which the maps in use change: before it a crash
//! leaves the old ones, after it every start moves on to the new ones ([`Pins::finish`]). The programs
//! are put over them in between, one hook after the other, each by one atomic step.

pub mod bpffs;
pub mod folder;
pub mod lock;
pub mod meta;
pub mod own;
pub mod places;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use svclb_common::layout::{LAYOUT_VERSION, Meta};
use svclb_core::table::MapName;

use crate::bpf::inspect::{self, Link};
use crate::hooks::HOOKS;
use crate::node::environment;
use crate::shapes::{MAPS, MapShape, info_of};
use folder::Folder;

/// The folder of the pins.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

/// The maps in a folder of pins.
#[derive(Debug)]
pub enum Found {
    /// No maps.
    Nothing,
    /// Maps of ours, filled.
    Ours,
    /// Maps that these programs cannot use, and the first difference that makes them unusable. New ones have to
    /// take their place.
    Others(String),
}

/// Pins of two sets of maps may be seen side by side: how long is waited then, and how often.
const SWITCHING: (Duration, u32) = (Duration::from_millis(50), 10);

impl Pins {
    /// The pins in this folder, which need not exist.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The maps and links in use.
    pub fn current(&self) -> Folder {
        Folder::new(self.root.join(format!("v{LAYOUT_VERSION}")))
    }

    /// Maps that are being filled.
    pub fn next(&self) -> Folder {
        Folder::new(self.current().path().join("next"))
    }

    fn commit(&self) -> Folder {
        Folder::new(self.current().path().join("commit"))
    }

    /// Folders of other versions.
    fn others(&self) -> Result<Vec<Folder>> {
        let current = self.current();
        Ok(self.versions()?.into_iter().filter(|folder| *folder != current).collect())
    }

    /// Folders of all versions.
    fn versions(&self) -> Result<Vec<Folder>> {
        let all = folder::entries(&self.root)?.into_iter().filter(|path| is_version(path));
        Ok(all.map(Folder::new).collect())
    }

    /// The pin of a map in use.
    pub fn map(&self, name: MapName) -> PathBuf {
        self.current().map(name)
    }

    /// The pin of a hook's link: ours, or else that of another version that is still in use.
    pub fn link(&self, hook: &str) -> PathBuf {
        let ours = self.current().link(hook);
        if ours.exists() {
            return ours;
        }
        let others = self.others().unwrap_or_default().into_iter().map(|folder| folder.link(hook));
        others.into_iter().find(|link| link.exists()).unwrap_or(ours)
    }

    /// The link that is pinned for a hook; none when there is no pin.
    ///
    /// # Errors
    /// When the pin cannot be opened or read.
    pub fn pinned_link(&self, hook: &str) -> io::Result<Option<Link>> {
        inspect::link_at(&self.link(hook))
    }

    /// Every link that is pinned here and attached, of all versions.
    ///
    /// # Errors
    /// When the folders cannot be read.
    pub fn links(&self) -> Result<Vec<Link>> {
        let mut found = Vec::new();
        for version in self.versions()? {
            for pin in folder::entries(&version.links())? {
                // Other pins there are no links to a cgroup.
                let link = inspect::link_at(&pin).ok().flatten();
                found.extend(link.filter(|link| link.cgroup != 0));
            }
        }
        Ok(found)
    }

    /// Makes the folders, for their owner only.
    ///
    /// # Errors
    /// When they cannot be made, most often because the folder is not on bpffs, or are another user's.
    pub fn make(&self) -> Result<()> {
        folder::make(&self.root)?;
        self.current().make()
    }

    /// The row of svclb_meta of the maps in use.
    ///
    /// # Errors
    /// When nothing is installed in this folder, or it cannot be read.
    pub fn meta(&self) -> Result<Meta> {
        let current = self.current();
        self.check_installed(current.map(MapName::Meta).exists())?;
        meta::read(&current)
    }

    /// Checks that maps are installed in this folder, for commands that read them.
    pub(crate) fn check_installed(&self, is_installed: bool) -> Result<()> {
        ensure!(
            is_installed,
            "no svclb runs with the pins {}: start `svclb agent`, or name its folder by --pins",
            self.root.display(),
        );
        Ok(())
    }

    /// Closes the versions' folders to all but their owner, which must be this user. Other files beside them
    /// stay as they are.
    ///
    /// # Errors
    /// When one is another user's.
    pub fn close_versions(&self) -> Result<()> {
        // Ours is in use whatever is in it, be it nothing that we may read.
        folder::close_all(self.current().path())?;
        self.others()?.iter().try_for_each(|version| folder::close_all(version.path()))
    }

    /// Returns true if the maps of a running or ended svclb of this layout are there; for commands that only
    /// read.
    ///
    /// # Errors
    /// When the maps have another layout: names the difference.
    pub fn is_readable(&self) -> Result<bool> {
        let mut tries = 0..SWITCHING.1;
        loop {
            match self.found() {
                Ok(Found::Ours) => return Ok(true),
                Ok(Found::Nothing) => return Ok(false),
                // An agent may be about to put other maps in their place, one pin after the other.
                Ok(Found::Others(_)) | Err(_) if tries.next().is_some() => {
                    thread::sleep(SWITCHING.0);
                }
                Ok(Found::Others(why)) => bail!(
                    "{why}: use the `svclb` that the maps in {} are of, or start `svclb agent`, which \
                     makes its own maps and takes over without an interruption",
                    self.root.display()
                ),
                Err(error) => return Err(error),
            }
        }
    }

    /// Looks at the maps. A map is usable by its type, its sizes, its flags and its label.
    ///
    /// # Errors
    /// When a map is there and cannot be read.
    pub fn found(&self) -> Result<Found> {
        let current = self.current();
        if !current.has_maps() {
            return Ok(match self.others()?.into_iter().find(Folder::has_maps) {
                None => Found::Nothing,
                Some(folder) => Found::Others(format!(
                    "the maps in {} are of another version than v{LAYOUT_VERSION}",
                    folder.path().display()
                )),
            });
        }
        for shape in &MAPS {
            if let Some(why) = current.misfit(shape)? {
                return Ok(Found::Others(why));
            }
        }
        let row = meta::read(&current)?;
        let described = [row.index_lines, row.slots, row.origins];
        let entries = |name| Ok::<_, anyhow::Error>(info_of(&current.map(name))?.max_entries());
        let sizes =
            [entries(MapName::Index)?, entries(MapName::Slots)?, entries(MapName::Origins)?];
        let are_powers = row.index_lines.is_power_of_two() && row.origins.is_power_of_two();
        let why = match row.layout {
            LAYOUT_VERSION if described == sizes && are_powers => return Ok(Found::Ours),
            LAYOUT_VERSION => format!(
                "describes other maps (lines, slots, origins {described:?}) than are there ({sizes:?})"
            ),
            other => format!("says layout {other}, expected {LAYOUT_VERSION}"),
        };
        let folder = current.path().display();
        Ok(Found::Others(format!("svclb_meta in {folder} {why}")))
    }

    /// Returns the pin of a map that these programs can use, also if they cannot use the maps beside it.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn usable(&self, shape: &MapShape) -> Result<Option<PathBuf>> {
        let mut folders = [self.current()].into_iter().chain(self.others()?);
        let Some(folder) = folders.find(|folder| folder.map(shape.name).exists()) else {
            return Ok(None);
        };
        Ok(folder.misfit(shape)?.is_none().then(|| folder.map(shape.name)))
    }

    /// Removes maps that were being filled and are not in use.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn abandon(&self) -> Result<()> {
        self.next().remove().map(drop)
    }

    /// Commits the next maps: from here on every reader counts them as those in use.
    ///
    /// # Errors
    /// When the folder cannot be renamed, or is not there: then the old ones stay in use.
    pub fn decide(&self) -> Result<()> {
        let next = self.next();
        fs::rename(next.path(), self.commit().path())
            .with_context(|| format!("cannot put the maps in {} into use", next.path().display()))
    }

    /// Returns true if maps are committed and have not been moved yet.
    fn is_decided(&self) -> bool {
        self.commit().path().exists()
    }

    /// Takes [`Self::decide`] back, where no program is over the new maps: by one rename too, since half
    /// of them must never count as decided. Also removes maps that were being filled.
    ///
    /// # Errors
    /// When a pin cannot be removed, or the folder not be renamed.
    pub fn undo(&self) -> Result<()> {
        self.abandon()?;
        folder::rename(self.commit().path(), self.next().path())?;
        self.abandon()
    }

    /// Moves filled maps to the place of those in use, and what else is good of other versions to ours;
    /// the rest goes. Also what a crash left of that.
    ///
    /// # Errors
    /// When a pin cannot be moved or removed.
    pub fn finish(&self) -> Result<()> {
        let (current, commit) = (self.current(), self.commit());
        if !self.is_decided() {
            return Ok(());
        }
        current.make()?;
        // A map that is missing here and was usable there was shared.
        for other in self.others()? {
            for shape in MAPS.iter().filter(|shape| !commit.map(shape.name).exists()) {
                if current.lacks(shape, &other)? {
                    current.take_map(shape.name, &other)?;
                }
            }
        }
        for shape in MAPS.iter().filter(|shape| commit.map(shape.name).exists()) {
            current.take_map(shape.name, &commit)?;
        }
        self.supersede()?;
        commit.remove().map(drop)
    }

    /// Takes over the links that are in use, once our programs are behind all of them; what else is of
    /// other versions goes. Maps that one of those had filled and not put into use would be far behind
    /// when it comes again.
    ///
    /// # Errors
    /// When a pin cannot be moved or removed.
    pub fn supersede(&self) -> Result<()> {
        let current = self.current();
        for other in self.others()? {
            for hook in HOOKS.iter().filter(|hook| !current.link(hook.name).exists()) {
                folder::rename(&other.link(hook.name), &current.link(hook.name))?;
            }
            other.remove()?;
        }
        Ok(())
    }

    /// Detaches every link, and removes every pin and the folder. Returns what was removed; with that, what
    /// is left in the folder because it is not svclb's.
    ///
    /// # Errors
    /// When the folder is not on a bpffs, or a pin cannot be removed.
    pub fn uninstall(&self) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        environment::check_bpffs(&self.root)?;
        let mut removed = Vec::new();
        for version in self.versions()? {
            removed.extend(version.remove()?);
        }
        folder::remove_unused(&self.root)?;
        Ok((removed, folder::entries(&self.root)?))
    }
}

/// Returns true if a path is the folder of a version: `v` and a number as svclb writes it, with pins of svclb
/// or with none.
fn is_version(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let number = name.strip_prefix('v').and_then(|number| number.parse::<u32>().ok());
    let is_named = number.is_some_and(|number| name == format!("v{number}"));
    is_named && folder::is_folder(path) && (folder::has_ours(path) || !folder::has_files(path))
}

#[cfg(test)]
mod as_root_tests;
#[cfg(test)]
mod tests;
