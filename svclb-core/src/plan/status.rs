//! What the meta row is to say of the agent's work, beside what the maps hold.

use svclb_common::layout::{LAYOUT_VERSION, Meta, SOURCES, SourceRow};

/// The status of the maps.
#[derive(Clone, Debug)]
pub(super) struct Status {
    /// Operations that failed and are not yet counted in the meta row.
    uncounted: u64,
    /// The sources are known: passes write all that they hold.
    is_synced: bool,
    /// The sources as they are now: written with the next change.
    sources: [SourceRow; SOURCES],
    /// No program reads the maps yet: their meta row is written when they are filled.
    is_staged: bool,
}

impl Status {
    pub(super) const fn new(meta: &Meta) -> Self {
        Self { uncounted: 0, is_synced: true, sources: meta.sources, is_staged: false }
    }

    /// The status of new maps that are to take the place of these.
    pub(super) const fn renewed(&self, meta: &Meta) -> Self {
        let (uncounted, is_synced) = (self.uncounted, self.is_synced);
        Self { uncounted, is_synced, ..Self::new(meta) }
    }

    pub(super) const fn set_synced(&mut self, is_synced: bool) {
        self.is_synced = is_synced;
    }

    pub(super) const fn is_synced(&self) -> bool {
        self.is_synced
    }

    pub(super) const fn set_sources(&mut self, sources: [SourceRow; SOURCES]) {
        self.sources = sources;
    }

    pub(super) const fn sources(&self) -> [SourceRow; SOURCES] {
        self.sources
    }

    pub(super) const fn set_staged(&mut self) {
        self.is_staged = true;
    }

    pub(super) const fn is_staged(&self) -> bool {
        self.is_staged
    }

    /// Takes over from maps whose place these take.
    pub(super) const fn replace(&mut self, current: &Self) {
        (self.uncounted, self.is_synced) = (current.uncounted, current.is_synced);
        self.sources = current.sources;
        self.is_staged = false;
    }

    pub(super) const fn count_failure(&mut self) {
        self.uncounted += 1;
    }

    /// Notes that [`Self::row`] was written.
    pub(super) const fn reset_failures(&mut self) {
        self.uncounted = 0;
    }

    /// The meta row after a pass, with so many services that do not fit, and Service objects over a budget;
    /// none when it is as it was.
    pub(super) fn row(&self, meta: &Meta, short: u32, refused: u32, steps: usize) -> Option<Meta> {
        let mut now = Meta {
            layout: LAYOUT_VERSION,
            failures: meta.failures + self.uncounted,
            synced: if self.is_synced { 1 } else { meta.synced },
            short,
            refused,
            ..*meta
        };
        let is_changed = (meta.layout, meta.synced) != (now.layout, now.synced);
        now.passes += u64::from(steps > 0 || is_changed);
        (now != *meta).then_some(Meta { sources: self.sources, ..now })
    }
}
