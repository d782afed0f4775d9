//! Objects and reports as a source records them.

use svclb_core::model::Service;

use super::*;

const SERVICE: Kind = Kind::Service;

fn object(kind: Kind, name: &str) -> ObjectId {
    ObjectId { kind, name: ObjectName::new("default", name) }
}

/// A Service in a state of this number.
fn update(name: &str, state: i64) -> Update {
    let service = Service { created: Some(state), ..Service::default() };
    Update::Service(ObjectName::new("default", name), Some(service))
}

fn of_uid(uid: &str) -> Rejection {
    Rejection { uid: Some(Uid::of(uid)), ..Rejection::default() }
}

fn taken(ledger: &mut Ledger<u32>) -> Vec<Update> {
    ledger.take().into_values().collect()
}

fn unread(ledger: &Ledger<u32>) -> Unread {
    let mut unread = Unread::default();
    ledger.unread(&mut unread);
    unread
}

#[test]
fn latest_state_of_each_changed_object_is_taken_once() {
    let mut ledger = Ledger::<u32>::default();
    let a = object(SERVICE, "a");
    (1..100).for_each(|state| *ledger.accept(&a, None, update("a", state)) = 7);
    assert_eq!(taken(&mut ledger), [update("a", 99)]);
    assert!(!ledger.has_changes());
    ledger.accept(&a, None, update("a", 100));
    assert_eq!((ledger.delete(&a), ledger.count()), (Some(7), 0));
    assert_eq!(taken(&mut ledger), [a.gone()]);
    assert_eq!(ledger.delete(&a), None);
    assert!(!ledger.has_changes(), "an object that is not there has no state to delete");
}

#[test]
fn rejected_object_keeps_its_state_until_it_is_deleted() {
    let mut ledger = Ledger::<u32>::default();
    let a = object(SERVICE, "a");
    ledger.accept(&a, None, update("a", 1));
    taken(&mut ledger);
    assert_eq!(ledger.reject(&a, Rejection::default()), None);
    assert!(!ledger.has_changes() && ledger.get(&a).is_some());
    ledger.delete(&a);
    assert_eq!(taken(&mut ledger), [a.gone()]);
    assert_eq!(unread(&ledger), Unread::default());
}

#[test]
fn object_that_is_not_served_has_no_state() {
    let mut ledger = Ledger::<u32>::default();
    let headless = object(SERVICE, "headless");
    ledger.accept(&headless, None, update("headless", 1));
    assert!(ledger.has_state(&headless));
    ledger.accept(&headless, None, headless.gone());
    ledger.reject(&headless, Rejection::default());
    assert!(!ledger.has_state(&headless));
}

#[test]
fn rejected_object_of_another_uid_deletes_the_state_of_the_one_before() {
    let mut ledger = Ledger::<u32>::default();
    let [a, b] = ["a", "b"].map(|name| object(SERVICE, name));
    for object in [&a, &b] {
        *ledger.accept(object, Some(Uid::of("1")), update(&object.name.name, 1)) = 7;
    }
    taken(&mut ledger);
    assert_eq!(ledger.reject(&a, of_uid("2")), Some(7));
    assert_eq!(ledger.reject(&b, of_uid("1")), None);
    assert_eq!(taken(&mut ledger), [a.gone()]);
    // Nothing is left to delete, and an object without a uid may be any of its name.
    assert_eq!(
        (ledger.reject(&a, of_uid("3")), ledger.reject(&b, Rejection::default())),
        (None, None)
    );
    assert!(!ledger.has_changes());
}

#[test]
fn accepted_object_of_another_uid_takes_the_place_of_a_rejected_one() {
    let mut ledger = Ledger::<u32>::default();
    let a = object(SERVICE, "a");
    ledger.accept(&a, Some(Uid::of("1")), update("a", 1));
    ledger.reject(&a, of_uid("1"));
    ledger.accept(&a, Some(Uid::of("2")), update("a", 3));
    assert_eq!(taken(&mut ledger), [update("a", 3)]);
    assert_eq!(unread(&ledger), Unread::default());
    assert_eq!(ledger.reject(&a, of_uid("2")), None, "its uid is that of the latest");
}

#[test]
fn rejected_objects_are_unread_until_they_are_accepted_or_deleted() {
    let mut ledger = Ledger::<u32>::default();
    let [a, b] = ["a", "b"].map(|name| object(SERVICE, name));
    let [slice, stray] = ["web-1", "x"].map(|name| object(Kind::EndpointSlice, name));
    let web = ObjectName::new("default", "web");
    ledger.accept(&a, None, update("a", 1));
    for object in [&a, &b, &stray, &object(Kind::Node, "n")] {
        ledger.reject(object, Rejection::default());
    }
    ledger.reject(&slice, Rejection { service: Some(web.clone()), uid: None });
    let all = Unread {
        services: [a.name.clone(), b.name.clone()].into(),
        slices: [web].into(),
        unknown: false,
    };
    assert_eq!(unread(&ledger), all);
    ledger.confirm(&a, None);
    ledger.delete(&b);
    ledger.delete(&slice);
    assert_eq!(unread(&ledger), Unread::default());
}

#[test]
fn skipped_parts_are_counted_while_their_object_is_there() {
    let mut ledger = Ledger::<u32>::default();
    let a = object(SERVICE, "a");
    let sctp = Skipped { sctp_ports: 2, ..Skipped::default() };
    for (skipped, expected) in [(sctp, 2), (sctp, 2), (Skipped::default(), 0), (sctp, 2)] {
        ledger.skip(&a, skipped);
        assert_eq!(ledger.skipped().sctp_ports, expected);
    }
    ledger.delete(&a);
    assert_eq!(ledger.skipped(), Skipped::default());
}

#[test]
fn report_is_handed_on_once_and_again_when_it_is_another() {
    let mut reports = StandingReports::default();
    for (report, is_new) in [("x", true), ("x", false), ("y", true), ("y", false)] {
        assert_eq!(reports.set("a", vec![report], 0), is_new);
        assert_eq!(reports.take().count(), usize::from(is_new), "{report}");
    }
    reports.set("a", vec!["y", "z"], 0);
    assert_eq!(reports.take().collect::<Vec<_>>(), ["z"]);
}

#[test]
fn only_the_latest_reports_that_were_not_handed_on_count() {
    let mut reports = StandingReports::default();
    for state in 0..10_000 {
        reports.set("a", vec![state], 1);
        reports.set("b", vec![state], 1);
        reports.clear("b");
    }
    // It is still to be handed on when it is the same again.
    assert!(!reports.set("a", vec![9_999], 1));
    assert_eq!((reports.take().collect::<Vec<_>>(), reports.standing()), (vec![9_999], 1));
}

#[test]
fn change_of_how_many_rejects_stand_is_a_change() {
    let mut reports = StandingReports::default();
    reports.set("a", vec!["x"], 5);
    assert_eq!((reports.take().count(), reports.standing()), (1, 5));
    reports.set("a", vec!["x"], 6);
    assert!(reports.has_changes());
    assert_eq!((reports.take().count(), reports.has_changes()), (0, false));
    reports.clear("a");
    assert!(reports.has_changes() && reports.standing() == 0);
}
