//! Where maps and links lie on bpffs, and what is there.
//!
//! ```text
//! PINS/v1/maps/svclb_index ...   the maps, by name; v1 is the layout's version
//! PINS/v1/links/connect4 ...     the links, by hook
//! ```

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::{MapInfo, MapType};
use svclb_common::layout::{
    AffinityKey, AffinityRow, BackendKey, BackendRow, Counters, FrontendKey, FrontendRow,
    LAYOUT_VERSION, Line, Meta, Origin, Overflow, ServiceRow, Slot,
};

use super::hooks::HOOKS;
use super::sys;

/// What a map must be for these programs.
#[derive(Debug)]
pub struct MapShape {
    /// Its name, which is its pin's too.
    pub name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    flags: u32,
}

/// Flags of include/uapi/linux/bpf.h: entries are allocated as they come; the values can be mapped.
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;

const fn shape<K, V>(name: &'static str, kind: MapType, flags: u32) -> MapShape {
    MapShape { name, kind, key: size_of::<K>(), value: size_of::<V>(), flags }
}

/// Every map that is pinned.
pub const MAPS: [MapShape; 10] = [
    shape::<u32, Line>("svclb_index", MapType::Array, MMAPABLE),
    shape::<u32, Slot>("svclb_slots", MapType::Array, MMAPABLE),
    shape::<u32, Origin>("svclb_origins", MapType::Array, MMAPABLE),
    shape::<u64, Overflow>("svclb_overflow", MapType::Hash, NO_PREALLOC),
    shape::<FrontendKey, FrontendRow>("svclb_frontends", MapType::Hash, NO_PREALLOC),
    shape::<u32, ServiceRow>("svclb_services", MapType::Hash, NO_PREALLOC),
    shape::<BackendKey, BackendRow>("svclb_backends", MapType::Hash, NO_PREALLOC),
    shape::<AffinityKey, AffinityRow>("svclb_affinity", MapType::LruHash, 0),
    shape::<u32, Counters>("svclb_counters", MapType::PerCpuArray, 0),
    shape::<u32, Meta>("svclb_meta", MapType::Array, 0),
];

/// The folder of the pins.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
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

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    /// The pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.version().join("maps").join(name)
    }

    /// The pin of a hook's link.
    pub fn link(&self, hook: &str) -> PathBuf {
        self.version().join("links").join(hook)
    }

    /// Makes the folders, for root only.
    ///
    /// # Errors
    /// When they cannot be made, most often because the folder is not on bpffs.
    pub fn make(&self) -> Result<()> {
        ["maps", "links"].iter().try_for_each(|folder| make(&self.version().join(folder)))
    }

    /// Makes the folder itself, for root only.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub fn make_root(&self) -> Result<()> {
        make(&self.root)
    }

    /// Whether the maps are there: true when all of them are pinned in the shape that these programs
    /// need, false when none is.
    ///
    /// # Errors
    /// When only some are there, or one has another shape: what it takes to go on is said.
    pub fn adoptable(&self) -> Result<bool> {
        let mut found_one = false;
        let mut missing = Vec::new();
        for shape in &MAPS {
            let path = self.map(shape.name);
            if !path.exists() {
                missing.push(shape.name);
                continue;
            }
            let info = MapInfo::from_pin(&path)
                .with_context(|| format!("cannot read the pinned map {}", path.display()))?;
            let found = (
                info.map_type()?,
                info.key_size() as usize,
                info.value_size() as usize,
                info.map_flags(),
            );
            let expected = (shape.kind, shape.key, shape.value, shape.flags);
            anyhow::ensure!(
                found == expected,
                "{} is a map of another layout (type, key size, value size and flags are {found:?}, \
                 expected {expected:?}): remove it with `svclb uninstall --pins {}`",
                path.display(),
                self.root.display(),
            );
            found_one = true;
        }
        if !found_one || missing.is_empty() {
            return Ok(found_one);
        }
        // A first start that was killed half way: nothing is attached, so nothing is lost.
        if HOOKS.iter().all(|hook| !self.link(hook.name).exists()) {
            for shape in &MAPS {
                remove_file(&self.map(shape.name))?;
            }
            return Ok(false);
        }
        anyhow::bail!(
            "{} has links but lacks the maps {}: remove all of it with `svclb uninstall --pins {}`",
            self.version().display(),
            missing.join(", "),
            self.root.display(),
        )
    }

    /// How many lines, slots and places of origins the pinned maps really have.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn capacity(&self) -> Result<[u32; 3]> {
        let mut capacity = [0; 3];
        for (found, name) in
            capacity.iter_mut().zip(["svclb_index", "svclb_slots", "svclb_origins"])
        {
            let path = self.map(name);
            let info = MapInfo::from_pin(&path)
                .with_context(|| format!("cannot read the pinned map {}", path.display()))?;
            *found = info.max_entries();
        }
        Ok(capacity)
    }

    /// Detaches every link, removes every pin and the folder. Says what was removed.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn uninstall(&self) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        let versions = match fs::read_dir(&self.root) {
            Ok(versions) => versions,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", self.root.display()));
            }
        };
        for version in versions {
            let version = version?.path();
            // Links first: a program without its maps' pins still works, a pin without its program
            // is only memory.
            for folder in ["links", "maps"] {
                let folder = version.join(folder);
                for entry in fs::read_dir(&folder).into_iter().flatten() {
                    let path = entry?.path();
                    if folder.ends_with("links") {
                        // Not by closing the last reference alone: that is asynchronous on 5.10.
                        let link = sys::open_pin(&path)
                            .with_context(|| format!("cannot open {}", path.display()))?;
                        sys::detach_link(link.as_fd())
                            .with_context(|| format!("cannot detach {}", path.display()))?;
                    }
                    remove_file(&path)?;
                    removed.push(path);
                }
                remove_folder(&folder)?;
            }
            remove_folder(&version)?;
        }
        remove_folder(&self.root)?;
        Ok(removed)
    }
}

fn make(folder: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.with_context(|| format!("cannot make {}; is it on a mounted bpffs?", folder.display()))
}

fn remove_file(path: &Path) -> Result<()> {
    gone(fs::remove_file(path)).with_context(|| format!("cannot remove {}", path.display()))
}

fn remove_folder(path: &Path) -> Result<()> {
    gone(fs::remove_dir(path)).with_context(|| format!("cannot remove {}", path.display()))
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
