//! The part of the meta row that reports on the agent's work.

use svclb_common::layout::{LAYOUT_VERSION, Meta, SOURCES, SourceRow};

/// The status of the maps. No field depends on another.
#[derive(Clone, Debug)]
pub(super) struct MetaStatus {
    /// Operations that failed and are not yet counted in the meta row.
    pub(super) uncounted: u64,
    /// The sources are known: passes write all that they hold.
    pub(super) is_synced: bool,
    /// The sources as they are now: written with the next change.
    pub(super) sources: [SourceRow; SOURCES],
    /// No program reads the maps yet: their meta row is written when they are filled.
    pub(super) is_staged: bool,
}

impl MetaStatus {
    pub(super) const fn new(meta: &Meta) -> Self {
        Self { uncounted: 0, is_synced: true, sources: meta.sources, is_staged: false }
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
