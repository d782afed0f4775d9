//! What came of a pass, and how steps are taken.

use super::Step;
use super::mirror::State;
use crate::model::{ObjectName, ServiceKey};
use crate::table::{Table, TableError};

/// Why a service keeps the state that it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Why {
    /// The slots that it needs were just freed, and rest.
    #[error("waits for slots or a line that were just freed")]
    WaitsForRest,
    /// Too few slots in one piece.
    #[error("svclb_slots has no room for its backends")]
    NoSlots,
    /// Neither a line near the home of a frontend nor one behind.
    #[error("svclb_index has no room for its frontends")]
    NoLine,
    /// A hash map has no room.
    #[error("{0} is full")]
    MapFull(&'static str),
    /// All ids were given.
    #[error(
        "no service id is left: start the agent over new maps (`svclb uninstall`, then `svclb agent`)"
    )]
    NoIds,
}

/// A service that keeps the state that it has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// Which.
    pub service: ServiceKey,
    /// Why.
    pub why: Why,
}

/// A step that failed.
#[derive(Debug)]
pub struct Failed {
    /// The Service object that it was for; none when it was for the maps as a whole.
    pub object: Option<ObjectName>,
    /// What the table said.
    pub error: TableError,
}

/// What a pass did.
#[derive(Debug, Default)]
pub struct Pass {
    /// How many steps were taken.
    pub steps: usize,
    /// How many Service objects were dirty.
    pub objects: usize,
    /// Services that keep the state that they had.
    pub rejected: Vec<Rejected>,
    /// When what the slices of the Service objects that are written now tell of happened
    /// ([`crate::model::Slice::triggered`], nanoseconds since the epoch), by object and in the order of
    /// the changes. What happened before this agent started is among it.
    pub triggered: Vec<(ObjectName, Vec<i64>)>,
    /// Steps that failed. What came after it for the same service was not tried, and the object is dirty
    /// again.
    pub failed: Vec<Failed>,
}

/// Takes steps in order, each into the mirror as it succeeds, and counts them.
///
/// # Errors
/// The first that fails ends it.
pub(super) fn take(
    state: &mut State,
    table: &mut impl Table,
    steps: &[Step],
    taken: &mut usize,
) -> Result<(), TableError> {
    for step in steps {
        match step {
            Step::Put(row) => table.put(row)?,
            Step::Remove(key) => match table.remove(key) {
                // Somebody else was faster.
                Err(TableError::Missing { .. }) => {}
                done => done?,
            },
        }
        state.applied(step);
        *taken += 1;
    }
    Ok(())
}

impl State {
    /// Takes the steps that [`super::load()`] gave, also those after one that fails: they do not depend
    /// on each other, and without them the mirror is right too. What was not done is found by the next
    /// load.
    ///
    /// # Errors
    /// The first that failed.
    pub fn heal(&mut self, table: &mut impl Table, steps: &[Step]) -> Result<(), TableError> {
        let mut healed = Ok(());
        for step in steps {
            let done = take(self, table, std::slice::from_ref(step), &mut 0);
            healed = healed.and(done);
        }
        healed
    }
}
