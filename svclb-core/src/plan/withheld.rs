//! Services of which a source cannot read a part keep what an earlier agent wrote of them, as long as
//! nothing better is known (docs/decisions/0014).

use std::collections::BTreeSet;

use super::Why;
use super::mirror::State;
use crate::compile::Desired;
use crate::model::{ObjectName, ServiceKey, Withheld};

/// Whether nothing better is known of a service than what an earlier agent wrote: no Service object
/// (`wanted` is none), or one without any backend, and a part that cannot be read. `is_known` is as
/// [`Withheld::holds`] has it.
pub fn is_withheld(
    withheld: &Withheld,
    service: &ServiceKey,
    wanted: Option<&Desired>,
    is_known: bool,
) -> bool {
    wanted.is_none_or(|wanted| wanted.members.is_empty())
        && withheld.holds(&service.object, is_known)
}

impl State {
    /// Says what the source holds and cannot read. Gives the objects that kept what they have because of
    /// what was said before, and have to be looked at again.
    #[must_use = "they keep it until they are looked at"]
    pub fn withhold(&mut self, withheld: Withheld) -> BTreeSet<ObjectName> {
        let before = std::mem::replace(&mut self.withheld, withheld);
        match before == self.withheld {
            true => BTreeSet::new(),
            false => self.kept().map(|service| service.object.clone()).collect(),
        }
    }

    /// The services that keep what an earlier agent wrote.
    pub fn kept(&self) -> impl Iterator<Item = &ServiceKey> {
        self.short.iter().filter(|(_, why)| **why == Why::Withheld).map(|(service, _)| service)
    }

    /// Whether a service has just what an earlier agent wrote of it, and nothing better is known.
    pub(super) fn keeps(&self, id: u32, wanted: Option<&Desired>, is_known: bool) -> bool {
        let Some(held) = self.services.get(&id) else { return false };
        self.earlier.contains(&id) && is_withheld(&self.withheld, &held.key, wanted, is_known)
    }

    /// Notes which of an object's services are this agent's from here on: all that do not keep what they
    /// have.
    pub(super) fn looked_at(&mut self, object: &ObjectName) {
        for id in self.of_object.get(object).into_iter().flatten() {
            let held = self.services.get(id);
            if held.is_none_or(|held| self.short.get(&held.key) != Some(&Why::Withheld)) {
                self.earlier.remove(id);
            }
        }
    }
}
