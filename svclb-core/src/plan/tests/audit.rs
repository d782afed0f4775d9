//! An audit that looks whether the maps are as they were written: it finds everything, and nothing else.

use svclb_common::layout::Set;

use super::changes::{self, Row, before, maps};
use crate::digest::Digest;
use crate::table::{Dump, Key, Row as Written, Table, TableError};

/// Maps that are read, and no more.
struct ReadOnly(Dump);

impl Table for ReadOnly {
    fn load(&mut self) -> Result<Dump, TableError> {
        Ok(self.0.clone())
    }

    fn put(&mut self, row: &Written) -> Result<(), TableError> {
        unreachable!("{row:?} is written")
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        unreachable!("{key:?} is removed")
    }
}

/// What somebody else may have done to one row.
type Spoil = (&'static str, fn(&mut Dump) -> bool);

/// Does it to the first row that there is; false when there is none.
fn first<T>(rows: &mut [T], spoil: impl FnOnce(&mut T)) -> bool {
    rows.first_mut().map(spoil).is_some()
}

fn line(dump: &mut Dump, spoil: impl FnOnce(&mut svclb_common::layout::Line)) -> bool {
    dump.lines
        .iter_mut()
        .find(|(_, line)| line.protocol != 0)
        .map(|(_, line)| spoil(line))
        .is_some()
}

const SPOILS: [Spoil; 23] = [
    ("the meta row", |dump| {
        dump.meta.next_service += 1;
        true
    }),
    ("a service is gone", |dump| dump.services.pop().is_some()),
    ("a service has another id", |dump| first(&mut dump.services, |row| row.0 += 1_000)),
    ("a service's notes", |dump| first(&mut dump.services, |row| row.1.notes ^= 1)),
    ("a backend is gone", |dump| dump.backends.pop().is_some()),
    ("a backend's port", |dump| first(&mut dump.backends, |row| row.0.port += 1)),
    ("a backend's service", |dump| first(&mut dump.backends, |row| row.0.service += 1_000)),
    ("a backend's weight", |dump| first(&mut dump.backends, |row| row.1.weight ^= 1)),
    ("a backend's sets", |dump| first(&mut dump.backends, |row| row.1.sets ^= 4)),
    ("a frontend is gone", |dump| dump.frontends.pop().is_some()),
    ("a frontend's port", |dump| first(&mut dump.frontends, |row| row.0.port += 1)),
    ("a frontend's line", |dump| first(&mut dump.frontends, |row| row.1.line += 1)),
    ("a line is empty", |dump| line(dump, |line| *line = Default::default())),
    ("a line's port", |dump| line(dump, |line| line.port += 1)),
    ("a line's service", |dump| line(dump, |line| line.service += 1)),
    ("a line's set", |dump| line(dump, |line| line.set = Set { first: 9, count: 1 })),
    ("a line's flags", |dump| line(dump, |line| line.flags ^= 1)),
    ("a line's heir", |dump| line(dump, |line| line.heir += 1)),
    ("a line's affinity", |dump| line(dump, |line| line.affinity_seconds += 1)),
    ("a line's generation", |dump| line(dump, |line| line.generation += 1)),
    ("a line's reach", |dump| line(dump, |line| line.reach += 1)),
    ("slots", |dump| first(&mut dump.ranges, |range| range.slots = Digest::default())),
    ("whose slots", |dump| first(&mut dump.ranges, |range| range.owner += 1)),
];

#[test]
fn audit_finds_any_change_of_a_row_by_another_program() {
    for (name, meta) in maps() {
        let mut seen = [0; SPOILS.len()];
        for change in changes::all() {
            let (mut world, mut agent) = before(&change, meta);
            change.after.iter().for_each(|deed| agent.ingest(&mut world, deed));
            agent.settle();
            let dump = agent.table.load().unwrap();
            for ((what, spoil), seen) in SPOILS.iter().zip(&mut seen) {
                let _row = Row(format!("{what}, {}, in maps with {name}", change.name));
                let mut spoilt = dump.clone();
                if spoil(&mut spoilt) {
                    assert!(!agent.planner.is_in(&mut ReadOnly(spoilt)).unwrap());
                    *seen += 1;
                }
            }
            let _row = Row(format!("{}, in maps with {name}", change.name));
            assert!(agent.planner.is_in(&mut ReadOnly(dump)).unwrap(), "nothing else is");
        }
        for ((what, _), seen) in SPOILS.iter().zip(seen) {
            assert!(seen > 20, "{what}: {seen} times, in maps with {name}");
        }
    }
}
