//! One pass over the dirty objects, on a table, whole or in parts.

use std::collections::BTreeSet;

use super::outcome::Pass;
use super::planner::Planner;
use super::runner::Runner;
use super::work::{Done, Work};
use crate::catalog::Catalog;
use crate::model::ObjectName;
use crate::table::Table;

/// Changes the maps to what the catalog has of its dirty objects.
///
/// An object whose step fails is dirty again, and the next pass goes on from the steps that succeeded. So is
/// one that waits for the end of a quarantine, or that keeps a frontend until another takes it over.
pub fn pass(planner: &mut Planner, table: &mut impl Table, catalog: &mut Catalog) -> Pass {
    catalog.recall();
    planner.turns.restart();
    part(planner, table, catalog, usize::MAX)
}

/// A part of a pass: about `effort` steps, and as many again of removals. Objects take turns, a large one
/// part by part. The planner keeps what is left to do ([`Planner::is_under_way`]) for the next part, and
/// changes that come meanwhile join it.
///
/// Objects that wait have a turn once the catalog [recalls](Catalog::recall) them.
pub fn part(
    planner: &mut Planner,
    table: &mut impl Table,
    catalog: &mut Catalog,
    effort: usize,
) -> Pass {
    catalog.take_changed().into_iter().for_each(|object| planner.turns.add(object));
    match &mut planner.followed {
        Some(followed) => followed.visit_all(catalog.take_reclaimed()),
        None => drop(catalog.take_reclaimed()),
    }
    let Done { mut pass, ended, again } = run(planner, table, catalog, effort);
    report_triggered(&mut pass, catalog, &ended);
    catalog.wait(again);
    pass
}

/// Runs both phases over the objects whose turn it is.
pub(super) fn run(
    planner: &mut Planner,
    table: &mut dyn Table,
    catalog: &Catalog,
    effort: usize,
) -> Done {
    planner.mirror.slots.drop_unreferenced();
    let mut work = Work::new(planner, Runner::new(table), catalog, effort);
    work.phase_one();
    work.phase_two();
    work.settle_homes();
    work.finish()
}

/// Adds to the report when the changes of these objects happened, which are written now.
fn report_triggered(pass: &mut Pass, catalog: &mut Catalog, ended: &[ObjectName]) {
    let unplaced: BTreeSet<&ObjectName> =
        pass.unplaced.iter().map(|it| &it.service.object).collect();
    for object in ended {
        let Some(times) = catalog.take_triggered(object) else { continue };
        // Slices may be of a Service that is not served here.
        if catalog.serves(object) && !unplaced.contains(object) {
            pass.triggered.push((object.clone(), times));
        }
    }
}
