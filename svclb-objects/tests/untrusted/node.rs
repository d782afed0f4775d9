//! A node in memory, with a catalog and maps, and a check of the contents of the maps.
#![allow(dead_code, unreachable_pub, reason = "the fuzz targets use it too, and another part")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;
use svclb_common::layout::{FrontendKey, Meta, Scope, Slot};
use svclb_common::shared::Shared;
use svclb_core::catalog::Catalog;
use svclb_core::compile::service_of;
use svclb_core::frontends::{FrontendKind, frontends};
use svclb_core::model::{Node, ObjectName, Service, ServiceKey, Update};
use svclb_core::plan::{Planner, pass};
use svclb_core::table::{MemoryTable, Table as _};

use super::claims::{Claims, Endpoints, is, is_usable};

/// Passes until nothing is left to do.
const PASSES: usize = 8;

pub struct TestNode {
    catalog: Catalog,
    state: Planner,
    table: MemoryTable,
    node: Node,
    services: BTreeMap<ObjectName, (Service, Claims)>,
    slices: BTreeMap<ObjectName, Endpoints>,
}

/// A claim by its rank, and its claimant.
type Claim = ((FrontendKind, i64), ServiceKey);

/// The numbers of checked rows.
#[derive(Debug, Default)]
pub struct Checked {
    pub frontends: u64,
    pub conflicts: u64,
    pub backends: u64,
}

impl TestNode {
    pub fn new() -> Self {
        let node = Node {
            name: "here".into(),
            zone: None,
            addresses: vec![IpAddr::from([192, 0, 2, 250])],
            is_leaving: false,
        };
        let meta = Meta {
            index_lines: 256,
            slots: 8_192,
            origins: 64,
            seed: 7,
            next_service: 1,
            ..Meta::default()
        };
        Self {
            catalog: Catalog::new(node.clone()),
            state: Planner::new(meta),
            table: MemoryTable::new(meta),
            node,
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
        }
    }

    /// Takes an update in, which one of these objects says: one of those that have its name.
    pub fn take<'a>(&mut self, update: Update, objects: impl IntoIterator<Item = &'a Value>) {
        match &update {
            Update::Service(name, None) => drop(self.services.remove(name)),
            Update::Service(name, Some(service)) => {
                let mut claims = Claims::default();
                objects
                    .into_iter()
                    .filter(|object| is(object, &name.namespace, &name.name))
                    .for_each(|object| claims.add(object));
                self.services.insert(name.clone(), (service.clone(), claims));
            }
            Update::Node(Some(node)) => self.node = node.clone(),
            Update::Node(None) => {
                self.node = Node { name: self.node.name.clone(), ..Node::default() }
            }
            Update::Slice(name, None) => drop(self.slices.remove(name)),
            Update::Slice(name, Some(_)) => {
                let mut endpoints = Endpoints::default();
                objects
                    .into_iter()
                    .filter(|object| is(object, &name.namespace, &name.name))
                    .for_each(|object| endpoints.add(object));
                self.slices.insert(name.clone(), endpoints);
            }
            Update::Interfaces(_) => {}
        }
        self.catalog.apply(update);
    }

    /// Writes what is known, and checks every frontend and every backend in the maps.
    pub fn pass(&mut self) -> Result<Checked, String> {
        let mut passes = 0;
        while passes == 0 || self.catalog.is_dirty() {
            if passes == PASSES {
                return Err("it never comes to an end".to_owned());
            }
            passes += 1;
            let done = pass(&mut self.state, &mut self.table, &mut self.catalog);
            if let Some(failed) = done.failed.first() {
                return Err(format!("a step failed: {}", failed.error));
            }
            let freed = self.state.take_freed();
            self.state.release(freed);
        }
        self.check()
    }

    fn check(&mut self) -> Result<Checked, String> {
        let claimants = self.claimants();
        let dump = self.table.load().map_err(|error| error.to_string())?;
        let owners: BTreeMap<u32, Option<ServiceKey>> =
            dump.services.iter().map(|(id, row)| (*id, service_of(row))).collect();
        let mut checked = Checked::default();
        for (key, row) in &dump.frontends {
            let at = format!("{}:{}/{}", key.address, key.port, key.protocol);
            let Some(Some(owner)) = owners.get(&row.service) else {
                return Err(format!("{at} has no owner"));
            };
            let Some((_, claims)) = self.services.get(&owner.object) else {
                return Err(format!("{at} belongs to {owner}, which is gone"));
            };
            if !self.is_named(claims, key) {
                return Err(format!("{at} belongs to {owner}, which does not name it"));
            }
            let first = claimants.get(key).and_then(|claims| claims.iter().min());
            if first.map(|(_, first)| first) != Some(owner) {
                return Err(format!("{at} belongs to {owner}, and another claim goes before"));
            }
            checked.frontends += 1;
            checked.conflicts +=
                u64::from(claimants.get(key).is_some_and(|claims| claims.len() > 1));
        }
        let mut members = BTreeSet::new();
        for (key, _) in &dump.backends {
            let at = format!("backend {}:{}", key.address, key.port);
            let Some(Some(owner)) = owners.get(&key.service) else {
                return Err(format!("{at} has no owner"));
            };
            let address = key.address.ip();
            if !self.is_backend(owner, address, key.port) {
                return Err(format!("{at} belongs to {owner}, and no slice of it names it"));
            }
            members.insert((key.service, address, key.port));
            checked.backends += 1;
        }
        // The hooks give out the backends in the lines' slots.
        let rows: BTreeMap<FrontendKey, u32> =
            dump.frontends.iter().map(|(key, row)| (*key, row.service)).collect();
        for (number, line) in dump.lines.iter().filter(|(_, line)| line.protocol != 0) {
            if rows.get(&line.frontend()) != Some(&line.service) {
                return Err(format!("line {number} holds a frontend that has no row"));
            }
            for slot in line.set.first..line.set.first + line.set.count {
                let slot = self.table.slot(slot).map(Shared::<'_, Slot>::read).unwrap_or_default();
                if !members.contains(&(line.service, slot.address.ip(), slot.port)) {
                    let at = format!("{}:{}", slot.address, slot.port);
                    return Err(format!(
                        "line {number} gives {at}, which is no backend of its own"
                    ));
                }
            }
        }
        Ok(checked)
    }

    /// Returns true when a slice in the namespace of this service names this backend for it.
    fn is_backend(&self, owner: &ServiceKey, address: IpAddr, port: u16) -> bool {
        let its_port = (&*owner.port_name, owner.protocol as u8);
        let slices =
            self.slices.iter().filter(|(name, _)| name.namespace == owner.object.namespace);
        slices.into_iter().any(|(_, slice)| slice.name(&owner.object.name, its_port, address, port))
    }

    /// The claimants of each frontend, with the rank of their claims.
    fn claimants(&self) -> BTreeMap<FrontendKey, Vec<Claim>> {
        let mut claimants: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, (service, _)) in &self.services {
            for port in &service.ports {
                let age = service.created.unwrap_or(i64::MAX);
                let (port_name, protocol) = (port.name.clone(), port.protocol);
                let who = ServiceKey { object: name.clone(), port_name, protocol };
                for (key, kind) in frontends(service, port, &self.node) {
                    claimants.entry(key).or_default().push(((kind, age), who.clone()));
                }
            }
        }
        claimants
    }

    /// Returns true when an object names this frontend, and may name it.
    fn is_named(&self, claims: &Claims, key: &FrontendKey) -> bool {
        let address = key.address.ip();
        if address.is_loopback() {
            return key.scope == Scope::Host as u8 && claims.node_port(key.port, key.protocol);
        }
        is_usable(address)
            && key.scope == Scope::Any as u8
            && (claims.name(address, key.port, key.protocol)
                || self.node.addresses.contains(&address)
                    && claims.node_port(key.port, key.protocol))
    }
}
