//! Objects of which a source keeps no contents.

/// The reason for keeping no contents of an object: with them, the objects of its namespace would take more
/// memory than they may. All in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Omission {
    /// The needs of the object.
    pub needs: usize,
    /// The memory of the other objects of its namespace.
    pub used: usize,
    /// The limit of its namespace.
    pub limit: usize,
}
