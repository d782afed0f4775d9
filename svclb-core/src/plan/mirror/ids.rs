//! Ids of services that have no row yet.
//!
//! Invariant: an id that the meta row does not count as spent is never given, so that none is used twice.

use std::collections::HashMap;

use svclb_common::layout::{Meta, ServiceRow};

use crate::compile::service_of;
use crate::model::ServiceKey;
use crate::number::ServiceId;

/// The ids to give before fresh ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ids {
    /// Ids that services had in the maps whose place these are to take.
    inherited: HashMap<ServiceKey, ServiceId>,
    /// An id that the meta row counts as spent and no service has, since a step failed in between.
    spare: Option<ServiceId>,
}

impl Ids {
    /// The ids in these rows of `svclb_services`, and the first id above all of them.
    pub(super) fn of_rows(rows: &[(u32, ServiceRow)]) -> (Self, u32) {
        let mut ids = Self::default();
        for (id, row) in rows.iter().filter(|(id, _)| *id != 0) {
            if let Some(service) = service_of(row) {
                ids.inherit(service, ServiceId(*id));
            }
        }
        let highest = rows.iter().map(|(id, _)| *id).max().unwrap_or(0);
        (ids, highest.saturating_add(1))
    }

    pub(crate) fn inherit(&mut self, service: ServiceKey, id: ServiceId) {
        self.inherited.insert(service, id);
    }

    pub(crate) fn has_inherited(&self, service: &ServiceKey) -> bool {
        self.inherited.contains_key(service)
    }

    pub(crate) fn forget_inherited(&mut self) {
        self.inherited = HashMap::new();
    }

    /// The id for a service without a row that is spent already; none when it needs a fresh one.
    pub(crate) fn spent(&self, service: &ServiceKey) -> Option<ServiceId> {
        self.inherited.get(service).copied().or(self.spare)
    }

    /// Notes that the meta row was written.
    pub(super) fn apply_meta(&mut self, before: &Meta, after: &Meta) {
        if after.next_service > before.next_service {
            self.spare = Some(ServiceId(after.next_service - 1));
        }
    }

    /// Notes that a service with this id has a row.
    pub(super) fn apply_service(&mut self, id: ServiceId) {
        self.spare = self.spare.filter(|spare| *spare != id);
    }

    /// The ids of these maps when all else of them is read anew.
    pub(super) fn reset(&self) -> Self {
        Self { inherited: self.inherited.clone(), spare: None }
    }
}
