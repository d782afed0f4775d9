//! Notes of passes over the maps in use while staging maps are filled.
//!
//! Invariant: a large object waits here, or has a turn in the maps in use, never both.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::turns::Turn;
use crate::model::ObjectName;

/// Notes of the maps in use.
#[derive(Clone, Debug, Default)]
pub(super) struct Followed {
    /// Objects that a pass visited, or that claim or own other frontends, since they were last taken.
    visited: BTreeSet<ObjectName>,
    /// Large objects, which have no turn before the staging maps are in use.
    postponed: BTreeMap<ObjectName, Turn>,
}

impl Followed {
    pub(super) fn visit(&mut self, object: ObjectName) {
        self.visited.insert(object);
    }

    pub(super) fn visit_all(&mut self, mut objects: BTreeSet<ObjectName>) {
        self.visited.append(&mut objects);
    }

    pub(super) fn take_visited(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.visited)
    }

    pub(super) fn is_taken(&self) -> bool {
        self.visited.is_empty()
    }

    /// Lets a large object wait. One that waits already and has another turn has changed.
    pub(super) fn postpone(&mut self, object: ObjectName, turn: Turn) {
        match self.postponed.entry(object) {
            Entry::Vacant(place) => drop(place.insert(turn)),
            Entry::Occupied(waiting) => {
                let waiting = waiting.into_mut();
                waiting.has_changed |= waiting.from != Turn::NEW.from;
            }
        }
    }

    pub(super) fn has_postponed(&self, object: &ObjectName) -> bool {
        self.postponed.contains_key(object)
    }

    pub(super) fn postponed(&self) -> impl Iterator<Item = &ObjectName> {
        self.postponed.keys()
    }

    pub(super) fn into_postponed(self) -> BTreeMap<ObjectName, Turn> {
        self.postponed
    }
}
