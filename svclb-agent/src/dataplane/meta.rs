//! The row of svclb_meta by itself, without the other maps.

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData};
use svclb_common::layout::Meta;

use super::pins::Pins;
use super::rows::Plain;

/// Reads the row.
///
/// # Errors
/// When nothing is installed in this folder, or it cannot be read.
pub fn read(pins: &Pins) -> Result<Meta> {
    Ok(open(pins)?.get(&0, 0).context("cannot read svclb_meta")?.0)
}

/// Says in the row that this agent has begun: what the maps hold is what an earlier one wrote, and is
/// not known to be what the sources say until the first pass. Nothing is written where no maps are.
///
/// # Errors
/// When the row cannot be read or written.
pub fn begin(pins: &Pins, agent: u32, agent_started: u64) -> Result<()> {
    if !pins.adoptable()? {
        return Ok(());
    }
    let mut map = open(pins)?;
    let row = map.get(&0, 0).context("cannot read svclb_meta")?.0;
    let row = Meta { synced: 0, proved: 0, agent, agent_started, ..row };
    map.set(0, Plain(row), 0).context("cannot write svclb_meta")
}

fn open(pins: &Pins) -> Result<Array<MapData, Plain<Meta>>> {
    let path = pins.map("svclb_meta");
    ensure!(
        path.exists(),
        "no svclb runs with the pins {}: start `svclb agent`, or name its folder by --pins",
        pins.root().display(),
    );
    let map =
        MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Map::from_map_data(map)?.try_into()?)
}
