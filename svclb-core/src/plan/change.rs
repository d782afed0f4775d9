//! The steps for one service, as pure functions of the mirror.
//!
//! Phase one installs: the service's row, its members, slots, then the flip of each line, and after these the
//! members that left are removed. Frontends of other services are taken over in place. Phase two retires:
//! frontends without a claimant are removed, and services that are gone. The reach of a home is not among the
//! steps: `runner` adds it.

use std::collections::BTreeSet;

use svclb_common::layout::{FrontendKey, FrontendRow, Line, LineFlags, Meta, Set, Slot};

use super::mirror::{InstalledService, MemberPair, Mirror, pairs};
use super::unplaced::Unplaced;
use crate::compile::{Desired, DesiredFrontend};
use crate::digest::Digest;
use crate::number::{LineNumber, ServiceId, SlotRange};
use crate::table::{Key, Row, Step};

/// The first steps for one service. Where they are cut off it is as if the next step had failed: the next plan
/// goes on from there.
#[derive(Debug, Default)]
pub(super) struct ServiceSteps {
    pub(super) steps: Vec<Step>,
    /// More steps follow.
    pub(super) is_cut: bool,
}

/// Steps in the making.
struct StepBuilder<'a> {
    mirror: &'a Mirror,
    id: ServiceId,
    steps: Vec<Step>,
    /// No more are made once there are so many.
    most: usize,
    /// Lines that these steps fill.
    planned: BTreeSet<LineNumber>,
    /// Lines whose generation has to move; their successor (`heir`) marks them.
    moved: BTreeSet<LineNumber>,
}

/// Phase one for one service: its first steps, `most` or a few more.
///
/// # Errors
/// When it does not fit; no step is made then.
pub(super) fn install(
    mirror: &Mirror,
    desired: &Desired,
    most: usize,
) -> Result<ServiceSteps, Unplaced> {
    let known = mirror.services.id_of(&desired.key);
    let spent = known.or_else(|| mirror.ids.spent(&desired.key));
    let meta = &mirror.meta;
    let id = spent.unwrap_or(ServiceId(meta.next_service.max(1)));
    let mut builder = StepBuilder::new(mirror, id, most);
    if spent.is_none() {
        let next_service = id.0.checked_add(1).ok_or(Unplaced::NoIds)?;
        // The id is spent before it is used: never twice, whatever happens next.
        builder.put(Row::Meta(Meta { next_service, ..*meta }));
    }
    if known.is_none() {
        builder.put(Row::Service(id, desired.row));
    }
    builder.install(desired, mirror.services.get(id))?;
    Ok(builder.finish())
}

/// Phase two for one service, of which the frontends in `keeps` stay; none when it is gone. Returns its first
/// steps, `most` or a few more, and whether a frontend stays only because `is_awaited` says that a claimant
/// will take it over: that one has to be visited again.
pub(super) fn retire(
    mirror: &Mirror,
    id: ServiceId,
    keeps: Option<&[FrontendKey]>,
    most: usize,
    is_awaited: impl Fn(&FrontendKey) -> bool,
) -> (ServiceSteps, bool) {
    let mut builder = StepBuilder::new(mirror, id, most);
    let Some(service) = mirror.services.get(id) else { return Default::default() };
    let is_own = |key: &FrontendKey| keeps.is_some_and(|keeps| keeps.binary_search(key).is_ok());
    let mut waits = false;
    // The last first, of members too: that is cheap in the mirror.
    for key in service.frontends().iter().rev().filter(|key| !is_own(key)) {
        // Also of a service that is gone: until the frontend is taken over, the old backends serve.
        if is_awaited(key) {
            waits = true;
        } else {
            builder.remove_frontend(key);
        }
        if builder.is_full() {
            return (builder.finish(), waits);
        }
    }
    if keeps.is_none() && !waits {
        let mut members: Vec<_> = service.members().of(id).map(|(key, _)| key).collect();
        members.reverse();
        for key in members {
            builder.remove(Key::Backend(key));
            if builder.is_full() {
                return (builder.finish(), waits);
            }
        }
        builder.remove(Key::Service(id));
    }
    (ServiceSteps { steps: builder.steps, is_cut: false }, waits)
}

impl<'a> StepBuilder<'a> {
    fn new(mirror: &'a Mirror, id: ServiceId, most: usize) -> Self {
        Self {
            mirror,
            id,
            steps: Vec::new(),
            most,
            planned: BTreeSet::new(),
            moved: BTreeSet::new(),
        }
    }

    fn finish(self) -> ServiceSteps {
        ServiceSteps { is_cut: self.is_full(), steps: self.steps }
    }

    const fn is_full(&self) -> bool {
        self.steps.len() >= self.most
    }

    fn put(&mut self, row: Row) {
        self.steps.push(Step::Put(row));
    }

    fn remove(&mut self, key: Key) {
        self.steps.push(Step::Remove(key));
    }

    /// All steps of phase one, in order.
    fn install(
        &mut self,
        desired: &Desired,
        installed: Option<&InstalledService>,
    ) -> Result<(), Unplaced> {
        // Before any member is written: members of a service that does not fit would fill svclb_backends.
        let mut sets = self.sets(desired)?;
        self.add_members(desired, installed);
        if self.is_full() {
            return Ok(());
        }
        // The new ones first: only their rows can find a map full, and then no frontend was taken over.
        let is_known = |it: &&DesiredFrontend| self.mirror.services.frontend(&it.key).is_some();
        let (known, new): (Vec<&DesiredFrontend>, Vec<_>) =
            desired.frontends.iter().partition(is_known);
        for frontend in new.into_iter().chain(known) {
            let before = self.steps.len();
            let (set, is_fresh) = &mut sets[frontend.set];
            // Just before the first line that refers to them: they are free again without one.
            if std::mem::take(is_fresh)
                && let Some(SlotRange { first, .. }) = SlotRange::of(*set)
            {
                let slots = self.owned(&desired.sets[frontend.set]).collect();
                self.put(Row::Slots(first, slots));
            }
            self.frontend(frontend, *set)?;
            if self.steps.len() > before && self.is_full() {
                return Ok(());
            }
        }
        if let Some(installed) = installed
            && self.pairs(desired, Some(installed)).any(|pair| pair.removal().is_some())
        {
            self.announce(installed);
        }
        self.remove_members(desired, installed);
        self.move_generations();
        if !self.is_full() && installed.is_some_and(|it| !it.has_row(&desired.row)) {
            self.put(Row::Service(self.id, desired.row));
        }
        Ok(())
    }

    fn pairs<'p>(
        &self,
        desired: &'p Desired,
        installed: Option<&'p InstalledService>,
    ) -> impl Iterator<Item = MemberPair> + use<'p> {
        pairs(self.id, &desired.members, installed.map(InstalledService::members))
    }

    /// New members, before any slot names them.
    fn add_members(&mut self, desired: &Desired, installed: Option<&InstalledService>) {
        for pair in self.pairs(desired, installed) {
            let Some(row) = pair.addition() else { continue };
            self.put(Row::Backend(pair.key, row));
            if self.is_full() {
                return;
            }
        }
    }

    /// Members that left, after every line was flipped.
    fn remove_members(&mut self, desired: &Desired, installed: Option<&InstalledService>) {
        let removal = |pair: MemberPair| Some((pair.key, pair.removal()?));
        let mut members: Vec<_> = self.pairs(desired, installed).filter_map(removal).collect();
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

    /// Marks each line of the service before the first member is removed: its generation has to move. If
    /// this agent dies in between, the next one moves it.
    fn announce(&mut self, installed: &InstalledService) {
        for key in installed.frontends() {
            if self.is_full() {
                return;
            }
            let Some((_, number)) = self.mirror.services.frontend(key) else { continue };
            // A line that another service is taking over has a successor already, and needs that one.
            match self.mirror.lines.holding(number, key).map(|line| ServiceId(line.heir)) {
                Some(ServiceId::NONE) if self.moved.insert(number) => {
                    self.put(Row::Heir(number, self.id));
                }
                // Marked already.
                Some(heir) if heir == self.id => drop(self.moved.insert(number)),
                _ => {}
            }
        }
    }

    /// Moves the generations that have to, after all else.
    fn move_generations(&mut self) {
        for number in std::mem::take(&mut self.moved) {
            if self.is_full() {
                return;
            }
            self.move_generation(number);
            self.put(Row::Heir(number, ServiceId::NONE));
        }
    }

    fn move_generation(&mut self, number: LineNumber) {
        self.put(Row::Generation(number, self.mirror.lines.next_generation(number)));
    }

    /// For each set its range, and whether that is still to be written: the one that a line of this service
    /// has, if its slots are the same, or a free one.
    fn sets(&self, desired: &Desired) -> Result<Vec<(Set, bool)>, Unplaced> {
        let written = |(at, slots): (usize, &Vec<Slot>)| match slots.is_empty() {
            true => Some(Set::REFUSE),
            false => self.written(desired, at, slots),
        };
        let written: Vec<Option<Set>> = desired.sets.iter().enumerate().map(written).collect();
        let fresh = written.iter().zip(&desired.sets).filter(|(set, _)| set.is_none());
        let counts: Vec<u32> = fresh.map(|(_, slots)| count_of(slots)).collect();
        let mut firsts = self.mirror.slots.find(&counts)?.into_iter();
        let set = |(written, slots): (Option<Set>, &Vec<Slot>)| {
            let fresh = || Some(SlotRange { first: firsts.next()?, count: count_of(slots) }.into());
            (written.or_else(fresh).unwrap_or(Set::REFUSE), written.is_none())
        };
        Ok(written.into_iter().zip(&desired.sets).map(set).collect())
    }

    /// These slots as this service's.
    fn owned(&self, slots: &[Slot]) -> impl Iterator<Item = Slot> {
        slots.iter().map(|slot| Slot { owner: self.id.0, ..*slot })
    }

    /// The range of a frontend with this set, if it holds just these slots.
    fn written(&self, desired: &Desired, at: usize, slots: &[Slot]) -> Option<Set> {
        let wanted = Digest::of_slots(self.owned(slots));
        let mut frontends = desired.frontends.iter().filter(|frontend| frontend.set == at);
        frontends.find_map(|frontend| {
            let (_, number) = self.mirror.services.frontend(&frontend.key)?;
            let set = self.mirror.lines.get(number)?.set;
            self.mirror.slots.holds(set, count_of(slots), wanted).then_some(set)
        })
    }

    /// Creates a frontend, flips its line to a set, or takes it over.
    fn frontend(&mut self, frontend: &DesiredFrontend, set: Set) -> Result<(), Unplaced> {
        let found = self.mirror.services.frontend(&frontend.key);
        // Another frontend may be there meanwhile, if the step that should have filled this line failed.
        let line = found.and_then(|(_, number)| self.mirror.lines.holding(number, &frontend.key));
        let (Some((owner, number)), Some(line)) = (found, line) else {
            return self.create(frontend, set);
        };
        // A take-over that was cut off between set and owner has to be finished before the next one, or no
        // draw would accept the slots.
        let owner_of_slots = self.owner_of_slots(line);
        if owner_of_slots.0 != line.service {
            self.put(Row::Owner(number, owner_of_slots));
        }
        let takes_over = owner != self.id || owner_of_slots != self.id;
        // With another policy a member of the old set may not be in the new one: clients that remember a
        // backend have to ask again.
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
            self.put_frontend(&frontend.key, number);
        }
        Ok(())
    }

    /// The service whose slots a line's set has.
    fn owner_of_slots(&self, line: &Line) -> ServiceId {
        let is_heirs = line.heir != 0
            && self.mirror.slots.owner(line.set).is_some_and(|owner| owner.0 == line.heir);
        ServiceId(if is_heirs { line.heir } else { line.service })
    }

    fn put_frontend(&mut self, key: &FrontendKey, number: LineNumber) {
        self.put(Row::Frontend(*key, FrontendRow { service: self.id.0, line: number.0 }));
    }

    fn create(&mut self, frontend: &DesiredFrontend, set: Set) -> Result<(), Unplaced> {
        let (key, lines) = (frontend.key, &self.mirror.lines);
        let number = lines.index().place(&key, &mut self.planned)?;
        let line = Line {
            address: key.address,
            port: key.port,
            protocol: key.protocol,
            scope: key.scope,
            service: self.id.0,
            set,
            generation: lines.next_generation(number).0,
            flags: frontend.flags,
            affinity_seconds: frontend.affinity_seconds,
            ..Line::default()
        };
        self.put_frontend(&key, number);
        self.put(Row::Line(number, line));
        Ok(())
    }

    fn remove_frontend(&mut self, key: &FrontendKey) {
        let Some((_, number)) = self.mirror.services.frontend(key) else { return };
        if self.mirror.lines.holding(number, key).is_none() {
            // The step that should have filled the line failed.
            self.remove(Key::Frontend(*key));
            return;
        }
        self.remove(Key::Line(number));
        self.remove(Key::Frontend(*key));
        // A socket that remembers this frontend does not match the next one in this line.
        self.move_generation(number);
    }
}

fn count_of(slots: &[Slot]) -> u32 {
    u32::try_from(slots.len()).unwrap_or(u32::MAX)
}
