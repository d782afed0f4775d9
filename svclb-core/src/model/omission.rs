//! Objects of which a source keeps no contents.

/// Why a source keeps no contents of an object: with them, the objects of its namespace would take more
/// memory than they may. All in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Omission {
    /// How much the object needs.
    pub needs: usize,
    /// How much the other objects of its namespace take.
    pub used: usize,
    /// How much all of its namespace may take.
    pub limit: usize,
}
