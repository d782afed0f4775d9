//! The claimants of each frontend, in the order of SEMANTICS.md "Frontends"; the first owns it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use svclb_common::layout::FrontendKey;

use crate::frontends::FrontendKind;
use crate::model::{ObjectName, ServiceKey};

/// Sort key among the claimants of one frontend: retained state last, then by kind, then older Services
/// first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Rank {
    /// The Service object was rejected, and what it said before stands in for it.
    pub(super) is_retained: bool,
    /// How the Service names the frontend.
    pub(super) kind: FrontendKind,
    /// When the Service was created, seconds since the epoch.
    pub(super) created: i64,
}

impl Rank {
    /// Whether only age decides between this claim and another. A claimant that does not fit the maps
    /// leaves its frontend to such ones only: a ClusterIP is nobody's external IP, however full they are.
    pub(super) fn is_equal_but_for_age(&self, other: &Self) -> bool {
        (self.is_retained, self.kind) == (other.is_retained, other.kind)
    }
}

/// A claim, ordered by rank, then by name.
pub(super) type Claim = (Rank, ServiceKey);

/// Two Services that ask for the same frontends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// Who has them.
    pub holder: ObjectName,
    /// Who waits for them.
    pub waits: ObjectName,
    /// The first of them.
    pub frontend: FrontendKey,
    /// How many they are.
    pub count: usize,
}

/// All claims. Nearly every frontend has one, which is kept in place.
#[derive(Debug, Default)]
pub(super) struct Claims {
    holders: HashMap<FrontendKey, Claim>,
    /// Those that wait, by rank.
    waiting: HashMap<FrontendKey, BTreeSet<Claim>>,
    /// Who waits for whom may have changed.
    is_news: bool,
}

impl Claims {
    /// How many frontends somebody asks for.
    pub(super) fn len(&self) -> usize {
        self.holders.len()
    }

    /// Who has a frontend.
    pub(super) fn holder(&self, key: &FrontendKey) -> Option<&ServiceKey> {
        self.holders.get(key).map(|(_, holder)| holder)
    }

    /// All claims of a frontend, by rank.
    pub(super) fn of(&self, key: &FrontendKey) -> impl Iterator<Item = &Claim> {
        let waiting = self.waiting.get(key).into_iter().flatten();
        self.holders.get(key).into_iter().chain(waiting)
    }

    /// Every claimant of a frontend, by rank.
    pub(super) fn claimants(&self, key: &FrontendKey) -> impl Iterator<Item = &ServiceKey> {
        self.of(key).map(|(_, claimant)| claimant)
    }

    /// Takes a claim in. Says who had the frontend so far and may have to do without.
    pub(super) fn claim(&mut self, key: &FrontendKey, claim: Claim) -> Option<ServiceKey> {
        let Some(holder) = self.holders.get_mut(key) else {
            self.holders.insert(*key, claim);
            return None;
        };
        self.is_news = true;
        let before = holder.1.clone();
        let waits = if claim < *holder { std::mem::replace(holder, claim) } else { claim };
        self.waiting.entry(*key).or_default().insert(waits);
        Some(before)
    }

    /// Takes a claim back. Says who has the frontend now, if that may be news to them.
    pub(super) fn disclaim(&mut self, key: &FrontendKey, claim: &Claim) -> Option<ServiceKey> {
        let held = self.holders.get(key)? == claim;
        self.is_news |= self.waiting.contains_key(key);
        let next = match self.waiting.get_mut(key) {
            None => None,
            Some(waiting) if held => waiting.pop_first(),
            Some(waiting) => {
                waiting.remove(claim);
                None
            }
        };
        if self.waiting.get(key).is_some_and(BTreeSet::is_empty) {
            self.waiting.remove(key);
        }
        if !held {
            return None;
        }
        let heir = next.as_ref().map(|(_, heir)| heir.clone());
        match next {
            Some(next) => self.holders.insert(*key, next),
            None => self.holders.remove(key),
        };
        heir
    }

    /// Whether conflicts may be others than when this was last asked.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.is_news)
    }

    /// Services that ask for the same frontends, by name.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        let mut found: BTreeMap<(&ObjectName, &ObjectName), (FrontendKey, usize)> = BTreeMap::new();
        for (frontend, waiting) in &self.waiting {
            let Some(holder) = self.holder(frontend) else { continue };
            for (_, waits) in waiting {
                let pair = (&holder.object, &waits.object);
                let (first, count) = found.entry(pair).or_insert((*frontend, 0));
                *first = (*first).min(*frontend);
                *count += 1;
            }
        }
        let conflict = |((holder, waits), (frontend, count)): ((&ObjectName, &ObjectName), _)| {
            Conflict { holder: holder.clone(), waits: waits.clone(), frontend, count }
        };
        found.into_iter().map(conflict).collect()
    }
}
