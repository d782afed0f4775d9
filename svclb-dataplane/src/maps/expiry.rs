//! Affinity whose time is over: its rows are removed, so that they count for no client any more
//! (docs/decisions/0020-shares-of-clients.md).
//!
//! A client that comes again after its service's timeout is drawn for anew whether its row is there or
//! not. One that comes between the last look at its row and the removal may be drawn for twice: some
//! microseconds, once in an audit.

use std::collections::HashMap;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use svclb_common::layout::{AffinityKey, AffinityRow, Line};
use svclb_core::table::MapName;

use crate::bpf::mapping::Mapping;
use crate::bpf::sys;
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
    let index = maps.open(MapName::Index)?;
    let lines = Mapping::new(index.fd().as_fd(), index.info()?.max_entries(), false)
        .context("cannot map svclb_index")?;
    remove_old(rows, &timeouts(&lines), sys::monotonic()?)
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
mod tests {
    use aya::maps::MapData;
    use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_HASH;

    use super::*;

    #[test]
    fn rows_go_when_their_services_timeout_is_over_and_not_before() {
        const NOW: Duration = Duration::from_secs(100_000);
        let (key, value) = (size_of::<AffinityKey>(), size_of::<AffinityRow>());
        let [key, value] = [key, value].map(|size| u32::try_from(size).unwrap());
        let object = aya_obj::Map::new_from_params(BPF_MAP_TYPE_HASH as u32, key, value, 64, 1);
        let made = MapData::create(object, "affinity", None);
        let made = made.expect("a map can be made: run this as root");
        let copy = MapData::from_fd(made.fd().as_fd().try_clone_to_owned().unwrap()).unwrap();
        let mut rows = Rows::new(MapName::Affinity, made).unwrap();
        let timeouts = Timeouts::from([(1, Duration::from_secs(100)), (2, NOW)]);
        // Client, service, age in seconds, and whether it goes.
        let all = [
            (1, 1, 0, false),
            (2, 1, 99, false),
            (3, 1, 100, true),
            (4, 2, 90_000, false),
            (5, 3, 599, false),
            (6, 3, 600, true),
        ];
        for (client, service, age, _) in all {
            let key = AffinityKey { client, service, family: 4 };
            let used = u64::try_from((NOW - Duration::from_secs(age)).as_nanos()).unwrap();
            rows.put(&key, &AffinityRow { used, ..AffinityRow::default() }).unwrap();
        }
        let left = Rows::<AffinityKey, AffinityRow>::new(MapName::Affinity, copy).unwrap();
        assert_eq!(remove_old(rows, &timeouts, NOW).unwrap(), 2);
        let mut left: Vec<u64> = left.all().unwrap().iter().map(|(key, _)| key.client).collect();
        left.sort_unstable();
        let stay = all.iter().filter(|(.., goes)| !goes).map(|(client, ..)| *client);
        assert_eq!(left, stay.collect::<Vec<_>>());
    }
}
