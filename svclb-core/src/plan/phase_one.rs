//! Phase one of a pass: the objects whose turn it is are installed, the older Services first. Of two that
//! claim one frontend in the same way the older owns it, unless it does not fit; then it keeps what it has,
//! and the younger has the frontend.

use std::collections::BTreeSet;

use super::change;
use super::turns::{Position, Turn};
use super::unplaced::Unplaced;
use super::visit::{Placement, Visit, VisitedService};
use super::work::{STEPS, Work};
use crate::catalog::{Extent, Ports};
use crate::compile::Desired;
use crate::model::{ObjectName, ServiceKey};
use crate::number::ServiceId;
use crate::table::TableError;

/// The limit of repeated visits to one object because a younger one, whose claim goes before its own, does not
/// fit or fits again in a pass. Two Services may each claim the other's ClusterIP as an external IP, so this would not
/// have to come to an end by itself.
const MOST_VISITS: u8 = 4;
/// The least effort that a visit of one service takes, apart from its steps.
const SERVICE: usize = 4;
/// The steps for one line when an endpoint of its service is removed: its set, its mark, its generation, and
/// the mark again.
const PER_LINE: usize = 4;
/// The number of members, or of frontends, whose compilation and comparison take the effort of one step.
const PER_STEP: usize = 8;
/// The most services of an object that are gone and are visited at once, whatever effort they take.
const SMALL: usize = if cfg!(test) { 1 } else { 64 };

impl Work<'_> {
    /// Takes turns and installs their objects, as far as there is effort left.
    pub(super) fn phase_one(&mut self) {
        self.postpone_large();
        match self.planner.turns.next_large_if_due() {
            Some((object, turn)) => self.take_turn(object, turn),
            None => self.take_turns(),
        }
        self.pass.objects = self.turns.len();
        self.settle_homes();
        while self.effort > 0
            && let Some((.., object)) = self.queue.pop_first()
        {
            self.visit(&object);
        }
        self.put_off();
    }

    /// Takes the turns of small objects, as many as fit into this part; of a large one, where there are none.
    fn take_turns(&mut self) {
        let mut expected = 0_usize;
        while let Some(object) = self.planner.turns.first() {
            let effort = self.expected_effort(object);
            if effort > self.most {
                self.planner.turns.set_aside();
                continue;
            }
            expected = expected.saturating_add(effort);
            if expected > self.most {
                break;
            }
            let Some((object, turn)) = self.planner.turns.next() else { break };
            self.take_turn(object, turn);
        }
        self.postpone_large();
        if self.turns.is_empty()
            && let Some((object, turn)) = self.planner.turns.next_large()
        {
            self.take_turn(object, turn);
        }
    }

    fn take_turn(&mut self, object: ObjectName, turn: Turn) {
        let age = self.catalog.age(&object);
        self.queue.insert((!turn.is_put_off, age, object.clone()));
        self.turns.insert(object, turn);
    }

    /// Lets large objects wait until staging maps are in use, if such are filled.
    fn postpone_large(&mut self) {
        let planner = &mut *self.planner;
        if let Some(followed) = &mut planner.followed
            && !planner.status.is_staged
        {
            while let Some((object, turn)) = planner.turns.next_large() {
                followed.postpone(object, turn);
            }
        }
    }

    /// About how much effort an object takes, as far as that is known beforehand.
    fn expected_effort(&self, object: &ObjectName) -> usize {
        let Extent { ports, frontends, endpoints } = self.catalog.extent(object);
        let installed = self.ids_of(object).len();
        let services = ports.max(installed).saturating_mul(2 * SERVICE);
        let lines = frontends.saturating_mul(PER_LINE);
        services.saturating_add(lines).saturating_add(endpoints / PER_STEP).max(1)
    }

    fn ids_of(&self, object: &ObjectName) -> &[ServiceId] {
        self.planner.mirror.services.ids_of(object)
    }

    /// Objects that are not visited in this part have their turn in the next one. Others, which only have to
    /// do with visited ones, wait for the end of the pass: two of them might require visits of each other for
    /// ever.
    fn put_off(&mut self) {
        for (.., object) in std::mem::take(&mut self.queue).into_iter().rev() {
            match self.turns.remove(&object) {
                Some(turn) => self.planner.turns.put_off(object, turn),
                None => drop(self.again.insert(object)),
            }
        }
    }

    /// Visits one object, or the part of it that comes next.
    fn visit(&mut self, object: &ObjectName) {
        let mut turn = self.turns.remove(object).unwrap_or(Turn::NEW);
        if let Some(followed) = &mut self.planner.followed {
            followed.visit(object.clone());
        }
        let catalog = self.catalog;
        let ports = catalog.ports(object);
        // Staging maps are not notified when a Service has other ports, which have other numbers.
        let digest = if self.planner.status.is_staged { ports.digest() } else { 0 };
        if turn.ports != digest {
            turn = Turn { from: Turn::NEW.from, ports: digest, ..turn };
        }
        let mut services = Vec::new();
        let mut port = match turn.from {
            Position::Port(port) => port.min(ports.len()),
            Position::Gone(_) => ports.len(),
        };
        if turn.from == Turn::NEW.from {
            self.forget_unplaced(object, &ports);
        }
        let (first, mut is_cut) = (port, false);
        while port < ports.len() && !is_cut {
            let Some(visited) = self.visit_port(object, &ports, port) else { break };
            if visited.placement == Placement::Unfinished {
                self.effort = 0;
            } else {
                port += 1;
            }
            services.push(visited);
            is_cut = self.effort == 0;
        }
        services.sort_by(|one, other| one.service.cmp(&other.service));
        let mut visit = Visit { services, ..Visit::default() };
        let is_small = self.ids_of(object).len() <= visit.services.len() + SMALL;
        let mut place = Position::Port(port);
        if first == 0 && port == ports.len() && is_small {
            place = Position::Gone(0);
        } else {
            let installed = &self.planner.mirror.services;
            let ids = visit.services.iter().filter_map(|visited| installed.id_of(&visited.service));
            let mut ids: Vec<ServiceId> = ids.collect();
            if port == ports.len() {
                place = Position::Gone(self.find_gone(object, &ports, turn.from, &mut ids));
            }
            visit.ids = Some(ids.into());
        }
        self.visit_successors(object, &visit);
        if place != Position::Gone(0) {
            self.planner.turns.go_on(object.clone(), Turn { from: place, ..turn });
        } else {
            visit.is_at_end = !turn.has_changed;
            if turn.has_changed {
                self.planner.turns.add(object.clone());
            }
        }
        self.visits.insert(object.clone(), visit);
    }

    /// Adds services of an object that are none of its ports to these, the last first, as far as there is
    /// effort left. Returns how many remain to be looked at.
    fn find_gone(
        &mut self,
        object: &ObjectName,
        ports: &Ports<'_>,
        from: Position,
        gone: &mut Vec<ServiceId>,
    ) -> usize {
        let services = &self.planner.mirror.services;
        let ids = services.ids_of(object);
        let mut left = match from {
            Position::Gone(left) => left.min(ids.len()),
            Position::Port(_) => ids.len(),
        };
        let names = ports.names();
        while self.effort > 0
            && let Some(last) = left.checked_sub(1)
        {
            left = last;
            let Some(service) = services.get(ids[last]) else { continue };
            let key = service.key();
            if !names.contains(&(key.port_name.as_ref(), key.protocol)) {
                let steps = SERVICE * service.frontends().len() + service.members().len();
                self.effort = self.effort.saturating_sub(SERVICE + steps);
                gone.push(ids[last]);
            }
        }
        left
    }

    /// Forgets services that do not fit and are none of their object's ports any more.
    fn forget_unplaced(&mut self, object: &ObjectName, ports: &Ports<'_>) {
        let unplaced = &mut self.planner.unplaced;
        let services: Vec<ServiceKey> = unplaced.of_object(object).cloned().collect();
        if services.is_empty() {
            return;
        }
        let names = ports.names();
        let is_gone = |it: &&ServiceKey| !names.contains(&(it.port_name.as_ref(), it.protocol));
        services.iter().filter(is_gone).for_each(|service| unplaced.remove(service));
    }

    /// Visits one port of an object; none when there is none.
    fn visit_port(
        &mut self,
        object: &ObjectName,
        ports: &Ports<'_>,
        port: usize,
    ) -> Option<VisitedService> {
        let desired = self.desired(object, ports, port)?;
        let size = desired.members.len() + desired.frontends.len();
        self.effort = self.effort.saturating_sub(SERVICE + size / PER_STEP);
        let owners = self.other_owners(&desired);
        let placement = self.install(&desired, &owners);
        let planner = &mut *self.planner;
        let was_unplaced = planner.unplaced.has(&desired.key);
        match placement {
            Placement::Whole => {
                planner.unplaced.remove(&desired.key);
                planner.mirror.services.shrink(&desired.key);
            }
            Placement::Unplaced(why) => planner.unplaced.add(desired.key.clone(), why),
            Placement::Failed | Placement::Unfinished => {}
        }
        if was_unplaced != planner.unplaced.has(&desired.key) {
            self.visit_later_claimants(&desired);
        }
        owners.iter().filter(|owner| *owner != object).for_each(|owner| self.enqueue(owner));
        let frontends = desired.frontends.iter().map(|it| it.key).collect();
        Some(VisitedService { service: desired.key, port, frontends, placement })
    }

    /// The objects of other services that have frontends which this one should have.
    fn other_owners(&self, desired: &Desired) -> Vec<ObjectName> {
        let services = &self.planner.mirror.services;
        let owners = desired.frontends.iter().filter_map(|it| services.owner(&it.key));
        let others = owners.filter(|owner| **owner != desired.key);
        others.map(|owner| owner.object.clone()).collect()
    }

    /// Phase one for one service; `owners` have frontends that it should have.
    fn install(&mut self, desired: &Desired, owners: &[ObjectName]) -> Placement {
        let most = self.effort.max(STEPS);
        let part = match change::install(&self.planner.mirror, desired, most) {
            Ok(part) => part,
            Err(why) => return Placement::Unplaced(why),
        };
        match self.run(&part.steps) {
            Ok(()) if part.is_cut => Placement::Unfinished,
            Ok(()) => Placement::Whole,
            // Members that were written meanwhile are in no slot.
            Err(TableError::Full { map, .. }) => Placement::Unplaced(Unplaced::MapFull(map)),
            Err(error) => {
                // Some frontends may have been taken over.
                self.again.extend(owners.iter().cloned());
                self.fail(Some(&desired.key.object), error);
                Placement::Failed
            }
        }
    }

    /// Lets an object be visited in this pass, unless it was.
    fn enqueue(&mut self, object: &ObjectName) {
        if !self.visits.contains_key(object) {
            let is_new = self.turns.get(object).is_none_or(|turn| !turn.is_put_off);
            self.queue.insert((is_new, self.catalog.age(object), object.clone()));
        }
    }

    /// Visits the later claimants of a service's frontends: they own them, or do so no longer, because this
    /// one does not fit, or fits again. It is not visited because of them, so that this comes to an end.
    fn visit_later_claimants(&mut self, first: &Desired) {
        let catalog = self.catalog;
        let order = |object: &ObjectName| (catalog.age(object), object.clone());
        let own = order(&first.key.object);
        let mut later = BTreeSet::new();
        for frontend in &first.frontends {
            let claimants = catalog.claimants(&frontend.key);
            let claimants = claimants.skip_while(|it| **it != first.key).skip(1);
            let others = claimants.filter(|it| it.object != first.key.object);
            later.extend(others.map(|it| order(&it.object)));
        }
        for (age, object) in later {
            if (age, &object) < (own.0, &own.1) {
                let visits = self.repeats.entry(object.clone()).or_default();
                if *visits == MOST_VISITS {
                    self.again.insert(object);
                    continue;
                }
                *visits += 1;
            }
            self.visits.remove(&object);
            self.enqueue(&object);
        }
    }

    /// Visits the claimants of frontends that an object has and should not have, as far as it was visited.
    fn visit_successors(&mut self, object: &ObjectName, visit: &Visit) {
        let (catalog, services) = (self.catalog, &self.planner.mirror.services);
        let installed = visit.ids(services, object).iter().filter_map(|id| services.get(*id));
        let given_up = installed.flat_map(|service| {
            let own = visit.service(service.key());
            service.frontends().iter().filter(move |key| !own.is_some_and(|own| own.has(key)))
        });
        let successors: BTreeSet<&ObjectName> = given_up
            .flat_map(|key| catalog.claimants(key))
            .map(|service| &service.object)
            .filter(|successor| *successor != object)
            .collect();
        successors.into_iter().for_each(|successor| self.enqueue(successor));
    }
}
