//! Compares the maps with the mirror, which nearly always match. Rows are compared as they are read, so that an
//! audit of a large cluster needs no memory.

use super::Mirror;
use crate::table::{Table, TableError};

impl Mirror {
    /// Returns whether a table holds just these rows, and no step that belongs to another one failed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn is_in(&self, table: &mut dyn Table) -> Result<bool, TableError> {
        if !self.is_settled() {
            return Ok(false);
        }
        let (mut count, mut is_same) = (0, true);
        let dump = table.scan(&mut |key, row| {
            count += 1;
            is_same = is_same && self.services.has_backend(key, row);
        })?;
        Ok(is_same
            && count == self.services.count_backends()
            && dump.meta == self.meta
            && self.services.is_in(&dump)
            && self.lines.are(&dump.lines)
            && self.slots.are(&dump.ranges))
    }

    /// Returns whether no step that belongs to another one failed. A line whose row is gone, and a row without its
    /// line, are of a frontend that came or went in part.
    fn is_settled(&self) -> bool {
        self.lines.is_settled()
            && self.slots.is_referenced()
            && self.lines.count_frontends() == self.services.frontends().count()
    }
}
