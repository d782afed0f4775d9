//! A table that looks, after every single step, at what a reader would find.

use std::collections::{BTreeMap, BTreeSet};

use svclb_common::index::{self, Found};
use svclb_common::layout::{FrontendKey, Line, Set};
use svclb_common::shared::Shared;

use super::world::{self, Routes};
use crate::catalog::Catalog;
use crate::compile::service_of;
use crate::index::wanted;
use crate::table::{Dump, Failing, Key, Memory, Row, Table, TableError};

pub(super) struct Watched {
    pub(super) table: Failing<Memory>,
    /// Before the pass, and as it should be after it.
    old: Routes,
    new: Routes,
    /// In maps that are too small a frontend may go to anybody who asks for it, or to nobody.
    claimed: Routes,
    pub(super) is_roomy: bool,
}

impl Watched {
    pub(super) fn new(memory: Memory) -> Self {
        let (old, new, claimed) = (Routes::new(), Routes::new(), Routes::new());
        Self { table: Failing::new(memory), old, new, claimed, is_roomy: true }
    }

    /// A pass begins that should end in what the catalog says.
    pub(super) fn expect(&mut self, catalog: &Catalog) {
        self.old = self.routes();
        self.new = world::routes(catalog);
        self.claimed.clear();
        if !self.is_roomy {
            for (key, backends) in world::claims(catalog).into_values().flatten() {
                self.claimed.entry(key).or_default().extend(backends);
            }
        }
    }

    /// Where each frontend goes, as a reader finds it.
    pub(super) fn routes(&self) -> Routes {
        let memory = &self.table.inner;
        let mut routes = Routes::new();
        for line in (0..).map_while(|number| memory.line(number)).filter(|it| it.key_word() != 0) {
            let key = line.read().frontend();
            if let Some(found) = self.find(&key) {
                routes.insert(key, self.backends(found));
            }
        }
        routes
    }

    fn find(&self, key: &FrontendKey) -> Option<Shared<'_, Line>> {
        let (memory, wanted) = (&self.table.inner, wanted(key));
        let meta = memory.meta();
        match index::find(&wanted, meta.seed, meta.index_lines, |number| memory.line(number)) {
            Found::Line(line, _) => Some(line),
            Found::Nothing(_) => None,
            Found::Spilled(_) => {
                let line = memory.line(memory.frontend(key)?.line)?;
                wanted.is_in(line).then_some(line)
            }
        }
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

    /// Every frontend goes only to old or new backends, and one that has some before and after is
    /// served at every moment.
    fn look(&self) {
        let none = BTreeSet::new();
        let now = self.routes();
        for (key, backends) in &now {
            let allowed = [&self.old, &self.new, &self.claimed];
            let allowed = allowed.map(|routes| routes.get(key).unwrap_or(&none));
            let is_stranger = |it: &&String| !allowed.iter().any(|backends| backends.contains(*it));
            let strangers: Vec<_> = backends.iter().filter(is_stranger).collect();
            assert!(strangers.is_empty(), "{key:?} goes to {strangers:?}");
        }
        for (key, old) in &self.old {
            let Some(new) = self.new.get(key) else { continue };
            if self.is_roomy && !old.is_empty() && !new.is_empty() {
                assert!(now.get(key).is_some_and(|it| !it.is_empty()), "{key:?} is not served");
            }
        }
    }
}

impl Table for Watched {
    fn load(&mut self) -> Result<Dump, TableError> {
        self.table.load()
    }

    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        let done = self.table.put(row);
        self.look();
        done
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        let done = self.table.remove(key);
        assert!(!matches!(done, Err(TableError::Missing { .. })), "{key:?} is not there");
        self.look();
        done
    }
}
