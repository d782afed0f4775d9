//! Bodies in frames and in lines: in any parts, cut off, and malformed.

use super::*;
use crate::protobuf::tests::{added, envelope, event, field, frame, number, service};

/// The events of a body about Services, and the error after them.
fn read(encoding: Encoding, body: &[u8]) -> (Vec<Event>, Result<(), Malformed>) {
    let (mut decoder, mut events) = (Decoder::new(encoding), Vec::new());
    decoder.push(body);
    loop {
        match decoder.next(Kind::Service) {
            Ok(Some(event)) => events.push(event),
            Ok(None) => return (events, decoder.end()),
            Err(malformed) => return (events, Err(malformed)),
        }
    }
}

/// The only event of a body.
fn only(encoding: Encoding, body: &[u8]) -> Event {
    let (mut events, end) = read(encoding, body);
    assert_eq!((events.len(), end), (1, Ok(())), "{events:#?}");
    events.remove(0)
}

/// Types of events, and names of Services.
fn shown(events: &[Event]) -> Vec<String> {
    let show = |event: &Event| match event {
        Event::Object { version, read, is_gone: false } => {
            let name = read.name.as_ref().map(|name| &*name.name);
            format!("{} {}", name.unwrap_or_default(), version.as_deref().unwrap_or_default())
        }
        Event::Object { read, .. } => {
            format!("-{}", read.name.as_ref().map_or("", |name| &name.name))
        }
        Event::Bookmark { version, ends_list } => format!("bookmark {version} {ends_list}"),
        Event::Error(status) => status.to_string(),
    };
    events.iter().map(show).collect()
}

/// The names of Services.
fn names(events: &[Event]) -> Vec<String> {
    let shown = shown(events);
    shown.iter().map(|shown| shown.split(' ').next().unwrap_or_default().to_owned()).collect()
}

fn line(kind: &str, object: &str) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

#[test]
fn events_of_each_type_are_the_same_in_both_encodings() {
    let metadata = |rest: Vec<u8>| field(1, &[field(6, b"9"), rest].concat());
    let pair = |key: &[u8]| field(12, &[field(1, key), field(2, b"true")].concat());
    let end = pair(b"k8s.io/initial-events-end");
    // Only the version of a bookmark is read, and whether it ends a list.
    let bookmark = |rest: Vec<u8>| {
        let object = [metadata(rest), number(2, 1)].concat();
        event("BOOKMARK", &envelope("v1", "Node", &object))
    };
    let json = r#"{"metadata":{"name":"a","namespace":"n","resourceVersion":"7"},"spec":{"clusterIP":"10.96.0.1","ports":[{"port":80}]}}"#;
    let annotated = |annotations: &str| {
        let metadata = format!(r#"{{"resourceVersion":"9","annotations":{annotations}}}"#);
        line("BOOKMARK", &format!(r#"{{"kind":"Node","metadata":{metadata},"spec":1}}"#))
    };
    let status = [field(2, b"Failure"), field(3, b"too old"), field(4, b"Expired"), number(6, 410)];
    let of = |kind: &str| event(kind, &envelope("v1", "Service", &service("a")));
    let rows = [
        ("new", of("ADDED"), line("ADDED", json), "a 7"),
        ("changed", of("MODIFIED"), line("MODIFIED", json), "a 7"),
        ("gone", of("DELETED"), line("DELETED", json), "-a"),
        ("a bookmark", bookmark(Vec::new()), annotated("null"), "bookmark 9 false"),
        (
            "the end of a list",
            bookmark([pair(b"other"), end].concat()),
            annotated(r#"{"other":"true","k8s.io/initial-events-end":"true"}"#),
            "bookmark 9 true",
        ),
        (
            "a bookmark with another annotation",
            bookmark(pair(b"other")),
            annotated(r#"{"other":"true"}"#),
            "bookmark 9 false",
        ),
        (
            "an error",
            event("ERROR", &envelope("v1", "Status", &status.concat())),
            line("ERROR", r#"{"kind":"Status","message":"too old","reason":"Expired","code":410}"#),
            "the API server answered 410: too old",
        ),
    ];
    for (row, frame, line, expected) in rows {
        assert_eq!(shown(&[only(Encoding::Protobuf, &frame)]), [expected], "{row}");
        assert_eq!(shown(&[only(Encoding::Json, line.as_bytes())]), [expected], "{row}");
    }
}

#[test]
fn body_is_decoded_the_same_in_parts_of_any_size() {
    let object = |name: &str| format!(r#"{{"metadata":{{"name":"{name}"}}}}"#);
    let lines = ["a", "b", "c"].map(|name| line("ADDED", &object(name))).concat();
    let frames = [added("a"), added("b"), added("c")].concat();
    for (encoding, body) in [(Encoding::Protobuf, frames), (Encoding::Json, lines.into_bytes())] {
        let (whole, end) = read(encoding, &body);
        assert_eq!((names(&whole), end), (["a", "b", "c"].map(str::to_owned).into(), Ok(())));
        let in_parts = |parts: &mut dyn Iterator<Item = &[u8]>| {
            let (mut decoder, mut found) = (Decoder::new(encoding), Vec::new());
            for part in parts {
                decoder.push(part);
                found.extend(std::iter::from_fn(|| decoder.next(Kind::Service).unwrap()));
            }
            assert_eq!((shown(&found), decoder.end()), (shown(&whole), Ok(())), "{encoding:?}");
        };
        for at in 0..=body.len() {
            in_parts(&mut [&body[..at], &body[at..]].into_iter());
        }
        in_parts(&mut body.chunks(1));
    }
}

#[test]
fn incomplete_or_invalid_frame_is_an_error_after_all_earlier_events() {
    let unreadable = |words: &str| format!("the API server's protobuf cannot be read: {words}");
    let too_long = u32::try_from(LONGEST + 1).unwrap().to_be_bytes().to_vec();
    let rows = [
        ("one byte", vec![0], "after 1 bytes of it".to_owned()),
        ("a length", vec![0, 0, 0, 9], "after 4 bytes of it".to_owned()),
        ("half", added("b")[..20].to_vec(), "after 20 bytes of it".to_owned()),
        ("a length beyond all bounds", too_long, "expected at most 33554432".to_owned()),
        ("no message", frame(b"\xff\xff\xff"), unreadable("failed to decode")),
        ("JSON", br#"{"type":"ADDED","object":{}}"#.to_vec(), "expected at most".to_owned()),
        ("an empty frame", frame(b""), unreadable("an event without an object")),
        ("no object", frame(&field(1, b"ADDED")), unreadable("an event without an object")),
        ("no envelope", event("ADDED", b""), unreadable("an object that does not begin with")),
        ("JSON in it", event("ADDED", b"{}"), unreadable("an object that does not begin with")),
        ("a broken envelope", event("ADDED", b"k8s\0\xff"), unreadable("failed to decode")),
        (
            "an unknown type",
            event("\"}\n\u{1b}", &envelope("v1", "Service", &service("a"))),
            unreadable(r#"an event of the type "\"}\n\u{1b}""#),
        ),
        (
            "an error that is none",
            event("ERROR", &envelope("v1", "Pod", b"")),
            unreadable("v1 Pod"),
        ),
        (
            "a broken error",
            event("ERROR", &envelope("v1", "Status", b"\xff")),
            unreadable("failed to decode"),
        ),
        (
            "a bookmark without a version",
            event("BOOKMARK", &envelope("v1", "Service", &field(1, &field(1, b"a")))),
            unreadable("a bookmark without a version"),
        ),
        (
            "a broken bookmark",
            event("BOOKMARK", &envelope("v1", "Service", b"\xff")),
            unreadable("failed to decode"),
        ),
    ];
    for (row, bad, words) in rows {
        let (found, end) = read(Encoding::Protobuf, &[added("a"), bad].concat());
        assert_eq!(names(&found), ["a"], "{row}");
        let error = end.unwrap_err().to_string();
        assert!(error.contains(&words), "{row}: {error}");
    }
    // An event of the greatest length is waited for.
    let longest = u32::try_from(LONGEST).unwrap().to_be_bytes();
    let (found, end) = read(Encoding::Protobuf, &longest);
    assert_eq!((found.len(), end), (0, Err(Malformed::Cut(Encoding::Protobuf, 4))));
}

#[test]
fn lines_that_are_no_events_or_break_off_are_errors() {
    let rows = [
        ("a part of a line", r#"{"type":"ADD"#, "ends in the middle of an event, after 12 bytes"),
        ("no JSON", "{ no JSON\n", "json cannot be read: "),
        ("no JSON behind an empty line", "\n7\n", "json cannot be read: "),
        ("a status", "{\"kind\":\"Status\"}\n", "json cannot be read: missing field"),
        ("an unknown type", &line("RENAMED", "{}"), "an event of the type \"RENAMED\""),
        ("a bookmark without a version", &line("BOOKMARK", "7"), "a bookmark without a version"),
        ("an error that is none", &line("ERROR", "7"), "json cannot be read: "),
    ];
    for (row, bad, words) in rows {
        let (found, end) = read(Encoding::Json, (line("DELETED", "{}") + bad).as_bytes());
        assert_eq!(found.len(), 1, "{row}");
        let error = end.unwrap_err().to_string();
        assert!(error.contains(words), "{row}: {error}");
    }
    let endless = vec![b' '; LONGEST + 1];
    let error = read(Encoding::Json, &endless).1.unwrap_err().to_string();
    assert!(error.ends_with("an event has 33554433 bytes: expected at most 33554432"), "{error}");
}

#[test]
fn page_has_the_next_token_and_reads_each_object_alone() {
    let of = |body: &str| {
        let mut names = Vec::new();
        let end = page(Kind::Node, body.as_bytes(), |read| {
            names.push(read.name.map(|name| name.name.to_string()));
        });
        (end, names)
    };
    let (end, names) = of(
        r#"{"kind":"NodeList","metadata":{"resourceVersion":"7","continue":"x"},"items":[{"metadata":{"name":"a"}},7]}"#,
    );
    assert_eq!(end, Ok(PageEnd { version: "7".into(), next: "x".to_owned() }));
    assert_eq!(names, [Some("a".to_owned()), None]);
    assert_eq!(of(r#"{"metadata":{},"items":null}"#), (Ok(PageEnd::default()), vec![]));
    for body in ["", "7", r#"{"items":[]}"#, r#"{"metadata":{},"items":[7}"#] {
        let (end, names) = of(body);
        assert!(end.unwrap_err().to_string().contains("json cannot be read") && names.is_empty());
    }
}
