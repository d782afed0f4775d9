//! The objects of one pass: which are looked at, in what order, and what a failing step or missing room
//! of one means for the others. However many fail, each has its turn: those that fail are tried first the
//! next time too, and would starve the rest.
//!
//! Phase one brings what is new, the older Services first: of two that claim one frontend in the same way
//! the older owns it, unless it does not fit; then it keeps what it has and is passed over. Phase two
//! removes what nobody claims any more.

mod phase_two;

use std::collections::{BTreeMap, BTreeSet};

use svclb_common::layout::{FrontendKey, LAYOUT_VERSION, Meta};

use super::Step;
use super::looked::{Asked, Brought, Looked};
use super::mirror::State;
use super::outcome::{Failed, Pass, Rejected, Why, take};
use super::turns::{Place, Turn};
use crate::catalog::{Catalog, Extent, Ports};
use crate::compile::Desired;
use crate::model::{ObjectName, ServiceKey};
use crate::table::{Row, Table, TableError};

/// How often a pass looks again at one object because a younger one, whose claim goes before its own, does
/// not fit or fits again. Two Services may each claim the other's ClusterIP as an external IP, so this
/// would not have to come to an end by itself.
const MOST_LOOKS_BACK: u8 = 4;

/// A pass in the making, or a part of one.
pub(super) struct Run<'a, T> {
    state: &'a mut State,
    table: &'a mut T,
    catalog: &'a Catalog,
    pass: Pass,
    /// How much work a phase of this part may be.
    most: usize,
    /// How much of that is left to the phase. Without any, what is not looked at yet waits for the next
    /// part.
    effort: usize,
    /// Still to be brought, by age; those that were put off come first.
    queue: BTreeSet<(bool, i64, ObjectName)>,
    /// The turns of those whose turn it was.
    turns: BTreeMap<ObjectName, Turn>,
    looked: BTreeMap<ObjectName, Looked>,
    /// What the next pass has to look at.
    again: BTreeSet<ObjectName>,
    /// See [`MOST_LOOKS_BACK`].
    looks_back: BTreeMap<ObjectName, u8>,
}

/// What looking at one service costs at least, beside its steps.
const SERVICE: usize = 4;
/// The steps for one line when an endpoint of its service goes: its set, that its generation has to move, the
/// generation, and that it has.
const PER_LINE: usize = 4;
/// So many of a service's members, or of its frontends, cost as much as a step to compile and compare.
const PER_STEP: usize = 8;
/// So many steps of one service are taken at least when its turn comes: compiling it is not for nothing.
const STEPS: usize = if cfg!(test) { 1 } else { 1_024 };
/// So many services of an object that are gone are looked at together, whatever they cost.
const SMALL: usize = if cfg!(test) { 1 } else { 64 };

impl<'a, T: Table> Run<'a, T> {
    pub(super) fn new(
        state: &'a mut State,
        table: &'a mut T,
        catalog: &'a Catalog,
        most: usize,
    ) -> Self {
        let mut run = Self {
            state,
            table,
            catalog,
            pass: Pass::default(),
            most,
            effort: most,
            queue: BTreeSet::new(),
            turns: BTreeMap::new(),
            looked: BTreeMap::new(),
            again: BTreeSet::new(),
            looks_back: BTreeMap::new(),
        };
        run.hold_large();
        match run.state.turns.next_large_if_due() {
            Some((object, turn)) => run.take_turn(object, turn),
            None => run.take_turns(),
        }
        run.pass.objects = run.turns.len();
        run
    }

    /// Takes the turns of small objects, as many as fit into this part; of a large one, where there are none.
    fn take_turns(&mut self) {
        let mut expected = 0_usize;
        while let Some(object) = self.state.turns.first() {
            let cost = self.cost(object);
            if cost > self.most {
                self.state.turns.set_aside();
                continue;
            }
            expected = expected.saturating_add(cost);
            if expected > self.most {
                break;
            }
            let Some((object, turn)) = self.state.turns.next() else { break };
            self.take_turn(object, turn);
        }
        self.hold_large();
        if self.turns.is_empty()
            && let Some((object, turn)) = self.state.turns.next_large()
        {
            self.take_turn(object, turn);
        }
    }

    fn take_turn(&mut self, object: ObjectName, turn: Turn) {
        self.queue.insert((!turn.is_put_off, self.catalog.age(&object), object.clone()));
        self.turns.insert(object, turn);
    }

    /// Lets large objects wait for maps that are being filled to take the place of these, if there are such
    /// maps.
    fn hold_large(&mut self) {
        if let State { turns, followed: Some(followed), is_staged: false, .. } = self.state {
            while let Some((object, turn)) = turns.next_large() {
                followed.hold(object, turn);
            }
        }
    }

    /// About how much looking at an object costs, as far as that is known beforehand.
    fn cost(&self, object: &ObjectName) -> usize {
        let Extent { ports, frontends, endpoints } = self.catalog.extent(object);
        let held = self.state.of_object.get(object).map_or(0, Vec::len);
        let services = ports.max(held).saturating_mul(2 * SERVICE);
        let lines = frontends.saturating_mul(PER_LINE);
        services.saturating_add(lines).saturating_add(endpoints / PER_STEP).max(1)
    }

    /// What was done, the objects that were looked at to their end, and those that are to be looked at
    /// again.
    pub(super) fn run(mut self) -> (Pass, Vec<ObjectName>, BTreeSet<ObjectName>) {
        self.phases();
        self.tell();
        let mut ended = Vec::new();
        for (object, looked) in self.looked {
            for asked in looked.services {
                if let Brought::Rejected(why) = asked.brought {
                    if why == Why::WaitsForRest {
                        self.again.insert(object.clone());
                    }
                    self.pass.rejected.push(Rejected { service: asked.service, why });
                }
            }
            if looked.is_at_end && !self.again.contains(&object) {
                ended.push(object);
            }
        }
        (self.pass, ended, self.again)
    }

    fn phases(&mut self) {
        self.mend();
        while self.effort > 0
            && let Some((.., object)) = self.queue.pop_first()
        {
            self.bring(&object);
        }
        self.put_off();
        self.effort = self.most;
        // First what nobody at all asks for: that may make the room that others need.
        let objects = self.looked.keys().cloned().collect();
        let waiting = self.leave(objects, |_, _| true);
        self.look_at_rejected();
        let waiting = self.leave(waiting, State::may_come);
        self.again.extend(waiting);
        self.mend();
    }

    /// What is not looked at in this part has its turn in the next. Others that only have to do with what
    /// was looked at wait for the end of the pass: two of them might call for each other for ever.
    fn put_off(&mut self) {
        for (.., object) in std::mem::take(&mut self.queue).into_iter().rev() {
            match self.turns.remove(&object) {
                Some(turn) => self.state.turns.put_off(object, turn),
                None => drop(self.again.insert(object)),
            }
        }
    }

    /// Says in the maps what was done, and what was not.
    fn tell(&mut self) {
        if self.state.is_staged {
            return;
        }
        let meta = self.state.meta;
        let short = u32::try_from(self.state.short.len()).unwrap_or(u32::MAX);
        let mut now = Meta {
            layout: LAYOUT_VERSION,
            failures: meta.failures + self.state.uncounted,
            synced: if self.state.is_synced { 1 } else { meta.synced },
            short,
            refused: u32::try_from(self.catalog.refusals().len()).unwrap_or(u32::MAX),
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

    /// Phase one for one object, or for the part of it that comes next.
    fn bring(&mut self, object: &ObjectName) {
        let mut turn = self.turns.remove(object).unwrap_or(Turn::NEW);
        if let Some(followed) = &mut self.state.followed {
            followed.looked.insert(object.clone());
        }
        let catalog = self.catalog;
        let ports = catalog.ports(object);
        // Nothing tells staging maps that a Service has other ports now: these are other places.
        let digest = if self.state.is_staged { ports.digest() } else { 0 };
        if turn.ports != digest {
            turn = Turn { from: Turn::NEW.from, ports: digest, ..turn };
        }
        let mut services = Vec::new();
        let mut port = match turn.from {
            Place::Port(port) => port.min(ports.len()),
            Place::Gone(_) => ports.len(),
        };
        if turn.from == Turn::NEW.from {
            self.forget_short(object, &ports);
        }
        let (first, mut is_cut) = (port, false);
        while port < ports.len() && !is_cut {
            let Some(asked) = self.bring_port(object, &ports, port) else { break };
            if asked.brought == Brought::Unfinished {
                self.effort = 0;
            } else {
                port += 1;
            }
            services.push(asked);
            is_cut = self.effort == 0;
        }
        services.sort_by(|one, other| one.service.cmp(&other.service));
        let mut looked = Looked { services, ..Looked::default() };
        let ids = self.state.of_object.get(object).map_or(&[][..], Vec::as_slice);
        let is_small = ids.len() <= looked.services.len() + SMALL;
        let mut place = Place::Port(port);
        if first == 0 && port == ports.len() && is_small {
            place = Place::Gone(0);
        } else {
            let ids = looked.services.iter().filter_map(|asked| self.state.id_of(&asked.service));
            let mut ids: Vec<u32> = ids.collect();
            if port == ports.len() {
                place = Place::Gone(self.find_gone(object, &ports, turn.from, &mut ids));
            }
            looked.ids = Some(ids.into());
        }
        self.look_at_heirs(object, &looked);
        if place != Place::Gone(0) {
            self.state.turns.go_on(object.clone(), Turn { from: place, ..turn });
        } else {
            looked.is_at_end = !turn.has_changed;
            if turn.has_changed {
                self.state.turns.add(object.clone());
            }
        }
        self.looked.insert(object.clone(), looked);
    }

    /// Adds services of an object that are none of its ports to these, the last first, as far as there is
    /// effort left. Gives how many remain to be looked at.
    fn find_gone(
        &mut self,
        object: &ObjectName,
        ports: &Ports<'_>,
        from: Place,
        gone: &mut Vec<u32>,
    ) -> usize {
        let ids = self.state.of_object.get(object).map_or(&[][..], Vec::as_slice);
        let mut left = match from {
            Place::Gone(left) => left.min(ids.len()),
            Place::Port(_) => ids.len(),
        };
        let names = ports.names();
        while self.effort > 0
            && let Some(last) = left.checked_sub(1)
        {
            left = last;
            let Some(held) = self.state.services.get(&ids[last]) else { continue };
            if !names.contains(&(held.key.port_name.as_ref(), held.key.protocol)) {
                let steps = SERVICE * held.frontends.len() + held.members.len();
                self.effort = self.effort.saturating_sub(SERVICE + steps);
                gone.push(ids[last]);
            }
        }
        left
    }

    /// Forgets that services of an object do not fit which it does not have any more.
    fn forget_short(&mut self, object: &ObjectName, ports: &Ports<'_>) {
        let short: Vec<ServiceKey> = self.state.short_of(object).cloned().collect();
        if short.is_empty() {
            return;
        }
        let names = ports.names();
        for service in short {
            if !names.contains(&(service.port_name.as_ref(), service.protocol)) {
                self.state.short.remove(&service);
            }
        }
    }

    /// Phase one for one port of an object; none when there is none.
    fn bring_port(&mut self, object: &ObjectName, ports: &Ports<'_>, port: usize) -> Option<Asked> {
        let desired = self.wanted(object, ports, port)?;
        let size = desired.members.len() + desired.frontends.len();
        self.effort = self.effort.saturating_sub(SERVICE + size / PER_STEP);
        let losers = self.state.losers(&desired);
        let brought = self.bring_service(&desired, &losers);
        let was_short = self.state.short.contains_key(&desired.key);
        match brought {
            Brought::Fits => {
                self.state.short.remove(&desired.key);
                self.state.shrink(&desired.key);
            }
            Brought::Rejected(why) => drop(self.state.short.insert(desired.key.clone(), why)),
            Brought::Failed | Brought::Unfinished => {}
        }
        if was_short != self.state.short.contains_key(&desired.key) {
            self.look_at_later(&desired);
        }
        losers.iter().filter(|loser| *loser != object).for_each(|loser| self.look_at(loser));
        let frontends = desired.frontends.iter().map(|it| it.key).collect();
        let port = u32::try_from(port).ok();
        Some(Asked { service: desired.key, port, frontends, brought })
    }

    /// Phase one for one service; `losers` have frontends that it should have.
    fn bring_service(&mut self, desired: &Desired, losers: &[ObjectName]) -> Brought {
        let part = match self.state.bring(desired, self.effort.max(STEPS)) {
            Ok(part) => part,
            Err(why) => return Brought::Rejected(why),
        };
        match self.take(&part.steps) {
            Ok(()) if part.is_cut => Brought::Unfinished,
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

    /// What the maps should hold of a port of an object, as long as others do not fit.
    fn wanted(&self, object: &ObjectName, ports: &Ports<'_>, port: usize) -> Option<Desired> {
        let is_passed_over = |service: &ServiceKey, key: &FrontendKey| {
            service.object != *object && self.state.is_passed_over(service, key)
        };
        ports.compile(port, is_passed_over)
    }

    /// Brings an object in this pass too, unless that was done.
    fn look_at(&mut self, object: &ObjectName) {
        if !self.looked.contains_key(object) {
            let is_new = self.turns.get(object).is_none_or(|turn| !turn.is_put_off);
            self.queue.insert((is_new, self.catalog.age(object), object.clone()));
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
            self.looked.remove(&object);
            self.look_at(&object);
        }
    }

    /// Looks at those who ask for frontends that this object has and should not have, as far as it was
    /// looked at.
    fn look_at_heirs(&mut self, object: &ObjectName, looked: &Looked) {
        let catalog = self.catalog;
        let ids = looked.ids(self.state, object);
        let held = ids.iter().filter_map(|id| self.state.services.get(id));
        let given_up = held.flat_map(|held| {
            let own = looked.own(&held.key);
            held.frontends.iter().filter(move |key| !own.is_some_and(|own| own.has(key)))
        });
        let heirs: BTreeSet<&ObjectName> = given_up
            .flat_map(|key| catalog.claimants(key))
            .map(|service| &service.object)
            .filter(|heir| *heir != object)
            .collect();
        heirs.into_iter().for_each(|heir| self.look_at(heir));
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
        let before = self.pass.steps;
        let taken = take(self.state, self.table, steps, &mut self.pass.steps);
        self.effort = self.effort.saturating_sub(self.pass.steps - before);
        taken
    }

    /// Notes a step that failed, of an object or of the maps as a whole.
    fn failed(&mut self, object: Option<&ObjectName>, error: TableError) {
        self.again.extend(object.cloned());
        self.pass.failed.push(Failed { object: object.cloned(), error });
        self.state.uncounted += 1;
    }
}
