//! Admission: Services are served as far as the budgets allow, the older ones first. A Service with its slices
//! is served or refused as one; what it had goes with it, so that no client is given a backend that left
//! meanwhile, and the address is left to whatever else serves it, such as kube-proxy.
//!
//! Decisions depend only on the objects that exist: an agent that restarts decides the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{Catalog, claims};
use crate::budget::{Amount, Budget, BudgetScope, Refusal, Resource};
use crate::model::{Node, ObjectName, Omission, Service, Slice};

/// The used budgets, and the refused Services.
#[derive(Debug, Default)]
pub(super) struct Admission {
    budget: Budget,
    /// By all Services that fit by themselves, and by those of each namespace that has any.
    all: Amount,
    of_namespace: HashMap<Arc<str>, Amount>,
    refused: BTreeMap<ObjectName, Refusal>,
    /// Admission has to be decided again.
    is_open: bool,
    /// Refusals changed since they were last taken.
    has_changed: bool,
}

impl Admission {
    /// Returns whether a Service is not served.
    pub(super) fn refuses(&self, object: &ObjectName) -> bool {
        // Mostly none is.
        !self.refused.is_empty() && self.refused.contains_key(object)
    }

    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Returns why a Service does not fit by itself.
    fn too_large(&self, needs: &Needs) -> Option<Refusal> {
        let Needs { amount, omitted } = needs;
        let omitted = omitted.map(|Omission { needs, used, limit }| {
            let (scope, resource) = (BudgetScope::Objects, Resource::Memory);
            Refusal { scope, resource, needs, used, limit }
        });
        omitted.or_else(|| {
            refusal(&self.budget.service, BudgetScope::Service, &Amount::default(), amount)
        })
    }

    /// Counts a Service, or counts it no more.
    fn count(&mut self, object: &ObjectName, before: Option<Amount>, after: Option<Amount>) {
        let change =
            |used: Amount| used.minus(before.unwrap_or_default()).plus(after.unwrap_or_default());
        self.all = change(self.all);
        let used = self.of_namespace.entry(Arc::clone(&object.namespace)).or_default();
        *used = change(*used);
        if *used == Amount::default() {
            self.of_namespace.remove(&object.namespace);
        }
    }

    /// Returns whether the Services of a namespace exceed its budget, or all of them theirs.
    fn exceeds(&self, namespace: &Arc<str>) -> bool {
        let used = self.of_namespace.get(namespace).copied().unwrap_or_default();
        used.above(&self.budget.namespace).is_some()
            || self.all.above(&self.budget.cluster).is_some()
    }
}

/// The needs of a Service with its slices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Needs {
    amount: Amount,
    /// The first of these objects of which the source kept no contents.
    omitted: Option<Omission>,
}

/// Returns why needs do not fit together with what is used.
fn refusal(limit: &Amount, scope: BudgetScope, used: &Amount, needs: &Amount) -> Option<Refusal> {
    let resource = used.plus(*needs).above(limit)?;
    let of = |amount: &Amount| amount.of(resource);
    Some(Refusal { scope, resource, needs: of(needs), used: of(used), limit: of(limit) })
}

/// The needs of a Service without slices. Frontends are counted as if no two were the same.
fn of_service(service: &Service, node: &Node) -> Amount {
    let addresses = service.address_count();
    let node_ports = service.ports.iter().filter(|port| port.node_port.is_some()).count();
    // And loopback, of both families.
    let frontends = service.ports.len() * addresses + node_ports * (node.addresses.len() + 2);
    Amount::new(frontends, addresses, 0, 0, service.memory())
}

fn of_slice(slice: &Slice) -> Amount {
    let (ports, endpoints) = (slice.ports.len(), slice.endpoints.len());
    Amount::new(0, 0, endpoints, ports * endpoints, slice.memory())
}

impl Catalog {
    /// The same with these budgets.
    #[must_use]
    pub fn with_budget(mut self, budget: Budget) -> Self {
        self.admission.budget = budget;
        self
    }

    /// The budget that a Service uses with its slices; none without a Service, and for the agent's own, which
    /// takes nothing from others: no namespace of a cluster has a dot in its name.
    pub(super) fn needs(&self, object: &ObjectName) -> Option<Needs> {
        if object.namespace.contains('.') {
            return None;
        }
        let service = self.services.get(object)?;
        let omitted = self.slices_of(object).find_map(|slice| slice.omitted.as_deref());
        let slices = self.slices_of(object).map(of_slice);
        let amount = slices.fold(of_service(service, &self.node), Amount::plus);
        Some(Needs { amount, omitted: service.omitted.as_deref().or(omitted).copied() })
    }

    /// Takes note that a Service changed, or a slice of it (`is_service` is false), which took so much
    /// `before`. True when it is refused now and was not, or the other way round.
    pub(super) fn readmit(
        &mut self,
        object: &ObjectName,
        before: Option<Needs>,
        is_service: bool,
    ) -> bool {
        let after = self.needs(object);
        if before == after && !is_service {
            return false;
        }
        let counts = |needs: Option<Needs>| {
            let fits = needs.filter(|needs| self.admission.too_large(needs).is_none());
            fits.map(|needs| needs.amount)
        };
        let (counted, counts) = (counts(before), counts(after));
        let was_refused = self.admission.refuses(object);
        let exceeded = self.admission.exceeds(&object.namespace);
        self.admission.count(object, counted, counts);
        // A namespace or a cluster that exceeds its budget, or did, decides once for all changes.
        let exceeds = self.admission.exceeds(&object.namespace);
        self.admission.is_open |= exceeded || exceeds;
        let refused = match after {
            Some(needs) => match self.admission.too_large(&needs) {
                Some(refusal) => Some(refusal),
                // Until that is decided it is as before.
                None => self.admission.refused.get(object).copied().filter(|_| exceeds),
            },
            None => None,
        };
        self.admission.set(object, refused);
        was_refused != refused.is_some()
    }

    /// Counts all Services anew: the node has other addresses, so that they have other frontends.
    pub(super) fn recount(&mut self) {
        (self.admission.all, self.admission.of_namespace) = Default::default();
        let all: Vec<_> =
            self.services.keys().filter_map(|it| Some((it.clone(), self.needs(it)?))).collect();
        for (object, needs) in all {
            if self.admission.too_large(&needs).is_none() {
                self.admission.count(&object, None, Some(needs.amount));
            }
        }
        self.admission.is_open = true;
    }

    /// Decides who is served, where that is open.
    pub(super) fn decide(&mut self) {
        if !std::mem::take(&mut self.admission.is_open) {
            return;
        }
        let mut refused = BTreeMap::new();
        let mut by_age: Vec<(i64, &ObjectName, Amount)> = Vec::new();
        for object in self.services.keys() {
            let Some(needs) = self.needs(object) else { continue };
            match self.admission.too_large(&needs) {
                Some(refusal) => drop(refused.insert(object.clone(), refusal)),
                None if self.admission.exceeds(&object.namespace) => {
                    by_age.push((self.age(object), object, needs.amount));
                }
                None => {}
            }
        }
        by_age.sort_unstable_by_key(|(age, object, _)| (*age, *object));
        let budget = self.admission.budget;
        let mut all = Amount::default();
        let mut of_namespace: HashMap<&Arc<str>, Amount> = HashMap::new();
        for (_, object, needs) in by_age {
            let of_namespace = of_namespace.entry(&object.namespace).or_default();
            // The cluster's first: a namespace has a share of it, so more of it is more of both.
            let why = refusal(&budget.cluster, BudgetScope::Cluster, &all, &needs).or_else(|| {
                refusal(&budget.namespace, BudgetScope::Namespace, of_namespace, &needs)
            });
            match why {
                Some(why) => drop(refused.insert(object.clone(), why)),
                None => {
                    all = all.plus(needs);
                    *of_namespace = of_namespace.plus(needs);
                }
            }
        }
        let known: BTreeSet<ObjectName> =
            refused.keys().chain(self.admission.refused.keys()).cloned().collect();
        for object in known {
            let was_refused = self.admission.refuses(&object);
            let why = refused.remove(&object);
            self.admission.set(&object, why);
            if was_refused != why.is_some() {
                self.switch(&object);
            }
        }
    }

    /// A Service is refused that was served until now, or the other way round.
    pub(super) fn switch(&mut self, object: &ObjectName) {
        let service = self.services.get(object).map(AsRef::as_ref);
        let claims = claims(object, service, &self.node, self.is_unread(object));
        if self.admission.refuses(object) {
            self.reclaim(&claims, &BTreeSet::new());
        } else {
            self.reclaim(&BTreeSet::new(), &claims);
        }
        self.dirty.insert(object.clone());
    }

    /// Refused Services by name, and why; none when they did not change since the last call.
    pub fn take_refusals(&mut self) -> Option<Vec<(ObjectName, Refusal)>> {
        let refused = &self.admission.refused;
        std::mem::take(&mut self.admission.has_changed)
            .then(|| refused.iter().map(|(object, why)| (object.clone(), *why)).collect())
    }

    /// Services that are refused, by name, and why.
    pub const fn refusals(&self) -> &BTreeMap<ObjectName, Refusal> {
        &self.admission.refused
    }

    /// The number of refused Services as the meta row has it.
    pub(crate) fn refused(&self) -> u32 {
        u32::try_from(self.admission.refused.len()).unwrap_or(u32::MAX)
    }

    /// The amounts that the Services use that fit by themselves.
    pub const fn used(&self) -> Amount {
        self.admission.all
    }
}

impl Admission {
    fn set(&mut self, object: &ObjectName, why: Option<Refusal>) {
        let before = match why {
            Some(why) => self.refused.insert(object.clone(), why),
            None if self.refused.is_empty() => None,
            None => self.refused.remove(object),
        };
        self.has_changed |= before != why;
    }
}
