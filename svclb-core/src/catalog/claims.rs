//! Who asks for which frontend, and who has it: the oldest Service does.

use std::collections::{BTreeSet, HashMap};

use svclb_common::layout::FrontendKey;

use crate::model::ServiceKey;

/// Who asks for a frontend: the oldest Service first, then by name.
pub(super) type Claim = (i64, ServiceKey);

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

/// All claims. Nearly every frontend has one, which is kept in place.
#[derive(Debug, Default)]
pub(super) struct Claims {
    holders: HashMap<FrontendKey, Claim>,
    /// Those that wait, by rank.
    waiting: HashMap<FrontendKey, BTreeSet<Claim>>,
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

    /// Everybody who asks for a frontend, by rank.
    pub(super) fn claimants(&self, key: &FrontendKey) -> impl Iterator<Item = &ServiceKey> {
        let waiting = self.waiting.get(key).into_iter().flatten().map(|(_, waits)| waits);
        self.holder(key).into_iter().chain(waiting)
    }

    /// Takes a claim in. Says who had the frontend so far and may have to do without.
    pub(super) fn claim(&mut self, key: &FrontendKey, claim: Claim) -> Option<ServiceKey> {
        let Some(holder) = self.holders.get_mut(key) else {
            self.holders.insert(*key, claim);
            return None;
        };
        let before = holder.1.clone();
        let waits = if claim < *holder { std::mem::replace(holder, claim) } else { claim };
        self.waiting.entry(*key).or_default().insert(waits);
        Some(before)
    }

    /// Takes a claim back. Says who has the frontend now, if that may be news to them.
    pub(super) fn disclaim(&mut self, key: &FrontendKey, claim: &Claim) -> Option<ServiceKey> {
        let held = self.holders.get(key)? == claim;
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

    /// Frontends that more than one service asks for.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        let mut found = Vec::new();
        for (frontend, waiting) in &self.waiting {
            let Some(holder) = self.holder(frontend) else { continue };
            found.extend(waiting.iter().map(|(_, waits)| Conflict {
                frontend: *frontend,
                holder: holder.clone(),
                waits: waits.clone(),
            }));
        }
        found.sort_by(|a, b| (&a.frontend, &a.waits).cmp(&(&b.frontend, &b.waits)));
        found
    }
}
