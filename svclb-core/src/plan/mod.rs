//! From what the maps hold to what they should hold, by ordered steps.
//!
//! Each file uses only files above it:
//!
//! * `unplaced`: services that do not fit. `turns`: which object is visited next, and how far a large one has
//!   come. `followed`: notes for staging maps. `status`: what the meta row is to say.
//! * `mirror`: what the maps hold, kept up to date as steps succeed, with one owner for ids, services, lines
//!   and slots each.
//! * `change`: the steps for one service, in two phases, as pure functions of the mirror.
//! * `runner`: takes steps on a table and in the mirror, and adds the reach of a home after a line that changes it.
//! * `planner`: the mirror, and what the passes before left to do. `previous`: what a previous agent wrote,
//!   read back for the catalog.
//! * `visit`, `work`, `phase_one`, `phase_two`, `pass`: all dirty objects, and the outcome.
//! * `staging`: maps of other sizes, filled while these go on being changed.
//!
//! The order inside one object, and of the phases over objects, is what keeps every prefix of a plan
//! right: each frontend goes only to old or new backends of its own service, and one with a live
//! backend before and after is never refused.

mod change;
mod followed;
mod mirror;
mod outcome;
mod pass;
mod phase_one;
mod phase_two;
mod planner;
mod previous;
mod runner;
mod staging;
mod status;
mod turns;
mod unplaced;
mod visit;
mod work;

pub use mirror::Freed;
pub use outcome::{FailedStep, Pass};
pub use pass::{part, pass};
pub use planner::{Planner, load};
pub use staging::{Staging, StagingError};
pub use unplaced::{Unplaced, UnplacedService};

#[cfg(test)]
mod tests;
