//! The pin of each map of a set of programs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::MapData;

use crate::pins::Pins;
use crate::pins::folder::Folder;
use crate::shapes::MAPS;

/// A map that remembers clients by the ids of services.
const AFFINITY: &str = "svclb_affinity";

/// The pins of all maps, by name.
#[derive(Clone, Debug)]
pub struct Places(Vec<(&'static str, PathBuf)>);

impl Places {
    /// The maps in use.
    pub fn current(pins: &Pins) -> Self {
        Self::within(&pins.current())
    }

    fn within(folder: &Folder) -> Self {
        Self(MAPS.iter().map(|shape| (shape.name, folder.map(shape.name))).collect())
    }

    /// New ones beside those in use, but for the maps that outlive them; and what had to be made anew
    /// although it is there. Affinity can outlive them only where services keep their ids.
    ///
    /// # Errors
    /// When a map is there and cannot be read.
    pub fn beside(pins: &Pins, keeps_ids: bool) -> Result<(Self, Vec<&'static str>)> {
        let Self(mut places) = Self::within(&pins.next());
        let mut lost = Vec::new();
        for (shape, (name, place)) in MAPS.iter().zip(&mut places) {
            if !shape.is_shared {
                continue;
            }
            match pins.usable(shape)? {
                Some(found) if keeps_ids || shape.name != AFFINITY => *place = found,
                _ => lost.push(*name),
            }
        }
        Ok((Self(places), lost))
    }

    /// The pin of a map.
    pub fn of(&self, name: &str) -> &Path {
        let found = self.0.iter().find(|(other, _)| *other == name);
        found.map_or(Path::new(""), |(_, place)| place)
    }

    /// Opens a map.
    ///
    /// # Errors
    /// When it is not there or cannot be opened.
    pub fn open(&self, name: &str) -> Result<MapData> {
        let place = self.of(name);
        MapData::from_pin(place).with_context(|| format!("cannot open {}", place.display()))
    }
}
