//! What the source has said so far, and which Service objects it changes.
//!
//! Nothing here walks all objects for one update.

mod claims;
mod retained;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use svclb_common::layout::{FrontendKey, ServiceNotes};

use crate::compile::{Desired, Offers, compile, frontends};
use crate::model::{
    Node, ObjectKind, ObjectName, Service, ServiceKey, ServicePort, Slice, Unread, Update,
};
use claims::{Claim, Claims, Rank};
use retained::AllRetained;

pub use claims::Conflict;
pub use retained::Retained;

/// The objects.
#[derive(Debug, Default)]
pub struct Catalog {
    // Boxed: a table has many empty places.
    services: HashMap<ObjectName, Box<Service>>,
    slices: HashMap<ObjectName, Box<Slice>>,
    /// Names of the slices of each Service, in order.
    slices_of: HashMap<ObjectName, Vec<ObjectName>>,
    claims: Claims,
    /// Rejected objects.
    unread: Unread,
    /// What an earlier agent wrote and the source cannot read.
    retained: AllRetained,
    /// The own node as its object says.
    own: Node,
    /// The addresses that count instead of its own.
    interfaces: Option<Vec<IpAddr>>,
    /// The node with the addresses that count.
    node: Node,
    dirty: BTreeSet<ObjectName>,
    /// When what the dirty objects' slices tell of happened.
    triggered: BTreeMap<ObjectName, Vec<i64>>,
}

impl Catalog {
    /// Nothing, seen from this node.
    pub fn new(node: Node) -> Self {
        Self { own: node.clone(), node, ..Self::default() }
    }

    /// Takes a change in.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Service(name, service) => self.service(name, service),
            Update::Slice(name, slice) => self.slice(name, slice),
            Update::Node(node) => {
                // Without its object the node still has its name.
                let name = self.own.name.clone();
                self.own = node.unwrap_or(Node { name, ..Node::default() });
                self.see_from();
            }
            Update::Interfaces(addresses) => {
                self.interfaces = addresses;
                self.see_from();
            }
        }
    }

    /// Takes all objects of a source in at once: what is not among them is gone.
    pub fn replace(&mut self, updates: Vec<Update>) {
        self.swap(&[ObjectKind::Service, ObjectKind::Slice, ObjectKind::Node], updates);
    }

    /// Takes all objects of one kind in at once: those that are not among them are gone, and those
    /// that are as they were change nothing.
    pub fn replace_kind(&mut self, kind: ObjectKind, updates: Vec<Update>) {
        self.swap(&[kind], updates);
    }

    fn swap(&mut self, kinds: &[ObjectKind], updates: Vec<Update>) {
        let mut gone = Vec::new();
        for kind in kinds {
            let named: HashSet<&ObjectName> = updates
                .iter()
                .filter_map(|update| match (kind, update) {
                    (ObjectKind::Service, Update::Service(name, _))
                    | (ObjectKind::Slice, Update::Slice(name, _)) => Some(name),
                    _ => None,
                })
                .collect();
            let is_gone = |name: &&ObjectName| !named.contains(*name);
            match kind {
                ObjectKind::Service => {
                    let names = self.services.keys().filter(is_gone).cloned();
                    gone.extend(names.map(|name| Update::Service(name, None)));
                }
                ObjectKind::Slice => {
                    let names = self.slices.keys().filter(is_gone).cloned();
                    gone.extend(names.map(|name| Update::Slice(name, None)));
                }
                ObjectKind::Node => {
                    if !updates.iter().any(|update| matches!(update, Update::Node(_))) {
                        gone.push(Update::Node(None));
                    }
                }
            }
        }
        for update in gone.into_iter().chain(updates) {
            self.apply(update);
        }
    }

    /// Takes in what the own node is now: all Services may use other backends, and those with node
    /// ports may have other frontends.
    fn see_from(&mut self) {
        let mut node = self.own.clone();
        if let Some(addresses) = &self.interfaces {
            node.addresses.clone_from(addresses);
        }
        let old = std::mem::replace(&mut self.node, node);
        if (&old.name, &old.zone) != (&self.node.name, &self.node.zone) {
            self.dirty.extend(self.services.keys().cloned());
        }
        if old.addresses == self.node.addresses {
            return;
        }
        let has_node_ports =
            |service: &Service| service.ports.iter().any(|port| port.node_port.is_some());
        let changes: Vec<_> = self
            .services
            .iter()
            .filter(|(_, service)| has_node_ports(service))
            .map(|(name, service)| {
                let claims = |node| claims(name, Some(service), node, self.is_unread(name));
                (name.clone(), claims(&old), claims(&self.node))
            })
            .collect();
        for (name, before, after) in changes {
            self.reclaim(&before, &after);
            self.dirty.insert(name);
        }
    }

    fn service(&mut self, name: ObjectName, service: Option<Service>) {
        if self.services.get(&name).map(AsRef::as_ref) == service.as_ref() {
            return;
        }
        let old = self.services.remove(&name);
        let is_unread = self.is_unread(&name);
        let before = claims(&name, old.as_deref(), &self.node, is_unread);
        let after = claims(&name, service.as_ref(), &self.node, is_unread);
        self.reclaim(&before, &after);
        if let Some(service) = service {
            self.services.insert(name.clone(), Box::new(service));
        }
        self.dirty.insert(name);
    }

    /// Takes claims back and others in. A new holder means that the old one has to do without.
    fn reclaim(
        &mut self,
        before: &BTreeSet<(FrontendKey, Claim)>,
        after: &BTreeSet<(FrontendKey, Claim)>,
    ) {
        for (key, claim) in before.difference(after) {
            let holder = self.claims.disclaim(key, claim);
            self.dirty.extend(holder.map(|holder| holder.object));
        }
        for (key, claim) in after.difference(before) {
            let holder = self.claims.claim(key, claim.clone());
            self.dirty.extend(holder.map(|holder| holder.object));
        }
    }

    fn slice(&mut self, name: ObjectName, slice: Option<Slice>) {
        let old = self.slices.get(&name);
        let is_same = match (old, &slice) {
            (Some(old), Some(slice)) => old.says_the_same(slice),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            return;
        }
        if let Some(old) = self.slices.remove(&name) {
            if slice.is_none() {
                // What its time would be measured to is the last change, not this one.
                self.triggered.remove(&old.service);
            }
            if slice.as_ref().is_none_or(|slice| slice.service != old.service) {
                self.part(&name, &old.service);
            }
            self.dirty.insert(old.service);
        }
        if let Some(slice) = slice {
            let slices = self.slices_of.entry(slice.service.clone()).or_default();
            if let Err(at) = slices.binary_search(&name) {
                slices.reserve_exact(1);
                slices.insert(at, name.clone());
            }
            if let Some(time) = slice.triggered {
                self.triggered.entry(slice.service.clone()).or_default().push(time);
            }
            self.dirty.insert(slice.service.clone());
            self.slices.insert(name, Box::new(slice));
        }
    }

    /// Notes that a slice is not of this Service any more.
    fn part(&mut self, slice: &ObjectName, service: &ObjectName) {
        let Some(slices) = self.slices_of.get_mut(service) else { return };
        if let Ok(at) = slices.binary_search(slice) {
            slices.remove(at);
        }
        if slices.is_empty() {
            self.slices_of.remove(service);
        }
    }

    /// The objects whose services may have to change, which are clean after this.
    pub fn take_dirty(&mut self) -> BTreeSet<ObjectName> {
        self.release();
        std::mem::take(&mut self.dirty)
    }

    /// When what the slices of dirty objects tell of happened ([`Slice::triggered`]), by Service
    /// object, and is not told of again. Slices that are gone do not count.
    pub(crate) fn take_triggered(&mut self) -> BTreeMap<ObjectName, Vec<i64>> {
        std::mem::take(&mut self.triggered)
    }

    /// Says that a change of these times was not written after all.
    pub(crate) fn trigger_again(&mut self, object: ObjectName, times: Vec<i64>) {
        self.triggered.entry(object).or_default().extend(times);
    }

    /// Whether an object may have to change.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether this object may have to change.
    pub fn is_marked(&self, object: &ObjectName) -> bool {
        self.dirty.contains(object)
    }

    /// Says that these objects have to be looked at again.
    pub fn mark(&mut self, objects: impl IntoIterator<Item = ObjectName>) {
        self.dirty.extend(objects);
    }

    /// Every Service object, also those of which only something retained is known.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        let retained = self.retained.keys().filter(|object| !self.services.contains_key(*object));
        self.services.keys().chain(retained)
    }

    /// Whether a Service object is one of the model.
    pub fn serves(&self, object: &ObjectName) -> bool {
        self.services.contains_key(object)
    }

    /// What the maps should hold of a Service object: a service for each of its ports, none when it is
    /// gone.
    pub fn desired(&self, object: &ObjectName) -> Vec<Desired> {
        self.desired_beside(object, |_, _| false)
    }

    /// The same when some services are passed over for frontends that they claim: the next claimant by
    /// age owns those then, if there is one of the same kind.
    pub(crate) fn desired_beside(
        &self,
        object: &ObjectName,
        is_passed_over: impl Fn(&ServiceKey, &FrontendKey) -> bool,
    ) -> Vec<Desired> {
        let retained = self.retained.get(object).map_or(&[][..], Vec::as_slice);
        let offers = self.offers(object).or(retained);
        let compile = |service: &Service, port: &ServicePort, asked| {
            let holds = |key: &FrontendKey| {
                let owner = self.owner_beside(key, &is_passed_over);
                owner.is_some_and(|owner| owner.object == *object && owner.is_port(port))
            };
            let mut desired = compile(object, service, port, asked, &offers, &self.node, holds);
            if !self.services.contains_key(object) || self.is_unread(object) {
                desired.row.notes |= ServiceNotes::RETAINED;
            }
            desired
        };
        match self.services.get(object) {
            Some(service) => {
                let ports = service.ports.iter();
                ports
                    .map(|port| compile(service, port, frontends(service, port, &self.node)))
                    .collect()
            }
            None => {
                let written = retained.iter().flat_map(|it| {
                    it.service.ports.iter().map(|port| (&it.service, port, it.frontends.clone()))
                });
                written.map(|(service, port, asked)| compile(service, port, asked)).collect()
            }
        }
    }

    /// The owner of a frontend when some claimants are passed over.
    fn owner_beside(
        &self,
        key: &FrontendKey,
        is_passed_over: impl Fn(&ServiceKey, &FrontendKey) -> bool,
    ) -> Option<&ServiceKey> {
        let mut claims = self.claims.of(key).peekable();
        let (first, _) = **claims.peek()?;
        let mut equals = claims.take_while(|(rank, _)| rank.is_equal_but_for_age(&first));
        equals.find(|(_, claimant)| !is_passed_over(claimant, key)).map(|(_, owner)| owner)
    }

    /// Whether a service may keep a frontend that it has, should neither it nor its other claimants fit the
    /// maps: nobody claims it, or the service does and no claim of another kind goes before its own.
    pub(crate) fn may_keep(&self, key: &FrontendKey, service: &ServiceKey) -> bool {
        let mut claims = self.claims.of(key);
        let Some((first, owner)) = claims.next() else { return true };
        let mut equals = claims.take_while(|(rank, _)| rank.is_equal_but_for_age(first));
        owner == service || equals.any(|(_, claimant)| claimant == service)
    }

    /// Every service of an object as if it owned all frontends that it claims.
    #[cfg(test)]
    pub(crate) fn claimed(&self, object: &ObjectName) -> Vec<Desired> {
        let Some(service) = self.services.get(object) else { return Vec::new() };
        let (offers, node) = (self.offers(object), &self.node);
        let compiled = service.ports.iter().map(|port| {
            let asked = frontends(service, port, node);
            compile(object, service, port, asked, &offers, node, |_| true)
        });
        compiled.collect()
    }

    /// What the slices of an object offer.
    fn offers(&self, object: &ObjectName) -> Offers<'_> {
        let names = self.slices_of.get(object).into_iter().flatten();
        Offers::of(names.filter_map(|name| self.slices.get(name).map(AsRef::as_ref)))
    }

    /// Who has a frontend.
    pub fn holder(&self, key: &FrontendKey) -> Option<&ServiceKey> {
        self.claims.holder(key)
    }

    /// Everybody who asks for a frontend: the oldest first, who has it.
    pub(crate) fn claimants(&self, key: &FrontendKey) -> impl Iterator<Item = &ServiceKey> {
        self.claims.claimants(key)
    }

    /// What an object comes after others by that ask for the same: the older its Service, the less. One
    /// that is gone comes last.
    pub(crate) fn age(&self, object: &ObjectName) -> i64 {
        self.services.get(object).and_then(|service| service.created).unwrap_or(i64::MAX)
    }

    /// Services that ask for the same frontends, by name; none when that is as it was when this was last
    /// asked.
    pub fn take_conflicts(&mut self) -> Option<Vec<Conflict>> {
        self.claims.take_news().then(|| self.claims.conflicts())
    }

    /// How many frontends and backends there are, for the sizes of the maps. Slices that no Service has,
    /// and ports that it does not, make no backend.
    pub fn counts(&self) -> (usize, usize) {
        let backends = self.services.iter().map(|(object, service)| {
            let offers = self.offers(object);
            service.ports.iter().map(|port| offers.count(port)).sum::<usize>()
        });
        let retained = self.retained.values().flatten().map(|it| it.members.len());
        (self.claims.len(), backends.sum::<usize>() + retained.sum::<usize>())
    }
}

fn claims(
    name: &ObjectName,
    service: Option<&Service>,
    node: &Node,
    is_retained: bool,
) -> BTreeSet<(FrontendKey, Claim)> {
    let Some(service) = service else { return BTreeSet::new() };
    let created = service.created.unwrap_or(i64::MAX);
    let of_port = |port: &crate::model::ServicePort| {
        let key = ServiceKey {
            object: name.clone(),
            port_name: port.name.clone(),
            protocol: port.protocol,
        };
        let claim =
            |(frontend, kind)| (frontend, (Rank { is_retained, kind, created }, key.clone()));
        frontends(service, port, node).into_iter().map(claim).collect::<Vec<_>>()
    };
    service.ports.iter().flat_map(of_port).collect()
}
