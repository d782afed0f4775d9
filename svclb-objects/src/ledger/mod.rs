//! The record of a source: the objects that it accepted, rejected, retained or left out in part, and the
//! changes that it has yet to hand on. State that one source alone has is kept there: the rounds of a list,
//! the objects of each file.
//!
//! A rejected object keeps its previous state, unless it is another object of the same name (another
//! `metadata.uid`): then the state of the one before is deleted.

mod reports;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use svclb_core::model::{ObjectName, Unread, Update};

use crate::convert::{Kind, ObjectId, Skipped, Uid};
pub use reports::StandingReports;

/// An object that was rejected, as far as it is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Rejection {
    /// The Service that lacks a part now; `None` for a Node, and where it cannot be read.
    pub service: Option<ObjectName>,
    /// Distinguishes the object from others of its name, where it can be read.
    pub uid: Option<Uid>,
}

/// Returns the last part of a message about a rejected object, which has a state or none.
pub const fn until_corrected(has_state: bool) -> &'static str {
    match has_state {
        true => {
            "until this is corrected, its previous state stays, and gives way to every other claimant of \
             its frontends"
        }
        false => {
            "until this is corrected, it has no effect; only state that an earlier agent wrote stays"
        }
    }
}

/// Returns false for the update of an object that is deleted or not served, such as a headless Service.
pub const fn has_contents(update: &Update) -> bool {
    !matches!(update, Update::Service(_, None) | Update::Slice(_, None) | Update::Node(None))
}

/// The objects of one source. It keeps an `N` of each, such as a hash of its state, and not the object.
#[derive(Debug, Default)]
pub struct Ledger<N> {
    objects: HashMap<ObjectId, Account<N>>,
    /// The objects that are rejected now, with their Services.
    rejected: BTreeMap<ObjectId, Option<ObjectName>>,
    /// The objects of which something is left out.
    skipped: HashMap<ObjectId, Skipped>,
    /// The latest state of each object that changed since [`Ledger::take`].
    updates: HashMap<ObjectId, Update>,
}

#[derive(Debug, Default)]
struct Account<N> {
    uid: Option<Uid>,
    /// It was accepted with contents, and its state was not deleted since.
    has_state: bool,
    note: N,
}

impl<N: Default> Ledger<N> {
    /// Returns the number of objects.
    pub fn count(&self) -> usize {
        self.objects.len()
    }

    /// Returns each object with its note.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectId, &N)> {
        self.objects.iter().map(|(object, entry)| (object, &entry.note))
    }

    /// Returns the note of an object that is there.
    pub fn get(&self, object: &ObjectId) -> Option<&N> {
        self.objects.get(object).map(|entry| &entry.note)
    }

    /// As [`Ledger::get`], to change the note.
    pub fn get_mut(&mut self, object: &ObjectId) -> Option<&mut N> {
        self.objects.get_mut(object).map(|entry| &mut entry.note)
    }

    /// As [`Ledger::get_mut`]; adds an object that is not there.
    pub fn note(&mut self, object: &ObjectId) -> &mut N {
        &mut self.objects.entry(object.clone()).or_default().note
    }

    /// Records an object that was accepted in this state. Returns its note.
    pub fn accept(&mut self, object: &ObjectId, uid: Option<Uid>, update: Update) -> &mut N {
        self.rejected.remove(object);
        let entry = self.objects.entry(object.clone()).or_default();
        (entry.uid, entry.has_state) = (uid.or(entry.uid), has_contents(&update));
        self.updates.insert(object.clone(), update);
        &mut entry.note
    }

    /// Returns true when an object was accepted with contents, and its state was not deleted since.
    pub fn has_state(&self, object: &ObjectId) -> bool {
        self.objects.get(object).is_some_and(|entry| entry.has_state)
    }

    /// Records an object that was rejected. Returns the note of another object of this name, if there was
    /// one: its state is deleted.
    pub fn reject(&mut self, object: &ObjectId, rejection: Rejection) -> Option<N> {
        let before = self.objects.get(object).and_then(|entry| entry.uid);
        let is_another = Uid::differ(before, rejection.uid);
        let deleted = if is_another { self.delete(object) } else { None };
        self.rejected.insert(object.clone(), rejection.service);
        deleted
    }

    /// Records an object that was accepted in the state that it has already.
    pub fn confirm(&mut self, object: &ObjectId, uid: Option<Uid>) {
        self.rejected.remove(object);
        if let Some(entry) = self.objects.get_mut(object) {
            entry.uid = uid.or(entry.uid);
        }
    }

    /// Deletes an object, and its state if it is there.
    pub fn delete(&mut self, object: &ObjectId) -> Option<N> {
        self.rejected.remove(object);
        self.skipped.remove(object);
        let entry = self.objects.remove(object)?;
        self.updates.insert(object.clone(), object.gone());
        Some(entry.note)
    }

    /// Records what is left out of an object.
    pub fn skip(&mut self, object: &ObjectId, skipped: Skipped) {
        if skipped == Skipped::default() {
            self.skipped.remove(object);
        } else {
            self.skipped.insert(object.clone(), skipped);
        }
    }

    /// Returns what is left out of all objects.
    pub fn skipped(&self) -> Skipped {
        let mut all = Skipped::default();
        self.skipped.values().for_each(|skipped| all.add(*skipped));
        all
    }

    /// Adds the objects that are rejected now.
    pub fn unread(&self, unread: &mut Unread) {
        for (object, service) in &self.rejected {
            match (object.kind, service) {
                (Kind::Service, _) => drop(unread.services.insert(object.name.clone())),
                (Kind::EndpointSlice, Some(service)) => {
                    unread.slices.insert(service.clone());
                }
                _ => {}
            }
        }
    }

    /// Returns true when objects changed since [`Ledger::take`].
    pub fn has_changes(&self) -> bool {
        !self.updates.is_empty()
    }

    /// Takes the latest state of each object that changed.
    pub fn take(&mut self) -> HashMap<ObjectId, Update> {
        std::mem::take(&mut self.updates)
    }
}
