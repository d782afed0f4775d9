//! What is known of the objects of one kind, and what of it was not handed on yet.
//!
//! Objects themselves are not kept: a name and a hash are enough to tell what changed and what is gone
//! when a list comes anew.

use std::collections::{BTreeMap, HashMap};

use svclb_core::model::{ObjectName, Update, Withheld};

use super::object::Read;
use crate::source::convert::{Invalid, Kind, ObjectId, Skipped};

/// How many rejects without a name are kept, and told.
const NAMELESS: usize = 16;

/// One kind's objects.
#[derive(Debug)]
pub(super) struct Held {
    kind: Kind,
    known: HashMap<ObjectName, Known>,
    /// Number of the list that is or was read.
    round: u32,
    /// What the list that is being read holds and was not known; `None` between lists.
    list: Option<Vec<Read>>,
    /// A list was read to its end.
    synced: bool,
    /// Rejects that stand.
    rejects: BTreeMap<ObjectName, Rejected>,
    /// Those of objects that nobody can name: each is there until a list is without it.
    nameless: Vec<Invalid>,
    /// Of objects of which something was left out.
    skipped: HashMap<ObjectName, Skipped>,
    news: News,
}

/// A reject that stands.
#[derive(Debug)]
struct Rejected {
    invalid: Invalid,
    /// The object was accepted before, and what it said then stays.
    accepted: bool,
}

/// What was not handed on yet.
#[derive(Debug, Default)]
pub(super) struct News {
    /// One for each object that changed, however often it did.
    pub(super) updates: HashMap<ObjectName, Update>,
    /// Rejected since.
    pub(super) rejects: Vec<Invalid>,
    /// Rejects stand, or stood, that are not in the above.
    pub(super) cleared: bool,
}

/// What is known of an object.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Of its text.
    hash: u64,
    /// The last list that it was in.
    round: u32,
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

impl News {
    /// Whether there is nothing to hand on.
    pub(super) fn is_empty(&self) -> bool {
        self.updates.is_empty() && self.rejects.is_empty() && !self.cleared
    }
}

impl Held {
    /// Nothing yet.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            known: HashMap::new(),
            round: 0,
            list: None,
            synced: false,
            rejects: BTreeMap::new(),
            nameless: Vec::new(),
            skipped: HashMap::new(),
            news: News::default(),
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

    /// Adds the Services of which something is rejected that was never accepted.
    pub(super) fn withheld(&self, withheld: &mut Withheld) {
        let new = self.rejects.values().filter(|rejected| !rejected.accepted);
        withheld.objects.extend(new.filter_map(|rejected| rejected.invalid.part_of()).cloned());
        withheld.unknown |= self.kind != Kind::Node && !self.nameless.is_empty();
    }

    /// What is left out on purpose.
    pub(super) fn skipped(&self) -> Skipped {
        let mut all = Skipped::default();
        self.skipped.values().for_each(|skipped| all.add(skipped));
        all
    }

    /// Whether there is news.
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Hands on what there is.
    pub(super) fn take(&mut self) -> News {
        std::mem::take(&mut self.news)
    }

    /// A list begins. One that was not read to its end never was.
    pub(super) fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.list = Some(Vec::new());
    }

    /// An object of the list.
    pub(super) fn listed(&mut self, read: Read) {
        let round = self.round;
        let known = read.name.as_ref().and_then(|name| self.known.get_mut(name));
        match known.filter(|known| known.hash == read.hash) {
            Some(known) => known.round = round,
            None => match &mut self.list {
                Some(list) => list.push(read),
                None => drop(self.apply(read)),
            },
        }
    }

    /// The list ends: what is not in it is gone.
    pub(super) fn done(&mut self) -> Listed {
        self.synced = true;
        let mut listed = Listed::default();
        let list = self.list.take().unwrap_or_default();
        let before = self.nameless.len();
        self.nameless.retain(|invalid| {
            list.iter().any(|read| read.name.is_none() && read.said.as_ref().err() == Some(invalid))
        });
        let gone = before - self.nameless.len();
        listed.gone += gone;
        self.news.cleared |= gone > 0;
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
        let Read { name, hash, said } = read;
        let Some(name) = name else { return said.is_err_and(|invalid| self.nameless(invalid)) };
        let known = Known { hash, round: self.round };
        let before = self.known.insert(name.clone(), known);
        if before.is_some_and(|before| before.hash == hash) {
            return false;
        }
        match said {
            Ok((update, skipped)) => {
                self.news.cleared |= self.rejects.remove(&name).is_some();
                if skipped == Skipped::default() {
                    self.skipped.remove(&name);
                } else {
                    self.skipped.insert(name.clone(), skipped);
                }
                self.news.updates.insert(name, update);
            }
            Err(invalid) => {
                let rejected = self.rejects.get(&name);
                let is_told = rejected.is_some_and(|rejected| rejected.invalid == invalid);
                let accepted = rejected.map_or(before.is_some(), |rejected| rejected.accepted);
                if !is_told {
                    self.news.rejects.push(invalid.clone());
                }
                self.rejects.insert(name, Rejected { invalid, accepted });
            }
        }
        true
    }

    /// An object that nobody can name. True when it was not there before.
    fn nameless(&mut self, invalid: Invalid) -> bool {
        let new = self.nameless.len() < NAMELESS && !self.nameless.contains(&invalid);
        if new {
            self.nameless.push(invalid.clone());
            self.news.rejects.push(invalid);
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
        self.known.remove(&name);
        self.skipped.remove(&name);
        self.news.cleared |= self.rejects.remove(&name).is_some();
        let gone = ObjectId { kind: self.kind, name: name.clone() }.gone();
        self.news.updates.insert(name, gone);
    }
}

#[cfg(test)]
mod tests {
    use svclb_core::model::Service;

    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName::new("default", name)
    }

    /// An object in a state of this number.
    fn read(object: &str, state: u64) -> Read {
        let service = Service { created: i64::try_from(state).ok(), ..Service::default() };
        let update = Update::Service(name(object), Some(service));
        Read { name: Some(name(object)), hash: state, said: Ok((update, Skipped::default())) }
    }

    fn bad(object: &str, state: u64) -> Read {
        let invalid = Invalid {
            object: Some(ObjectId { kind: Kind::Service, name: name(object) }),
            service: None,
            field: "spec".to_owned(),
            at: String::new(),
            problem: format!("state {state}"),
        };
        Read { name: Some(name(object)), hash: state, said: Err(invalid) }
    }

    /// What is told: each object with its state, or that it is gone.
    fn told(held: &mut Held) -> Vec<(String, Option<i64>)> {
        let mut told: Vec<_> = held
            .take()
            .updates
            .into_values()
            .map(|update| match update {
                Update::Service(name, service) => {
                    (name.name.to_string(), service.and_then(|service| service.created))
                }
                other => panic!("{other:?}"),
            })
            .collect();
        told.sort();
        told
    }

    fn of(told: &[(&str, Option<i64>)]) -> Vec<(String, Option<i64>)> {
        told.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect()
    }

    fn list(held: &mut Held, objects: Vec<Read>) -> Listed {
        held.begin();
        objects.into_iter().for_each(|object| held.listed(object));
        held.done()
    }

    #[test]
    fn a_list_is_told_when_it_is_at_its_end_and_not_before() {
        let mut held = Held::new(Kind::Service);
        held.begin();
        held.listed(read("a", 1));
        assert!(!held.has_news() && !held.synced());
        held.done();
        assert!(held.synced());
        assert_eq!(told(&mut held), of(&[("a", Some(1))]));
    }

    #[test]
    fn a_list_that_comes_anew_tells_what_changed_and_what_is_gone() {
        let mut held = Held::new(Kind::Service);
        list(&mut held, vec![read("stays", 1), read("changes", 2), read("goes", 3)]);
        told(&mut held);
        let listed = list(&mut held, vec![read("stays", 1), read("changes", 4), read("comes", 5)]);
        assert_eq!(listed, Listed { objects: 3, changed: 2, gone: 1 });
        let expected = [("changes", Some(4)), ("comes", Some(5)), ("goes", None)];
        assert_eq!(told(&mut held), of(&expected));
        list(&mut held, vec![read("stays", 1), read("changes", 4), read("comes", 5)]);
        assert!(!held.has_news());
    }

    #[test]
    fn a_list_that_broke_off_never_was() {
        let mut held = Held::new(Kind::Service);
        list(&mut held, vec![read("a", 1), read("b", 1)]);
        told(&mut held);
        held.begin();
        held.listed(read("a", 2));
        held.listed(read("b", 1));
        assert!(!held.has_news());
        list(&mut held, vec![read("a", 2)]);
        assert_eq!(told(&mut held), of(&[("a", Some(2)), ("b", None)]));
    }

    #[test]
    fn of_what_was_not_handed_on_the_latest_state_counts() {
        let mut held = Held::new(Kind::Service);
        list(&mut held, vec![read("a", 1)]);
        for state in 2..100 {
            held.apply(read("a", state));
        }
        assert_eq!(told(&mut held), of(&[("a", Some(99))]));
        held.apply(read("a", 100));
        held.delete(read("a", 101));
        assert_eq!(told(&mut held), of(&[("a", None)]));
    }

    #[test]
    fn a_rejected_object_is_told_once_and_its_state_stays_also_through_a_list() {
        let mut held = Held::new(Kind::Service);
        list(&mut held, vec![read("a", 1)]);
        told(&mut held);
        held.apply(bad("a", 2));
        let news = held.take();
        assert_eq!((news.updates.len(), news.rejects.len(), held.standing()), (0, 1, 1));
        let listed = list(&mut held, vec![bad("a", 2)]);
        assert_eq!((listed.changed, listed.gone, held.has_news()), (0, 0, false));
        // It is bad in another way.
        held.apply(bad("a", 3));
        assert_eq!(held.take().rejects.len(), 1);
        // And well again.
        held.apply(read("a", 4));
        assert_eq!(held.standing(), 0);
        assert_eq!(told(&mut held), of(&[("a", Some(4))]));
    }

    #[test]
    fn a_rejected_object_that_goes_takes_its_state_along() {
        let mut held = Held::new(Kind::Service);
        list(&mut held, vec![read("a", 1)]);
        told(&mut held);
        held.apply(bad("a", 2));
        held.take();
        held.delete(bad("a", 3));
        assert_eq!(told(&mut held), of(&[("a", None)]));
        assert_eq!(held.standing(), 0);
    }

    #[test]
    fn a_service_is_withheld_while_a_part_of_it_is_rejected_that_was_never_accepted() {
        let mut held = Held::new(Kind::Service);
        let withheld = |held: &Held| {
            let mut withheld = Withheld::default();
            held.withheld(&mut withheld);
            let names = withheld.objects.iter().map(|it| it.name.to_string()).collect::<Vec<_>>();
            (names.join(" "), withheld.unknown)
        };
        let rubbish = Read { name: None, ..bad("x", 1) };
        list(&mut held, vec![bad("a", 1), read("b", 1), bad("c", 1), rubbish]);
        assert_eq!(withheld(&held), ("a c".to_owned(), true));
        // Bad in another way; one that was accepted; and one that goes.
        held.apply(bad("a", 2));
        held.apply(bad("b", 2));
        held.apply(bad("b", 3));
        held.delete(bad("c", 2));
        assert_eq!(withheld(&held), ("a".to_owned(), true));
        list(&mut held, vec![bad("a", 2), bad("b", 3)]);
        assert_eq!(withheld(&held), ("a".to_owned(), false));
        held.apply(read("a", 4));
        assert_eq!(withheld(&held), (String::new(), false));
        held.apply(bad("a", 5));
        assert_eq!(withheld(&held), (String::new(), false));
    }

    #[test]
    fn an_object_that_nobody_can_name_is_told_once_and_goes_with_a_list_without_it() {
        let mut held = Held::new(Kind::Service);
        let rubbish = |state| Read { name: None, ..bad("x", state) };
        list(&mut held, vec![rubbish(1), rubbish(2)]);
        assert_eq!((held.take().rejects.len(), held.standing()), (2, 2));
        held.apply(rubbish(1));
        let listed = list(&mut held, vec![rubbish(2), rubbish(1)]);
        assert_eq!(listed, Listed::default());
        assert!(!held.has_news());
        let listed = list(&mut held, vec![rubbish(2)]);
        assert_eq!(listed.gone, 1);
        // That there is one less to tell of is news.
        assert!(held.has_news());
        assert_eq!((held.take().rejects.len(), held.standing()), (0, 1));
        held.begin();
        (3..10_000).for_each(|state| held.listed(rubbish(state)));
        held.done();
        assert_eq!((held.take().rejects.len(), held.standing()), (NAMELESS, NAMELESS));
    }

    #[test]
    fn what_is_left_out_is_counted_while_its_object_is_there() {
        let mut held = Held::new(Kind::Service);
        let sctp = |state| {
            let mut read = read("a", state);
            if let Ok((_, skipped)) = &mut read.said {
                skipped.sctp_ports = 2;
            }
            read
        };
        list(&mut held, vec![sctp(1)]);
        held.apply(sctp(2));
        assert_eq!(held.skipped().sctp_ports, 2);
        held.apply(read("a", 3));
        assert_eq!(held.skipped(), Skipped::default());
        held.apply(sctp(4));
        held.delete(sctp(5));
        assert_eq!(held.skipped(), Skipped::default());
    }
}
