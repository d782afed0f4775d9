//! A dry run: a table over a dump that keeps each step instead of taking it.

use super::{Dump, Key, Row, Step, Table, TableError};

/// Records steps over a dump, which stays as it is. No map is full here, so a plan that real maps would cut
/// off at a full hash map is recorded whole.
#[derive(Debug)]
pub struct RecordingTable {
    dump: Dump,
    steps: Vec<Step>,
}

impl RecordingTable {
    /// Records over this dump.
    pub const fn new(dump: Dump) -> Self {
        Self { dump, steps: Vec::new() }
    }

    /// The steps so far, in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The steps, without the dump.
    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

impl Table for RecordingTable {
    fn load(&mut self) -> Result<Dump, TableError> {
        Ok(self.dump.clone())
    }

    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        self.steps.push(Step::Put(row.clone()));
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        self.steps.push(Step::Remove(*key));
        Ok(())
    }
}
