//! The objects of one kind through lists, changes and rejects.

use svclb_core::budget::{Amount, Budget, Resource};
use svclb_core::model::Service;

use super::*;
use crate::convert::{Ignored, LeftOut, Uid};

fn new_store(kind: Kind) -> Store {
    Store::new(kind, Capacity::new(&Budget::of_agent()))
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
    Read { name: Some(name(object)), hash: state, contents: Ok(accepted(update, None)) }
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
    Read { name: Some(name(object)), hash: state, contents: Err(invalid) }
}

/// An object whose name cannot be read.
fn nameless(state: u64) -> Read {
    let Read { hash, contents, .. } = bad("x", state);
    let contents = contents.map_err(|invalid| Invalid { object: None, ..invalid });
    Read { name: None, hash, contents }
}

/// The changes: each object with its state, or `None` when it is gone.
fn changes(store: &mut Store) -> Vec<(String, Option<i64>)> {
    let mut changes: Vec<_> = store
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

fn list(store: &mut Store, objects: Vec<Read>) -> ListSummary {
    store.begin();
    objects.into_iter().for_each(|object| store.listed(object));
    store.done()
}

#[test]
fn list_is_handed_on_at_its_end_and_not_before() {
    let mut store = new_store(Kind::Service);
    store.begin();
    store.listed(read("a", 1));
    assert!(!store.has_changes() && !store.synced());
    store.done();
    assert!(store.synced());
    assert_eq!(changes(&mut store), expected(&[("a", Some(1))]));
}

#[test]
fn later_list_hands_on_changed_and_deleted_objects() {
    let mut store = new_store(Kind::Service);
    list(&mut store, vec![read("stays", 1), read("changes", 2), read("goes", 3)]);
    changes(&mut store);
    let listed = list(&mut store, vec![read("stays", 1), read("changes", 4), read("comes", 5)]);
    assert_eq!(listed, ListSummary { objects: 3, changed: 2, gone: 1 });
    let all = [("changes", Some(4)), ("comes", Some(5)), ("goes", None)];
    assert_eq!(changes(&mut store), expected(&all));
    list(&mut store, vec![read("stays", 1), read("changes", 4), read("comes", 5)]);
    assert!(!store.has_changes());
}

#[test]
fn list_that_broke_off_has_no_effect() {
    let mut store = new_store(Kind::Service);
    list(&mut store, vec![read("a", 1), read("b", 1)]);
    changes(&mut store);
    store.begin();
    store.listed(read("a", 2));
    store.listed(read("b", 1));
    assert!(!store.has_changes());
    list(&mut store, vec![read("a", 2)]);
    assert_eq!(changes(&mut store), expected(&[("a", Some(2)), ("b", None)]));
}

#[test]
fn latest_state_that_was_not_handed_on_counts() {
    let mut store = new_store(Kind::Service);
    list(&mut store, vec![read("a", 1)]);
    for state in 2..100 {
        store.apply(read("a", state));
    }
    assert_eq!(changes(&mut store), expected(&[("a", Some(99))]));
    store.apply(read("a", 100));
    store.delete(read("a", 101));
    assert_eq!(changes(&mut store), expected(&[("a", None)]));
}

#[test]
fn rejected_object_is_reported_once_and_keeps_its_state_through_a_list() {
    let mut store = new_store(Kind::Service);
    list(&mut store, vec![read("a", 1)]);
    changes(&mut store);
    store.apply(bad("a", 2));
    let news = store.take();
    assert_eq!((news.updates.len(), news.rejects.len(), store.standing()), (0, 1, 1));
    let listed = list(&mut store, vec![bad("a", 2)]);
    assert_eq!((listed.changed, listed.gone, store.has_changes()), (0, 0, false));
    // It is bad in another way.
    store.apply(bad("a", 3));
    assert_eq!(store.take().rejects.len(), 1);
    // And well again.
    store.apply(read("a", 4));
    assert_eq!(store.standing(), 0);
    assert_eq!(changes(&mut store), expected(&[("a", Some(4))]));
}

#[test]
fn rejected_object_is_unread_until_it_is_accepted_or_deleted() {
    let mut store = new_store(Kind::Service);
    let unread = |store: &Store| {
        let mut unread = Unread::default();
        store.unread(&mut unread);
        assert!(unread.slices.is_empty());
        let names = unread.services.iter().map(|it| it.name.to_string()).collect::<Vec<_>>();
        (names.join(" "), unread.unknown)
    };
    let nameless = Read { name: None, ..bad("x", 1) };
    list(&mut store, vec![bad("a", 1), read("b", 1), bad("c", 1), nameless]);
    assert_eq!(unread(&store), ("a c".to_owned(), true));
    // Bad in another way; one that was accepted; and one that goes.
    store.apply(bad("a", 2));
    store.apply(bad("b", 2));
    store.delete(bad("c", 2));
    assert_eq!(unread(&store), ("a b".to_owned(), true));
    list(&mut store, vec![bad("a", 2), bad("b", 2)]);
    assert_eq!(unread(&store), ("a b".to_owned(), false));
    store.apply(read("a", 4));
    store.apply(read("b", 4));
    assert_eq!(unread(&store), (String::new(), false));
}

/// The same object of another uid.
fn of(uid: &str, mut read: Read) -> Read {
    match &mut read.contents {
        Ok(accepted) => accepted.uid = Some(Uid::of(uid)),
        Err(invalid) => invalid.uid = Some(Uid::of(uid)),
    }
    read
}

#[test]
fn rejected_object_of_another_uid_keeps_nothing_of_the_one_before() {
    // By another list, and by a watch.
    for by_list in [true, false] {
        for kind in [Kind::Service, Kind::EndpointSlice] {
            let mut store = new_store(kind);
            list(&mut store, vec![of("1", read("a", 1)), of("1", read("b", 1))]);
            store.take();
            if by_list {
                list(&mut store, vec![of("2", bad("a", 2)), of("1", bad("b", 2))]);
            } else {
                store.apply(of("2", bad("a", 2)));
                store.apply(of("1", bad("b", 2)));
            }
            let news = store.take();
            let gone = ObjectId { kind, name: name("a") }.gone();
            assert_eq!(news.updates.into_values().collect::<Vec<_>>(), [gone], "{kind:?}");
            assert_eq!((news.rejects.len(), store.standing()), (2, 2));
            // It is rejected again: nothing is left that could go.
            store.apply(of("2", bad("a", 3)));
            assert_eq!(store.take().updates.len(), 0);
        }
    }
}

#[test]
fn report_about_a_rejected_object_is_true_of_its_state() {
    let (stays, none) = ("its previous state stays", "it has no effect");
    let mut store = new_store(Kind::Service);
    list(&mut store, vec![of("1", read("a", 1)), bad("new", 1)]);
    let rows = [(bad("a", 2), stays), (of("2", bad("a", 3)), none), (bad("a", 4), none)];
    let first = store.take().rejects;
    assert!(first[0].to_string().contains(none), "never accepted: {first:?}");
    for (read, expected) in rows {
        store.apply(read);
        let rejects = store.take().rejects;
        assert!(rejects[0].to_string().contains(expected), "{expected}: {}", rejects[0]);
    }
    // It may be any object, and the next list is without its name.
    store.apply(nameless(5));
    let reject = store.take().rejects.remove(0).to_string();
    assert!(reject.contains("its previous state stays until all objects are listed"), "{reject}");
}

#[test]
fn rejects_that_are_not_handed_on_are_kept_once_for_each_object() {
    let mut store = new_store(Kind::Service);
    list(&mut store, vec![read("a", 1), read("b", 1)]);
    store.take();
    for state in 2..10_000 {
        store.apply(bad("a", state));
        store.apply(if state % 2 == 0 { bad("b", state) } else { read("b", state) });
    }
    let news = store.take();
    let Reject::Object(last, _) = &news.rejects[0] else { panic!("{news:?}") };
    assert_eq!((news.rejects.len(), &*last.problem), (1, "state 9999"));
    assert_eq!(changes(&mut store), []);
}

#[test]
fn ignored_parts_are_reported_once_and_again_when_they_are_others() {
    let mut store = new_store(Kind::Service);
    let parts = |state, field: &str| {
        let mut read = read("a", state);
        if let Ok(accepted) = &mut read.contents {
            let ignored = Ignored { field: field.to_owned(), problem: "x".to_owned(), more: 0 };
            accepted.left_out.ignored = Some(Box::new(ignored));
        }
        read
    };
    let rows = [(1, "f", 1), (2, "f", 0), (3, "g", 1), (4, "g", 0)];
    for (state, field, expected) in rows {
        store.apply(parts(state, field));
        let news = store.take();
        assert_eq!((news.rejects.len(), store.standing()), (expected, 0), "{state}");
    }
}

#[test]
fn object_without_a_name_is_reported_once_and_goes_with_a_list_without_it() {
    let mut store = new_store(Kind::Service);
    list(&mut store, vec![nameless(1), nameless(2)]);
    assert_eq!((store.take().rejects.len(), store.standing()), (2, 2));
    store.apply(nameless(1));
    let listed = list(&mut store, vec![nameless(2), nameless(1)]);
    assert_eq!(listed, ListSummary::default());
    assert!(!store.has_changes());
    let listed = list(&mut store, vec![nameless(2)]);
    assert_eq!(listed.gone, 1);
    // One reject less is a change.
    assert!(store.has_changes());
    assert_eq!((store.take().rejects.len(), store.standing()), (0, 1));
    store.begin();
    (3..10_000).for_each(|state| store.listed(nameless(state)));
    store.done();
    assert_eq!((store.take().rejects.len(), store.standing()), (NAMELESS, NAMELESS));
}

/// Many addresses in a state of this number.
fn large(object: &str, state: u64, addresses: u8) -> Read {
    let mut read = read(object, state);
    if let Ok(Accepted { update: Update::Service(_, Some(service)), .. }) = &mut read.contents {
        service.external_ips = (0..addresses).map(|last| [10, 0, 0, last].into()).collect();
    }
    read
}

/// The objects that are handed on with their contents, and those without.
fn contents(store: &mut Store) -> (Vec<String>, Vec<String>) {
    let updates = store.take().updates.into_values();
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
    let mut store = Store::new(Kind::Service, capacity.clone());
    let names = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    // Each takes some 2 KB, and the namespace may have 10 KB.
    list(&mut store, ["a", "b", "c", "d", "e", "f"].map(|name| large(name, 1, 100)).into());
    assert_eq!(contents(&mut store), (names("a b c d e"), names("f")));
    assert!(store.omits() && !store.has_capacity());
    // An object that does not grow stays; one that grows loses its contents, and is no longer counted.
    store.apply(large("a", 2, 100));
    store.apply(large("b", 2, 250));
    assert_eq!(contents(&mut store), (names("a"), names("b")));
    assert!(store.has_capacity(), "the memory of b is free for f");
    // The same list: what was omitted is looked at again, and nothing else.
    list(
        &mut store,
        ["a", "b", "c", "d", "e", "f"]
            .map(|name| match name {
                "a" => large(name, 2, 100),
                "b" => large(name, 2, 250),
                _ => large(name, 1, 100),
            })
            .into(),
    );
    assert_eq!(contents(&mut store), (names("f"), names("")));
    // A list that breaks off counts no more.
    store.begin();
    ["x", "y"].into_iter().for_each(|name| store.listed(large(name, 1, 10)));
    store.listed(large("z", 1, 200));
    store.begin();
    assert_eq!(store.done().gone, 6);
    list(&mut store, ["a", "b", "c", "d", "e", "f"].map(|name| large(name, 1, 100)).into());
    assert_eq!(contents(&mut store), (names("a b c d e"), names("f")));
    store.apply(bad("f", 3));
    // Objects that go, are rejected or created again under another uid leave nothing behind.
    store.apply(bad("b", 3));
    assert!(!store.omits());
    store.apply(of("2", large("c", 3, 100)));
    store.apply(of("3", large("c", 4, 100)));
    ["a", "b", "c", "d", "e", "f"].into_iter().for_each(|name| store.delete(read(name, 9)));
    assert_eq!(capacity.check("default", 0, 9_999), Ok(()));
    assert!(capacity.check("default", 0, 10_001).is_err());
}
