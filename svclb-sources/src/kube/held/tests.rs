//! The objects of one kind through lists, changes and rejects.

use svclb_core::budget::{Amount, Budget, Resource};
use svclb_core::model::Service;

use super::*;
use crate::convert::{Ignored, LeftOut, Uid};

fn held(kind: Kind) -> Held {
    Held::new(kind, Capacity::new(&Budget::of_agent()))
}

fn accepted(update: Update, uid: Option<Uid>) -> Accepted {
    Accepted { update, uid, left_out: LeftOut::default() }
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

/// An object in a state of this number.
fn read(object: &str, state: u64) -> Read {
    let service = Service { created: i64::try_from(state).ok(), ..Service::default() };
    let update = Update::Service(name(object), Some(service));
    Read { name: Some(name(object)), hash: state, said: Ok(accepted(update, None)) }
}

fn bad(object: &str, state: u64) -> Read {
    let invalid = Invalid {
        object: Some(ObjectId { kind: Kind::Service, name: name(object) }),
        service: None,
        uid: None,
        field: "spec".to_owned(),
        at: Box::default(),
        problem: format!("state {state}"),
    };
    Read { name: Some(name(object)), hash: state, said: Err(invalid) }
}

/// The changes: each object with its state, or `None` when it is gone.
fn changes(held: &mut Held) -> Vec<(String, Option<i64>)> {
    let mut changes: Vec<_> = held
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
    changes.sort();
    changes
}

fn expected(changes: &[(&str, Option<i64>)]) -> Vec<(String, Option<i64>)> {
    changes.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect()
}

fn list(held: &mut Held, objects: Vec<Read>) -> Listed {
    held.begin();
    objects.into_iter().for_each(|object| held.listed(object));
    held.done()
}

#[test]
fn list_is_handed_on_at_its_end_and_not_before() {
    let mut held = held(Kind::Service);
    held.begin();
    held.listed(read("a", 1));
    assert!(!held.has_news() && !held.synced());
    held.done();
    assert!(held.synced());
    assert_eq!(changes(&mut held), expected(&[("a", Some(1))]));
}

#[test]
fn a_list_that_comes_anew_tells_what_changed_and_what_is_gone() {
    let mut held = held(Kind::Service);
    list(&mut held, vec![read("stays", 1), read("changes", 2), read("goes", 3)]);
    changes(&mut held);
    let listed = list(&mut held, vec![read("stays", 1), read("changes", 4), read("comes", 5)]);
    assert_eq!(listed, Listed { objects: 3, changed: 2, gone: 1 });
    let all = [("changes", Some(4)), ("comes", Some(5)), ("goes", None)];
    assert_eq!(changes(&mut held), expected(&all));
    list(&mut held, vec![read("stays", 1), read("changes", 4), read("comes", 5)]);
    assert!(!held.has_news());
}

#[test]
fn a_list_that_broke_off_never_was() {
    let mut held = held(Kind::Service);
    list(&mut held, vec![read("a", 1), read("b", 1)]);
    changes(&mut held);
    held.begin();
    held.listed(read("a", 2));
    held.listed(read("b", 1));
    assert!(!held.has_news());
    list(&mut held, vec![read("a", 2)]);
    assert_eq!(changes(&mut held), expected(&[("a", Some(2)), ("b", None)]));
}

#[test]
fn latest_state_that_was_not_handed_on_counts() {
    let mut held = held(Kind::Service);
    list(&mut held, vec![read("a", 1)]);
    for state in 2..100 {
        held.apply(read("a", state));
    }
    assert_eq!(changes(&mut held), expected(&[("a", Some(99))]));
    held.apply(read("a", 100));
    held.delete(read("a", 101));
    assert_eq!(changes(&mut held), expected(&[("a", None)]));
}

#[test]
fn rejected_object_is_reported_once_and_keeps_its_state_through_a_list() {
    let mut held = held(Kind::Service);
    list(&mut held, vec![read("a", 1)]);
    changes(&mut held);
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
    assert_eq!(changes(&mut held), expected(&[("a", Some(4))]));
}

#[test]
fn what_is_rejected_is_unread_until_it_is_well_or_gone() {
    let mut held = held(Kind::Service);
    let unread = |held: &Held| {
        let mut unread = Unread::default();
        held.unread(&mut unread);
        assert!(unread.slices.is_empty());
        let names = unread.services.iter().map(|it| it.name.to_string()).collect::<Vec<_>>();
        (names.join(" "), unread.unknown)
    };
    let nameless = Read { name: None, ..bad("x", 1) };
    list(&mut held, vec![bad("a", 1), read("b", 1), bad("c", 1), nameless]);
    assert_eq!(unread(&held), ("a c".to_owned(), true));
    // Bad in another way; one that was accepted; and one that goes.
    held.apply(bad("a", 2));
    held.apply(bad("b", 2));
    held.delete(bad("c", 2));
    assert_eq!(unread(&held), ("a b".to_owned(), true));
    list(&mut held, vec![bad("a", 2), bad("b", 2)]);
    assert_eq!(unread(&held), ("a b".to_owned(), false));
    held.apply(read("a", 4));
    held.apply(read("b", 4));
    assert_eq!(unread(&held), (String::new(), false));
}

/// The same object of another uid.
fn of(uid: &str, mut read: Read) -> Read {
    match &mut read.said {
        Ok(accepted) => accepted.uid = Some(Uid::of(uid)),
        Err(invalid) => invalid.uid = Some(Uid::of(uid)),
    }
    read
}

#[test]
fn an_object_of_another_uid_that_is_rejected_keeps_nothing_of_the_one_before() {
    // By another list, and by a watch.
    for by_list in [true, false] {
        for kind in [Kind::Service, Kind::EndpointSlice] {
            let mut held = held(kind);
            list(&mut held, vec![of("1", read("a", 1)), of("1", read("b", 1))]);
            held.take();
            if by_list {
                list(&mut held, vec![of("2", bad("a", 2)), of("1", bad("b", 2))]);
            } else {
                held.apply(of("2", bad("a", 2)));
                held.apply(of("1", bad("b", 2)));
            }
            let news = held.take();
            let gone = ObjectId { kind, name: name("a") }.gone();
            assert_eq!(news.updates.into_values().collect::<Vec<_>>(), [gone], "{kind:?}");
            assert_eq!((news.rejects.len(), held.standing()), (2, 2));
            // It is rejected again: nothing is left that could go.
            held.apply(of("2", bad("a", 3)));
            assert_eq!(held.take().updates.len(), 0);
        }
    }
}

#[test]
fn rejects_that_are_not_handed_on_are_kept_once_for_each_object() {
    let mut held = held(Kind::Service);
    list(&mut held, vec![read("a", 1), read("b", 1)]);
    held.take();
    for state in 2..10_000 {
        held.apply(bad("a", state));
        held.apply(if state % 2 == 0 { bad("b", state) } else { read("b", state) });
    }
    let news = held.take();
    let Reject::Object(last) = &news.rejects[0] else { panic!("{news:?}") };
    assert_eq!((news.rejects.len(), &*last.problem), (1, "state 9999"));
    assert_eq!(changes(&mut held), []);
}

#[test]
fn ignored_parts_are_reported_once_and_again_when_they_are_others() {
    let mut held = held(Kind::Service);
    let parts = |state, field: &str| {
        let mut read = read("a", state);
        if let Ok(accepted) = &mut read.said {
            let ignored = Ignored { field: field.to_owned(), problem: "x".to_owned(), more: 0 };
            accepted.left_out.ignored = Some(Box::new(ignored));
        }
        read
    };
    let rows = [(1, "f", 1), (2, "f", 0), (3, "g", 1), (4, "g", 0)];
    for (state, field, expected) in rows {
        held.apply(parts(state, field));
        let news = held.take();
        assert_eq!((news.rejects.len(), held.standing()), (expected, 0), "{state}");
    }
}

#[test]
fn object_without_a_name_is_reported_once_and_goes_with_a_list_without_it() {
    let mut held = held(Kind::Service);
    let nameless = |state| Read { name: None, ..bad("x", state) };
    list(&mut held, vec![nameless(1), nameless(2)]);
    assert_eq!((held.take().rejects.len(), held.standing()), (2, 2));
    held.apply(nameless(1));
    let listed = list(&mut held, vec![nameless(2), nameless(1)]);
    assert_eq!(listed, Listed::default());
    assert!(!held.has_news());
    let listed = list(&mut held, vec![nameless(2)]);
    assert_eq!(listed.gone, 1);
    // One reject less is a change.
    assert!(held.has_news());
    assert_eq!((held.take().rejects.len(), held.standing()), (0, 1));
    held.begin();
    (3..10_000).for_each(|state| held.listed(nameless(state)));
    held.done();
    assert_eq!((held.take().rejects.len(), held.standing()), (NAMELESS, NAMELESS));
}

/// Many addresses in a state of this number.
fn large(object: &str, state: u64, addresses: u8) -> Read {
    let mut read = read(object, state);
    if let Ok(Accepted { update: Update::Service(_, Some(service)), .. }) = &mut read.said {
        service.external_ips = (0..addresses).map(|last| [10, 0, 0, last].into()).collect();
    }
    read
}

/// The objects that are handed on with their contents, and those without.
fn contents(held: &mut Held) -> (Vec<String>, Vec<String>) {
    let updates = held.take().updates.into_values();
    let mut all: Vec<_> = updates
        .filter_map(|update| match update {
            Update::Service(name, Some(service)) => {
                let is_omitted = service.omitted.is_some();
                assert_eq!(is_omitted, service.external_ips.is_empty());
                assert!(service.created.is_some());
                Some((name.name.to_string(), is_omitted))
            }
            _ => None,
        })
        .collect();
    all.sort();
    let (omitted, whole): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, omitted)| *omitted);
    [whole, omitted].map(|names| names.into_iter().map(|(name, _)| name).collect()).into()
}

#[test]
fn objects_beyond_the_memory_of_their_namespace_are_handed_on_without_contents() {
    let memory = Amount::default().with(Resource::Memory, 15_000);
    let budget = Budget { namespace: memory.percent(50), cluster: memory, ..Budget::UNLIMITED };
    let capacity = Capacity::new(&budget);
    let mut held = Held::new(Kind::Service, capacity.clone());
    let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    // Each takes some 2 KB, and the namespace may have 10 KB.
    list(&mut held, ["a", "b", "c", "d", "e", "f"].map(|name| large(name, 1, 100)).into());
    assert_eq!(contents(&mut held), (names("a b c d e"), names("f")));
    assert!(held.omits() && !held.has_room());
    // An object that does not grow stays; one that grows loses its contents, and is no longer counted.
    held.apply(large("a", 2, 100));
    held.apply(large("b", 2, 250));
    assert_eq!(contents(&mut held), (names("a"), names("b")));
    assert!(held.has_room(), "the memory of b is free for f");
    // The same list: what was omitted is looked at again, and nothing else.
    list(
        &mut held,
        ["a", "b", "c", "d", "e", "f"]
            .map(|name| match name {
                "a" => large(name, 2, 100),
                "b" => large(name, 2, 250),
                _ => large(name, 1, 100),
            })
            .into(),
    );
    assert_eq!(contents(&mut held), (names("f"), names("")));
    // A list that breaks off counts no more.
    held.begin();
    ["x", "y"].into_iter().for_each(|name| held.listed(large(name, 1, 10)));
    held.listed(large("z", 1, 200));
    held.begin();
    assert_eq!(held.done().gone, 6);
    list(&mut held, ["a", "b", "c", "d", "e", "f"].map(|name| large(name, 1, 100)).into());
    assert_eq!(contents(&mut held), (names("a b c d e"), names("f")));
    held.apply(bad("f", 3));
    // Objects that go, are rejected or created again under another uid leave nothing behind.
    held.apply(bad("b", 3));
    assert!(!held.omits());
    held.apply(of("2", large("c", 3, 100)));
    held.apply(of("3", large("c", 4, 100)));
    ["a", "b", "c", "d", "e", "f"].into_iter().for_each(|name| held.delete(read(name, 9)));
    assert_eq!(capacity.check("default", 0, 9_999), Ok(()));
    assert!(capacity.check("default", 0, 10_001).is_err());
}
