//! The order in which objects are visited, and the progress of large ones. Objects take turns: one that was
//! visited goes behind all others. A large object is visited part by part and takes turns with the other large
//! ones, and every second part is for the small ones: however many large objects change all the time, a small
//! one waits for one part of theirs.
//!
//! Invariant: each object with a turn is in `order` or in `large`, once.

use std::collections::{HashMap, VecDeque};

use crate::model::ObjectName;

/// The beginning of the next part of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Position {
    /// At this port of its Service, counted from 0.
    Port(usize),
    /// Behind all its ports. So many of its services, in the order of their keys, are still to be checked for
    /// ports that are gone, the last ones first.
    Gone(usize),
}

/// An object's turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Turn {
    pub(super) from: Position,
    /// The object changed after its first part: once it is at its end it begins again.
    pub(super) has_changed: bool,
    /// It had its turn already, and no effort was left: it comes before all others.
    pub(super) is_put_off: bool,
    /// Digest of the ports of its Service when its first part was done, where `Place` depends on it.
    pub(super) ports: u64,
}

impl Turn {
    pub(super) const NEW: Self =
        Self { from: Position::Port(0), has_changed: false, is_put_off: false, ports: 0 };
}

/// The capacity for so many objects is kept when none is left.
const FEW: usize = 64;

/// All objects with a turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    order: VecDeque<ObjectName>,
    /// Objects that were found to need parts of their own.
    large: VecDeque<ObjectName>,
    of: HashMap<ObjectName, Turn>,
    /// The last part was one of a large object.
    was_large: bool,
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty() && self.large.is_empty()
    }

    pub(super) fn has(&self, object: &ObjectName) -> bool {
        self.of.contains_key(object)
    }

    /// Lets every object begin anew, all in one part.
    pub(super) fn restart(&mut self) {
        let large = std::mem::take(&mut self.large);
        large.into_iter().rev().for_each(|object| self.order.push_front(object));
        self.of.values_mut().for_each(|turn| *turn = Turn::NEW);
    }

    /// Lets an object that changed have a turn, behind all others unless it waits for one.
    pub(super) fn add(&mut self, object: ObjectName) {
        if let Some(turn) = self.of.get_mut(&object) {
            turn.has_changed = turn.from != Turn::NEW.from;
            return;
        }
        self.order.push_back(object.clone());
        self.of.insert(object, Turn::NEW);
    }

    /// Lets an object go on from there, behind all others. If it has been added meanwhile, it begins anew
    /// after that. One that waits to go on from another place keeps that, and begins anew after it, so
    /// that visits because of other objects do not delay it.
    pub(super) fn go_on(&mut self, object: ObjectName, turn: Turn) {
        if let Some(waiting) = self.of.get_mut(&object)
            && waiting.from != Turn::NEW.from
        {
            waiting.has_changed = true;
            return;
        }
        let is_added = self.of.contains_key(&object);
        let has_changed = turn.has_changed || is_added;
        if !is_added {
            self.order.push_back(object.clone());
        }
        self.of.insert(object, Turn { has_changed, is_put_off: false, ..turn });
    }

    /// Takes a turn back that was not used: the object is the first.
    pub(super) fn put_off(&mut self, object: ObjectName, turn: Turn) {
        self.order.push_front(object.clone());
        self.of.insert(object, Turn { is_put_off: true, ..turn });
    }

    /// All objects with a turn, in order.
    pub(super) fn objects(&self) -> impl Iterator<Item = &ObjectName> {
        self.large.iter().chain(&self.order)
    }

    /// The next object that is not known to be large.
    pub(super) fn first(&self) -> Option<&ObjectName> {
        self.order.front()
    }

    /// Takes the turn of the first that is not known to be large.
    pub(super) fn next(&mut self) -> Option<(ObjectName, Turn)> {
        let object = self.order.pop_front()?;
        self.was_large = false;
        self.take(object)
    }

    /// Takes the turn of a large object, if the last part was not one's.
    pub(super) fn next_large_if_due(&mut self) -> Option<(ObjectName, Turn)> {
        if self.was_large { None } else { self.next_large() }
    }

    /// Takes the turn of a large object.
    pub(super) fn next_large(&mut self) -> Option<(ObjectName, Turn)> {
        let object = self.large.pop_front()?;
        self.was_large = true;
        self.take(object)
    }

    /// Puts the first object among the large ones.
    pub(super) fn set_aside(&mut self) {
        self.large.extend(self.order.pop_front());
    }

    fn take(&mut self, object: ObjectName) -> Option<(ObjectName, Turn)> {
        let turn = self.of.remove(&object)?;
        if self.is_empty() && self.order.capacity() > FEW {
            // A change of all objects is rare.
            *self = Self { was_large: self.was_large, ..Self::default() };
        }
        Some((object, turn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName::new("default", name)
    }

    fn rest(mut turns: Turns) -> Vec<(String, Turn)> {
        std::iter::from_fn(|| turns.next()).map(|(it, turn)| (it.name.to_string(), turn)).collect()
    }

    #[test]
    fn objects_take_turns_and_one_that_changes_while_it_waits_keeps_its_place() {
        let mut turns = Turns::default();
        ["a", "b", "a", "c"].into_iter().for_each(|it| turns.add(name(it)));
        assert_eq!(turns.next(), Some((name("a"), Turn::NEW)));
        // It changes all the time: the others come first.
        turns.add(name("a"));
        let order: Vec<String> = rest(turns).into_iter().map(|(name, _)| name).collect();
        assert_eq!(order, ["b", "c", "a"]);
    }

    #[test]
    fn large_objects_take_turns_and_small_ones_come_between_them() {
        let mut turns = Turns::default();
        ["l", "m", "a"].into_iter().for_each(|it| turns.add(name(it)));
        turns.set_aside();
        turns.set_aside();
        let taken =
            |turn: Option<(ObjectName, Turn)>| turn.map(|(object, _)| object.name.to_string());
        assert_eq!(taken(turns.next_large_if_due()).unwrap(), "l");
        turns.go_on(name("l"), Turn { from: Position::Port(1), ..Turn::NEW });
        assert_eq!(taken(turns.next_large_if_due()), None);
        assert_eq!(taken(turns.next()).unwrap(), "a");
        assert_eq!(taken(turns.next_large_if_due()).unwrap(), "m");
        assert!(turns.has(&name("l")) && !turns.is_empty());
        // A whole pass has no parts.
        turns.set_aside();
        turns.restart();
        assert_eq!(turns.next(), Some((name("l"), Turn::NEW)));
        assert!(turns.is_empty());
    }

    #[test]
    fn a_large_object_goes_on_where_it_was_and_begins_again_if_it_changed() {
        let mut turns = Turns::default();
        let part = |has_changed| Turn { from: Position::Port(7), has_changed, ..Turn::NEW };
        turns.go_on(name("a"), part(false));
        turns.add(name("b"));
        assert_eq!(rest(turns.clone())[0], ("a".to_owned(), part(false)));
        turns.add(name("a"));
        turns.add(name("b"));
        let (object, turn) = turns.next().unwrap();
        assert_eq!((object, turn), (name("a"), part(true)));
        turns.put_off(name("a"), turn);
        let first = Turn { is_put_off: true, ..part(true) };
        assert_eq!(rest(turns), [("a".to_owned(), first), ("b".to_owned(), Turn::NEW)]);
    }
}
