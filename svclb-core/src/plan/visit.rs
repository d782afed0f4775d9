//! The visit of an object by a pass.

use svclb_common::layout::FrontendKey;

use super::mirror::Services;
use super::unplaced::Unplaced;
use crate::model::{ObjectName, ServiceKey};
use crate::number::ServiceId;

/// The outcome of phase one for a service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Placement {
    Whole,
    Unplaced(Unplaced),
    Failed,
    /// Only a part of its steps was taken: the others are those of the next part.
    Unfinished,
}

/// A service after phase one.
pub(super) struct VisitedService {
    pub(super) service: ServiceKey,
    /// Its number among the ports of its object.
    pub(super) port: usize,
    /// The frontends that it should have, in order.
    pub(super) frontends: Box<[FrontendKey]>,
    pub(super) placement: Placement,
}

/// The visit of an object.
#[derive(Default)]
pub(super) struct Visit {
    /// In order.
    pub(super) services: Vec<VisitedService>,
    /// Ids of visited services that have rows, and of services that are gone; none where these are all.
    pub(super) ids: Option<Box<[ServiceId]>>,
    /// The whole object was visited, and it has not changed meanwhile.
    pub(super) is_at_end: bool,
}

impl Visit {
    /// The services of this object that were visited and have rows.
    pub(super) fn ids<'a>(
        &'a self,
        services: &'a Services,
        object: &ObjectName,
    ) -> &'a [ServiceId] {
        self.ids.as_deref().unwrap_or_else(|| services.ids_of(object))
    }

    pub(super) fn service(&self, service: &ServiceKey) -> Option<&VisitedService> {
        let at = self.services.binary_search_by(|visited| visited.service.cmp(service));
        at.ok().map(|at| &self.services[at])
    }
}

impl VisitedService {
    pub(super) const fn lacks_capacity(&self) -> bool {
        matches!(self.placement, Placement::Unplaced(Unplaced::NoSlots | Unplaced::NoLine))
    }

    pub(super) fn has(&self, key: &FrontendKey) -> bool {
        self.frontends.binary_search(key).is_ok()
    }
}
