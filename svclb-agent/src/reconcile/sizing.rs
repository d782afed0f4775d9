//! When maps of other sizes are made, and how large.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use anyhow::Error;
use backon::ExponentialBuilder;
use svclb_core::plan::Unplaced;
use svclb_core::size::{Sizes, sizes};
use tokio::time::{Duration, Instant};

use super::retry::{self, Retry};

/// The waits before maps that could not be made are tried again.
const LATER: ExponentialBuilder = retry::delays(Duration::from_secs(1), Duration::from_secs(300));

/// Sizes as the command line says them, where it does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizing {
    /// Lines of the index, a power of two.
    pub index_lines: Option<u32>,
    /// Slots.
    pub slots: Option<u32>,
    /// Places of the origins, a power of two.
    pub origins: Option<u32>,
}

impl Sizing {
    /// How large maps are made for so many frontends and backends.
    pub fn of(&self, (frontends, backends): (usize, usize)) -> Sizes {
        let wanted = sizes(frontends, backends);
        Sizes {
            index_lines: self.index_lines.unwrap_or(wanted.index_lines),
            slots: self.slots.unwrap_or(wanted.slots),
            origins: self.origins.unwrap_or(wanted.origins),
        }
    }
}

/// Decides whether maps of other sizes are due.
#[derive(Debug)]
pub(super) struct MapSizes {
    sizing: Sizing,
    /// Since all is known it was not looked whether most of the maps is wasted.
    waste_is_unknown: bool,
    later: Option<Retry>,
    /// The last logged error of making maps.
    logged: Option<String>,
}

impl MapSizes {
    pub(super) const fn new(sizing: Sizing) -> Self {
        Self { sizing, waste_is_unknown: false, later: None, logged: None }
    }

    /// All is known: maps may turn out to be far too large.
    pub(super) const fn look_for_waste(&mut self) {
        self.waste_is_unknown = true;
    }

    /// The sizes that maps should have instead of these. `counts` walks all that there is: it is asked
    /// for only where something lacks, or waste is looked for.
    pub(super) fn wanted(
        &mut self,
        now: Sizes,
        counts: impl FnOnce() -> (usize, usize),
        lacking: impl Iterator<Item = Unplaced>,
    ) -> Option<Sizes> {
        let mut lacking = lacking.peekable();
        if lacking.peek().is_some() {
            let wanted = self.larger(now, counts, lacking);
            if wanted.is_none() && !self.waits() {
                // Larger maps would not help: there is nothing to wait for.
                self.later = None;
            }
            return wanted;
        }
        if self.waste_is_unknown && self.waits() {
            return None;
        }
        // Nothing lacks: what could not be made is not wanted any more.
        self.later = None;
        let look = std::mem::take(&mut self.waste_is_unknown);
        let wanted = look.then(|| now.smaller(self.sizing.of(counts())))?;
        // Were it to fail, it would be tried again.
        self.waste_is_unknown = wanted.is_some();
        wanted
    }

    /// Returns true if larger maps would be made should a service not fit.
    pub(super) fn may_grow(&self, now: Sizes) -> bool {
        now.may_grow() && !self.waits()
    }

    /// Returns true if larger maps are about to be made for these unplaced services.
    pub(super) fn grows(
        &self,
        now: Sizes,
        counts: impl FnOnce() -> (usize, usize),
        lacking: impl Iterator<Item = Unplaced>,
    ) -> bool {
        self.larger(now, counts, lacking).is_some()
    }

    fn larger(
        &self,
        now: Sizes,
        counts: impl FnOnce() -> (usize, usize),
        lacking: impl Iterator<Item = Unplaced>,
    ) -> Option<Sizes> {
        let mut lacking = lacking.peekable();
        if self.waits() || lacking.peek().is_none() {
            return None;
        }
        let (frontends, backends) = counts();
        now.larger(sizes(frontends, backends), lacking)
    }

    fn waits(&self) -> bool {
        self.later.as_ref().is_some_and(|later| Instant::now() < later.at)
    }

    /// When it is tried again.
    pub(super) const fn later(&self) -> Option<&Retry> {
        self.later.as_ref()
    }

    /// Maps of other sizes are in use.
    pub(super) fn done(&mut self) {
        self.later = None;
        self.waste_is_unknown = false;
        self.logged = None;
    }

    /// Notes that maps could not be made. Returns the error if it was not logged before.
    pub(super) fn failed(&mut self, why: &Error) -> Option<String> {
        self.later = Some(Retry::after(self.later.take(), LATER));
        let why = format!("{why:#}");
        (self.logged.as_ref() != Some(&why)).then(|| self.logged.insert(why).clone())
    }
}

/// Returns a seed for the index's hash that a tenant who may choose addresses cannot know.
pub fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
