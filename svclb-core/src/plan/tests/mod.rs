//! The guarantees of a plan, over random histories.

mod audit;
mod changes;
mod crashes;
mod faults;
mod histories;
mod parts;
mod recording;
mod refusals;
mod replaced;
mod staging;
mod watched;
mod world;

use svclb_common::layout::Meta;

use super::*;
use crate::catalog::Catalog;
use crate::model::Node;
use crate::table::{MemoryTable, Table};
use watched::Watched;
use world::{Event, Spec, World};

/// Maps of these sizes.
fn meta(index_lines: u32, slots: u32) -> Meta {
    Meta { index_lines, slots, origins: 64, seed: 7, next_service: 1, ..Meta::default() }
}

fn ample_maps() -> Meta {
    meta(256, 1024)
}

fn catalog() -> Catalog {
    Catalog::new(Node { name: "here".into(), ..Node::default() })
}

/// A catalog, its mirror and the maps.
struct Agent {
    catalog: Catalog,
    planner: Planner,
    table: Watched,
}

impl Agent {
    fn new(meta: Meta) -> Self {
        Self {
            catalog: catalog(),
            planner: Planner::new(meta),
            table: Watched::new(MemoryTable::new(meta)),
        }
    }

    /// Ingests an event, without a pass.
    fn ingest(&mut self, world: &mut World, event: &Event) {
        world.change(event).apply_to(&mut self.catalog);
    }

    /// Runs a pass with each step checked, and ends the quarantine of what it freed.
    fn pass(&mut self) -> Pass {
        let done = self.pass_only();
        let freed = self.planner.take_freed();
        self.planner.release(freed);
        done
    }

    /// Runs a pass, and leaves what it freed in quarantine.
    fn pass_only(&mut self) -> Pass {
        self.table.expect(&self.catalog);
        let done = pass(&mut self.planner, &mut self.table, &mut self.catalog);
        self.assert_quarantine();
        done
    }

    /// Asserts that the free slots and those in quarantine add up.
    fn assert_quarantine(&self) {
        self.planner.mirror.slots.assert_quarantine();
    }

    /// Ends quarantines and runs passes, as the reconciler does, until nothing is left to do.
    fn settle(&mut self) {
        for _ in 0..10 {
            let freed = self.planner.take_freed();
            if !freed.is_empty() {
                self.planner.release(freed);
                self.catalog
                    .mark(self.planner.unplaced.services().map(|short| short.object.clone()));
            }
            if !self.catalog.is_dirty() {
                return;
            }
            let done = self.pass_only();
            assert!(done.failed.is_empty(), "{:?}", done.failed);
        }
        panic!("it does not end");
    }

    /// Asserts that services that fit are as desired, and that those that do not fit keep no frontend from
    /// them.
    fn assert_fair(&mut self) {
        let routes = self.table.routes();
        let mut claims = world::claims(&self.catalog);
        let services = &self.planner.mirror.services;
        for (_, service) in services.iter() {
            let name = service.key();
            let wanted = claims.remove(name).unwrap_or_else(|| panic!("{name} is gone"));
            if self.planner.unplaced.has(name) {
                continue;
            }
            for key in service.frontends() {
                assert_eq!(routes.get(key), wanted.get(key), "{name} {key:?}");
            }
            for key in wanted.keys().filter(|key| !service.frontends().contains(key)) {
                let Some(owner) = services.owner(key) else {
                    let is_outranked = !self.catalog.may_keep(key, name);
                    assert!(is_outranked, "{key:?} is kept from {name} without an owner");
                    continue;
                };
                let mut claimants = self.catalog.claimants(key);
                let first = claimants.find(|it| *it == owner || *it == name);
                assert_eq!(first, Some(owner), "{key:?} is kept from {name}");
            }
        }
        for service in claims.keys() {
            assert!(self.planner.unplaced.has(service), "{service} has no row");
        }
    }

    /// Loads and repairs the maps, as a new process does first.
    fn restart(&mut self) {
        let dump = self.table.load().unwrap();
        let (mut state, repairs) = load(&dump, dump.meta);
        state.set_growing(self.planner.unplaced.grows());
        self.planner = state;
        self.planner.repair(&mut self.table, &repairs).unwrap();
        self.mark_all();
    }

    fn mark_all(&mut self) {
        let all: Vec<_> = self.catalog.objects().chain(self.planner.objects()).cloned().collect();
        self.catalog.mark(all);
    }

    /// Asserts that the maps hold exactly the desired state, and that neither this nor a new process has
    /// anything left to do.
    fn assert_settled(&mut self) {
        assert_eq!(self.table.routes(), world::routes(&self.catalog));
        assert_eq!(self.table.rows(), world::rows(&self.catalog));
        self.mark_all();
        assert_eq!(self.pass().steps, 0, "a second plan is empty");
        assert!(self.planner.is_in(&mut self.table).unwrap(), "an audit finds nothing");
        self.restart();
        let dump = self.table.load().unwrap();
        assert_eq!(load(&dump, dump.meta).1, [], "nothing to repair");
        assert_eq!(self.pass().steps, 0, "a restart writes nothing");
        let is_held = self.planner.is_in(&mut self.table).unwrap();
        assert!(is_held, "nor does an audit find anything then");
    }
}
