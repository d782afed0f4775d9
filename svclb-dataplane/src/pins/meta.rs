//! The row of svclb_meta by itself, without the other maps.

use anyhow::{Context as _, Result};
use aya::maps::{Array, Map, MapData};
use svclb_common::layout::{Meta, SourceRow};
use svclb_core::table::MapName;

use crate::bpf::value::Plain;
use crate::pins::folder::Folder;
use crate::pins::places;

/// Reads the row of the maps in a folder.
///
/// # Errors
/// When it is not there or cannot be read.
pub fn read(folder: &Folder) -> Result<Meta> {
    Ok(open(folder)?.get(&0, 0).context("cannot read svclb_meta")?.0)
}

/// Notes in the row of the maps in a folder that this agent has begun. The maps hold what an earlier agent
/// wrote, which may differ from the sources until the first pass.
///
/// # Errors
/// When the row cannot be read or written.
pub fn begin(folder: &Folder, agent: u32, agent_started: u64) -> Result<()> {
    let mut map = open(folder)?;
    let row = map.get(&0, 0).context("cannot read svclb_meta")?.0;
    let sources = row.sources.map(|source| SourceRow { heard: 0, ..source });
    let row = Meta { synced: 0, proved: 0, agent, agent_started, sources, ..row };
    map.set(0, Plain(row), 0).context("cannot write svclb_meta")
}

fn open(folder: &Folder) -> Result<Array<MapData, Plain<Meta>>> {
    let map = places::open_map(&folder.map(MapName::Meta))?;
    Ok(Map::from_map_data(map)?.try_into()?)
}
