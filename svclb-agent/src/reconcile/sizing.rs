//! When maps of other sizes are made, and how large.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use anyhow::Error;
use backon::ExponentialBuilder;
use svclb_core::catalog::Catalog;
use svclb_core::plan::Planner;
use svclb_core::size::{Sizes, sizes};
use tokio::time::{Duration, Instant};

use super::retry::{self, Retry};

/// The waits before maps that could not be made are tried again.
const LATER: ExponentialBuilder = retry::delays(Duration::from_secs(1), Duration::from_secs(300));

/// The sizes that the command line sets; the others follow from the need.
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
    /// Returns the sizes of maps for so many frontends and backends.
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
    /// Maps may be far too large: that was not checked since the sources are known.
    waste_is_unknown: bool,
    later: Option<Retry>,
    /// The last logged error of making maps.
    logged: Option<String>,
}

impl MapSizes {
    pub(super) const fn new(sizing: Sizing) -> Self {
        Self { sizing, waste_is_unknown: false, later: None, logged: None }
    }

    /// Checks at the next call of [`Self::wanted`] whether the maps are far too large: the sources are known.
    pub(super) const fn look_for_waste(&mut self) {
        self.waste_is_unknown = true;
    }

    /// Returns the sizes of the maps that should take the place of these.
    pub(super) fn wanted(&mut self, state: &Planner, catalog: &Catalog) -> Option<Sizes> {
        let lacks = state.lacking().next().is_some();
        if !lacks && !self.waste_is_unknown {
            // Maps that could not be made are not wanted any more.
            self.later = None;
        }
        if self.waits() {
            return None;
        }
        let wanted = if lacks {
            self.larger(state, catalog)
        } else if self.waste_is_unknown {
            Sizes::of(state.meta()).smaller(self.sizing.of(catalog.counts()))
        } else {
            None
        };
        if !lacks {
            // Were it to fail, it would be tried again.
            self.waste_is_unknown = wanted.is_some();
        }
        if wanted.is_none() {
            // Other maps would not help: there is nothing to wait for.
            self.later = None;
        }
        wanted
    }

    /// Returns true if larger maps would be made should a service not fit.
    pub(super) fn may_grow(&self, state: &Planner) -> bool {
        Sizes::of(state.meta()).may_grow() && !self.waits()
    }

    /// Returns the sizes of the larger maps that are about to be made for the unplaced services.
    pub(super) fn larger(&self, state: &Planner, catalog: &Catalog) -> Option<Sizes> {
        // Counting walks all that there is.
        if self.waits() || state.lacking().next().is_none() {
            return None;
        }
        let (frontends, backends) = catalog.counts();
        Sizes::of(state.meta()).larger(sizes(frontends, backends), state.lacking())
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
        *self = Self::new(self.sizing);
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

#[cfg(test)]
mod tests {
    use anyhow::anyhow;
    use svclb_core::model::Node;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn smaller_maps_that_cannot_be_made_are_tried_again_later_each_time() {
        let large = Sizes { slots: 1 << 22, ..sizes(0, 0) };
        let (planner, catalog) = (Planner::new(large.meta()), Catalog::new(Node::default()));
        let mut maps = MapSizes::new(Sizing::default());
        maps.look_for_waste();
        let mut delays = Vec::new();
        for _ in 0..4 {
            assert_eq!(maps.wanted(&planner, &catalog), Some(sizes(0, 0)));
            maps.failed(&anyhow!("no memory"));
            assert_eq!(maps.wanted(&planner, &catalog), None, "it waits");
            let at = maps.later().unwrap().at;
            delays.push(at - Instant::now());
            tokio::time::sleep_until(at).await;
        }
        assert!(delays.is_sorted_by(|one, next| one < next), "{delays:?}");
    }
}
