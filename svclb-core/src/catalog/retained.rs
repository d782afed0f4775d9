//! Retained state: rows that a previous agent wrote of services of which the source cannot read a part
//! (docs/decisions/0019). They are read back from the maps once, when the sources are known, and from then on
//! are the last claimant of their frontends. The planner treats it like every other service.
//!
//! A service has two halves, its Service object and its EndpointSlices, and each is retained by itself:
//! while the Service object cannot be read, the frontends are; while no live endpoint is known and a slice
//! cannot be read, the backends are.

use std::collections::BTreeMap;

use svclb_common::layout::FrontendKey;

use super::Catalog;
use super::claims::{Claim, Rank};
use crate::compile::compile;
use crate::frontends::frontends;
use crate::model::{ObjectName, Service, ServiceKey, Unread};
use crate::retained::Retained;

/// The claims of retained frontends.
fn claims_of(retained: &Retained) -> impl Iterator<Item = (FrontendKey, Claim)> {
    retained.frontends.iter().map(|(key, kind)| {
        let rank = Rank { is_retained: true, kind: *kind, created: i64::MAX };
        (*key, (rank, retained.key.clone()))
    })
}

/// Retained services by object.
pub(super) type AllRetained = BTreeMap<ObjectName, Vec<Retained>>;

impl Catalog {
    /// Sets which objects the source holds and cannot read. The last state of such a Service stands in for
    /// it, and claims its frontends after all others.
    pub fn set_unread(&mut self, unread: Unread) {
        if self.unread == unread {
            return;
        }
        let before = std::mem::replace(&mut self.unread, unread);
        let changed = before.services.symmetric_difference(&self.unread.services);
        let changed: Vec<ObjectName> = changed
            .filter(|name| self.services.contains_key(*name) && !self.admission.refuses(name))
            .cloned()
            .collect();
        for name in changed {
            let claims = |is_retained| {
                super::claims(
                    &name,
                    self.services.get(&name).map(AsRef::as_ref),
                    &self.node,
                    is_retained,
                )
            };
            let (old, new) =
                (claims(before.services.contains(&name)), claims(self.is_unread(&name)));
            self.reclaim(&old, &new);
            self.dirty.insert(name);
        }
        self.dirty.extend(self.retained.keys().cloned());
    }

    /// Returns whether the source cannot read this Service object now.
    pub(super) fn is_unread(&self, object: &ObjectName) -> bool {
        self.unread.services.contains(object)
    }

    /// Returns whether a part of this service, as a previous agent may have written it, cannot be read.
    pub fn misses(&self, service: &ServiceKey) -> bool {
        match self.services.get(&service.object) {
            None => self.misses_service(&service.object),
            Some(known) => has_port(known, service) && self.misses_slices(&service.object),
        }
    }

    fn misses_service(&self, object: &ObjectName) -> bool {
        !self.services.contains_key(object) && (self.unread.unknown || self.is_unread(object))
    }

    /// A rejected object without a name counts as a slice of another Service where a slice of this one is known.
    fn misses_slices(&self, object: &ObjectName) -> bool {
        self.unread.slices.contains(object)
            || self.unread.unknown && !self.slices_of.contains_key(object)
    }

    /// Retains what a previous agent wrote of objects that the source cannot read.
    pub fn retain(&mut self, written: impl IntoIterator<Item = Retained>) {
        for mut retained in written {
            if !self.misses(&retained.key) {
                continue;
            }
            let object = retained.key.object.clone();
            if self.services.contains_key(&object) {
                retained.frontends.clear();
            }
            for (key, claim) in claims_of(&retained) {
                let owner = self.claims.claim(&key, claim);
                self.dirty.extend(owner.map(|owner| owner.object));
            }
            self.dirty.insert(object.clone());
            self.retained.entry(object).or_default().push(retained);
        }
    }

    /// The services with retained state of a previous agent.
    pub fn retained(&self) -> impl Iterator<Item = &ServiceKey> {
        self.retained.values().flatten().map(|retained| &retained.key)
    }

    /// Drops retained state of dirty objects that are known now, or known to be gone.
    pub(super) fn release(&mut self) {
        let dirty = self.retained.keys().filter(|object| self.dirty.contains(*object));
        for object in dirty.cloned().collect::<Vec<_>>() {
            let misses = (self.misses_service(&object), self.misses_slices(&object));
            let before = self.retained.remove(&object).unwrap_or_default();
            let mut after = Vec::new();
            for mut retained in before {
                if !misses.0 {
                    for (key, claim) in claims_of(&retained) {
                        let owner = self.claims.disclaim(&key, &claim);
                        self.dirty.extend(owner.map(|owner| owner.object));
                    }
                    retained.frontends.clear();
                }
                if !misses.1 || self.is_live(&retained) {
                    retained.members.clear();
                }
                let known = self.services.get(&object);
                let has_port = known.is_some_and(|known| has_port(known, &retained.key));
                if misses.0 || has_port && !retained.members.is_empty() {
                    after.push(retained);
                }
            }
            if !after.is_empty() {
                self.retained.insert(object, after);
            }
        }
    }

    /// Returns whether a backend of this service is known that may be used.
    fn is_live(&self, retained: &Retained) -> bool {
        let object = &retained.key.object;
        let known = self.services.get(object);
        let service = known.map_or(&retained.service, AsRef::as_ref);
        let Some(port) = service.ports.iter().find(|port| retained.key.is_port(port)) else {
            return false;
        };
        let claimed = match known {
            Some(service) => frontends(service, port, &self.node),
            None => retained.frontends.clone(),
        };
        let offers = self.offers(object);
        !compile(object, service, port, claimed, &offers, &self.node, |_| true).members.is_empty()
    }
}

fn has_port(service: &Service, key: &ServiceKey) -> bool {
    service.ports.iter().any(|port| key.is_port(port))
}
