//! The outcome of a pass.

use super::unplaced::UnplacedService;
use crate::model::ObjectName;
use crate::table::TableError;

/// A step that failed.
#[derive(Debug)]
pub struct FailedStep {
    /// The Service object that it was for; none when it was for the maps as a whole.
    pub object: Option<ObjectName>,
    /// The table's error.
    pub error: TableError,
}

/// The outcome of a pass, or of a part of one.
#[derive(Debug, Default)]
pub struct Pass {
    /// The number of steps.
    pub steps: usize,
    /// The number of Service objects that were dirty.
    pub objects: usize,
    /// Services that keep the state that they had.
    pub unplaced: Vec<UnplacedService>,
    /// When the changes happened that are written now ([`crate::model::Slice::triggered`], nanoseconds since
    /// the epoch), by Service object and in the order of the changes. Changes older than this process are
    /// among them.
    pub triggered: Vec<(ObjectName, Vec<i64>)>,
    /// Steps that failed. The steps after them for the same service were not tried, and the object is dirty
    /// again.
    pub failed: Vec<FailedStep>,
}
