//! Where maps and links lie on bpffs, and what is there.
//!
//! ```text
//! PINS/v1/             the maps and links in use (`folder`); v1 is the layout's version
//! PINS/v1/next/        maps that are being filled to take their place; worth nothing after a crash
//! PINS/v1/commit/      the same once they are filled: whatever happens now, they are in use next
//! PINS/v0/             those of another version, until ours have taken their place
//! ```
//!
//! The rename of `next` to `commit` is the one moment at which the maps in use change: before it a crash
//! leaves the old ones, after it every start moves on to the new ones ([`Pins::finish`]). The programs
//! are put over them in between, one hook after the other, each by one atomic step.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapInfo;
use svclb_common::layout::LAYOUT_VERSION;

use super::folder::{self, Folder};
use super::hooks::HOOKS;
use super::meta;
use super::shapes::{MAPS, MapShape};

/// The folder of the pins.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

/// What is in a folder of pins.
#[derive(Debug)]
pub enum Found {
    /// No maps.
    Nothing,
    /// Maps of ours, filled.
    Ours,
    /// Maps that these programs cannot use, and why. New ones have to take their place.
    Others {
        /// What does not fit.
        why: String,
    },
}

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
        let all = folder::entries(&self.root)?.into_iter().map(Folder::new);
        Ok(all.filter(|folder| *folder != current).collect())
    }

    /// The pin of a map in use.
    pub fn map(&self, name: &str) -> PathBuf {
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

    /// Makes the folders, for root only.
    ///
    /// # Errors
    /// When they cannot be made, most often because the folder is not on bpffs.
    pub fn make(&self) -> Result<()> {
        self.current().make()
    }

    /// Makes the folder itself, for root only.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub fn make_root(&self) -> Result<()> {
        folder::make(&self.root)
    }

    /// Whether the maps of a running or ended svclb of this layout are there; for those who only read.
    ///
    /// # Errors
    /// When there are others, with what does not fit.
    pub fn is_readable(&self) -> Result<bool> {
        match self.found()? {
            Found::Ours => Ok(true),
            Found::Nothing => Ok(false),
            Found::Others { why } => bail!(
                "{why}: use the `svclb` that the maps in {} are of, or start `svclb agent`, which makes \
                 its own maps and takes over without an interruption",
                self.root.display()
            ),
        }
    }

    /// What is there. Each map counts as ours by its type, its sizes, its flags and its label.
    ///
    /// # Errors
    /// When a map is there and cannot be read.
    pub fn found(&self) -> Result<Found> {
        let current = self.current();
        if !current.has_maps() {
            let others = self.others()?.into_iter().filter(Folder::has_maps);
            return Ok(match others.into_iter().next() {
                None => Found::Nothing,
                Some(folder) => Found::Others {
                    why: format!(
                        "the maps in {} are of another version than v{LAYOUT_VERSION}",
                        folder.path().display()
                    ),
                },
            });
        }
        for shape in &MAPS {
            if let Some(why) = current.misfit(shape)? {
                return Ok(Found::Others { why });
            }
        }
        let row = meta::read_in(&current)?;
        let told = [row.index_lines.wrapping_add(row.spill_lines), row.slots, row.origins];
        let sizes = self.capacity()?;
        let are_powers = row.index_lines.is_power_of_two() && row.origins.is_power_of_two();
        let why = match row.layout {
            LAYOUT_VERSION if told == sizes && are_powers => return Ok(Found::Ours),
            LAYOUT_VERSION => format!(
                "svclb_meta in {} tells of other maps (lines, slots, origins {told:?}) than are there \
                 ({sizes:?})",
                current.path().display()
            ),
            other => format!(
                "svclb_meta in {} says layout {other}, expected {LAYOUT_VERSION}",
                current.path().display()
            ),
        };
        Ok(Found::Others { why })
    }

    /// Where a map is pinned that these programs can use, be it among others that they cannot.
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

    /// How many lines, slots and places of origins the pinned maps really have.
    ///
    /// # Errors
    /// When a map cannot be read.
    fn capacity(&self) -> Result<[u32; 3]> {
        let mut capacity = [0; 3];
        for (found, name) in
            capacity.iter_mut().zip(["svclb_index", "svclb_slots", "svclb_origins"])
        {
            *found = entries_of(&self.map(name))?;
        }
        Ok(capacity)
    }

    /// Removes maps that were being filled and are not in use.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn abandon(&self) -> Result<()> {
        self.next().remove().map(drop)
    }

    /// Says that the next maps are filled: from here on they are in use as soon as anybody looks.
    ///
    /// # Errors
    /// When the folder cannot be renamed.
    pub fn decide(&self) -> Result<()> {
        folder::rename(self.next().path(), self.commit().path())
    }

    /// Whether there are maps that are filled and have not taken their place yet.
    fn is_decided(&self) -> bool {
        self.commit().path().exists()
    }

    /// Takes [`Self::decide`] back, where no program is over the new maps.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn undo(&self) -> Result<()> {
        self.commit().remove().map(drop)
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
        // What is missing here and there was good enough to be shared.
        for other in self.others()? {
            for shape in MAPS.iter().filter(|shape| !commit.map(shape.name).exists()) {
                if !current.map(shape.name).exists() && other.misfit(shape)?.is_none() {
                    current.take_map(shape.name, &other)?;
                }
            }
            for hook in &HOOKS {
                current.take_link(hook.name, &other)?;
            }
        }
        for shape in MAPS.iter().filter(|shape| commit.map(shape.name).exists()) {
            current.take_map(shape.name, &commit)?;
        }
        for other in self.others()? {
            other.remove()?;
        }
        commit.remove().map(drop)
    }

    /// Detaches every link, removes every pin and the folder. Says what was removed.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn uninstall(&self) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for version in folder::entries(&self.root)? {
            removed.extend(Folder::new(version).remove()?);
        }
        folder::remove_folder(&self.root)?;
        Ok(removed)
    }
}

/// How many entries a pinned map has.
///
/// # Errors
/// When it cannot be read.
pub fn entries_of(pin: &Path) -> Result<u32> {
    let info = MapInfo::from_pin(pin)
        .with_context(|| format!("cannot read the pinned map {}", pin.display()))?;
    Ok(info.max_entries())
}
