//! The objects of one kind as the API server has them: a list and the changes after it.
//!
//! Objects themselves are not kept: a name and a hash are enough to find what changed and what is gone
//! when objects are listed again.

use std::collections::HashMap;

use svclb_core::model::{ObjectName, Unread, Update};
use svclb_objects::ledger::{Ledger, Rejection, StandingReports};

use super::capacity::Capacity;
use crate::batch::Reject;
use crate::convert::{Accepted, Invalid, Kind, ObjectId, Skipped};
use svclb_objects::api::Read;

/// The number of rejects without a name that are kept and reported.
const NAMELESS: usize = 16;

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Store {
    kind: Kind,
    ledger: Ledger<KnownObject>,
    /// The reports about each object. Rejects of objects without a readable name are under `None`, and each
    /// stands until a list is without it.
    reports: StandingReports<Option<ObjectId>, Reject>,
    /// The memory of objects, shared with other kinds.
    capacity: Capacity,
    /// The objects of which only the name is kept, and the bytes that they need.
    omitted: HashMap<ObjectName, usize>,
    /// The number of the list that is being read, or was read last.
    round: u32,
    /// The new and changed objects of the list that is being read.
    list: Vec<Read>,
    /// A list was read to its end.
    synced: bool,
}

/// The changes to hand on.
#[derive(Debug)]
pub(super) struct StoreChanges {
    /// One for each object that changed, however often it did.
    pub(super) updates: HashMap<ObjectId, Update>,
    /// Objects that were rejected, or ignored in part: one for each of them.
    pub(super) rejects: Vec<Reject>,
}

/// The record of an object, in place of its contents.
#[derive(Clone, Copy, Debug, Default)]
struct KnownObject {
    /// The hash of its latest text, rejected or not; `None` before the first.
    hash: Option<u64>,
    /// The last list that it was in.
    round: u32,
    /// The bytes that it counts with.
    memory: usize,
}

/// The effect of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ListSummary {
    /// Objects in the list.
    pub(super) objects: usize,
    /// New and changed objects among them.
    pub(super) changed: usize,
    /// Objects that were known and are not in it.
    pub(super) gone: usize,
}

impl Store {
    /// Returns the state before the first list.
    pub(super) fn new(kind: Kind, capacity: Capacity) -> Self {
        Self {
            kind,
            ledger: Ledger::default(),
            reports: StandingReports::default(),
            capacity,
            omitted: HashMap::new(),
            round: 0,
            list: Vec::new(),
            synced: false,
        }
    }

    /// Returns true once a list was read to its end.
    pub(super) const fn synced(&self) -> bool {
        self.synced
    }

    /// Returns the number of objects.
    pub(super) fn count(&self) -> usize {
        self.ledger.count()
    }

    /// Returns how many rejects stand.
    pub(super) const fn standing(&self) -> usize {
        self.reports.standing()
    }

    /// Adds the objects that are rejected now.
    pub(super) fn unread(&self, unread: &mut Unread) {
        self.ledger.unread(unread);
        // Only the own Node is watched, and no Service depends on it.
        unread.unknown |= self.kind != Kind::Node && !self.reports.get(&None).is_empty();
    }

    /// Returns the number of parts that are left out on purpose.
    pub(super) fn skipped(&self) -> Skipped {
        self.ledger.skipped()
    }

    /// Returns true when there are objects of which only the name is kept.
    pub(super) fn omits(&self) -> bool {
        !self.omitted.is_empty()
    }

    /// Returns true when there is capacity now for an object of which only the name is kept.
    pub(super) fn has_capacity(&self) -> bool {
        let mut omitted = self.omitted.iter();
        omitted.any(|(name, needs)| self.capacity.check(&name.namespace, 0, *needs).is_ok())
    }

    /// Returns true when there are changes to hand on.
    pub(super) fn has_changes(&self) -> bool {
        self.ledger.has_changes() || self.reports.has_changes()
    }

    /// Takes the changes to hand on.
    pub(super) fn take(&mut self) -> StoreChanges {
        StoreChanges { updates: self.ledger.take(), rejects: self.reports.take().collect() }
    }

    /// Begins a list. One that was not read to its end has no effect.
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.take_list();
    }

    /// Takes the objects of the list, and releases the memory that was reserved for them.
    fn take_list(&mut self) -> Vec<Read> {
        let list = std::mem::take(&mut self.list);
        let accepted = list.iter().filter_map(|read| read.contents.as_ref().ok());
        accepted.for_each(|accepted| self.capacity.release(&accepted.update));
        list
    }

    /// Adds an object to the list. Until its end, new and changed objects count in addition to the known ones.
    pub(super) fn listed(&mut self, mut read: Read) {
        let object = read.name.clone().map(|name| ObjectId { kind: self.kind, name });
        let known = object.as_ref().and_then(|object| self.ledger.get_mut(object));
        let before = known.as_ref().map_or(0, |known| known.memory);
        let is_omitted = read.name.as_ref().is_some_and(|name| self.omitted.contains_key(name));
        if let Some(known) = known.filter(|known| known.hash == Some(read.hash) && !is_omitted) {
            known.round = self.round;
            return;
        }
        if let Ok(accepted) = &mut read.contents {
            self.capacity.reserve(&mut accepted.update, before);
        }
        self.list.push(read);
    }

    /// Ends the list: objects that are not in it are gone.
    pub(super) fn done(&mut self) -> ListSummary {
        self.synced = true;
        let mut summary = ListSummary::default();
        let list = self.take_list();
        let nameless = self.reports.get(&None);
        let is_listed = |report: &&Reject| {
            list.iter().any(|read| match (*report, &read.contents) {
                (Reject::Object(known, _), Err(invalid)) => read.name.is_none() && known == invalid,
                _ => false,
            })
        };
        let staying: Vec<Reject> = nameless.iter().filter(is_listed).cloned().collect();
        summary.gone += nameless.len() - staying.len();
        let standing = staying.len();
        self.reports.set(None, staying, standing);
        for read in list {
            summary.changed += usize::from(self.apply(read));
        }
        let gone = self.ledger.iter().filter(|(_, known)| known.round != self.round);
        for object in gone.map(|(object, _)| object.clone()).collect::<Vec<_>>() {
            summary.gone += 1;
            self.forget(object);
        }
        summary.objects = self.ledger.count();
        summary
    }

    /// Applies an object. Returns true when it differs from what is known.
    pub(super) fn apply(&mut self, read: Read) -> bool {
        let (uid, round) = (read.uid(), self.round);
        let Read { name, hash, contents } = read;
        let Some(name) = name else {
            return contents.is_err_and(|invalid| self.reject_nameless(invalid));
        };
        let object = ObjectId { kind: self.kind, name };
        let was_omitted = self.omitted.remove(&object.name).is_some();
        let known = self.ledger.note(&object);
        let is_same = known.hash.replace(hash) == Some(hash);
        known.round = round;
        if is_same && !was_omitted {
            return false;
        }
        match contents {
            Ok(Accepted { mut update, left_out, .. }) => {
                if let Some(needs) = self.capacity.take(&mut update, &mut known.memory) {
                    self.omitted.insert(object.name.clone(), needs);
                    if is_same {
                        return false;
                    }
                }
                self.ledger.accept(&object, uid, update);
                self.ledger.skip(&object, left_out.counts);
                let ignored = left_out.ignored.map(|it| Reject::Parts(object.clone(), it));
                self.reports.set(Some(object), ignored.into_iter().collect(), 0);
            }
            Err(invalid) => {
                let rejection = Rejection { service: invalid.part_of().cloned(), uid };
                if let Some(another) = self.ledger.reject(&object, rejection) {
                    self.capacity.count(&object.name.namespace, another.memory, 0);
                    *self.ledger.note(&object) = KnownObject { memory: 0, ..another };
                }
                let report = Reject::Object(invalid, self.ledger.has_state(&object));
                self.reports.set(Some(object), vec![report], 1);
            }
        }
        true
    }

    /// Rejects an object without a readable name. Returns true when that is new.
    fn reject_nameless(&mut self, invalid: Invalid) -> bool {
        let mut reports = self.reports.get(&None).to_vec();
        if reports.len() == NAMELESS {
            return false;
        }
        let report = Reject::Object(invalid, false);
        if !reports.contains(&report) {
            reports.push(report);
        }
        let standing = reports.len();
        self.reports.set(None, reports, standing)
    }

    /// Deletes an object.
    pub(super) fn delete(&mut self, read: Read) {
        if let Some(name) = read.name {
            self.forget(ObjectId { kind: self.kind, name });
        }
    }

    fn forget(&mut self, object: ObjectId) {
        if let Some(known) = self.ledger.delete(&object) {
            self.capacity.count(&object.name.namespace, known.memory, 0);
        }
        self.omitted.remove(&object.name);
        self.reports.clear(Some(object));
    }
}

#[cfg(test)]
mod tests;
