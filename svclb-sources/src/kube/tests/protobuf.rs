//! Servers that send protobuf, valid or not.

use std::time::Duration;

use serde_json::json;

use super::super::Batch;
use super::follower::{Follower, Reply, Then, watch, whole};
use super::server::Request;
use super::{Reject, end, event, names, service};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A number in two bytes: enough for these tests, and not the shortest form of a small number.
fn varint(number: usize) -> [u8; 2] {
    let [low, high] = [number & 0x7f, number >> 7].map(|it| u8::try_from(it).unwrap());
    assert!(high < 0x80);
    [low | 0x80, high]
}

/// A field that is a text or a message.
fn field(number: usize, bytes: &[u8]) -> Vec<u8> {
    [&varint(number << 3 | 2), &varint(bytes.len()), bytes].concat()
}

fn envelope(kind: &str, object: &[u8]) -> Vec<u8> {
    let types = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &types), field(2, object)].concat()
}

fn frame(kind: &str, envelope: &[u8]) -> Vec<u8> {
    let message = [field(1, kind.as_bytes()), field(2, &field(1, envelope))].concat();
    [&u32::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()
}

/// A Service with this spec, which may be broken.
fn of(kind: &str, name: &str, version: u32, spec: &[u8]) -> Vec<u8> {
    let version = version.to_string();
    let metadata =
        [field(1, name.as_bytes()), field(3, b"default"), field(6, version.as_bytes())].concat();
    frame(kind, &envelope("Service", &[&field(1, &metadata), spec].concat()))
}

fn one(kind: &str, name: &str, version: u32) -> Vec<u8> {
    // A port has a number of type int32, field 3.
    let spec =
        [field(1, &[3 << 3, 80]), field(3, b"10.96.0.10"), field(18, b"10.96.0.10")].concat();
    of(kind, name, version, &field(2, &spec))
}

fn ends(version: u32) -> Vec<u8> {
    let pair = [field(1, b"k8s.io/initial-events-end"), field(2, b"true")].concat();
    let metadata = [field(6, version.to_string().as_bytes()), field(12, &pair)].concat();
    frame("BOOKMARK", &envelope("Service", &field(1, &metadata)))
}

fn failure(code: u16, message: &str) -> Vec<u8> {
    let code = [&[6 << 3][..], &varint(code.into())].concat();
    let words = [field(2, b"Failure"), field(3, message.as_bytes()), field(4, b"Reason")].concat();
    envelope("Status", &[&words[..], &code].concat())
}

/// A watch that sends all frames at once and stays open.
fn frames(frames: &[Vec<u8>]) -> Reply {
    Reply::Protobuf(200, vec![(Duration::ZERO, frames.concat())], Then::StaysOpen)
}

fn refuses(code: u16, body: Vec<u8>) -> Reply {
    Reply::Protobuf(code, vec![(Duration::ZERO, body)], Then::Ends)
}

/// Answers requests for Services by this function, and with empty lists in JSON for the other kinds.
fn services(
    answer: impl Fn(Duration, &Request) -> Reply + Send + Sync + 'static,
) -> impl Fn(Duration, &Request) -> Reply + Send + Sync + 'static {
    move |late, request| match request.is_for("services") {
        true => answer(late, request),
        false => watch(vec![end(1)]),
    }
}

fn changed_names(batches: &[Batch]) -> Vec<String> {
    batches.iter().flat_map(names).collect()
}

/// The number of lists of Services.
fn lists(follower: &Follower) -> usize {
    follower.requests("services").iter().filter(|(_, it)| it.contains("sendInitialEvents")).count()
}

#[tokio::test(start_paused = true)]
async fn protobuf_is_decoded_whatever_the_parts_of_the_body() {
    for size in [1, 2, 3, 7, 64, 100_000] {
        let mut follower = Follower::new(services(move |_, request| {
            assert!(request.1, "protobuf is accepted");
            let list = [one("ADDED", "a", 1), one("ADDED", "b", 2), ends(3)].concat();
            let changes = [one("MODIFIED", "c", 4), one("DELETED", "a", 5)].concat();
            let parts = |wait, bytes: &[u8]| {
                bytes.chunks(size).map(|part| (wait, part.to_vec())).collect::<Vec<_>>()
            };
            let mut body = parts(Duration::ZERO, &list);
            body.push((seconds(10), Vec::new()));
            body.extend(parts(Duration::ZERO, &changes));
            Reply::Protobuf(200, body, Then::StaysOpen)
        }));
        let batches = follower.until(seconds(5)).await;
        assert_eq!(changed_names(&batches), ["a", "b"], "{size}");
        let mut later = changed_names(&follower.until(seconds(60)).await);
        later.sort();
        assert_eq!(later, ["-a", "c"], "{size}");
        let listed = follower.log("listed resource=");
        let of = |resource: &str, encoding: &str| {
            let words = [format!("{resource:?}"), format!("encoding={encoding:?}")];
            listed.iter().any(|line| words.iter().all(|word| line.contains(word)))
        };
        assert!(of("services", "protobuf") && of("nodes", "json"), "{listed:#?}");
        assert!(follower.log("cannot watch").is_empty(), "{:#?}", follower.log(""));
    }
}

#[tokio::test(start_paused = true)]
async fn lists_in_pages_are_requested_in_json() {
    let mut follower = Follower::new(services(|_, request| {
        if request.has("sendInitialEvents") {
            // The refusal is in protobuf, too.
            refuses(422, failure(422, "no such thing"))
        } else if request.has("watch=true") {
            frames(&[one("ADDED", "b", 7)])
        } else {
            assert!(!request.1, "{}", request.0);
            let list =
                json!({ "metadata": { "resourceVersion": "6" }, "items": [service("a", 1)] });
            whole(200, list.to_string())
        }
    }));
    let mut found = changed_names(&follower.until(seconds(60)).await);
    found.sort();
    assert_eq!(found, ["a", "b"]);
    let why = follower.log("does not stream lists");
    assert!(why.len() == 1 && why[0].contains("no such thing"), "{why:#?}");
    let listed = follower.log("listed resource=\"services\"");
    assert!(listed.len() == 1 && listed[0].contains("encoding=\"json\""), "{listed:#?}");
}

#[tokio::test(start_paused = true)]
async fn error_in_protobuf_is_reported() {
    let rows = [
        ("a Status", failure(403, "not yours"), "not yours"),
        ("no Status", b"k8s\0\xff".to_vec(), "protobuf cannot be read"),
    ];
    for (row, body, words) in rows {
        let mut follower = Follower::new(services(move |_, _| refuses(403, body.clone())));
        assert!(follower.until(seconds(60)).await.is_empty(), "{row}");
        let logged = follower.log("cannot watch");
        assert!(logged.len() == 1 && logged[0].contains(words), "{row}: {logged:#?}");
        // It is requested again, in protobuf, and no more often than in JSON.
        assert!((5..=12).contains(&lists(&follower)), "{row}: {:?}", follower.requests("services"));
    }
}

#[tokio::test(start_paused = true)]
async fn expired_version_is_listed_again() {
    let mut follower = Follower::new(services(|late, _| match late.as_secs() {
        0 => {
            let gone = frame("ERROR", &failure(410, "Expired"));
            let list = [one("ADDED", "a", 1), one("ADDED", "b", 2), ends(3)].concat();
            Reply::Protobuf(200, vec![(Duration::ZERO, list), (seconds(20), gone)], Then::Ends)
        }
        _ => frames(&[one("ADDED", "a", 1), one("ADDED", "c", 7), ends(8)]),
    }));
    assert_eq!(changed_names(&follower.until(seconds(10)).await), ["a", "b"]);
    let mut later = changed_names(&follower.until(seconds(60)).await);
    later.sort();
    assert_eq!(later, ["-b", "c"]);
    assert_eq!(lists(&follower), 2);
    assert!(follower.log("cannot watch").is_empty(), "{:#?}", follower.log(""));
}

#[tokio::test(start_paused = true)]
async fn unreadable_object_rejects_only_itself() {
    let mut follower = Follower::new(services(|_, _| {
        // A spec that is a number; and an object of which nothing can be read.
        let wrong = of("ADDED", "wrong", 2, &[2 << 3, 1]);
        let rubbish = frame("ADDED", &envelope("Service", b"\xff"));
        frames(&[one("ADDED", "a", 1), wrong, rubbish, one("ADDED", "b", 3), ends(4)])
    }));
    let batches = follower.until(seconds(10)).await;
    assert_eq!(changed_names(&batches), ["a", "b"]);
    let mut rejects: Vec<_> = batches
        .iter()
        .flat_map(|batch| &batch.rejects)
        .map(|reject| match reject {
            Reject::Object(invalid, _) => invalid.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    rejects.sort();
    assert_eq!(rejects.len(), 2, "{rejects:#?}");
    assert!(rejects[0].starts_with("Service default/wrong: spec: "), "{rejects:#?}");
    assert!(rejects[1].contains("failed to decode"), "{rejects:#?}");
    assert_eq!(lists(&follower), 1);
}

#[tokio::test(start_paused = true)]
async fn unreadable_protobuf_is_requested_in_json_for_ten_minutes() {
    for listed in [true, false] {
        let mut follower = Follower::new(services(move |late, request| match late.as_secs() {
            // A frame that is no event.
            0 if listed => {
                let list = [one("ADDED", "a", 1), one("ADDED", "b", 1), ends(2)].concat();
                let rubbish = [0, 0, 0, 1, 0xff].to_vec();
                let parts = vec![(Duration::ZERO, list), (seconds(20), rubbish)];
                Reply::Protobuf(200, parts, Then::StaysOpen)
            }
            _ if request.1 && late < seconds(100) => frames(&[vec![0xff; 100]]),
            _ if request.1 && request.has("sendInitialEvents") => {
                let list = [one("ADDED", "d", 9), ends(9)].concat();
                let bookmark = (seconds(200), ends(9));
                let parts = [(Duration::ZERO, list), bookmark.clone(), bookmark.clone(), bookmark];
                Reply::Protobuf(200, parts.into(), Then::StaysOpen)
            }
            _ if request.1 => frames(&[frame("ERROR", &failure(410, "Expired"))]),
            _ if request.has("sendInitialEvents") => {
                let [a, c] =
                    [("a", 1), ("c", 4)].map(|(name, it)| event("ADDED", &service(name, it)));
                let list = [a, c, end(5)].map(|line| (Duration::ZERO, line)).into_iter();
                // As API servers do, it sends bookmarks, and ends a watch after some minutes.
                let lines = list.chain([(seconds(200), end(5))]).collect();
                Reply::Lines(200, lines, Then::EndsAfter(seconds(90)))
            }
            _ => Reply::Lines(200, vec![(seconds(200), end(5))], Then::EndsAfter(seconds(90))),
        }));
        let mut found = changed_names(&follower.until(seconds(100)).await);
        found.sort();
        // The lost change is found: b is gone.
        let expected = if listed { vec!["-b", "a", "b", "c"] } else { vec!["a", "c"] };
        assert_eq!(found, expected, "{listed}: {:#?}", follower.log(""));
        assert_eq!(follower.log("cannot watch").len(), 1, "{listed}: {:#?}", follower.log(""));
        let mut later = changed_names(&follower.until(seconds(1100)).await);
        later.sort();
        assert_eq!(later, ["-a", "-c", "d"], "{listed}: {:#?}", follower.log(""));
        let listed_in = |encoding| {
            let lines = follower.log("resource=\"services\"").into_iter();
            lines.filter(|line| line.contains(&format!("encoding={encoding:?}"))).count()
        };
        assert_eq!((listed_in("protobuf"), listed_in("json")), (1 + usize::from(listed), 1));
    }
}

#[tokio::test(start_paused = true)]
async fn body_that_breaks_off_in_an_event_goes_on_from_the_event_before() {
    let mut follower = Follower::new(services(|_, request| {
        assert!(request.1, "protobuf is accepted");
        if request.has("sendInitialEvents") {
            let half = one("ADDED", "b", 8)[..40].to_vec();
            let list = [one("ADDED", "a", 1), ends(7)].concat();
            Reply::Protobuf(200, vec![(Duration::ZERO, list), (seconds(20), half)], Then::Ends)
        } else {
            assert!(request.has("resourceVersion=7"), "{}", request.0);
            frames(&[one("ADDED", "b", 8)])
        }
    }));
    assert_eq!(changed_names(&follower.until(seconds(300)).await), ["a", "b"]);
    assert_eq!(lists(&follower), 1);
    let logged = follower.log("cannot watch");
    assert!(logged.len() == 1 && logged[0].contains("in the middle of an event"), "{logged:#?}");
}
