//! What a pass found out about the objects that it looked at, and what it asks the mirror about others.

use svclb_common::layout::FrontendKey;

use super::mirror::State;
use super::outcome::Why;
use crate::compile::Desired;
use crate::model::{ObjectName, ServiceKey};

/// What became of a service in phase one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Brought {
    Fits,
    Rejected(Why),
    Failed,
    /// Only a part of its steps was taken: the others are those of the next part.
    Unfinished,
}

/// A service that was brought, and the frontends that it should have, in order.
pub(super) struct Asked {
    pub(super) service: ServiceKey,
    /// Its number among the ports of its object; none of one that the catalog does not have.
    pub(super) port: Option<u32>,
    pub(super) frontends: Box<[FrontendKey]>,
    pub(super) brought: Brought,
}

/// What was looked at of an object.
#[derive(Default)]
pub(super) struct Looked {
    /// In order.
    pub(super) services: Vec<Asked>,
    /// Those of them that have rows, and services that are gone; none where that is all that have rows.
    pub(super) ids: Option<Box<[u32]>>,
    /// It was looked at to its end, and has not changed meanwhile.
    pub(super) is_at_end: bool,
}

impl Looked {
    /// The services of this object that were looked at.
    pub(super) fn ids<'a>(&'a self, state: &'a State, object: &ObjectName) -> &'a [u32] {
        let all = || state.of_object.get(object).map_or(&[][..], Vec::as_slice);
        self.ids.as_deref().unwrap_or_else(all)
    }

    pub(super) fn own(&self, service: &ServiceKey) -> Option<&Asked> {
        let at = self.services.binary_search_by(|asked| asked.service.cmp(service));
        at.ok().map(|at| &self.services[at])
    }
}

impl Asked {
    pub(super) fn has(&self, key: &FrontendKey) -> bool {
        self.frontends.binary_search(key).is_ok()
    }
}

impl State {
    /// The objects of other services that hold frontends which this one should have.
    pub(super) fn losers(&self, desired: &Desired) -> Vec<ObjectName> {
        let owners = desired.frontends.iter().filter_map(|frontend| self.owner(&frontend.key));
        let others = owners.filter(|owner| **owner != desired.key);
        others.map(|owner| owner.object.clone()).collect()
    }

    /// Who has a frontend now.
    fn owner(&self, key: &FrontendKey) -> Option<&ServiceKey> {
        let (id, _) = self.frontends.get(key)?;
        self.services.get(id).map(|held| &held.key)
    }

    /// Whether a service that asks for a frontend does not get it, because it does not fit.
    pub(super) fn is_passed_over(&self, service: &ServiceKey, key: &FrontendKey) -> bool {
        self.short.contains_key(service) && self.owner(key) != Some(service)
    }

    /// Whether a service that asks for a frontend will have it without anybody's doing.
    pub(super) fn may_come(&self, service: &ServiceKey) -> bool {
        match self.short.get(service) {
            None | Some(Why::WaitsForRest) => true,
            Some(Why::NoSlots | Why::NoLine | Why::MapFull(_)) => self.grows,
            Some(Why::NoIds) => false,
        }
    }
}
