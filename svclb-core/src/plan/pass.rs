//! One pass over the dirty objects, on a table. Which steps, and in what order, is `run`'s.

use std::collections::{BTreeMap, BTreeSet};

use super::mirror::State;
use super::outcome::Pass;
use super::run::Run;
use crate::catalog::Catalog;
use crate::model::ObjectName;
use crate::table::Table;

/// Brings the maps to what the catalog says of its dirty objects.
///
/// An object whose step fails is dirty again, and the next pass goes on from what was taken. So is one
/// that waits for rest, or that keeps a frontend until another takes it over.
pub fn pass(state: &mut State, table: &mut impl Table, catalog: &mut Catalog) -> Pass {
    let dirty = catalog.take_dirty();
    let triggered = catalog.take_triggered();
    state.drop_unreferenced();
    let (mut pass, again) = Run::new(state, table, catalog, &dirty).run();
    tell_triggered(&mut pass, catalog, triggered, &again);
    catalog.mark(again);
    pass
}

/// Sorts out which changes are written, which wait and which are nobody's.
fn tell_triggered(
    pass: &mut Pass,
    catalog: &mut Catalog,
    triggered: BTreeMap<ObjectName, Vec<i64>>,
    again: &BTreeSet<ObjectName>,
) {
    let rejected: BTreeSet<&ObjectName> =
        pass.rejected.iter().map(|it| &it.service.object).collect();
    for (object, times) in triggered {
        if again.contains(&object) {
            catalog.trigger_again(object, times);
        // Slices may be of what is no Service here.
        } else if catalog.serves(&object) && !rejected.contains(&object) {
            pass.triggered.push((object, times));
        }
    }
}
