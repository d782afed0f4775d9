//! The objects of one pass: which are looked at, in what order, and what a failing step or missing room
//! of one means for the others. However many fail, each has its turn: those that fail are tried first the
//! next time too, and would starve the rest.
//!
//! Phase one brings what is new, the older Services first: of two that claim one frontend in the same way
//! the older owns it, unless it does not fit; then it keeps what it has and is passed over. Phase two
//! removes what nobody claims any more.

use std::collections::{BTreeMap, BTreeSet};

use svclb_common::layout::{FrontendKey, LAYOUT_VERSION, Meta};

use super::Step;
use super::mirror::State;
use super::outcome::{Failed, Pass, Rejected, Why, take};
use crate::catalog::Catalog;
use crate::compile::Desired;
use crate::model::{ObjectName, ServiceKey};
use crate::table::{Row, Table, TableError};

/// How often a pass looks again at one object because a younger one, whose claim goes before its own, does
/// not fit or fits again. Two Services may each claim the other's ClusterIP as an external IP, so this
/// would not have to come to an end by itself.
const MOST_LOOKS_BACK: u8 = 4;

/// What became of a service in phase one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brought {
    Fits,
    Rejected(Why),
    Failed,
}

/// A service that was brought, and the frontends that it should have, in order.
struct Asked {
    service: ServiceKey,
    frontends: Vec<FrontendKey>,
    brought: Brought,
}

/// A pass in the making.
pub(super) struct Run<'a, T> {
    state: &'a mut State,
    table: &'a mut T,
    catalog: &'a Catalog,
    pass: Pass,
    /// Still to be brought, by age.
    queue: BTreeSet<(i64, ObjectName)>,
    /// In order of the services.
    asked: BTreeMap<ObjectName, Vec<Asked>>,
    /// What the next pass has to look at.
    again: BTreeSet<ObjectName>,
    /// See [`MOST_LOOKS_BACK`].
    looks_back: BTreeMap<ObjectName, u8>,
}

impl<'a, T: Table> Run<'a, T> {
    pub(super) fn new(
        state: &'a mut State,
        table: &'a mut T,
        catalog: &'a Catalog,
        dirty: &BTreeSet<ObjectName>,
    ) -> Self {
        let mut run = Self {
            state,
            table,
            catalog,
            pass: Pass { objects: dirty.len(), ..Pass::default() },
            queue: BTreeSet::new(),
            asked: BTreeMap::new(),
            again: BTreeSet::new(),
            looks_back: BTreeMap::new(),
        };
        dirty.iter().for_each(|object| run.look_at(object));
        run
    }

    /// What was done, and the objects that are to be looked at again.
    pub(super) fn run(mut self) -> (Pass, BTreeSet<ObjectName>) {
        self.phases();
        self.tell();
        for asked in self.asked.into_values().flatten() {
            if let Brought::Rejected(why) = asked.brought {
                if why == Why::WaitsForRest {
                    self.again.insert(asked.service.object.clone());
                }
                self.pass.rejected.push(Rejected { service: asked.service, why });
            }
        }
        (self.pass, self.again)
    }

    fn phases(&mut self) {
        self.mend();
        while let Some((_, object)) = self.queue.pop_first() {
            self.bring(&object);
        }
        // First what nobody at all asks for: that may make the room that others need.
        let objects = self.asked.keys().cloned().collect();
        let waiting = self.leave(objects, |_, _| true);
        self.look_at_rejected();
        let waiting = self.leave(waiting, State::may_come);
        self.again.extend(waiting);
        self.mend();
    }

    /// Says in the maps what was done, and what was not.
    fn tell(&mut self) {
        let meta = self.state.meta;
        let short = u32::try_from(self.state.short.len()).unwrap_or(u32::MAX);
        let mut now = Meta {
            layout: LAYOUT_VERSION,
            failures: meta.failures + self.state.uncounted,
            synced: if self.state.is_synced { 1 } else { meta.synced },
            short,
            ..meta
        };
        let is_changed = (meta.layout, meta.synced) != (now.layout, now.synced);
        now.passes += u64::from(self.pass.steps > 0 || is_changed);
        if now == meta {
            return;
        }
        now.sources = self.state.sources;
        match take(self.state, self.table, &[Step::Put(Row::Meta(now))], &mut 0) {
            Ok(()) => self.state.uncounted = 0,
            Err(error) => self.failed(None, error),
        }
    }

    /// Phase one for one object.
    fn bring(&mut self, object: &ObjectName) {
        let wanted = self.wanted(object);
        let mut gone: BTreeSet<ServiceKey> = self.state.short_of(object).cloned().collect();
        for desired in &wanted {
            gone.remove(&desired.key);
        }
        for service in &gone {
            self.state.short.remove(service);
        }
        let mut services: Vec<Asked> = Vec::with_capacity(wanted.len());
        for desired in wanted {
            let losers = self.state.losers(&desired);
            let brought = self.bring_service(&desired, &losers);
            let was_short = self.state.short.contains_key(&desired.key);
            match brought {
                Brought::Fits => {
                    self.state.short.remove(&desired.key);
                    self.state.shrink(&desired.key);
                }
                Brought::Rejected(why) => drop(self.state.short.insert(desired.key.clone(), why)),
                Brought::Failed => {}
            }
            if was_short != self.state.short.contains_key(&desired.key) {
                self.look_at_later(&desired);
            }
            losers.iter().filter(|loser| *loser != object).for_each(|loser| self.look_at(loser));
            let frontends = desired.frontends.iter().map(|it| it.key).collect();
            services.push(Asked { service: desired.key, frontends, brought });
        }
        services.sort_by(|one, other| one.service.cmp(&other.service));
        self.asked.insert(object.clone(), services);
        self.look_at_heirs(object);
    }

    /// Phase one for one service; `losers` have frontends that it should have.
    fn bring_service(&mut self, desired: &Desired, losers: &[ObjectName]) -> Brought {
        let steps = match self.state.bring(desired) {
            Ok(steps) => steps,
            Err(why) => return Brought::Rejected(why),
        };
        match self.take(&steps) {
            Ok(()) => Brought::Fits,
            // A member too many misleads nobody: no slot names it.
            Err(TableError::Full { map, .. }) => Brought::Rejected(Why::MapFull(map)),
            Err(error) => {
                // Some frontends may have changed hands.
                self.again.extend(losers.iter().cloned());
                self.failed(Some(&desired.key.object), error);
                Brought::Failed
            }
        }
    }

    /// What the maps should hold of an object, as long as others do not fit.
    fn wanted(&self, object: &ObjectName) -> Vec<Desired> {
        let is_passed_over = |service: &ServiceKey, key: &FrontendKey| {
            service.object != *object && self.state.is_passed_over(service, key)
        };
        self.catalog.desired_beside(object, is_passed_over)
    }

    /// Brings an object in this pass too, unless that was done.
    fn look_at(&mut self, object: &ObjectName) {
        if !self.asked.contains_key(object) {
            self.queue.insert((self.catalog.age(object), object.clone()));
        }
    }

    /// Looks at the later claimants of these frontends: they own them, or do so no longer, because this
    /// one does not fit, or fits again. It is not looked at for what they do: that comes to an end.
    fn look_at_later(&mut self, first: &Desired) {
        let order = |object: &ObjectName| (self.catalog.age(object), object.clone());
        let own = order(&first.key.object);
        let mut later = BTreeSet::new();
        for frontend in &first.frontends {
            let claimants = self.catalog.claimants(&frontend.key);
            let claimants = claimants.skip_while(|it| **it != first.key).skip(1);
            let others = claimants.filter(|it| it.object != first.key.object);
            later.extend(others.map(|it| order(&it.object)));
        }
        for (age, object) in later {
            if (age, &object) < (own.0, &own.1) {
                let looks = self.looks_back.entry(object.clone()).or_default();
                if *looks == MOST_LOOKS_BACK {
                    self.again.insert(object);
                    continue;
                }
                *looks += 1;
            }
            self.asked.remove(&object);
            self.queue.insert((age, object));
        }
    }

    /// Looks at those who ask for frontends that this object has and should not have.
    fn look_at_heirs(&mut self, object: &ObjectName) {
        let catalog = self.catalog;
        let held = self.state.of_object.get(object).into_iter().flatten();
        let held = held.filter_map(|id| self.state.services.get(id));
        let given_up = held.flat_map(|held| {
            let own = self.own(object, &held.key);
            held.frontends.iter().filter(move |key| !own.is_some_and(|own| own.has(key)))
        });
        let heirs: BTreeSet<&ObjectName> = given_up
            .flat_map(|key| catalog.claimants(key))
            .map(|service| &service.object)
            .filter(|heir| *heir != object)
            .collect();
        heirs.into_iter().for_each(|heir| self.look_at(heir));
    }

    fn own(&self, object: &ObjectName, service: &ServiceKey) -> Option<&Asked> {
        let services = self.asked.get(object)?;
        Some(&services[place(services, service)?])
    }

    fn has_failed(&self, service: &ServiceKey) -> bool {
        self.own(&service.object, service).is_some_and(|own| own.brought == Brought::Failed)
    }

    /// Phase two for these objects; `may_come` says whose coming is waited for. Gives back those that
    /// keep something for somebody.
    fn leave(
        &mut self,
        objects: Vec<ObjectName>,
        may_come: impl Fn(&State, &ServiceKey) -> bool,
    ) -> Vec<ObjectName> {
        let mut waiting = Vec::new();
        for object in objects {
            let ids = self.state.of_object.get(&object).cloned().unwrap_or_default();
            let mut waits = false;
            for id in ids {
                let Some(held) = self.state.services.get(&id) else { continue };
                let own = self.own(&object, &held.key);
                let kept: Vec<FrontendKey>;
                let keeps = match own.map(|own| own.brought) {
                    None => None,
                    Some(Brought::Fits) => own.map(|own| &own.frontends[..]),
                    Some(Brought::Failed) => continue,
                    // It keeps what it has, but for what is another's by a better claim.
                    Some(Brought::Rejected(_)) => {
                        let may_keep = |key: &&FrontendKey| self.catalog.may_keep(key, &held.key);
                        kept = held.frontends.iter().filter(may_keep).copied().collect();
                        Some(&kept[..])
                    }
                };
                let leave = self.state.leave(id, keeps, |key| {
                    let others = self.catalog.claimants(key).filter(|it| **it != held.key);
                    let mut others = others.filter(|it| self.catalog.may_keep(key, it));
                    // One that failed is tried again soon, whatever it lacked before.
                    others.any(|other| self.has_failed(other) || may_come(self.state, other))
                });
                waits |= leave.waits;
                if let Err(error) = self.take(&leave.steps) {
                    self.failed(Some(&object), error);
                }
            }
            if waits {
                waiting.push(object);
            }
        }
        waiting
    }

    /// Says of those that do not fit whether they will once what phase two freed has rested.
    fn look_at_rejected(&mut self) {
        let is_without_room =
            |asked: &Asked| matches!(asked.brought, Brought::Rejected(Why::NoSlots | Why::NoLine));
        let with = self.asked.iter().filter(|(_, services)| services.iter().any(is_without_room));
        let objects: Vec<ObjectName> = with.map(|(object, _)| object.clone()).collect();
        for object in objects {
            for desired in self.wanted(&object) {
                let Some(services) = self.asked.get_mut(&object) else { continue };
                let Some(at) = place(services, &desired.key) else { continue };
                if is_without_room(&services[at])
                    && let Err(why) = self.state.bring(&desired)
                {
                    services[at].brought = Brought::Rejected(why);
                    self.state.short.insert(desired.key, why);
                }
            }
        }
    }

    /// Makes good for steps that failed between a line and what its home tells of it.
    fn mend(&mut self) {
        for home in self.state.touched.clone() {
            match self.take(&self.state.mend_home(home)) {
                Ok(()) => drop(self.state.touched.remove(&home)),
                Err(error) => self.failed(None, error),
            }
        }
    }

    fn take(&mut self, steps: &[Step]) -> Result<(), TableError> {
        take(self.state, self.table, steps, &mut self.pass.steps)
    }

    /// Notes a step that failed, of an object or of the maps as a whole.
    fn failed(&mut self, object: Option<&ObjectName>, error: TableError) {
        self.again.extend(object.cloned());
        self.pass.failed.push(Failed { object: object.cloned(), error });
        self.state.uncounted += 1;
    }
}

/// Where a service is among these, which are in order.
fn place(services: &[Asked], service: &ServiceKey) -> Option<usize> {
    services.binary_search_by(|asked| asked.service.cmp(service)).ok()
}

impl Asked {
    fn has(&self, key: &FrontendKey) -> bool {
        self.frontends.binary_search(key).is_ok()
    }
}

impl State {
    /// The objects of other services that hold frontends which this one should have.
    fn losers(&self, desired: &Desired) -> Vec<ObjectName> {
        let owners = desired.frontends.iter().filter_map(|frontend| self.owner(&frontend.key));
        let others = owners.filter(|owner| **owner != desired.key);
        others.map(|owner| owner.object.clone()).collect()
    }

    /// Who has a frontend now.
    fn owner(&self, key: &FrontendKey) -> Option<&ServiceKey> {
        let (id, _) = self.frontends.get(key)?;
        self.services.get(id).map(|held| &held.key)
    }

    /// Whether a service that asks for a frontend does not get it, because it does not fit.
    fn is_passed_over(&self, service: &ServiceKey, key: &FrontendKey) -> bool {
        self.short.contains_key(service) && self.owner(key) != Some(service)
    }

    /// Whether a service that asks for a frontend will have it without anybody's doing.
    fn may_come(&self, service: &ServiceKey) -> bool {
        match self.short.get(service) {
            None | Some(Why::WaitsForRest) => true,
            Some(Why::NoSlots | Why::NoLine | Why::MapFull(_)) => self.grows,
            Some(Why::NoIds) => false,
        }
    }
}
