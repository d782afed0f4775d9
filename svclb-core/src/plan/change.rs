//! The steps for one Service object, as a pure function of the mirror.
//!
//! Phase one brings everything that is new: rows, members, slots, then the flip of each line, then what
//! has gone leaves. Frontends that another service holds are taken over in place. Phase two removes
//! frontends that nobody asks for any more, and services.

use std::collections::{BTreeMap, BTreeSet};

use svclb_common::layout::{FrontendKey, FrontendRow, Line, LineFlags, Meta, Set, Slot};

use super::Step;
use super::members::{Pair, pairs};
use super::mirror::{Held, State, count_of};
use super::outcome::Why;
use crate::compile::{Desired, DesiredFrontend};
use crate::digest::Digest;
use crate::index::{NoPlace, Place, Planned};
use crate::table::{Key, Row};

/// Steps for one service, as many as were asked for. Where they are cut off it is as if the next one had
/// failed: the next plan goes on from there.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) steps: Vec<Step>,
    /// There would be more.
    pub(super) is_cut: bool,
}

/// Phase two for one service.
#[derive(Debug, Default)]
pub(super) struct Leave {
    pub(super) part: Part,
    /// A frontend stays only because somebody else is to take it over: whoever keeps it has to be looked
    /// at again.
    pub(super) waits: bool,
}

/// Steps in the making.
pub(super) struct Steps<'a> {
    state: &'a State,
    id: u32,
    steps: Vec<Step>,
    /// No more are made once there are so many.
    most: usize,
    /// Lines that these steps put frontends into.
    planned: Planned,
    /// Lines that they take them out of.
    left: BTreeSet<u32>,
    /// By home, how far they say that it reaches.
    reaches: BTreeMap<u32, u8>,
    /// By home, how many of its frontends they bring behind the hashed lines, or take away from there.
    spilled: BTreeMap<u32, u32>,
    /// Lines whose generation has to move; their heir says so.
    moved: BTreeSet<u32>,
}

impl<'a> Steps<'a> {
    fn new(state: &'a State, id: u32, most: usize) -> Self {
        Self {
            state,
            id,
            steps: Vec::new(),
            most,
            planned: Planned::default(),
            left: BTreeSet::new(),
            reaches: BTreeMap::new(),
            spilled: BTreeMap::new(),
            moved: BTreeSet::new(),
        }
    }
}

impl State {
    /// Phase one for one service: its first steps, so many or a few more.
    ///
    /// # Errors
    /// When it does not fit; no step is made then.
    pub(super) fn bring(&self, desired: &Desired, most: usize) -> Result<Part, Why> {
        let known = self.id_of(&desired.key);
        let given = known.or_else(|| self.kept_ids.get(&desired.key).copied()).or(self.spare_id);
        let id = given.unwrap_or(self.meta.next_service.max(1));
        let mut steps = Steps::new(self, id, most);
        if given.is_none() {
            let next = id.checked_add(1).ok_or(Why::NoIds)?;
            // The id is spent before it is used: never twice, whatever happens next.
            steps.put(Row::Meta(Meta { next_service: next, ..self.meta }));
        }
        if known.is_none() {
            steps.put(Row::Service(id, desired.row));
        }
        let held = self.services.get(&id).map(AsRef::as_ref);
        steps.bring(desired, held)?;
        Ok(steps.part())
    }

    /// Phase two for one service: the frontends that it does not have any more and that nobody else
    /// is waiting for; all of it, when it is gone. Its first steps, so many or a few more.
    pub(super) fn leave(
        &self,
        id: u32,
        keeps: Option<&[FrontendKey]>,
        most: usize,
        is_waited_for: impl Fn(&FrontendKey) -> bool,
    ) -> Leave {
        let mut steps = Steps::new(self, id, most);
        let Some(held) = self.services.get(&id) else { return Leave::default() };
        let is_own =
            |key: &FrontendKey| keeps.is_some_and(|keeps| keeps.binary_search(key).is_ok());
        let mut waits = false;
        // The last first, of members too: that is no work in the mirror.
        for key in held.frontends.iter().rev().filter(|key| !is_own(key)) {
            // Also of a service that is gone: until it is taken over, the old backends serve.
            if is_waited_for(key) {
                waits = true;
            } else {
                steps.remove_frontend(key);
            }
            if steps.is_full() {
                return Leave { part: steps.part(), waits };
            }
        }
        if keeps.is_none() && !waits {
            let mut members: Vec<_> = held.members.of(id).map(|(key, _)| key).collect();
            members.reverse();
            for key in members {
                steps.remove(Key::Backend(key));
                if steps.is_full() {
                    return Leave { part: steps.part(), waits };
                }
            }
            steps.remove(Key::Service(id));
        }
        Leave { part: Part { steps: steps.steps, is_cut: false }, waits }
    }
}

impl Steps<'_> {
    /// The steps as far as they go.
    fn part(self) -> Part {
        Part { is_cut: self.is_full(), steps: self.steps }
    }

    const fn is_full(&self) -> bool {
        self.steps.len() >= self.most
    }

    /// All that brings a service to what it should have, in the order of phase one.
    fn bring(&mut self, desired: &Desired, held: Option<&Held>) -> Result<(), Why> {
        // Before any member is written: those of a service that does not fit would fill svclb_backends, which
        // others need.
        let (sets, mut fresh): (Vec<Set>, Vec<bool>) = self.sets(desired)?;
        self.members_come(desired, held);
        if self.is_full() {
            return Ok(());
        }
        // The new ones first: only their rows can find a map full, and then nothing has changed hands.
        let is_known = |it: &&DesiredFrontend| self.state.frontends.contains_key(&it.key);
        let (known, new): (Vec<&DesiredFrontend>, Vec<_>) =
            desired.frontends.iter().partition(is_known);
        for frontend in new.into_iter().chain(known) {
            let before = self.steps.len();
            let is_fresh: &mut bool = &mut fresh[frontend.set];
            // Just before the first line that refers to them: without any they would be free again.
            if std::mem::take(is_fresh) {
                let first = sets[frontend.set].first;
                let slots = self.owned(&desired.sets[frontend.set]).collect();
                self.put(Row::Slots(first, slots));
            }
            self.frontend(frontend, sets[frontend.set])?;
            if self.steps.len() > before && self.is_full() {
                return Ok(());
            }
        }
        if let Some(held) = held
            && self.pairs(desired, Some(held)).any(|pair| pair.go().is_some())
        {
            self.announce(held);
        }
        self.members_go(desired, held);
        self.generations();
        if !self.is_full() && held.is_some_and(|held| held.row != Digest::of_row(&desired.row)) {
            self.put(Row::Service(self.id, desired.row));
        }
        Ok(())
    }

    fn put(&mut self, row: Row) {
        self.steps.push(Step::Put(row));
    }

    fn remove(&mut self, key: Key) {
        self.steps.push(Step::Remove(key));
    }

    fn pairs<'p>(
        &self,
        desired: &'p Desired,
        held: Option<&'p Held>,
    ) -> impl Iterator<Item = Pair> + 'p {
        pairs(self.id, &desired.members, held.map(|held| &held.members))
    }

    /// New members, before any slot names them.
    fn members_come(&mut self, desired: &Desired, held: Option<&Held>) {
        for pair in self.pairs(desired, held) {
            let Some(row) = pair.come() else { continue };
            self.put(Row::Backend(pair.key, row));
            if self.is_full() {
                return;
            }
        }
    }

    /// Members that leave, after every line was flipped.
    fn members_go(&mut self, desired: &Desired, held: Option<&Held>) {
        let leave = |pair: Pair| Some((pair.key, pair.go()?));
        let mut members: Vec<_> = self.pairs(desired, held).filter_map(leave).collect();
        members.reverse();
        for (key, row) in members {
            if self.is_full() {
                return;
            }
            match row {
                Some(row) => self.put(Row::Backend(key, row)),
                None => self.remove(Key::Backend(key)),
            }
        }
    }

    /// Says in each line of the service that its generation has to move, before the first member
    /// leaves: whoever finds it so, should this agent die in between, moves it.
    fn announce(&mut self, held: &Held) {
        for key in &held.frontends {
            if self.is_full() {
                return;
            }
            let Some((_, number)) = self.state.frontends.get(key).copied() else { continue };
            // One that another service is taking over has an heir already, and needs that one.
            let line = self.state.lines.get(&number).filter(|line| line.frontend() == *key);
            let heir = line.map(|line| line.heir);
            match heir {
                Some(0) if self.moved.insert(number) => self.put(Row::Heir(number, self.id)),
                // Said already.
                Some(heir) if heir == self.id => drop(self.moved.insert(number)),
                _ => {}
            }
        }
    }

    /// Moves the generations that have to, after all else.
    fn generations(&mut self) {
        for number in std::mem::take(&mut self.moved) {
            if self.is_full() {
                return;
            }
            self.generation(number);
            self.put(Row::Heir(number, 0));
        }
    }

    fn generation(&mut self, number: u32) {
        self.put(Row::Generation(number, self.state.next_generation(number)));
    }

    /// A range for each set, and whether it is yet to be written: the one that a line of this service has,
    /// if its slots are the same, or a fresh one.
    fn sets(&self, desired: &Desired) -> Result<(Vec<Set>, Vec<bool>), Why> {
        let kept: Vec<Option<Set>> =
            desired
                .sets
                .iter()
                .enumerate()
                .map(|(at, slots)| {
                    if slots.is_empty() { Some(Set::REFUSE) } else { self.kept(desired, at, slots) }
                })
                .collect();
        let fresh = kept.iter().zip(&desired.sets).filter(|(set, _)| set.is_none());
        let needed: Vec<u32> = fresh.map(|(_, slots)| count_of(slots)).collect();
        let mut firsts = self.state.room.find(&needed)?.into_iter();
        let set = |(kept, slots): (&Option<Set>, &Vec<Slot>)| {
            let fresh = || Some(Set { first: firsts.next()?, count: count_of(slots) });
            kept.or_else(fresh).unwrap_or(Set::REFUSE)
        };
        let sets = kept.iter().zip(&desired.sets).map(set).collect();
        Ok((sets, kept.iter().map(Option::is_none).collect()))
    }

    /// These slots as this service's.
    fn owned(&self, slots: &[Slot]) -> impl Iterator<Item = Slot> {
        slots.iter().map(|slot| Slot { owner: self.id, ..*slot })
    }

    /// The range that a frontend of this set already uses, if it holds just these slots.
    fn kept(&self, desired: &Desired, at: usize, slots: &[Slot]) -> Option<Set> {
        let wanted = Digest::of_slots(self.owned(slots));
        let frontends = desired.frontends.iter().filter(|frontend| frontend.set == at);
        frontends
            .filter_map(|frontend| {
                let (_, number) = self.state.frontends.get(&frontend.key)?;
                let set = self.state.lines.get(number)?.set;
                let range = self.state.ranges.get(&set.first)?;
                let is_same =
                    set.count != 0 && range.count == count_of(slots) && range.slots == wanted;
                is_same.then_some(set)
            })
            .next()
    }

    /// Brings one frontend to its set: made, flipped, or taken over.
    fn frontend(&mut self, frontend: &DesiredFrontend, set: Set) -> Result<(), Why> {
        let found = self.state.frontends.get(&frontend.key).copied();
        // Another frontend may be there meanwhile, if the step that should have made this line failed.
        let line = found
            .and_then(|(_, number)| self.state.lines.get(&number))
            .filter(|line| line.frontend() == frontend.key);
        let (Some((owner, number)), Some(line)) = (found, line) else {
            return self.make(frontend, set);
        };
        // A take-over that was cut off between set and owner: it has to be finished before the next,
        // or no draw would accept the slots.
        let holder = self.state.holder_of(line);
        if holder != line.service {
            self.put(Row::Owner(number, holder));
        }
        let takes_over = owner != self.id || holder != self.id;
        // With another policy a member of the set that was may be none of the set that is: whoever
        // settled on one has to ask again.
        let is_another_set = (line.flags ^ frontend.flags) & LineFlags::EXTERNAL != 0;
        if takes_over || (is_another_set && line.heir == 0) {
            self.put(Row::Heir(number, self.id));
        }
        if takes_over || is_another_set || line.heir != 0 {
            self.moved.insert(number);
        }
        if line.set != set {
            self.put(Row::Set(number, set));
        }
        if (line.flags, line.affinity_seconds) != (frontend.flags, frontend.affinity_seconds) {
            self.put(Row::Traits(number, frontend.flags, frontend.affinity_seconds));
        }
        if takes_over {
            self.put(Row::Owner(number, self.id));
            self.put(Row::Frontend(frontend.key, FrontendRow { service: self.id, line: number }));
        }
        Ok(())
    }

    fn make(&mut self, frontend: &DesiredFrontend, set: Set) -> Result<(), Why> {
        let index = &self.state.index;
        let place = index.place(&frontend.key, &mut self.planned);
        let Place { line: number, home, spilled } = place.map_err(|why| match why {
            NoPlace::Resting => Why::WaitsForRest,
            NoPlace::Full => Why::NoLine,
        })?;
        let key = frontend.key;
        let line = Line {
            address: key.address,
            port: key.port,
            protocol: key.protocol,
            scope: key.scope,
            service: self.id,
            set,
            generation: self.state.next_generation(number),
            flags: frontend.flags,
            affinity_seconds: frontend.affinity_seconds,
            ..Line::default()
        };
        self.put(Row::Frontend(key, FrontendRow { service: self.id, line: number }));
        self.put(Row::Line(number, line));
        if spilled {
            let count = index.spilled(home) + self.one_more_spilled(home);
            self.put(Row::Spilled(home, count));
        } else if let Some(step) = index.step(home, number)
            && step > self.planned_reach(home)
        {
            self.reach(home, step);
        }
        Ok(())
    }

    /// The reach of a home after the steps so far.
    fn planned_reach(&self, home: u32) -> u8 {
        let found = self.reaches.get(&home).or_else(|| self.state.reaches.get(&home));
        found.copied().unwrap_or(0)
    }

    fn reach(&mut self, home: u32, reach: u8) {
        self.reaches.insert(home, reach);
        self.put(Row::Reach(home, reach));
    }

    /// How many frontends of a home come behind the hashed lines, or go from there, with this one.
    fn one_more_spilled(&mut self, home: u32) -> u32 {
        let count = self.spilled.entry(home).or_default();
        *count += 1;
        *count
    }

    fn remove_frontend(&mut self, key: &FrontendKey) {
        let Some((_, number)) = self.state.frontends.get(key).copied() else { return };
        let index = &self.state.index;
        let home = index.home(key);
        let is_there = |line: &Line| line.frontend() == *key;
        if !self.state.lines.get(&number).is_some_and(is_there) {
            // The step that should have made the line failed.
            self.remove(Key::Frontend(*key));
            return;
        }
        if index.is_spill(number) {
            // Row, count, line: the reader asks in the other order.
            self.remove(Key::Frontend(*key));
            let left = index.spilled(home).saturating_sub(self.one_more_spilled(home));
            self.put(Row::Spilled(home, left));
            self.remove(Key::Line(number));
        } else {
            self.remove(Key::Line(number));
            self.left.insert(number);
            let reach = index.reach_without(home, &self.left);
            if reach != self.planned_reach(home) {
                self.reach(home, reach);
            }
            self.remove(Key::Frontend(*key));
        }
        // The next frontend in this line is another one to whoever remembers this one.
        self.generation(number);
    }
}

impl State {
    /// Whose slots a line's set is made of.
    fn holder_of(&self, line: &Line) -> u32 {
        let range = self.ranges.get(&line.set.first).filter(|_| line.set.count != 0);
        let owner = range.map(|range| range.owner);
        if line.heir != 0 && owner == Some(line.heir) { line.heir } else { line.service }
    }

    pub(super) fn next_generation(&self, number: u32) -> u32 {
        self.generations.get(&number).copied().unwrap_or(self.meta.first_generation).wrapping_add(1)
    }
}
