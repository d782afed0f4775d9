//! The time of affinity. Rows whose time is over are removed, so that they count for no client any more
//! (docs/decisions/0020-shares-of-clients.md).
//!
//! A client that comes again after its service's timeout is drawn for anew whether its row is there or
//! not. One that comes between the last look at its row and the removal may be drawn for twice: some
//! microseconds, once in an audit.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use svclb_common::layout::{AffinityKey, AffinityRow, Line};
use svclb_core::table::MapName;

use crate::bpf::mapping::Mapping;
use crate::maps::rows::Rows;
use crate::pins::places::Places;

/// Time that a row stays after its service has no frontend with affinity any more: most likely it is gone.
const WITHOUT_A_SERVICE: Duration = Duration::from_secs(600);
/// The most rows that one audit removes: each takes two system calls, and the reconciler waits.
const AT_ONCE: usize = 16_384;

/// Each service's timeout.
type Timeouts = HashMap<u32, Duration>;

/// Removes rows of affinity whose time is over. Returns how many.
///
/// # Errors
/// When a map cannot be read or written.
pub fn expire(maps: &Places) -> Result<usize> {
    let rows = Rows::open(MapName::Affinity, maps)?;
    let lines = maps.map_values(MapName::Index, false)?;
    remove_old(rows, &timeouts(&lines), now()?)
}

/// An entry of affinity, with its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The client and the service.
    pub key: AffinityKey,
    /// The backend.
    pub row: AffinityRow,
    /// Time since the client's latest new connection.
    pub age: Duration,
    /// Time until the client is drawn for anew; zero where it is over, or the service has no affinity any more.
    pub remaining: Duration,
}

/// Reads every entry, in no order.
///
/// # Errors
/// When a map cannot be read.
pub fn entries(maps: &Places) -> Result<Vec<Entry>> {
    let timeouts = timeouts(&maps.map_values(MapName::Index, false)?);
    let rows = Rows::open(MapName::Affinity, maps)?.all()?;
    let now = now()?;
    let entry = |(key, row): (AffinityKey, AffinityRow)| {
        let age = now.saturating_sub(Duration::from_nanos(row.used));
        let timeout = timeouts.get(&key.service).copied().unwrap_or_default();
        Entry { key, row, age, remaining: timeout.saturating_sub(age) }
    };
    Ok(rows.into_iter().map(entry).collect())
}

/// The clock of the hooks: since boot, without time asleep.
fn now() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(io::Error::from)?.into())
}

fn timeouts(lines: &Mapping<Line>) -> Timeouts {
    let mut timeouts = Timeouts::new();
    for line in (0..lines.length()).filter_map(|number| lines.get(number)) {
        let seconds = line.affinity_seconds();
        if line.key_word() != 0 && seconds != 0 {
            let timeout = timeouts.entry(line.service()).or_default();
            *timeout = Duration::from_secs(seconds.into()).max(*timeout);
        }
    }
    timeouts
}

fn remove_old(
    mut rows: Rows<AffinityKey, AffinityRow>,
    timeouts: &Timeouts,
    now: Duration,
) -> Result<usize> {
    let is_old = |key: &AffinityKey, row: &AffinityRow| {
        let timeout = timeouts.get(&key.service).copied().unwrap_or(WITHOUT_A_SERVICE);
        now.saturating_sub(Duration::from_nanos(row.used)) >= timeout
    };
    let mut old = Vec::new();
    rows.each(&mut |key, row| {
        if old.len() < AT_ONCE && is_old(key, row) {
            old.push(*key);
        }
    })?;
    let mut removed = 0;
    for key in &old {
        // Its client may have come again.
        if rows.get(key)?.is_some_and(|row| is_old(key, &row)) {
            rows.remove_if_there(key)?;
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod as_root_tests;
