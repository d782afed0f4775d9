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
    /// The last sizes that were wanted are smaller ones.
    wants_smaller: bool,
    /// When larger maps that could not be made are tried again.
    larger_later: Option<Retry>,
    /// The same of smaller ones, which must not delay larger ones.
    smaller_later: Option<Retry>,
    /// The last logged error of making maps.
    logged: Option<String>,
}

impl MapSizes {
    pub(super) const fn new(sizing: Sizing) -> Self {
        Self {
            sizing,
            waste_is_unknown: false,
            wants_smaller: false,
            larger_later: None,
            smaller_later: None,
            logged: None,
        }
    }

    /// Checks at the next call of [`Self::wanted`] whether the maps are far too large: the sources are known.
    pub(super) const fn look_for_waste(&mut self) {
        self.waste_is_unknown = true;
    }

    /// Returns the sizes of the maps that should take the place of these.
    pub(super) fn wanted(&mut self, state: &Planner, catalog: &Catalog) -> Option<Sizes> {
        self.wants_smaller = state.lacking().next().is_none();
        if !self.wants_smaller {
            let wanted = self.larger(state, catalog);
            if wanted.is_none() && !waits(self.larger_later.as_ref()) {
                // Larger maps would not help: there is nothing to wait for.
                self.larger_later = None;
            }
            return wanted;
        }
        // Nothing lacks: larger maps that could not be made are not wanted any more.
        self.larger_later = None;
        if !self.waste_is_unknown || waits(self.smaller_later.as_ref()) {
            return None;
        }
        let wanted = Sizes::of(state.meta()).smaller(self.sizing.of(catalog.counts()));
        // Were it to fail, it would be tried again.
        self.waste_is_unknown = wanted.is_some();
        self.smaller_later = self.smaller_later.take().filter(|_| wanted.is_some());
        wanted
    }

    /// Returns true if larger maps would be made should a service not fit.
    pub(super) fn may_grow(&self, state: &Planner) -> bool {
        Sizes::of(state.meta()).may_grow() && !waits(self.larger_later.as_ref())
    }

    /// Returns the sizes of the larger maps that are about to be made for the unplaced services.
    pub(super) fn larger(&self, state: &Planner, catalog: &Catalog) -> Option<Sizes> {
        // Counting walks all that there is.
        if waits(self.larger_later.as_ref()) || state.lacking().next().is_none() {
            return None;
        }
        let (frontends, backends) = catalog.counts();
        Sizes::of(state.meta()).larger(sizes(frontends, backends), state.lacking())
    }

    /// When the maps that are wanted now, and could not be made, are tried again.
    pub(super) const fn later(&self) -> Option<&Retry> {
        if self.wants_smaller { self.smaller_later.as_ref() } else { self.larger_later.as_ref() }
    }

    /// Maps of other sizes are in use.
    pub(super) fn done(&mut self) {
        *self = Self::new(self.sizing);
    }

    /// Notes that maps could not be made. Returns the error if it was not logged before.
    pub(super) fn failed(&mut self, why: &Error) -> Option<String> {
        let later =
            if self.wants_smaller { &mut self.smaller_later } else { &mut self.larger_later };
        *later = Some(Retry::after(later.take(), LATER));
        let why = format!("{why:#}");
        (self.logged.as_ref() != Some(&why)).then(|| self.logged.insert(why).clone())
    }
}

fn waits(later: Option<&Retry>) -> bool {
    later.is_some_and(|later| Instant::now() < later.at)
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
        maps.failed(&anyhow!("no memory"));
        assert!(maps.may_grow(&planner), "larger ones do not wait for smaller ones");
    }
}
