//! The claimants of each frontend, in the order of docs/decisions/0019; the first owns it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use svclb_common::layout::FrontendKey;

use crate::frontends::FrontendKind;
use crate::model::{ObjectName, ServiceKey};

/// Sort key among the claimants of one frontend: retained state last, then by kind, then older Services
/// first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Rank {
    /// The Service object was rejected, and its previous state stands in for it.
    pub(super) is_retained: bool,
    /// The field in which the Service names the frontend.
    pub(super) kind: FrontendKind,
    /// When the Service was created, seconds since the epoch.
    pub(super) created: i64,
}

impl Rank {
    /// Returns whether only age decides between this claim and another. A claimant that does not fit the maps
    /// leaves its frontend to such claims only: a ClusterIP never becomes another Service's external IP, however
    /// full the maps are.
    pub(super) fn is_equal_but_for_age(&self, other: &Self) -> bool {
        (self.is_retained, self.kind) == (other.is_retained, other.kind)
    }
}

/// A claim, ordered by rank, then by name.
pub(super) type Claim = (Rank, ServiceKey);

/// Two Services that claim the same frontends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// The owner.
    pub owner: ObjectName,
    /// The other claimant.
    pub claimant: ObjectName,
    /// The first of the frontends.
    pub frontend: FrontendKey,
    /// The number of frontends.
    pub count: usize,
}

/// All claims. Nearly every frontend has one, which is kept in place.
#[derive(Debug, Default)]
pub(super) struct Claims {
    owners: HashMap<FrontendKey, Claim>,
    /// Claims of other claimants than the owner, by rank.
    waiting: HashMap<FrontendKey, BTreeSet<Claim>>,
    /// Conflicts may have changed since they were last taken.
    has_changed: bool,
}

impl Claims {
    /// The number of frontends with a claim.
    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    /// The owner of a frontend.
    pub(super) fn owner(&self, key: &FrontendKey) -> Option<&ServiceKey> {
        self.owners.get(key).map(|(_, owner)| owner)
    }

    /// All claims of a frontend, by rank.
    pub(super) fn of(&self, key: &FrontendKey) -> impl Iterator<Item = &Claim> {
        let waiting = self.waiting.get(key).into_iter().flatten();
        self.owners.get(key).into_iter().chain(waiting)
    }

    /// Every claimant of a frontend, by rank.
    pub(super) fn claimants(&self, key: &FrontendKey) -> impl Iterator<Item = &ServiceKey> {
        self.of(key).map(|(_, claimant)| claimant)
    }

    /// Adds a claim. Returns the owner so far, who may lose the frontend.
    pub(super) fn claim(&mut self, key: &FrontendKey, claim: Claim) -> Option<ServiceKey> {
        let Some(owner) = self.owners.get_mut(key) else {
            self.owners.insert(*key, claim);
            return None;
        };
        self.has_changed = true;
        let before = owner.1.clone();
        let waits = if claim < *owner { std::mem::replace(owner, claim) } else { claim };
        self.waiting.entry(*key).or_default().insert(waits);
        Some(before)
    }

    /// Removes a claim. Returns the owner from now on, if that is another than before.
    pub(super) fn disclaim(&mut self, key: &FrontendKey, claim: &Claim) -> Option<ServiceKey> {
        let is_owner = self.owners.get(key)? == claim;
        self.has_changed |= self.waiting.contains_key(key);
        let next = match self.waiting.get_mut(key) {
            None => None,
            Some(waiting) if is_owner => waiting.pop_first(),
            Some(waiting) => {
                waiting.remove(claim);
                None
            }
        };
        if self.waiting.get(key).is_some_and(BTreeSet::is_empty) {
            self.waiting.remove(key);
        }
        if !is_owner {
            return None;
        }
        let successor = next.as_ref().map(|(_, successor)| successor.clone());
        match next {
            Some(next) => self.owners.insert(*key, next),
            None => self.owners.remove(key),
        };
        successor
    }

    /// Returns whether conflicts may have changed since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    /// Services that claim the same frontends, by name.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        let mut found: BTreeMap<(&ObjectName, &ObjectName), (FrontendKey, usize)> = BTreeMap::new();
        for (frontend, waiting) in &self.waiting {
            let Some(owner) = self.owner(frontend) else { continue };
            for (_, claimant) in waiting {
                let pair = (&owner.object, &claimant.object);
                let (first, count) = found.entry(pair).or_insert((*frontend, 0));
                *first = (*first).min(*frontend);
                *count += 1;
            }
        }
        let conflict = |((owner, claimant), (frontend, count)): ((&ObjectName, &ObjectName), _)| {
            Conflict { owner: owner.clone(), claimant: claimant.clone(), frontend, count }
        };
        found.into_iter().map(conflict).collect()
    }
}
