//! Services that do not fit the maps, and so keep the state that they have there.
//!
//! Invariant: a service is listed from the pass that could not place it until one that could, or until its
//! object has no such port any more.

use std::collections::BTreeMap;

use crate::model::{ObjectName, ServiceKey};
use crate::table::MapName;

/// The reason why a service does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unplaced {
    /// The slots or the line that it needs are in quarantine.
    #[error("waits for slots or a line in quarantine")]
    Quarantined,
    /// No free range of slots is large enough.
    #[error("svclb_slots has no capacity for its backends")]
    NoSlots,
    /// No line near the home of a frontend is free.
    #[error("svclb_index has no capacity for its frontends")]
    NoLine,
    /// A hash map is full.
    #[error("{0} is full")]
    MapFull(MapName),
    /// All ids were given.
    #[error(
        "no service id is left: start the agent over new maps (`svclb uninstall`, then `svclb agent`)"
    )]
    NoIds,
}

/// A service that keeps the state that it has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnplacedService {
    /// The service.
    pub service: ServiceKey,
    /// The reason.
    pub why: Unplaced,
}

/// All services that do not fit.
#[derive(Clone, Debug, Default)]
pub(super) struct UnplacedServices {
    reasons: BTreeMap<ServiceKey, Unplaced>,
    /// Larger maps are made where a service does not fit.
    grows: bool,
}

impl UnplacedServices {
    pub(super) const fn set_growing(&mut self, grows: bool) {
        self.grows = grows;
    }

    #[cfg(test)]
    pub(super) const fn grows(&self) -> bool {
        self.grows
    }

    pub(super) fn add(&mut self, service: ServiceKey, why: Unplaced) {
        self.reasons.insert(service, why);
    }

    pub(super) fn remove(&mut self, service: &ServiceKey) {
        self.reasons.remove(service);
    }

    pub(super) fn has(&self, service: &ServiceKey) -> bool {
        self.reasons.contains_key(service)
    }

    /// The number of these services as the meta row has it.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.reasons.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = UnplacedService> {
        let reasons = self.reasons.iter();
        reasons.map(|(service, why)| UnplacedService { service: service.clone(), why: *why })
    }

    pub(super) fn reasons(&self) -> impl Iterator<Item = Unplaced> {
        self.reasons.values().copied()
    }

    #[cfg(test)]
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.reasons.keys()
    }

    /// The services of one object that do not fit.
    pub(super) fn of_object(&self, object: &ObjectName) -> impl Iterator<Item = &ServiceKey> {
        // Mostly there is none at all.
        let first = (!self.reasons.is_empty()).then(|| ServiceKey::first_of(object));
        let from_first = first.into_iter().flat_map(|first| self.reasons.range(first..));
        from_first.map(|(service, _)| service).take_while(|service| service.object == *object)
    }

    /// Returns whether a service that claims a frontend will have it without a change of any object.
    pub(super) fn may_be_placed(&self, service: &ServiceKey) -> bool {
        match self.reasons.get(service) {
            None | Some(Unplaced::Quarantined) => true,
            Some(Unplaced::NoSlots | Unplaced::NoLine | Unplaced::MapFull(_)) => self.grows,
            Some(Unplaced::NoIds) => false,
        }
    }
}
