//! Phase two of a pass: frontends without a claimant are removed, and services that are gone.

use svclb_common::layout::FrontendKey;

use super::change;
use super::unplaced::Unplaced;
use super::visit::{Installed, VisitedService};
use super::work::{STEPS, Work};
use crate::model::{ObjectName, ServiceKey};
use crate::number::ServiceId;

/// Phase two over all objects that were visited.
pub(super) fn run(work: &mut Work<'_>) {
    work.effort = work.most;
    // First frontends without any claimant: that may free what others need.
    let objects = work.visits.keys().cloned().collect();
    let waiting = retire(work, objects, false);
    place_again(work);
    let waiting = retire(work, waiting, true);
    work.again.extend(waiting);
}

/// Removes the frontends of these objects that have no claimant, and the services that are gone. If
/// `only_placeable`, claimants that will not fit soon do not count. Returns the objects that keep a frontend for
/// a claimant.
fn retire(work: &mut Work<'_>, objects: Vec<ObjectName>, only_placeable: bool) -> Vec<ObjectName> {
    let mut waiting = Vec::new();
    for object in objects {
        let services = work.planner.mirror.services();
        let visit = work.visits.get(&object);
        let ids = visit.map_or(&[][..], |visit| visit.ids(services, &object)).to_vec();
        let mut waits = false;
        for id in ids {
            if work.effort == 0 {
                visit_again(work, &object);
                break;
            }
            waits |= retire_service(work, &object, id, only_placeable);
        }
        if waits {
            waiting.push(object);
        }
    }
    waiting
}

/// The same for one service. Returns whether it keeps a frontend for a claimant.
fn retire_service(
    work: &mut Work<'_>,
    object: &ObjectName,
    id: ServiceId,
    only_placeable: bool,
) -> bool {
    let (catalog, planner) = (work.catalog, &*work.planner);
    let Some(service) = planner.mirror.services().get(id) else { return false };
    let visited = work.visits.get(object).and_then(|visit| visit.service(service.key()));
    let retained: Vec<FrontendKey>;
    let keeps = match visited.map(|visited| visited.installed) {
        None => None,
        Some(Installed::Whole) => visited.map(|visited| &visited.frontends[..]),
        Some(Installed::Failed | Installed::Unfinished) => return false,
        // It keeps what it has, except for frontends to which a better claim exists.
        Some(Installed::Unplaced(_)) => {
            let may_keep = |key: &&FrontendKey| catalog.may_keep(key, service.key());
            retained = service.frontends().iter().filter(may_keep).copied().collect();
            Some(&retained[..])
        }
    };
    let is_awaited = |key: &FrontendKey| {
        let others = catalog.claimants(key).filter(|it| *it != service.key());
        let mut others = others.filter(|it| catalog.may_keep(key, it));
        // One that failed is tried again soon, whether or not it fitted before.
        others.any(|other| {
            !only_placeable || has_failed(work, other) || planner.unplaced.may_be_placed(other)
        })
    };
    let most = work.effort.max(STEPS);
    let (part, waits) = change::retire(&planner.mirror, id, keeps, most, is_awaited);
    if part.is_cut {
        visit_again(work, object);
    }
    if let Err(error) = work.run(&part.steps) {
        work.fail(Some(object), error);
    }
    waits
}

fn has_failed(work: &Work<'_>, service: &ServiceKey) -> bool {
    let visit = work.visits.get(&service.object);
    let visited = visit.and_then(|visit| visit.service(service));
    visited.is_some_and(|visited| visited.installed == Installed::Failed)
}

/// Lets an object that was visited have another turn: not all that is to be removed of it was.
fn visit_again(work: &mut Work<'_>, object: &ObjectName) {
    if let Some(visit) = work.visits.get_mut(object) {
        visit.is_at_end = false;
    }
    work.planner.turns.add(object.clone());
}

/// Finds out whether services that do not fit will do so at the end of the quarantine of what was freed now.
fn place_again(work: &mut Work<'_>) {
    let lacks_capacity = |visited: &&mut VisitedService| {
        matches!(visited.installed, Installed::Unplaced(Unplaced::NoSlots | Unplaced::NoLine))
    };
    let mut visits = std::mem::take(&mut work.visits);
    for (object, visit) in &mut visits {
        let mut unplaced = visit.services.iter_mut().filter(lacks_capacity).peekable();
        if unplaced.peek().is_none() {
            continue;
        }
        let ports = work.catalog.ports(object);
        for visited in unplaced {
            let desired = work.desired(object, &ports, visited.port);
            if let Some(desired) = desired
                && let Err(why) = change::install(&work.planner.mirror, &desired, usize::MAX)
            {
                visited.installed = Installed::Unplaced(why);
                work.planner.unplaced.add(desired.key, why);
            }
        }
    }
    work.visits = visits;
}
