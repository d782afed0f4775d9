//! A table that checks, after every step, the state that a reader would find.

use std::collections::{BTreeMap, BTreeSet};

use svclb_common::index;
use svclb_common::layout::{FrontendKey, Line, Set};
use svclb_common::shared::Shared;

use super::world::{self, Routes};
use crate::catalog::Catalog;
use crate::compile::service_of;
use crate::index::wanted;
use crate::model::ServiceKey;
use crate::table::{Dump, FailingTable, Key, MemoryTable, Row, Table, TableError};

pub(super) struct Watched {
    pub(super) table: FailingTable<MemoryTable>,
    /// The state before the pass, and the one that it should end in.
    old: Routes,
    new: Routes,
    /// In maps that are too small, a frontend may belong to any of its claimants, or to none: the backends of
    /// all of them.
    claimed: Routes,
    pub(super) fits_all: bool,
    /// The frontends that must be served at every moment of the pass.
    always: BTreeSet<FrontendKey>,
    /// The same states of passes in which agents died: their unfinished changes may show until the next agent
    /// has completed them.
    earlier: Vec<Routes>,
    /// Each step is checked.
    pub(super) checks_steps: bool,
    /// The kinds of steps that were taken.
    pub(super) kinds: BTreeSet<&'static str>,
}

/// A client's record of a frontend that it used: line, generation, and any of these backends.
pub(super) struct Remembered {
    frontend: FrontendKey,
    line: u32,
    generation: u32,
    backends: BTreeSet<String>,
}

impl Watched {
    pub(super) fn new(memory: MemoryTable) -> Self {
        let (old, new, claimed) = (Routes::new(), Routes::new(), Routes::new());
        Self {
            table: FailingTable::new(memory),
            old,
            new,
            claimed,
            fits_all: true,
            always: BTreeSet::new(),
            earlier: Vec::new(),
            checks_steps: true,
            kinds: BTreeSet::new(),
        }
    }

    /// Begins a pass that should end in the state that the catalog wants.
    pub(super) fn expect(&mut self, catalog: &Catalog) {
        self.old = self.routes();
        self.new = world::routes(catalog);
        self.claimed.clear();
        if self.fits_all {
            let is_served = |key: &&FrontendKey| self.new.get(key).is_some_and(|it| !it.is_empty());
            let served = self.old.iter().filter(|(_, backends)| !backends.is_empty());
            self.always = served.map(|(key, _)| key).filter(is_served).copied().collect();
            return;
        }
        // A service that does not fit keeps the frontends that it has, as long as it claims them.
        let (owners, claims) = (self.owners(), world::claims(catalog));
        let is_kept = |key: &FrontendKey, service: &ServiceKey| {
            let mut all = claims.values().filter_map(|routes| routes.get(key));
            claims.get(service).is_some_and(|routes| routes.contains_key(key))
                && catalog.may_keep(key, service)
                && all.all(|backends| !backends.is_empty())
        };
        let held = owners.iter().filter(|(key, service)| {
            self.old.get(key).is_some_and(|it| !it.is_empty()) && is_kept(key, service)
        });
        self.always = held.map(|(key, _)| *key).collect();
        for (key, backends) in claims.into_values().flatten() {
            self.claimed.entry(key).or_default().extend(backends);
        }
    }

    /// The owner of each frontend.
    fn owners(&mut self) -> BTreeMap<FrontendKey, ServiceKey> {
        let dump = self.table.load().unwrap();
        let names: BTreeMap<u32, ServiceKey> =
            dump.services.iter().filter_map(|(id, row)| Some((*id, service_of(row)?))).collect();
        let held = dump.lines.iter().map(|(_, line)| line).filter(|line| line.protocol != 0);
        held.filter_map(|line| Some((line.frontend(), names.get(&line.service)?.clone()))).collect()
    }

    /// Records that the agent died in the latest pass.
    pub(super) fn record_crash(&mut self) {
        self.earlier.extend([self.old.clone(), self.new.clone()]);
    }

    /// Records that the changes of dead agents are completed.
    pub(super) fn caught_up(&mut self) {
        self.earlier.clear();
    }

    /// The backends of each frontend, as a reader finds them.
    pub(super) fn routes(&self) -> Routes {
        let memory = &self.table.inner;
        let mut routes = Routes::new();
        for line in (0..).map_while(|number| memory.line(number)).filter(|it| it.key_word() != 0) {
            let key = line.read().frontend();
            if let Some((_, found)) = self.find(&key) {
                routes.insert(key, self.backends(found));
            }
        }
        routes
    }

    /// The records of clients of each frontend that are given a backend now.
    pub(super) fn remembered(&self) -> Vec<Remembered> {
        let frontends = self.routes().into_iter();
        let remembered = frontends.filter_map(|(frontend, backends)| {
            let (line, found) = self.find(&frontend)?;
            Some(Remembered { frontend, line, generation: found.generation(), backends })
        });
        remembered.collect()
    }

    /// Asserts that no client with such a record takes a backend for current that has left.
    pub(super) fn assert_no_client_stays(&self, remembered: &[Remembered]) {
        for Remembered { frontend, line, generation, backends } in remembered {
            let Some((number, found)) = self.find(frontend) else { continue };
            if (number, found.generation()) == (*line, *generation) {
                let now = self.backends(found);
                assert!(
                    backends.is_subset(&now),
                    "{frontend:?}: of {backends:?}, {now:?} are left"
                );
            }
        }
    }

    /// Asserts that no client with such a record takes a backend for current that is no member of the service
    /// and that no new client would be given.
    pub(super) fn assert_no_client_keeps_a_stale_backend(&mut self, remembered: &[Remembered]) {
        let rows = self.table.load().unwrap().backends.into_iter();
        let members: BTreeSet<(u32, String)> =
            rows.map(|(key, _)| (key.service, format!("{}:{}", key.address, key.port))).collect();
        for Remembered { frontend, line, generation, backends } in remembered {
            let Some((number, found)) = self.find(frontend) else { continue };
            if (number, found.generation()) == (*line, *generation) {
                let service = found.service();
                let is_member = |it: &&String| members.contains(&(service, (*it).clone()));
                let gone =
                    backends.difference(&self.backends(found)).find(|it| !is_member(it)).cloned();
                assert_eq!(gone, None, "{frontend:?} is taken for current");
            }
        }
    }

    fn find(&self, key: &FrontendKey) -> Option<(u32, Shared<'_, Line>)> {
        let (memory, wanted) = (&self.table.inner, wanted(key));
        let meta = memory.meta();
        let found = index::find(&wanted, meta.seed, meta.index_lines, |number| memory.line(number));
        found.ok().map(|(line, number)| (number, line))
    }

    fn backends(&self, line: Shared<'_, Line>) -> BTreeSet<String> {
        let set = line.set();
        assert_ne!(set, Set::ABSENT, "a line that is found has a set");
        let accepted = [line.service(), line.heir()];
        let slots = (set.first..set.first.saturating_add(set.count))
            .filter_map(|number| self.table.inner.slot(number));
        slots
            .map(|slot| {
                assert!(accepted.contains(&slot.owner()), "a slot of another service");
                let slot = slot.read();
                format!("{}:{}", slot.address, slot.port)
            })
            .collect()
    }

    /// Readable rows, without ids.
    pub(super) fn rows(&mut self) -> BTreeSet<String> {
        let dump = self.table.load().unwrap();
        let names: BTreeMap<u32, String> = dump
            .services
            .iter()
            .map(|(id, row)| (*id, service_of(row).unwrap().to_string()))
            .collect();
        let services = dump
            .services
            .iter()
            .map(|(id, row)| format!("{} {} {}", names[id], row.frontends, row.notes));
        let held = dump.lines.iter().map(|(_, line)| line).filter(|line| line.protocol != 0);
        let traits = held.map(|line| {
            let key = line.frontend();
            super::world::traits(&key, line.flags, line.affinity_seconds)
        });
        let members = dump.backends.iter().map(|(key, row)| {
            format!("{} {}:{} {row:?}", names[&key.service], key.address, key.port)
        });
        services.chain(traits).chain(members).collect()
    }

    /// Asserts that each frontend has exactly its backends from before the pass, or exactly its new ones.
    pub(super) fn assert_old_or_new(&self) {
        let now = self.routes();
        let keys: BTreeSet<_> =
            [&self.old, &self.new, &now].into_iter().flat_map(Routes::keys).collect();
        for key in keys {
            let [old, new, now] = [&self.old, &self.new, &now].map(|routes| routes.get(key));
            let mut earlier = self.earlier.iter().map(|routes| routes.get(key));
            let is_known = now == old || now == new || earlier.any(|earlier| now == earlier);
            assert!(is_known, "{key:?} has {now:?}: from {old:?} to {new:?}");
        }
    }

    /// Asserts that each frontend has only old or new backends, and that one with backends before and after is
    /// served at every moment.
    fn check_step(&self) {
        if !self.checks_steps {
            return;
        }
        let none = BTreeSet::new();
        let now = self.routes();
        for (key, backends) in &now {
            let allowed = [&self.old, &self.new, &self.claimed].into_iter().chain(&self.earlier);
            let allowed: Vec<_> = allowed.map(|routes| routes.get(key).unwrap_or(&none)).collect();
            let is_stranger = |it: &&String| !allowed.iter().any(|backends| backends.contains(*it));
            let strangers: Vec<_> = backends.iter().filter(is_stranger).collect();
            assert!(strangers.is_empty(), "{key:?} has foreign backends {strangers:?}");
        }
        for key in &self.always {
            assert!(now.get(key).is_some_and(|it| !it.is_empty()), "{key:?} is not served");
        }
    }
}

impl Table for Watched {
    fn load(&mut self) -> Result<Dump, TableError> {
        self.table.load()
    }

    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        let done = self.table.put(row);
        if done.is_ok() {
            self.kinds.insert(kind_of_row(row));
        }
        self.check_step();
        done
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        let done = self.table.remove(key);
        assert!(!matches!(done, Err(TableError::Missing { .. })), "{key:?} is not there");
        if done.is_ok() {
            self.kinds.insert(kind_of_key(key));
        }
        self.check_step();
        done
    }
}

/// All values of [`kind_of_row`] and [`kind_of_key`].
pub(super) const KINDS: [&str; 16] = [
    "backend",
    "backend goes",
    "flip",
    "frontend",
    "frontend goes",
    "generation",
    "heir",
    "line",
    "line goes",
    "meta",
    "owner",
    "reach",
    "service",
    "service goes",
    "slots",
    "traits",
];

fn kind_of_row(row: &Row) -> &'static str {
    match row {
        Row::Service(..) => "service",
        Row::Backend(..) => "backend",
        Row::Frontend(..) => "frontend",
        Row::Slots(..) => "slots",
        Row::Line(..) => "line",
        Row::Set(..) => "flip",
        Row::Heir(..) => "heir",
        Row::Owner(..) => "owner",
        Row::Traits(..) => "traits",
        Row::Generation(..) => "generation",
        Row::Reach(..) => "reach",
        Row::Meta(_) => "meta",
    }
}

fn kind_of_key(key: &Key) -> &'static str {
    match key {
        Key::Service(_) => "service goes",
        Key::Backend(_) => "backend goes",
        Key::Frontend(_) => "frontend goes",
        Key::Line(_) => "line goes",
    }
}
