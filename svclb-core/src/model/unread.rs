//! Objects that a source holds and cannot read.

use std::collections::BTreeSet;

use super::ObjectName;

/// Rejected objects, as long as they stand: what they should be is not known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Unread {
    /// Service objects.
    pub services: BTreeSet<ObjectName>,
    /// Services to which a rejected EndpointSlice belongs.
    pub slices: BTreeSet<ObjectName>,
    /// Something was rejected that may be any object.
    pub unknown: bool,
}

impl Unread {
    /// No object can be read: the state before the first list of a source.
    pub const fn everything() -> Self {
        Self { services: BTreeSet::new(), slices: BTreeSet::new(), unknown: true }
    }
}
