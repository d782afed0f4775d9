//! What is known of the objects of one kind, and what of it was not handed on yet.
//!
//! Objects themselves are not kept: a name and a hash are enough to tell what changed and what is gone
//! when a list comes anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use svclb_core::model::{ObjectName, Unread, Update};

use super::capacity::Capacity;
use super::object::Read;
use crate::batch::Reject;
use crate::convert::{Accepted, Invalid, Kind, LeftOut, ObjectId, Skipped, Uid};

/// How many rejects without a name are kept, and told.
const NAMELESS: usize = 16;

/// One kind's objects.
#[derive(Debug)]
pub(super) struct Held {
    kind: Kind,
    known: HashMap<ObjectName, Known>,
    /// The memory of objects, with those of other kinds.
    capacity: Capacity,
    /// Objects of which nothing but the name is kept, and the bytes that they need.
    omitted: HashMap<ObjectName, usize>,
    /// Number of the list that is or was read.
    round: u32,
    /// What the list that is being read holds and was not known; `None` between lists.
    list: Option<Vec<Read>>,
    /// A list was read to its end.
    synced: bool,
    /// Rejects that stand.
    rejects: BTreeMap<ObjectName, Invalid>,
    /// Those of objects that nobody can name: each is there until a list is without it.
    nameless: Vec<Invalid>,
    /// Of objects of which something was left out.
    left_out: HashMap<ObjectName, LeftOut>,
    /// One for each object that changed, however often it did.
    updates: HashMap<ObjectName, Update>,
    /// Objects that were rejected, or of which parts are ignored, since they were handed on: each once,
    /// however often it changes while other kinds cannot be listed.
    fresh: BTreeSet<ObjectName>,
    /// The same of those in `nameless`, by how many at its end were not handed on.
    fresh_nameless: usize,
    /// Rejects stood that stand no more.
    cleared: bool,
}

/// What is handed on.
#[derive(Debug, Default)]
pub(super) struct News {
    /// One for each object that changed.
    pub(super) updates: HashMap<ObjectName, Update>,
    /// Rejected since, or parts of it ignored.
    pub(super) rejects: Vec<Reject>,
}

/// What is known of an object.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Of its text.
    hash: u64,
    /// Which of all objects of its name it is.
    uid: Option<Uid>,
    /// The last list that it was in.
    round: u32,
    /// Bytes that it counts with.
    memory: usize,
}

/// What a list that came anew changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Listed {
    /// Objects that are in it.
    pub(super) objects: usize,
    /// Of them, new ones and those that say something else now.
    pub(super) changed: usize,
    /// Objects that were known and are not in it.
    pub(super) gone: usize,
}

impl Held {
    /// Nothing yet.
    pub(super) fn new(kind: Kind, capacity: Capacity) -> Self {
        Self {
            kind,
            known: HashMap::new(),
            capacity,
            omitted: HashMap::new(),
            round: 0,
            list: None,
            synced: false,
            rejects: BTreeMap::new(),
            nameless: Vec::new(),
            left_out: HashMap::new(),
            updates: HashMap::new(),
            fresh: BTreeSet::new(),
            fresh_nameless: 0,
            cleared: false,
        }
    }

    /// Whether all objects were seen once.
    pub(super) const fn synced(&self) -> bool {
        self.synced
    }

    /// How many objects there are.
    pub(super) fn count(&self) -> usize {
        self.known.len()
    }

    /// How many rejects stand.
    pub(super) fn standing(&self) -> usize {
        self.rejects.len() + self.nameless.len()
    }

    /// Adds what is rejected now.
    pub(super) fn unread(&self, unread: &mut Unread) {
        match self.kind {
            Kind::Service => unread.services.extend(self.rejects.keys().cloned()),
            Kind::EndpointSlice => {
                let services = self.rejects.values().filter_map(Invalid::part_of);
                unread.slices.extend(services.cloned());
            }
            Kind::Node => return,
        }
        unread.unknown |= !self.nameless.is_empty();
    }

    /// What is left out on purpose.
    pub(super) fn skipped(&self) -> Skipped {
        let mut all = Skipped::default();
        self.left_out.values().for_each(|left_out| all.add(&left_out.counts));
        all
    }

    /// Whether there are objects of which nothing but the name is kept.
    pub(super) fn omits(&self) -> bool {
        !self.omitted.is_empty()
    }

    /// Whether there is room now for an object of which nothing but the name is kept.
    pub(super) fn has_room(&self) -> bool {
        let mut omitted = self.omitted.iter();
        omitted.any(|(name, needs)| self.capacity.check(&name.namespace, 0, *needs).is_ok())
    }

    /// Whether there is news.
    pub(super) fn has_news(&self) -> bool {
        let fresh = !self.fresh.is_empty() || self.fresh_nameless > 0;
        !self.updates.is_empty() || fresh || self.cleared
    }

    /// Hands on what there is.
    pub(super) fn take(&mut self) -> News {
        self.cleared = false;
        let nameless = self.nameless.len() - std::mem::take(&mut self.fresh_nameless);
        let nameless = self.nameless[nameless..].iter().cloned().map(Reject::Object);
        let named = std::mem::take(&mut self.fresh).into_iter().filter_map(|name| {
            if let Some(invalid) = self.rejects.get(&name) {
                return Some(Reject::Object(invalid.clone()));
            }
            let ignored = self.left_out.get(&name)?.ignored.clone()?;
            Some(Reject::Parts(ObjectId { kind: self.kind, name }, ignored))
        });
        let rejects = nameless.chain(named).collect();
        News { updates: std::mem::take(&mut self.updates), rejects }
    }

    /// A list begins. One that was not read to its end never was.
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.take_list();
        self.list = Some(Vec::new());
    }

    /// The objects of the list, which count no more beside those that are known.
    fn take_list(&mut self) -> Vec<Read> {
        let list = self.list.take().unwrap_or_default();
        let accepted = list.iter().filter_map(|read| read.said.as_ref().ok());
        accepted.for_each(|accepted| self.capacity.release(&accepted.update));
        list
    }

    /// An object of the list. Until its end, what is new in it counts beside what is known.
    pub(super) fn listed(&mut self, mut read: Read) {
        let round = self.round;
        let known = read.name.as_ref().and_then(|name| self.known.get_mut(name));
        let before = known.as_ref().map_or(0, |known| known.memory);
        let is_omitted = read.name.as_ref().is_some_and(|name| self.omitted.contains_key(name));
        match known.filter(|known| known.hash == read.hash && !is_omitted) {
            Some(known) => known.round = round,
            None => match &mut self.list {
                Some(list) => {
                    if let Ok(accepted) = &mut read.said {
                        self.capacity.reserve(&mut accepted.update, before);
                    }
                    list.push(read);
                }
                None => drop(self.apply(read)),
            },
        }
    }

    /// The list ends: what is not in it is gone.
    pub(super) fn done(&mut self) -> Listed {
        self.synced = true;
        let mut listed = Listed::default();
        let list = self.take_list();
        let before = self.nameless.len();
        self.nameless.retain(|invalid| {
            list.iter().any(|read| read.name.is_none() && read.said.as_ref().err() == Some(invalid))
        });
        self.fresh_nameless = self.fresh_nameless.min(self.nameless.len());
        let gone = before - self.nameless.len();
        listed.gone += gone;
        self.cleared |= gone > 0;
        for read in list {
            listed.changed += usize::from(self.apply(read));
        }
        let round = self.round;
        let gone = self.known.iter().filter(|(_, known)| known.round != round);
        for name in gone.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            listed.gone += 1;
            self.forget(name);
        }
        listed.objects = self.known.len();
        listed
    }

    /// An object that is new or changed. True when it says something else than before.
    pub(super) fn apply(&mut self, read: Read) -> bool {
        let uid = read.uid();
        let Read { name, hash, said } = read;
        let Some(name) = name else { return said.is_err_and(|invalid| self.nameless(invalid)) };
        let round = self.round;
        if let Some(known) = self.known.get_mut(&name).filter(|known| known.hash == hash)
            && !self.omitted.contains_key(&name)
        {
            (known.uid, known.round) = (uid, round);
            return false;
        }
        let mut before = self.known.get(&name).copied();
        if before.is_some_and(|before| Uid::differ(before.uid, uid)) {
            // It was deleted and made anew: what stood for the other of this name does not for this one.
            self.forget(name.clone());
            before = None;
        }
        let uid = uid.or_else(|| before.and_then(|before| before.uid));
        let memory = before.map_or(0, |before| before.memory);
        let known = self.known.entry(name.clone());
        let known = known.insert_entry(Known { hash, uid, round, memory }).into_mut();
        match said {
            Ok(Accepted { update, left_out, .. }) => {
                let mut update = update;
                let was_omitted = match self.capacity.take(&mut update, &mut known.memory) {
                    Some(needs) => self.omitted.insert(name.clone(), needs).is_some(),
                    None => {
                        self.omitted.remove(&name);
                        false
                    }
                };
                if was_omitted && before.is_some_and(|before| before.hash == hash) {
                    return false;
                }
                self.cleared |= self.rejects.remove(&name).is_some();
                let ignores = left_out.ignored.is_some();
                let before = match left_out == LeftOut::default() {
                    true => self.left_out.remove(&name),
                    false => self.left_out.insert(name.clone(), left_out),
                };
                let told = before.and_then(|before| before.ignored);
                if ignores && self.left_out.get(&name).is_some_and(|now| now.ignored != told) {
                    self.fresh.insert(name.clone());
                }
                self.updates.insert(name, update);
            }
            Err(invalid) => {
                if self.rejects.get(&name) != Some(&invalid) {
                    self.fresh.insert(name.clone());
                }
                self.omitted.remove(&name);
                self.rejects.insert(name, invalid);
            }
        }
        true
    }

    /// An object that nobody can name. True when it was not there before.
    fn nameless(&mut self, invalid: Invalid) -> bool {
        let new = self.nameless.len() < NAMELESS && !self.nameless.contains(&invalid);
        if new {
            self.nameless.push(invalid);
            self.fresh_nameless += 1;
        }
        new
    }

    /// An object that is gone.
    pub(super) fn delete(&mut self, read: Read) {
        if let Some(name) = read.name {
            self.forget(name);
        }
    }

    fn forget(&mut self, name: ObjectName) {
        if let Some(Known { memory, .. }) = self.known.remove(&name) {
            self.capacity.count(&name.namespace, memory, 0);
        }
        self.omitted.remove(&name);
        self.left_out.remove(&name);
        self.fresh.remove(&name);
        self.cleared |= self.rejects.remove(&name).is_some();
        let gone = ObjectId { kind: self.kind, name: name.clone() }.gone();
        self.updates.insert(name, gone);
    }
}

#[cfg(test)]
mod tests;
