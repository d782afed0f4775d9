//! From what the maps hold to what they should hold, by ordered steps.
//!
//! * [`State`] (`load`, `mirror`, `applied`, `room`, `same`, `beside`): what the maps hold, kept in step
//!   as steps succeed.
//! * `change`: the steps for one Service object, in two phases.
//! * `earlier`: what an earlier agent wrote, read back for the catalog where the source cannot read it.
//! * `pass`, `run`, `looked`, `outcome`: all dirty objects, on a table, and what came of it.
//! * `staging`: maps of other sizes, filled while these go on being changed.
//! * `turns`: in what order they are looked at, and how far a large one has come.
//!
//! The order inside one object, and of the phases over objects, is what keeps every prefix of a plan
//! right: each frontend goes only to old or new backends of its own service, and one with a live
//! backend before and after is never refused.

mod applied;
mod beside;
mod change;
mod earlier;
mod load;
mod looked;
mod members;
mod mirror;
mod outcome;
mod pass;
mod room;
mod run;
mod same;
mod staging;
mod turns;

pub use load::load;
pub use mirror::{Resting, State};
pub use outcome::{Failed, Pass, Rejected, Why};
pub use pass::{part, pass};
pub use staging::{Staging, StagingError};

use crate::table::{Key, Row};

/// One operation on a table.
#[derive(Clone, PartialEq, Debug)]
#[expect(clippy::large_enum_variant, reason = "steps live for one service's change only")]
pub enum Step {
    /// Write a row.
    Put(Row),
    /// Remove a row.
    Remove(Key),
}

#[cfg(test)]
mod tests;
