//! Phase two of a pass: frontends without a claimant are removed, and services that are gone.

use svclb_common::layout::FrontendKey;

use super::change;
use super::visit::Placement;
use super::work::{STEPS, Work};
use crate::model::{ObjectName, ServiceKey};
use crate::number::ServiceId;

impl Work<'_> {
    /// Phase two over all objects that were visited.
    pub(super) fn phase_two(&mut self) {
        self.effort = self.most;
        // First frontends without any claimant: that may free what others need.
        let objects = self.visits.keys().cloned().collect();
        let waiting = self.retire(objects, |_, _| true);
        self.place_again();
        let waiting = self.retire(waiting, Self::may_be_placed);
        self.again.extend(waiting);
    }

    /// Removes the frontends of these objects that no claimant will take over, and the services that are
    /// gone. Returns the objects that keep a frontend for a claimant.
    fn retire(
        &mut self,
        objects: Vec<ObjectName>,
        may_be_placed: impl Fn(&Self, &ServiceKey) -> bool,
    ) -> Vec<ObjectName> {
        let mut waiting = Vec::new();
        for object in objects {
            let services = &self.planner.mirror.services;
            let visit = self.visits.get(&object);
            let ids = visit.map_or(&[][..], |visit| visit.ids(services, &object)).to_vec();
            let mut waits = false;
            for id in ids {
                if self.effort == 0 {
                    self.visit_again(&object);
                    break;
                }
                waits |= self.retire_service(&object, id, &may_be_placed);
            }
            if waits {
                waiting.push(object);
            }
        }
        waiting
    }

    /// The same for one service. Returns whether it keeps a frontend for a claimant.
    fn retire_service(
        &mut self,
        object: &ObjectName,
        id: ServiceId,
        may_be_placed: impl Fn(&Self, &ServiceKey) -> bool,
    ) -> bool {
        let (catalog, mirror) = (self.catalog, &self.planner.mirror);
        let Some(service) = mirror.services.get(id) else { return false };
        let visited = self.visits.get(object).and_then(|visit| visit.service(service.key()));
        let retained: Vec<FrontendKey>;
        let keeps = match visited.map(|visited| visited.placement) {
            None => None,
            Some(Placement::Whole) => visited.map(|visited| &visited.frontends[..]),
            Some(Placement::Failed | Placement::Unfinished) => return false,
            // It keeps what it has, except for frontends to which a better claim exists.
            Some(Placement::Unplaced(_)) => {
                let may_keep = |key: &&FrontendKey| catalog.may_keep(key, service.key());
                retained = service.frontends().iter().filter(may_keep).copied().collect();
                Some(&retained[..])
            }
        };
        let is_awaited = |key: &FrontendKey| {
            let others = catalog.claimants(key).filter(|it| *it != service.key());
            let mut others = others.filter(|it| catalog.may_keep(key, it));
            others.any(|other| may_be_placed(self, other))
        };
        let most = self.effort.max(STEPS);
        let (part, waits) = change::retire(mirror, id, keeps, most, is_awaited);
        if part.is_cut {
            self.visit_again(object);
        }
        if let Err(error) = self.run(&part.steps) {
            self.fail(Some(object), error);
        }
        waits
    }

    /// Returns whether a claimant will have its frontends soon, without a change of any object. One whose steps failed
    /// is tried again soon.
    fn may_be_placed(&self, service: &ServiceKey) -> bool {
        let visit = self.visits.get(&service.object);
        let visited = visit.and_then(|visit| visit.service(service));
        visited.is_some_and(|visited| visited.placement == Placement::Failed)
            || self.planner.unplaced.may_be_placed(service)
    }

    /// Lets an object that was visited have another turn: not all that is to be removed of it was.
    fn visit_again(&mut self, object: &ObjectName) {
        if let Some(visit) = self.visits.get_mut(object) {
            visit.is_at_end = false;
        }
        self.planner.turns.add(object.clone());
    }

    /// Finds out whether services that do not fit will do so at the end of the quarantine of what was freed
    /// now.
    fn place_again(&mut self) {
        let mut visits = std::mem::take(&mut self.visits);
        for (object, visit) in &mut visits {
            let mut unplaced =
                visit.services.iter_mut().filter(|it| it.lacks_capacity()).peekable();
            if unplaced.peek().is_none() {
                continue;
            }
            let ports = self.catalog.ports(object);
            for visited in unplaced {
                if let Some(desired) = self.desired(object, &ports, visited.port)
                    && let Err(why) = change::install(&self.planner.mirror, &desired, usize::MAX)
                {
                    visited.placement = Placement::Unplaced(why);
                    self.planner.unplaced.add(desired.key, why);
                }
            }
        }
        self.visits = visits;
    }
}
