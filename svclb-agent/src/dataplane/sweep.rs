//! Origins of sockets that are gone without a release: those of the kernel itself (NFS, CIFS), for which
//! the kernel runs no sock_release (docs/decisions/0013-sweeping.md).
//!
//! Only records are looked at that the hooks marked as possibly such, of sockets in this network
//! namespace. One is removed when two looks, an audit apart, both found it as it is and then did not find its socket
//! ([`super::alive`]). A socket is read first and listed afterwards, so one that is made meanwhile is in no
//! danger; one that is open and not listed twice has no peer and no port, so nobody reads its record,
//! and the next connect makes another.

use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData, MapError};
use svclb_common::layout::{NO_TAG, Origin, Overflow, Record, RecordFlags};

use super::alive;
use super::mapping::Mapping;
use super::places::Places;
use super::rows::Plain;
use super::sys;

/// A setting that the machine's first network namespace has alone (net/core/sysctl_net_core.c:
/// `net_core_table` is registered for `init_net`).
const OF_FIRST: &str = "/proc/sys/net/core/netdev_max_backlog";

/// Whether the sockets that this process can list are those whose records the hooks mark. The mark is for
/// sockets of this network namespace; or, where the kernel does not say which that is (before 5.14), of
/// the machine's first one, and from another one every one of those would look gone.
///
/// # Errors
/// When the kernel does not answer.
pub fn is_possible() -> io::Result<bool> {
    Ok(lists_what_is_marked(sys::netns_cookie()?, Path::new(OF_FIRST)))
}

fn lists_what_is_marked(cookie: u64, of_first: &Path) -> bool {
    cookie != 0 || of_first.exists()
}

/// What the last look found without a socket.
#[derive(Clone, Debug, Default)]
pub struct Suspects(Vec<Suspect>);

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Suspect {
    cookie: u64,
    /// Number in the origins array; none for an entry of the overflow.
    place: Option<u32>,
    records: Vec<Record>,
}

/// The maps that hold origins, and what the last look found.
pub struct Sweep {
    places: Mapping<Origin>,
    overflow: HashMap<MapData, Plain<u64>, Plain<Overflow>>,
    suspects: Suspects,
}

impl Sweep {
    /// Opens the maps for a look, with what the one before suspected. They are not held in between: what
    /// is mapped counts as memory of this process.
    ///
    /// # Errors
    /// When a map cannot be opened.
    pub fn open(maps: &Places, suspects: Suspects) -> Result<Self> {
        Self::over(&maps.open("svclb_origins")?, maps.open("svclb_overflow")?, suspects)
    }

    fn over(places: &MapData, overflow: MapData, suspects: Suspects) -> Result<Self> {
        Ok(Self {
            places: Mapping::new(places.fd().as_fd(), places.info()?.max_entries(), true)
                .context("cannot map svclb_origins")?,
            overflow: Map::from_map_data(overflow)?.try_into()?,
            suspects,
        })
    }

    /// For the next look.
    pub fn into_suspects(self) -> Suspects {
        self.suspects
    }

    /// Looks once, and removes what is without a socket for the second time. Gives how many sockets' origins were removed.
    ///
    /// # Errors
    /// When a map cannot be read or written, or the kernel does not list its sockets; what is suspected
    /// stays so.
    pub fn look(&mut self) -> Result<usize> {
        let mut found = self.candidates(|record| record.flags & RecordFlags::UNRELEASED != 0)?;
        if found.is_empty() {
            self.suspects.0.clear();
            return Ok(0);
        }
        let alive = alive::cookies().context("cannot list the sockets of this namespace")?;
        found.retain(|suspect| !alive.contains(&suspect.cookie));
        let before = std::mem::take(&mut self.suspects);
        let (gone, new): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|suspect| before.0.contains(suspect));
        self.suspects = Suspects(new);
        for suspect in &gone {
            self.remove(suspect)?;
        }
        Ok(gone.len())
    }

    fn candidates(&self, may_leak: impl Fn(&Record) -> bool) -> Result<Vec<Suspect>> {
        let mut found = Vec::new();
        for number in 0..self.places.length() {
            let Some(place) = self.places.get(number) else { break };
            let (cookie, record) = (place.cookie(), place.record().read());
            if place.count() != 0 && cookie != 0 && may_leak(&record) {
                found.push(Suspect { cookie, place: Some(number), records: vec![record] });
            }
        }
        for entry in self.overflow.iter() {
            let (Plain(cookie), Plain(entry)) = entry.context("cannot read svclb_overflow")?;
            let records = entry.dialled.iter().zip(entry.records);
            let records: Vec<Record> =
                records.filter(|(tag, _)| **tag != NO_TAG).map(|(_, record)| record).collect();
            if !records.is_empty() && records.iter().all(&may_leak) {
                found.push(Suspect { cookie, place: None, records });
            }
        }
        Ok(found)
    }

    fn remove(&mut self, suspect: &Suspect) -> Result<()> {
        if let Some(place) = suspect.place.and_then(|number| self.places.get(number)) {
            if place.cookie() == suspect.cookie && place.count() != 0 {
                // The cookie first: should the socket be released after all, it finds another's place.
                place.set_cookie(0);
                place.unclaim();
            }
            return Ok(());
        }
        match self.overflow.remove(&Plain(suspect.cookie)) {
            // Whoever removes the entry, a release or this, counts it.
            Ok(()) => {}
            Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(error).context("cannot remove a row of svclb_overflow"),
        }
        let mask = u64::from(self.places.length()).wrapping_sub(1);
        let number = u32::try_from(suspect.cookie & mask).ok();
        if let Some(place) = number.and_then(|number| self.places.get(number)) {
            place.unspill();
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "sweep_tests.rs"]
mod tests;
