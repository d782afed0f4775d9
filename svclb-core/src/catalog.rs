//! The objects of the sources, and the Service objects that their changes concern.
//!
//! No update walks all objects.

mod admission;
mod claims;
mod ports;
mod retained;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use svclb_common::layout::FrontendKey;

#[cfg(test)]
use crate::compile::Desired;
use crate::compile::Offers;
use crate::frontends::frontends;
use crate::model::{Node, ObjectName, Service, ServiceKey, Slice, Unread, Update};
use admission::Admission;
use claims::{Claim, Claims, Rank};
use retained::AllRetained;

pub use claims::Conflict;
pub(crate) use ports::{Extent, Ports};

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
    /// State that a previous agent wrote of objects that the source cannot read.
    retained: AllRetained,
    admission: Admission,
    /// The own node as in its object.
    own: Node,
    /// The addresses that count instead of its own.
    interfaces: Option<Vec<IpAddr>>,
    /// The node with the addresses that count.
    node: Node,
    dirty: BTreeSet<ObjectName>,
    /// Objects that a pass could not finish, and that wait for something: another one, or the next try.
    waiting: BTreeSet<ObjectName>,
    /// Objects that claim or own other frontends since they were last taken.
    reclaimed: BTreeSet<ObjectName>,
    /// When the changes happened that the dirty objects' slices report.
    triggered: BTreeMap<ObjectName, Vec<i64>>,
}

impl Catalog {
    /// An empty catalog for this node.
    pub fn new(node: Node) -> Self {
        Self { own: node.clone(), node, ..Self::default() }
    }

    /// Applies a change.
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

    /// Applies a change of the own node: all Services may use other backends, and those with node ports may have
    /// other frontends.
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
            .filter(|(name, service)| has_node_ports(service) && !self.admission.refuses(name))
            .map(|(name, service)| {
                let claims = |node| claims(name, Some(service), node, self.is_unread(name));
                (name.clone(), claims(&old), claims(&self.node))
            })
            .collect();
        for (name, before, after) in changes {
            self.reclaim(&before, &after);
            self.dirty.insert(name);
        }
        self.recount();
    }

    fn service(&mut self, name: ObjectName, service: Option<Service>) {
        if self.services.get(&name).map(AsRef::as_ref) == service.as_ref() {
            return;
        }
        let (needed, was_refused) = (self.needs(&name), self.admission.refuses(&name));
        let old = match service {
            Some(service) => self.services.insert(name.clone(), Box::new(service)),
            None => self.services.remove(&name),
        };
        self.readmit(&name, needed, true);
        let is_unread = self.is_unread(&name);
        let of = |service: Option<&Service>, is_refused: bool| {
            claims(&name, service.filter(|_| !is_refused), &self.node, is_unread)
        };
        let before = of(old.as_deref(), was_refused);
        let after = of(self.services.get(&name).map(AsRef::as_ref), self.admission.refuses(&name));
        self.reclaim(&before, &after);
        self.dirty.insert(name);
    }

    /// Replaces claims. Objects that lose or win a frontend are dirty.
    fn reclaim(
        &mut self,
        before: &BTreeSet<(FrontendKey, Claim)>,
        after: &BTreeSet<(FrontendKey, Claim)>,
    ) {
        let mut reclaim = |claim: &Claim, owner: Option<ServiceKey>| {
            let owner = owner.map(|owner| owner.object);
            self.reclaimed.extend(owner.iter().chain([&claim.1.object]).cloned());
            self.dirty.extend(owner);
        };
        for (key, claim) in before.difference(after) {
            reclaim(claim, self.claims.disclaim(key, claim));
        }
        for (key, claim) in after.difference(before) {
            reclaim(claim, self.claims.claim(key, claim.clone()));
        }
    }

    fn slice(&mut self, name: ObjectName, slice: Option<Slice>) {
        let old = self.slices.get(&name);
        let is_same = match (old, &slice) {
            (Some(old), Some(slice)) => old.is_same(slice),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            return;
        }
        let of_old = old.map(|old| old.service.clone());
        let of_new = slice.as_ref().map(|slice| slice.service.clone());
        let of_new = of_new.filter(|service| of_old.as_ref() != Some(service));
        let needed = [of_old, of_new].map(|service| {
            let service = service?;
            let needs = self.needs(&service);
            Some((service, needs))
        });
        if let Some(old) = self.slices.remove(&name) {
            if slice.is_none() {
                // Its time belongs to the last change, not to this one.
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
        for (service, needed) in needed.into_iter().flatten() {
            if self.readmit(&service, needed, false) {
                self.switch(&service);
            }
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

    /// Takes the changed objects, without those that wait; they are clean after this.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<ObjectName> {
        self.decide();
        self.release();
        std::mem::take(&mut self.dirty)
    }

    /// Takes the objects that claim or own other frontends since the last call.
    pub(crate) fn take_reclaimed(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.reclaimed)
    }

    /// Marks the objects that wait: the next pass visits them again.
    pub fn recall(&mut self) {
        self.dirty.append(&mut self.waiting);
    }

    /// Notes that these objects wait until they are [recalled](Self::recall).
    pub(crate) fn wait(&mut self, objects: BTreeSet<ObjectName>) {
        self.waiting.extend(objects);
    }

    /// When the changes happened that the slices of an object report ([`Slice::triggered`]); they are
    /// not reported again. Slices that are gone do not count.
    pub(crate) fn take_triggered(&mut self, object: &ObjectName) -> Option<Vec<i64>> {
        self.triggered.remove(object)
    }

    /// Returns whether an object may have to change.
    pub fn is_dirty(&self) -> bool {
        self.has_changed() || !self.waiting.is_empty()
    }

    /// Returns whether an object changed since the changed ones were last taken.
    pub fn has_changed(&self) -> bool {
        !self.dirty.is_empty() || self.admission.is_open()
    }

    /// Returns whether this object may have to change.
    pub fn is_marked(&self, object: &ObjectName) -> bool {
        self.dirty.contains(object) || self.waiting.contains(object)
    }

    /// Marks objects: the next pass visits them.
    pub fn mark(&mut self, objects: impl IntoIterator<Item = ObjectName>) {
        self.dirty.extend(objects);
    }

    /// Every Service object, also those of which only something retained is known.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        let retained = self.retained.keys().filter(|object| !self.services.contains_key(*object));
        self.services.keys().chain(retained)
    }

    /// Returns whether a Service object is one of the model.
    pub fn serves(&self, object: &ObjectName) -> bool {
        self.services.contains_key(object)
    }

    /// Compiles a Service object: a service for each of its ports, none when it is gone.
    #[cfg(test)]
    pub(crate) fn desired(&self, object: &ObjectName) -> Vec<Desired> {
        self.desired_without(object, |_, _| false)
    }

    /// The same when some services are passed over for frontends that they claim: the next claimant by
    /// age owns those then, if there is one of the same kind.
    #[cfg(test)]
    pub(crate) fn desired_without(
        &self,
        object: &ObjectName,
        is_passed_over: impl Fn(&ServiceKey, &FrontendKey) -> bool,
    ) -> Vec<Desired> {
        let ports = self.ports(object);
        (0..ports.len()).filter_map(|port| ports.compile(port, &is_passed_over)).collect()
    }

    /// The owner of a frontend when some claimants are passed over.
    fn owner_without(
        &self,
        key: &FrontendKey,
        is_passed_over: impl Fn(&ServiceKey, &FrontendKey) -> bool,
    ) -> Option<&ServiceKey> {
        let mut claims = self.claims.of(key).peekable();
        let (first, _) = **claims.peek()?;
        let mut equals = claims.take_while(|(rank, _)| rank.is_equal_but_for_age(&first));
        equals.find(|(_, claimant)| !is_passed_over(claimant, key)).map(|(_, owner)| owner)
    }

    /// Returns whether a service may keep a frontend that it has, should neither it nor its other claimants fit the
    /// maps: it has no claim, or the service claims it and no claim of another kind goes before that.
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
            let claimed = frontends(service, port, node);
            crate::compile::compile(object, service, port, claimed, &offers, node, |_| true)
        });
        compiled.collect()
    }

    /// The offers of an object's slices.
    fn offers(&self, object: &ObjectName) -> Offers<'_> {
        Offers::of(self.slices_of(object))
    }

    fn slices_of(&self, object: &ObjectName) -> impl Iterator<Item = &Slice> {
        let names = self.slices_of.get(object).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name).map(AsRef::as_ref))
    }

    /// The owner of a frontend.
    pub fn owner(&self, key: &FrontendKey) -> Option<&ServiceKey> {
        self.claims.owner(key)
    }

    /// The claimants of a frontend in the order of their claims; the first owns it.
    pub(crate) fn claimants(&self, key: &FrontendKey) -> impl Iterator<Item = &ServiceKey> {
        self.claims.claimants(key)
    }

    /// Sort key among claimants of one frontend: older Services first, deleted ones last.
    pub(crate) fn age(&self, object: &ObjectName) -> i64 {
        self.services.get(object).and_then(|service| service.created).unwrap_or(i64::MAX)
    }

    /// Services that claim the same frontends, by name; none when they did not change since the last call.
    pub fn take_conflicts(&mut self) -> Option<Vec<Conflict>> {
        self.claims.take_changed().then(|| self.claims.conflicts())
    }

    /// The numbers of frontends and backends, for the sizes of the maps. Slices that no Service has,
    /// and ports that it does not, make no backend.
    pub fn counts(&self) -> (usize, usize) {
        let served = self.services.iter().filter(|(object, _)| !self.admission.refuses(object));
        let backends = served.map(|(object, service)| {
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
