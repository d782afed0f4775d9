//! One run over the dirty objects, on a table.

use std::collections::BTreeSet;

use svclb_common::layout::{FrontendKey, LAYOUT_VERSION, Meta};

use super::Step;
use super::mirror::State;
use crate::catalog::Catalog;
use crate::compile::Desired;
use crate::model::{ObjectName, ServiceKey};
use crate::table::{Table, TableError};

/// Why a service keeps the state that it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Why {
    /// The slots that it needs were just freed, and rest.
    #[error("waits for slots or a line that were just freed")]
    WaitsForRest,
    /// Too few slots in one piece.
    #[error(
        "svclb_slots has no room for its backends: start the agent over larger maps (`svclb uninstall`, then `svclb agent`)"
    )]
    NoSlots,
    /// Neither a line near the home of a frontend nor one behind.
    #[error(
        "svclb_index has no room for its frontends: start the agent over larger maps (`svclb uninstall`, then `svclb agent`)"
    )]
    NoLine,
    /// A hash map has no room.
    #[error(
        "{0} is full: start the agent over larger maps (`svclb uninstall`, then `svclb agent`)"
    )]
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

/// What a pass did.
#[derive(Debug, Default)]
pub struct Pass {
    /// How many steps were taken.
    pub steps: usize,
    /// How many Service objects were looked at.
    pub objects: usize,
    /// Services that keep the state that they had.
    pub rejected: Vec<Rejected>,
    /// What stopped the pass before its end. The objects are dirty again.
    pub failed: Option<TableError>,
}

/// What phase two has to know of a service that is asked for.
struct Asked {
    service: ServiceKey,
    frontends: Vec<FrontendKey>,
    fits: bool,
}

impl Asked {
    fn of(desired: Desired, fits: bool) -> Self {
        let frontends = desired.frontends.iter().map(|frontend| frontend.key).collect();
        Self { service: desired.key, frontends, fits }
    }
}

/// Brings the maps to what the catalog says of its dirty objects.
///
/// A step that fails ends the pass; what was taken is in the mirror, the objects are dirty again, and
/// the next pass goes on from there. A service that waits for rest leaves its object dirty too.
pub fn pass(state: &mut State, table: &mut impl Table, catalog: &mut Catalog) -> Pass {
    let dirty = catalog.take_dirty();
    let mut pass = Pass { objects: dirty.len(), ..Pass::default() };
    state.drop_unreferenced();
    match run(state, table, catalog, &dirty, &mut pass) {
        Ok(()) => {
            let waits = pass.rejected.iter().filter(|it| it.why == Why::WaitsForRest);
            catalog.mark(waits.map(|it| it.service.object.clone()));
        }
        Err(error) => {
            catalog.mark(dirty);
            pass.failed = Some(error);
        }
    }
    pass
}

fn run(
    state: &mut State,
    table: &mut impl Table,
    catalog: &Catalog,
    dirty: &BTreeSet<ObjectName>,
    pass: &mut Pass,
) -> Result<(), TableError> {
    let mut asked: Vec<(ObjectName, Vec<Asked>)> = Vec::new();
    // Objects whose services others take frontends from.
    let mut losers: BTreeSet<ObjectName> = BTreeSet::new();
    for object in dirty {
        let mut services = Vec::new();
        for desired in catalog.desired(object) {
            losers.extend(state.losers(&desired));
            let brought = match state.bring(&desired) {
                Ok(steps) => match take(state, table, &steps) {
                    Ok(taken) => {
                        pass.steps += taken;
                        Ok(())
                    }
                    // A member too many misleads nobody: no slot names it.
                    Err(TableError::Full { map, .. }) => Err(Why::MapFull(map)),
                    Err(error) => return Err(error),
                },
                Err(why) => Err(why),
            };
            let fits = brought.is_ok();
            if let Err(why) = brought {
                pass.rejected.push(Rejected { service: desired.key.clone(), why });
            }
            services.push(Asked::of(desired, fits));
        }
        asked.push((object.clone(), services));
    }
    for object in losers.difference(dirty) {
        let services = catalog.desired(object).into_iter().map(|desired| Asked::of(desired, true));
        asked.push((object.clone(), services.collect()));
    }
    // What waits for one of these would go to backends that nobody looks after any more.
    let hopeless: BTreeSet<ServiceKey> = pass
        .rejected
        .iter()
        .filter(|rejected| rejected.why != Why::WaitsForRest)
        .map(|rejected| rejected.service.clone())
        .collect();
    for (object, services) in asked {
        let ids: Vec<u32> = state.of_object.get(&object).into_iter().flatten().copied().collect();
        for id in ids {
            let Some(held) = state.services.get(&id) else { continue };
            let own = services.iter().find(|asked| asked.service == held.key);
            // One that does not fit keeps what it has.
            if own.is_some_and(|asked| !asked.fits) {
                continue;
            }
            let keeps = own.map(|asked| &asked.frontends[..]);
            let steps = state.leave(id, keeps, |key| {
                catalog.holder(key).is_some_and(|holder| !hopeless.contains(holder))
            });
            pass.steps += take(state, table, &steps)?;
        }
    }
    let meta = state.meta;
    if pass.steps > 0 || meta.synced == 0 || meta.layout != LAYOUT_VERSION {
        let meta = Meta { layout: LAYOUT_VERSION, synced: 1, passes: meta.passes + 1, ..meta };
        take(state, table, &[Step::Put(crate::table::Row::Meta(meta))])?;
    }
    Ok(())
}

/// Takes steps in order, each into the mirror as it succeeds.
///
/// # Errors
/// The first that fails ends it.
pub(super) fn take(
    state: &mut State,
    table: &mut impl Table,
    steps: &[Step],
) -> Result<usize, TableError> {
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
    }
    Ok(steps.len())
}

impl State {
    /// The objects of other services that hold frontends which this one should have.
    fn losers(&self, desired: &Desired) -> Vec<ObjectName> {
        let holders = desired.frontends.iter().filter_map(|frontend| {
            let (id, _) = self.frontends.get(&frontend.key)?;
            self.services.get(id)
        });
        let others = holders.filter(|held| held.key != desired.key);
        others.map(|held| held.key.object.clone()).collect()
    }

    /// Takes the steps that [`super::load()`] gave.
    ///
    /// # Errors
    /// The first that fails ends it.
    pub fn heal(&mut self, table: &mut impl Table, steps: &[Step]) -> Result<(), TableError> {
        take(self, table, steps).map(drop)
    }
}
