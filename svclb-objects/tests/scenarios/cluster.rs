//! A source of objects, and an agent over maps in memory.
//!
//! The source keeps its objects in the ledger that the real sources use: a rejected object leaves its previous
//! state in force, unless it has another uid; the catalog is given the names of all rejected objects.

use std::collections::BTreeMap;
use std::path::Path;

use svclb_common::layout::Meta;
use svclb_core::budget::{Budget, Resource};
use svclb_core::catalog::{Catalog, Conflict};
use svclb_core::model::{Node, ObjectName, Unread, Update};
use svclb_core::plan::{Freed, Pass, Planner, load, pass};
use svclb_core::table::{MemoryTable, Table as _};
use svclb_objects::convert::{Kind, ObjectId};
use svclb_objects::file::{self, contents};
use svclb_objects::ledger::Ledger;

use crate::maps;
use crate::steps::PrintingTable;

/// The own node of every scenario.
const NODE: &str = "node-a";

/// Sizes of the maps, and budgets.
pub(crate) struct Settings {
    meta: Meta,
    budget: Budget,
}

impl Settings {
    /// Reads lines such as `slots: 4`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let meta = Meta {
            index_lines: 4096,
            slots: 64,
            origins: 64,
            seed: 7,
            next_service: 1,
            ..Meta::default()
        };
        let mut settings = Self { meta, budget: Budget::UNLIMITED };
        let budget = &mut settings.budget;
        for line in text.lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let number: u32 =
                value.trim().parse().map_err(|_| format!("{line:?}: expected a number"))?;
            let limit = number as usize;
            match name {
                "slots" => settings.meta.slots = number,
                "service_frontends" => {
                    budget.service = budget.service.with(Resource::Frontends, limit);
                }
                "namespace_frontends" => {
                    budget.namespace = budget.namespace.with(Resource::Frontends, limit);
                }
                _ => return Err(format!("unknown setting {name:?}")),
            }
        }
        Ok(settings)
    }
}

/// Notes on an object of the source.
#[derive(Default)]
pub(crate) struct Notes {
    /// The reason why it is rejected.
    pub(crate) problem: Option<String>,
    /// The parts of it that are ignored.
    pub(crate) ignored: Option<String>,
}

/// The source and the agent.
pub(crate) struct Cluster {
    pub(crate) ledger: Ledger<Notes>,
    pub(crate) catalog: Catalog,
    pub(crate) planner: Planner,
    pub(crate) table: PrintingTable,
    pub(crate) last: Pass,
    conflicts: Vec<Conflict>,
    budget: Budget,
    freed: Vec<Freed>,
}

impl Cluster {
    /// Empty maps.
    pub(crate) fn new(settings: &Settings) -> Self {
        let &Settings { meta, budget } = settings;
        Self {
            ledger: Ledger::default(),
            catalog: catalog(budget),
            planner: Planner::new(meta),
            table: PrintingTable::new(MemoryTable::new(meta)),
            last: Pass::default(),
            conflicts: Vec::new(),
            budget,
            freed: Vec::new(),
        }
    }

    /// Applies a batch: YAML documents, or lines such as `delete: Service shop/web` in their place.
    pub(crate) fn ingest(&mut self, documents: &str) -> Result<(), String> {
        for document in split(documents) {
            match document.trim().strip_prefix("delete:") {
                Some(object) => {
                    let object = object_id(object.trim())?;
                    if self.ledger.delete(&object).is_none() {
                        return Err(format!("cannot delete: there is no {object}"));
                    }
                }
                None => self.read(&document)?,
            }
        }
        // In the order of their names, so that the steps are the same in each run.
        let updates: BTreeMap<ObjectId, Update> = self.ledger.take().into_iter().collect();
        updates.into_values().for_each(|update| self.catalog.apply(update));
        let mut unread = Unread::default();
        self.ledger.unread(&mut unread);
        self.catalog.set_unread(unread);
        Ok(())
    }

    fn read(&mut self, document: &str) -> Result<(), String> {
        let mut found = contents(Path::new("objects.yaml"), Ok(document.into()), NODE);
        if found.unknown {
            return Err(format!("the document does not name its object: {:?}", found.rejects));
        }
        let ignored = found.rejects.split_off(found.standing);
        for (object, accepted) in found.objects {
            let ignored = ignored.iter().find(|it| it.object.as_ref() == Some(&object));
            let ignored = ignored.map(|it| it.problem.clone());
            let file::FileObject { update, uid, skipped, .. } = accepted;
            self.ledger.skip(&object, skipped);
            *self.ledger.accept(&object, uid, update) = Notes { problem: None, ignored };
        }
        for (object, rejection) in found.rejected {
            self.ledger.reject(&object, rejection);
            let has_state = self.ledger.has_state(&object);
            let reject = found.rejects.iter_mut().find(|it| it.object.as_ref() == Some(&object));
            self.ledger.note(&object).problem = reject.map(|reject| {
                reject.add_consequence(has_state);
                reject.problem.clone()
            });
        }
        Ok(())
    }

    /// The notes on all objects, in the order of their names.
    pub(crate) fn notes(&self) -> impl Iterator<Item = &Notes> {
        self.ledger.iter().collect::<BTreeMap<_, _>>().into_values()
    }

    /// Starts another agent over the same maps. These are all the objects that its source has.
    pub(crate) fn restart(&mut self, documents: &str) -> Result<(), String> {
        let failed = |error| format!("{error}");
        let dump = self.table.load().map_err(failed)?;
        let (planner, repairs) = load(&dump, dump.meta);
        self.planner = planner;
        self.planner.repair(&mut self.table, &repairs).map_err(failed)?;
        self.catalog = catalog(self.budget);
        self.conflicts.clear();
        self.freed.clear();
        self.ledger = Ledger::default();
        self.ingest(documents)?;
        let previous = self.planner.take_previous(|service| self.catalog.misses(service));
        self.catalog.retain(previous);
        self.catalog.mark(self.planner.objects().cloned().collect::<Vec<_>>());
        Ok(())
    }

    /// Ends the quarantine of all that was freed.
    pub(crate) fn end_quarantine(&mut self) {
        self.freed.drain(..).for_each(|freed| self.planner.release(freed));
    }

    /// Runs a pass and a second one, which should take no step. Returns the steps.
    pub(crate) fn pass(&mut self) -> String {
        let mut steps = self.one_pass();
        let last = std::mem::take(&mut self.last);
        let second = self.one_pass();
        if !second.is_empty() {
            steps.push_str(&format!("a second pass:\n{second}"));
        }
        self.last = last;
        if steps.is_empty() { "none\n".to_owned() } else { steps }
    }

    fn one_pass(&mut self) -> String {
        self.last = pass(&mut self.planner, &mut self.table, &mut self.catalog);
        let freed = self.planner.take_freed();
        if !freed.is_empty() {
            self.freed.push(freed);
        }
        let mut steps = self.table.take();
        for failed in &self.last.failed {
            steps.push_str(&format!("FAILED: {}\n", failed.error));
        }
        steps
    }

    /// The conflicts between Services as they were last reported.
    pub(crate) fn conflicts(&mut self) -> &[Conflict] {
        if let Some(conflicts) = self.catalog.take_conflicts() {
            self.conflicts = conflicts;
        }
        &self.conflicts
    }

    /// Returns whether lines or slots are in quarantine.
    pub(crate) fn has_quarantine(&self) -> bool {
        !self.freed.is_empty()
    }

    /// The maps as text.
    pub(crate) fn maps(&mut self) -> String {
        maps::print(self)
    }
}

fn catalog(budget: Budget) -> Catalog {
    Catalog::new(Node { name: NODE.into(), ..Node::default() }).with_budget(budget)
}

fn split(documents: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for line in documents.lines() {
        match found.last_mut() {
            Some(document) if line != "---" => document.push_str(&format!("{line}\n")),
            _ => found.push(String::new()),
        }
    }
    found.retain(|document| !document.trim().is_empty());
    found
}

/// The object of a line such as `Service shop/web`.
fn object_id(text: &str) -> Result<ObjectId, String> {
    let kinds = [Kind::Service, Kind::EndpointSlice, Kind::Node];
    let object = text.split_once(' ').and_then(|(kind, name)| {
        let kind = kinds.into_iter().find(|it| it.name() == kind)?;
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        Some(ObjectId { kind, name: ObjectName::new(namespace, name) })
    });
    object.ok_or_else(|| format!("{text:?} is not an object such as Service shop/web"))
}
