//! One pass over the dirty objects, on a table, whole or in parts. Which steps, and in what order, is
//! `run`'s.

use std::collections::BTreeSet;

use super::mirror::State;
use super::outcome::Pass;
use super::run::Run;
use super::staging::Followed;
use crate::catalog::Catalog;
use crate::model::ObjectName;
use crate::table::Table;

/// Brings the maps to what the catalog says of its dirty objects.
///
/// An object whose step fails is dirty again, and the next pass goes on from what was taken. So is one
/// that waits for rest, or that keeps a frontend until another takes it over.
pub fn pass(state: &mut State, table: &mut impl Table, catalog: &mut Catalog) -> Pass {
    catalog.recall();
    state.turns.restart();
    part(state, table, catalog, usize::MAX)
}

/// A part of a pass: about so many steps, and as much again of removals. Objects take turns, a large one
/// part by part. What is left is the state's ([`State::is_under_way`]) and goes on with the next part;
/// what changes meanwhile joins it.
///
/// Objects that wait have a turn once the catalog [recalls](Catalog::recall) them.
pub fn part(
    state: &mut State,
    table: &mut impl Table,
    catalog: &mut Catalog,
    effort: usize,
) -> Pass {
    catalog.take_changed().into_iter().for_each(|object| state.turns.add(object));
    match &mut state.followed {
        Some(followed) => followed.looked.append(&mut catalog.take_reclaimed()),
        None => drop(catalog.take_reclaimed()),
    }
    state.drop_unreferenced();
    let (mut pass, ended, again) = Run::new(state, table, catalog, effort).run();
    report_triggered(&mut pass, catalog, &ended);
    catalog.wait(again);
    pass
}

impl State {
    /// Whether a pass is at work whose next [`part`] has something to do.
    pub fn is_under_way(&self) -> bool {
        !self.turns.is_empty()
    }

    /// Whether the next [`part`] has something to do for this object.
    pub fn has_turn(&self, object: &ObjectName) -> bool {
        let is_held = |followed: &Followed| followed.held.contains_key(object);
        self.turns.has(object) || self.followed.as_ref().is_some_and(is_held)
    }
}

/// Reports of these objects, which are as they should be, when what changed them happened.
fn report_triggered(pass: &mut Pass, catalog: &mut Catalog, ended: &[ObjectName]) {
    let rejected: BTreeSet<&ObjectName> =
        pass.rejected.iter().map(|it| &it.service.object).collect();
    for object in ended {
        let Some(times) = catalog.take_triggered(object) else { continue };
        // Slices may be of what is no Service here.
        if catalog.serves(object) && !rejected.contains(object) {
            pass.triggered.push((object.clone(), times));
        }
    }
}
