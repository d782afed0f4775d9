//! Audits: each drift of the maps from the mirror is found, and nothing else.

use svclb_common::layout::Set;

use super::changes::{self, Row, before, maps};
use crate::digest::Digest;
use crate::table::{Dump, Key, Row as MapRow, Table, TableError};

/// Maps that may only be read.
struct ReadOnly(Dump);

impl Table for ReadOnly {
    fn load(&mut self) -> Result<Dump, TableError> {
        Ok(self.0.clone())
    }

    fn put(&mut self, row: &MapRow) -> Result<(), TableError> {
        unreachable!("{row:?} is written")
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        unreachable!("{key:?} is removed")
    }
}

/// A change of one row by another program.
type Drift = (&'static str, fn(&mut Dump) -> bool);

/// Changes the first row; false when there is none.
fn first<T>(rows: &mut [T], drift: impl FnOnce(&mut T)) -> bool {
    rows.first_mut().map(drift).is_some()
}

fn line(dump: &mut Dump, drift: impl FnOnce(&mut svclb_common::layout::Line)) -> bool {
    dump.lines
        .iter_mut()
        .find(|(_, line)| line.protocol != 0)
        .map(|(_, line)| drift(line))
        .is_some()
}

const DRIFTS: [Drift; 23] = [
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
    ("the owner of slots", |dump| first(&mut dump.ranges, |range| range.owner += 1)),
];

#[test]
fn audit_finds_any_change_of_a_row_by_another_program() {
    for (name, meta) in maps() {
        let mut seen = [0; DRIFTS.len()];
        for change in changes::all() {
            let (mut world, mut agent) = before(&change, meta);
            change.after.iter().for_each(|event| agent.ingest(&mut world, event));
            agent.settle();
            let dump = agent.table.load().unwrap();
            for ((what, drift), seen) in DRIFTS.iter().zip(&mut seen) {
                let _row = Row(format!("{what}, {}, in maps with {name}", change.name));
                let mut drifted = dump.clone();
                if drift(&mut drifted) {
                    assert!(!agent.planner.is_in(&mut ReadOnly(drifted)).unwrap());
                    *seen += 1;
                }
            }
            let _row = Row(format!("{}, in maps with {name}", change.name));
            assert!(
                agent.planner.is_in(&mut ReadOnly(dump)).unwrap(),
                "without drift it finds nothing"
            );
        }
        for ((what, _), seen) in DRIFTS.iter().zip(seen) {
            assert!(seen > 20, "{what}: {seen} times, in maps with {name}");
        }
    }
}
