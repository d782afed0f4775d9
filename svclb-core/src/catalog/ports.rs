//! The ports of one Service object, compiled one by one: an object may have thousands, and a pass stops
//! between two of them.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use svclb_common::layout::{FrontendKey, Protocol, ServiceNotes};

use super::Catalog;
use crate::compile::{Desired, Explanation, Offers, compile, explain};
use crate::frontends::frontends;
use crate::model::{ObjectName, Service, ServiceKey, ServicePort};
use crate::retained::Retained;

/// The ports of a Service object, in the order of the object; those of what is retained of it, where there
/// is no object. None when it is gone or refused.
pub(crate) struct Ports<'a> {
    catalog: &'a Catalog,
    object: &'a ObjectName,
    service: Option<&'a Service>,
    /// State of each port that a previous agent wrote and the source cannot read.
    retained: &'a [Retained],
    offers: Offers<'a>,
}

/// The size of an object. Node ports are not among the frontends.
pub(crate) struct Extent {
    pub(crate) ports: usize,
    pub(crate) frontends: usize,
    pub(crate) endpoints: usize,
}

impl Catalog {
    /// The ports of an object.
    pub(crate) fn ports<'a>(&'a self, object: &'a ObjectName) -> Ports<'a> {
        let is_refused = self.admission.refuses(object);
        let service = self.services.get(object).filter(|_| !is_refused).map(AsRef::as_ref);
        let retained = self.retained.get(object).filter(|_| !is_refused);
        let retained = retained.map_or(&[][..], Vec::as_slice);
        let offers = self.offers(object).or(retained);
        Ports { catalog: self, object, service, retained, offers }
    }

    /// Explains by which rule each endpoint of an object is used or not. Nothing where the object is gone or
    /// refused by a budget.
    pub fn explain(&self, object: &ObjectName) -> Vec<Explanation> {
        let ports = self.ports(object);
        let each = (0..ports.len()).filter_map(|port| ports.get(port));
        let explained = each.flat_map(|(service, port)| {
            let claimed = frontends(service, port, &self.node);
            explain(object, service, port, &claimed, &ports.offers, &self.node)
        });
        explained.collect()
    }

    /// The size of an object.
    pub(crate) fn extent(&self, object: &ObjectName) -> Extent {
        let service = self.services.get(object);
        let ports = service.map_or(0, |service| service.ports.len());
        let addresses = service.map_or(0, |service| service.address_count());
        let endpoints = self.slices_of(object).map(|slice| slice.endpoints.len()).sum();
        Extent { ports, frontends: ports.saturating_mul(addresses), endpoints }
    }
}

impl<'a> Ports<'a> {
    pub(crate) fn len(&self) -> usize {
        self.service.map_or(self.retained.len(), |service| service.ports.len())
    }

    fn get(&self, port: usize) -> Option<(&'a Service, &'a ServicePort)> {
        let service = match self.service {
            Some(service) => return Some((service, service.ports.get(port)?)),
            None => &self.retained.get(port)?.service,
        };
        Some((service, service.ports.first()?))
    }

    /// Name and protocol of each.
    pub(crate) fn names(&self) -> HashSet<(&'a str, Protocol)> {
        let all = (0..self.len()).filter_map(|port| self.get(port));
        all.map(|(_, port)| (port.name.as_ref(), port.protocol)).collect()
    }

    /// A digest of names and protocols in their order: while it stays, a port's number means the same port.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (_, port) in (0..self.len()).filter_map(|port| self.get(port)) {
            (&port.name, port.protocol).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Returns the desired rows of a port, when some services are passed over for frontends that they claim, as
    /// if they did not.
    pub(crate) fn compile(
        &self,
        number: usize,
        is_passed_over: impl Fn(&ServiceKey, &FrontendKey) -> bool,
    ) -> Option<Desired> {
        let Self { catalog, object, offers, .. } = self;
        let (service, port) = self.get(number)?;
        let claimed = match self.service {
            Some(service) => frontends(service, port, &catalog.node),
            None => self.retained.get(number)?.frontends.clone(),
        };
        let holds = |key: &FrontendKey| {
            let owner = catalog.owner_without(key, &is_passed_over);
            owner.is_some_and(|owner| owner.object == **object && owner.is_port(port))
        };
        let mut desired = compile(object, service, port, claimed, offers, &catalog.node, holds);
        if self.service.is_none() || catalog.is_unread(object) {
            desired.row.notes |= ServiceNotes::RETAINED;
        }
        Some(desired)
    }
}
