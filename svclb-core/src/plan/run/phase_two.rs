//! Phase two of a pass over its objects: what nobody claims any more is removed.

use svclb_common::layout::FrontendKey;

use super::{Run, STEPS};
use crate::model::{ObjectName, ServiceKey};
use crate::plan::Why;
use crate::plan::looked::{Asked, Brought};
use crate::plan::mirror::State;
use crate::table::Table;

impl<T: Table> Run<'_, T> {
    fn has_failed(&self, service: &ServiceKey) -> bool {
        let own = self.looked.get(&service.object).and_then(|looked| looked.own(service));
        own.is_some_and(|own| own.brought == Brought::Failed)
    }

    /// Phase two for these objects; `may_come` says whose coming is waited for. Gives back those that
    /// keep something for somebody.
    pub(super) fn leave(
        &mut self,
        objects: Vec<ObjectName>,
        may_come: impl Fn(&State, &ServiceKey) -> bool,
    ) -> Vec<ObjectName> {
        let mut waiting = Vec::new();
        for object in objects {
            let looked = self.looked.get(&object);
            let ids = looked.map_or(&[][..], |looked| looked.ids(self.state, &object)).to_vec();
            let mut waits = false;
            for id in ids {
                if self.effort == 0 {
                    self.begin_again(&object);
                    break;
                }
                let Some(held) = self.state.services.get(&id) else { continue };
                let own = self.looked.get(&object).and_then(|looked| looked.own(&held.key));
                let kept: Vec<FrontendKey>;
                let keeps = match own.map(|own| own.brought) {
                    None => None,
                    Some(Brought::Fits) => own.map(|own| &own.frontends[..]),
                    Some(Brought::Failed | Brought::Unfinished) => continue,
                    // It keeps what it has, but for what is another's by a better claim.
                    Some(Brought::Rejected(_)) => {
                        let may_keep = |key: &&FrontendKey| self.catalog.may_keep(key, &held.key);
                        kept = held.frontends.iter().filter(may_keep).copied().collect();
                        Some(&kept[..])
                    }
                };
                let leave = self.state.leave(id, keeps, self.effort.max(STEPS), |key| {
                    let others = self.catalog.claimants(key).filter(|it| **it != held.key);
                    let mut others = others.filter(|it| self.catalog.may_keep(key, it));
                    // One that failed is tried again soon, whatever it lacked before.
                    others.any(|other| self.has_failed(other) || may_come(self.state, other))
                });
                waits |= leave.waits;
                if leave.part.is_cut {
                    self.begin_again(&object);
                }
                if let Err(error) = self.take(&leave.part.steps) {
                    self.failed(Some(&object), error);
                }
            }
            if waits {
                waiting.push(object);
            }
        }
        waiting
    }

    /// Lets an object that was looked at have another turn: not all that is to be removed of it was.
    fn begin_again(&mut self, object: &ObjectName) {
        if let Some(looked) = self.looked.get_mut(object) {
            looked.is_at_end = false;
        }
        self.state.turns.add(object.clone());
    }

    /// Says of those that do not fit whether they will once what phase two freed has rested.
    pub(super) fn look_at_rejected(&mut self) {
        let is_without_room =
            |asked: &Asked| matches!(asked.brought, Brought::Rejected(Why::NoSlots | Why::NoLine));
        let mut looked = std::mem::take(&mut self.looked);
        for (object, looked) in &mut looked {
            let mut asked = looked.services.iter_mut().filter(|it| is_without_room(it)).peekable();
            if asked.peek().is_none() {
                continue;
            }
            let ports = self.catalog.ports(object);
            for asked in asked {
                let desired =
                    asked.port.and_then(|port| self.wanted(object, &ports, port as usize));
                if let Some(desired) = desired
                    && let Err(why) = self.state.bring(&desired, usize::MAX)
                {
                    asked.brought = Brought::Rejected(why);
                    self.state.short.insert(desired.key, why);
                }
            }
        }
        self.looked = looked;
    }
}
