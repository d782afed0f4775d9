//! What the source has said so far, and which Service objects it changes.
//!
//! Nothing here walks all objects for one update.

use std::collections::{BTreeSet, HashMap, HashSet};

use svclb_common::layout::FrontendKey;

use crate::compile::{Desired, compile, frontends};
use crate::model::{Node, ObjectName, Service, ServiceKey, Slice, Update};

/// Who asks for a frontend: the oldest Service first, then by name.
type Claim = (i64, ServiceKey);

/// Two services that ask for one frontend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// What both ask for.
    pub frontend: FrontendKey,
    /// Who has it.
    pub holder: ServiceKey,
    /// Who waits for it.
    pub waits: ServiceKey,
}

/// The objects.
#[derive(Debug, Default)]
pub struct Catalog {
    services: HashMap<ObjectName, Service>,
    slices: HashMap<ObjectName, Slice>,
    slices_of: HashMap<ObjectName, BTreeSet<ObjectName>>,
    claims: HashMap<FrontendKey, BTreeSet<Claim>>,
    node: Node,
    dirty: BTreeSet<ObjectName>,
}

impl Catalog {
    /// Nothing, seen from this node.
    pub fn new(node: Node) -> Self {
        Self { node, ..Self::default() }
    }

    /// Takes a change in.
    pub fn apply(&mut self, update: Update) {
        match update {
            Update::Service(name, service) => self.service(name, service),
            Update::Slice(name, slice) => self.slice(name, slice),
            Update::Node(node) => {
                // Without its object the node still has its name.
                let name = self.node.name.clone();
                let node = node.unwrap_or(Node { name, ..Node::default() });
                if self.node != node {
                    self.node = node;
                    self.dirty.extend(self.services.keys().cloned());
                }
            }
        }
    }

    /// Takes all objects of a source in at once: what is not among them is gone.
    pub fn replace(&mut self, updates: Vec<Update>) {
        let mut named: HashSet<(bool, ObjectName)> = HashSet::new();
        for update in &updates {
            match update {
                Update::Service(name, _) => named.insert((true, name.clone())),
                Update::Slice(name, _) => named.insert((false, name.clone())),
                Update::Node(_) => false,
            };
        }
        let missing =
            |is_service: bool, name: &ObjectName| !named.contains(&(is_service, name.clone()));
        let services: Vec<_> =
            self.services.keys().filter(|name| missing(true, name)).cloned().collect();
        let slices: Vec<_> =
            self.slices.keys().filter(|name| missing(false, name)).cloned().collect();
        let gone = services.into_iter().map(|name| Update::Service(name, None));
        for update in gone.chain(slices.into_iter().map(|name| Update::Slice(name, None))) {
            self.apply(update);
        }
        for update in updates {
            self.apply(update);
        }
    }

    fn service(&mut self, name: ObjectName, service: Option<Service>) {
        if self.services.get(&name) == service.as_ref() {
            return;
        }
        let old = self.services.remove(&name);
        let (before, after) = (claims(&name, old.as_ref()), claims(&name, service.as_ref()));
        for (key, claim) in before.difference(&after) {
            self.disclaim(key, claim);
        }
        for (key, claim) in after.difference(&before) {
            self.claim(key, claim);
        }
        if let Some(service) = service {
            self.services.insert(name.clone(), service);
        }
        self.dirty.insert(name);
    }

    /// A new holder means that the old one has to do without.
    fn claim(&mut self, key: &FrontendKey, claim: &Claim) {
        let claims = self.claims.entry(*key).or_default();
        if let Some((_, holder)) = claims.first() {
            self.dirty.insert(holder.object.clone());
        }
        claims.insert(claim.clone());
    }

    fn disclaim(&mut self, key: &FrontendKey, claim: &Claim) {
        let Some(claims) = self.claims.get_mut(key) else { return };
        claims.remove(claim);
        match claims.first() {
            Some((_, holder)) => {
                self.dirty.insert(holder.object.clone());
            }
            None => {
                self.claims.remove(key);
            }
        }
    }

    fn slice(&mut self, name: ObjectName, slice: Option<Slice>) {
        if self.slices.get(&name) == slice.as_ref() {
            return;
        }
        if let Some(old) = self.slices.remove(&name) {
            if let Some(slices) = self.slices_of.get_mut(&old.service) {
                slices.remove(&name);
                if slices.is_empty() {
                    self.slices_of.remove(&old.service);
                }
            }
            self.dirty.insert(old.service);
        }
        if let Some(slice) = slice {
            self.slices_of.entry(slice.service.clone()).or_default().insert(name.clone());
            self.dirty.insert(slice.service.clone());
            self.slices.insert(name, slice);
        }
    }

    /// The objects whose services may have to change, which are clean after this.
    pub fn take_dirty(&mut self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.dirty)
    }

    /// Whether an object may have to change.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Says that these objects have to be looked at again.
    pub fn mark(&mut self, objects: impl IntoIterator<Item = ObjectName>) {
        self.dirty.extend(objects);
    }

    /// Every Service object.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.services.keys()
    }

    /// What the maps should hold of a Service object: a service for each of its ports, none when it is
    /// gone.
    pub fn desired(&self, object: &ObjectName) -> Vec<Desired> {
        let Some(service) = self.services.get(object) else { return Vec::new() };
        let slices: Vec<&Slice> = self
            .slices_of
            .get(object)
            .into_iter()
            .flatten()
            .filter_map(|name| self.slices.get(name))
            .collect();
        let compiled = service.ports.iter().map(|port| {
            let mine = |key: &FrontendKey| {
                self.holder(key).is_some_and(|holder| {
                    holder.object == *object
                        && holder.port_name == port.name
                        && holder.protocol == port.protocol
                })
            };
            compile(object, service, port, &slices, &self.node, mine)
        });
        compiled.collect()
    }

    /// Who has a frontend.
    pub fn holder(&self, key: &FrontendKey) -> Option<&ServiceKey> {
        self.claims.get(key)?.first().map(|(_, holder)| holder)
    }

    /// Frontends that more than one service asks for.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut found = Vec::new();
        for (frontend, claims) in &self.claims {
            let mut claims = claims.iter().map(|(_, service)| service);
            let Some(holder) = claims.next() else { continue };
            for waits in claims {
                let (holder, waits) = (holder.clone(), waits.clone());
                found.push(Conflict { frontend: *frontend, holder, waits });
            }
        }
        found.sort_by(|a, b| (&a.frontend, &a.waits).cmp(&(&b.frontend, &b.waits)));
        found
    }

    /// How many frontends and endpoints there are, for the sizes of the maps.
    pub fn counts(&self) -> (usize, usize) {
        let endpoints = |slice: &Slice| slice.endpoints.len() * slice.ports.len();
        (self.claims.len(), self.slices.values().map(endpoints).sum())
    }
}

fn claims(name: &ObjectName, service: Option<&Service>) -> BTreeSet<(FrontendKey, Claim)> {
    let Some(service) = service else { return BTreeSet::new() };
    let created = service.created.unwrap_or(i64::MAX);
    let of_port = |port: &crate::model::ServicePort| {
        let key = ServiceKey {
            object: name.clone(),
            port_name: port.name.clone(),
            protocol: port.protocol,
        };
        let keys = frontends(service, port).into_iter().map(|(frontend, _)| frontend);
        keys.map(|frontend| (frontend, (created, key.clone()))).collect::<Vec<_>>()
    };
    service.ports.iter().flat_map(of_port).collect()
}
