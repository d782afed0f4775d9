//! The pin of each map of a set of programs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use svclb_core::table::MapName;

use crate::bpf::mapping::Mapping;
use crate::bpf::value::MapValue;
use crate::pins::Pins;
use crate::pins::folder::Folder;
use crate::shapes::MAPS;

/// The pins of all maps, in the order of [`MapName`].
#[derive(Clone, Debug)]
pub struct Places([PathBuf; MAPS.len()]);

impl Places {
    /// The maps in use.
    pub fn current(pins: &Pins) -> Self {
        Self::within(&pins.current())
    }

    fn within(folder: &Folder) -> Self {
        Self(MAPS.each_ref().map(|shape| folder.map(shape.name)))
    }

    /// Staging maps, but for the maps that outlive those in use; and the maps of this kind that are created
    /// again because they cannot be used. Affinity can outlive them only where services keep their ids.
    ///
    /// # Errors
    /// When a map is there and cannot be read.
    pub fn beside(pins: &Pins, keeps_ids: bool) -> Result<(Self, Vec<MapName>)> {
        let Self(mut places) = Self::within(&pins.next());
        let mut lost = Vec::new();
        for (shape, place) in MAPS.iter().zip(&mut places).filter(|(shape, _)| shape.is_shared) {
            match pins.usable(shape)? {
                Some(found) if keeps_ids || shape.name != MapName::Affinity => *place = found,
                _ => lost.push(shape.name),
            }
        }
        Ok((Self(places), lost))
    }

    /// The pin of a map.
    pub fn of(&self, map: MapName) -> &Path {
        &self.0[map as usize]
    }

    /// Opens a map.
    ///
    /// # Errors
    /// When it is not there or cannot be opened.
    pub fn open(&self, map: MapName) -> Result<MapData> {
        open_map(self.of(map))
    }

    /// Maps the values of an array into this process's memory.
    ///
    /// # Errors
    /// When it is not there or cannot be mapped.
    pub(crate) fn map_values<T: MapValue>(
        &self,
        map: MapName,
        writable: bool,
    ) -> Result<Mapping<T>> {
        Mapping::new(&self.open(map)?, writable).with_context(|| format!("cannot map {map}"))
    }
}

/// Opens a pinned map.
pub(crate) fn open_map(pin: &Path) -> Result<MapData> {
    MapData::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))
}
