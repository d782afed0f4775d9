//! What a source holds and cannot read.

use std::collections::BTreeSet;

use super::ObjectName;

/// Of which Services a source holds a part that it rejected, and that it never accepted since it began:
/// what they should be, nobody knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Withheld {
    /// The Service object was rejected, or an EndpointSlice that names it.
    pub objects: BTreeSet<ObjectName>,
    /// Something was rejected that may be a part of any.
    pub unknown: bool,
}

impl Withheld {
    /// Nothing is known of any Service: before a source has said anything.
    pub const fn everything() -> Self {
        Self { objects: BTreeSet::new(), unknown: true }
    }

    /// Whether a part of this Service is, or may be, among what was rejected. `is_known` says that both
    /// its Service object and an EndpointSlice of it were accepted: then what is rejected and has no name
    /// is taken for somebody else's.
    pub fn holds(&self, object: &ObjectName, is_known: bool) -> bool {
        self.objects.contains(object) || self.unknown && !is_known
    }
}
