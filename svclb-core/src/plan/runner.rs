//! Takes planned steps: on a table, and in the mirror as each succeeds. Over a
//! [`RecordingTable`](crate::table::RecordingTable) the same passes only record their steps.

use super::mirror::Mirror;
use crate::number::LineNumber;
use crate::table::{Step, Table, TableError};

/// Takes steps on one table, and counts them.
pub(super) struct Runner<'a> {
    table: &'a mut dyn Table,
    steps: usize,
}

impl<'a> Runner<'a> {
    pub(super) const fn new(table: &'a mut dyn Table) -> Self {
        Self { table, steps: 0 }
    }

    /// The number of steps that succeeded.
    pub(super) const fn steps(&self) -> usize {
        self.steps
    }

    /// Takes steps in order, and after each line that is filled or emptied the step for the reach of its home.
    ///
    /// # Errors
    /// The first that fails; no step after it is taken.
    pub(super) fn run(&mut self, mirror: &mut Mirror, steps: &[Step]) -> Result<(), TableError> {
        for step in steps {
            let home = mirror.lines.home(step);
            self.take(mirror, step)?;
            if let Some(home) = home {
                self.settle(mirror, home)?;
            }
        }
        Ok(())
    }

    /// Corrects the reach of a home, if it is wrong.
    ///
    /// # Errors
    /// When that step fails.
    pub(super) fn settle(
        &mut self,
        mirror: &mut Mirror,
        home: LineNumber,
    ) -> Result<(), TableError> {
        if let Some(step) = mirror.lines.settle(home) {
            self.take(mirror, &step)?;
        }
        mirror.lines.set_settled(home);
        Ok(())
    }

    fn take(&mut self, mirror: &mut Mirror, step: &Step) -> Result<(), TableError> {
        match step {
            Step::Put(row) => self.table.put(row)?,
            Step::Remove(key) => match self.table.remove(key) {
                // Another program removed it before.
                Err(TableError::Missing { .. }) => {}
                done => done?,
            },
        }
        mirror.apply(step);
        self.steps += 1;
        Ok(())
    }
}
