//! Whether the maps hold just what the mirror says: what an audit nearly always finds. It makes nothing
//! anew, so that an agent that looks after a large cluster is no larger for it.

use svclb_common::layout::{BackendKey, BackendRow, Line};

use super::mirror::State;
use crate::digest::Digest;
use crate::table::{Dump, Table, TableError};

impl State {
    /// Whether a table holds what these steps have written, with nothing to heal and nothing half done.
    /// Marks of a line are not looked at: nothing takes them away.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn is_held_by(&self, table: &mut impl Table) -> Result<bool, TableError> {
        if !self.is_at_rest() {
            return Ok(false);
        }
        let (mut found, mut is_same) = (0, true);
        let dump = table.scan(&mut |key, row| {
            found += 1;
            is_same = is_same && self.has_backend(key, row);
        })?;
        let members: usize = self.services.values().map(|held| held.members.len()).sum();
        Ok(is_same
            && found == members
            && dump.meta == *self.meta()
            && self.has_services_of(&dump)
            && self.has_frontends_of(&dump)
            && self.has_lines_of(&dump)
            && self.has_ranges_of(&dump))
    }

    /// Nothing failed half way. A line whose row is gone, and a row without its line, are of a frontend
    /// that came or went just so far.
    fn is_at_rest(&self) -> bool {
        self.touched.is_empty()
            && self.misfits.is_empty()
            && self.unreferenced.is_empty()
            && self.lines.len() == self.frontends.len()
    }

    fn has_services_of(&self, dump: &Dump) -> bool {
        let mut rows = dump.services.iter();
        dump.services.len() == self.services.len()
            && rows.all(|(id, row)| {
                self.services.get(id).is_some_and(|held| held.row == Digest::of_row(row))
            })
    }

    fn has_backend(&self, key: &BackendKey, row: &BackendRow) -> bool {
        let held = self.services.get(&key.service);
        held.and_then(|held| held.members.get(key.address, key.port)) == Some(*row)
    }

    fn has_frontends_of(&self, dump: &Dump) -> bool {
        let mut rows = dump.frontends.iter();
        dump.frontends.len() == self.frontends.len()
            && rows.all(|(key, row)| self.frontends.get(key) == Some(&(row.service, row.line)))
    }

    fn has_lines_of(&self, dump: &Dump) -> bool {
        let (mut held, mut generations, mut reaches, mut spills) = (0, 0, 0, 0);
        let is_same = dump.lines.iter().all(|(number, line)| {
            held += usize::from(line.protocol != 0);
            generations += usize::from(line.generation != 0);
            reaches += usize::from(line.reach != 0);
            spills += usize::from(line.spilled != 0);
            let frontend = match self.lines.get(number) {
                Some(own) => is_frontend(own, line),
                None => line.protocol == 0,
            };
            frontend
                && self.generations.get(number).copied().unwrap_or_default() == line.generation
                && self.reaches.get(number).copied().unwrap_or_default() == line.reach
                && self.spills.get(number).copied().unwrap_or_default() == line.spilled
        });
        // A dump leaves out lines that are all zero.
        is_same
            && held == self.lines.len()
            && generations == self.generations.values().filter(|it| **it != 0).count()
            && reaches == self.reaches.values().filter(|it| **it != 0).count()
            && spills == self.spills.values().filter(|it| **it != 0).count()
    }

    fn has_ranges_of(&self, dump: &Dump) -> bool {
        let mut ranges = dump.ranges.iter();
        dump.ranges.len() == self.ranges.len()
            && ranges.all(|written| {
                self.ranges.get(&written.first).is_some_and(|range| {
                    (range.count, range.owner, range.slots)
                        == (written.count, written.owner, written.slots)
                })
            })
    }
}

/// Whether two lines hold the same frontend, which goes to the same backends. What belongs to the place is
/// compared by itself.
fn is_frontend(own: &Line, found: &Line) -> bool {
    let of = |line: &Line| {
        let Line { service, set, heir, flags, affinity_seconds, .. } = *line;
        (line.frontend(), service, set, heir, flags, affinity_seconds)
    };
    of(own) == of(found)
}
