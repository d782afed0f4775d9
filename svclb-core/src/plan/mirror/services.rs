//! The installed services: those with a row in `svclb_services`, and their rows in `svclb_frontends` and
//! `svclb_backends`.
//!
//! Invariants:
//! * `of_object` has the id of each installed service once, by its object and in the order of the services'
//!   keys. No object is listed without a service.
//! * A frontend is in the list of the service that its row names, and of no other.

use std::collections::{HashMap, VecDeque};

use svclb_common::layout::{BackendKey, BackendRow, FrontendKey, FrontendRow, ServiceRow};

use super::members::Members;
use crate::compile::service_of;
use crate::digest::Digest;
use crate::model::{ObjectName, ServiceKey};
use crate::number::{LineNumber, ServiceId};
use crate::table::Dump;

/// One service's rows.
#[derive(Clone, Debug)]
pub(crate) struct InstalledService {
    key: ServiceKey,
    row: Digest,
    members: Members,
    /// In order. Both ends are cheap to add to and to remove from: a service whose frontends go to a
    /// successor loses all of them, one by one.
    frontends: VecDeque<FrontendKey>,
}

impl InstalledService {
    pub(crate) const fn key(&self) -> &ServiceKey {
        &self.key
    }

    pub(crate) fn has_row(&self, row: &ServiceRow) -> bool {
        self.row == Digest::of_row(row)
    }

    pub(crate) const fn members(&self) -> &Members {
        &self.members
    }

    pub(crate) const fn frontends(&self) -> &VecDeque<FrontendKey> {
        &self.frontends
    }

    fn add_frontend(&mut self, key: &FrontendKey) {
        if let Err(at) = self.frontends.binary_search(key) {
            self.frontends.reserve_exact(growth(self.frontends.len(), self.frontends.capacity()));
            self.frontends.insert(at, *key);
        }
    }

    fn remove_frontend(&mut self, key: &FrontendKey) {
        if let Ok(at) = self.frontends.binary_search(key) {
            self.frontends.remove(at);
        }
    }
}

/// The number of entries to reserve before one is added. Most services have one frontend or two, most objects one
/// service.
const fn growth(len: usize, capacity: usize) -> usize {
    if len == capacity { 1 + len / 8 } else { 0 }
}

/// All installed services.
#[derive(Clone, Debug, Default)]
pub(crate) struct Services {
    // Boxed: a table has many empty places.
    by_id: HashMap<ServiceId, Box<InstalledService>>,
    of_object: HashMap<ObjectName, Vec<ServiceId>>,
    frontends: HashMap<FrontendKey, FrontendRow>,
}

impl Services {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn get(&self, id: ServiceId) -> Option<&InstalledService> {
        self.by_id.get(&id).map(AsRef::as_ref)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ServiceId, &InstalledService)> {
        self.by_id.iter().map(|(id, service)| (*id, service.as_ref()))
    }

    pub(crate) fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.of_object.keys()
    }

    /// The ids of an object's services, in the order of their keys.
    pub(crate) fn ids_of(&self, object: &ObjectName) -> &[ServiceId] {
        self.of_object.get(object).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn id_of(&self, key: &ServiceKey) -> Option<ServiceId> {
        let ids = self.ids_of(&key.object);
        Some(ids[self.find(ids, key).ok()?])
    }

    /// The place of a service among those of its object, or for it.
    fn find(&self, ids: &[ServiceId], key: &ServiceKey) -> Result<usize, usize> {
        ids.binary_search_by(|id| self.get(*id).map(InstalledService::key).cmp(&Some(key)))
    }

    /// The service and the line in the row of a frontend.
    pub(crate) fn frontend(&self, key: &FrontendKey) -> Option<(ServiceId, LineNumber)> {
        let row = self.frontends.get(key)?;
        Some((ServiceId(row.service), LineNumber(row.line)))
    }

    pub(crate) fn frontends(&self) -> impl Iterator<Item = (&FrontendKey, &FrontendRow)> {
        self.frontends.iter()
    }

    pub(crate) fn owner(&self, key: &FrontendKey) -> Option<&ServiceKey> {
        let (id, _) = self.frontend(key)?;
        self.get(id).map(InstalledService::key)
    }

    pub(super) fn put_service(&mut self, id: ServiceId, row: &ServiceRow) {
        if let Some(service) = self.by_id.get_mut(&id) {
            service.row = Digest::of_row(row);
            return;
        }
        let Some(mut key) = service_of(row) else { return };
        let mut ids = Vec::new();
        if let Some((known, others)) = self.of_object.remove_entry(&key.object) {
            // One name for all services of an object.
            (key.object, ids) = (known, others);
        }
        let (Ok(at) | Err(at)) = self.find(&ids, &key);
        ids.reserve_exact(growth(ids.len(), ids.capacity()));
        ids.insert(at, id);
        self.of_object.insert(key.object.clone(), ids);
        let (row, members) = (Digest::of_row(row), Members::default());
        let service = InstalledService { key, row, members, frontends: VecDeque::new() };
        self.by_id.insert(id, Box::new(service));
    }

    pub(super) fn remove_service(&mut self, id: ServiceId) {
        let Some(service) = self.get(id) else { return };
        let object = service.key.object.clone();
        if let Ok(at) = self.find(self.ids_of(&object), &service.key)
            && let Some(ids) = self.of_object.get_mut(&object)
        {
            ids.remove(at);
            if ids.is_empty() {
                self.of_object.remove(&object);
            }
        }
        self.by_id.remove(&id);
    }

    pub(super) fn put_backend(&mut self, key: &BackendKey, row: &BackendRow) {
        if let Some(service) = self.by_id.get_mut(&ServiceId(key.service)) {
            service.members.put(key.address, key.port, row);
        }
    }

    pub(super) fn remove_backend(&mut self, key: &BackendKey) {
        if let Some(service) = self.by_id.get_mut(&ServiceId(key.service)) {
            service.members.remove(key.address, key.port);
        }
    }

    pub(super) fn put_frontend(&mut self, key: &FrontendKey, row: &FrontendRow) {
        let old = self.frontends.insert(*key, *row);
        self.delist(key, old);
        if let Some(service) = self.by_id.get_mut(&ServiceId(row.service)) {
            service.add_frontend(key);
        }
    }

    pub(super) fn remove_frontend(&mut self, key: &FrontendKey) {
        let old = self.frontends.remove(key);
        self.delist(key, old);
    }

    fn delist(&mut self, key: &FrontendKey, old: Option<FrontendRow>) {
        if let Some(old) = old
            && let Some(service) = self.by_id.get_mut(&ServiceId(old.service))
        {
            service.remove_frontend(key);
        }
    }

    /// Gives back the capacity that a change of a service left unused.
    pub(crate) fn shrink(&mut self, key: &ServiceKey) {
        if let Some(service) = self.id_of(key).and_then(|id| self.by_id.get_mut(&id)) {
            service.members.shrink();
        }
    }

    pub(super) fn shrink_all(&mut self) {
        for service in self.by_id.values_mut() {
            service.members.shrink();
            service.frontends.shrink_to_fit();
        }
    }

    pub(super) fn has_backend(&self, key: &BackendKey, row: &BackendRow) -> bool {
        let service = self.get(ServiceId(key.service));
        service.and_then(|service| service.members.get(key.address, key.port)) == Some(*row)
    }

    pub(super) fn count_backends(&self) -> usize {
        self.by_id.values().map(|service| service.members.len()).sum()
    }

    /// Returns whether a dump has just these rows of `svclb_services` and `svclb_frontends`.
    pub(super) fn is_in(&self, dump: &Dump) -> bool {
        let has_service =
            |id: &u32, row| self.get(ServiceId(*id)).is_some_and(|service| service.has_row(row));
        dump.services.len() == self.by_id.len()
            && dump.services.iter().all(|(id, row)| has_service(id, row))
            && dump.frontends.len() == self.frontends.len()
            && dump.frontends.iter().all(|(key, row)| self.frontends.get(key) == Some(row))
    }
}
