//! Failing API servers: the rate of requests, the log, and that incomplete answers have no effect.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::super::{Kube, KubeSettings};
use super::follower::{Follower, Reply, Then, at_once, watch, whole};
use super::server::Request;
use super::{end, event, names, service, settings, status};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A reply of a failing server.
type FailingReply<T> = fn(T) -> Reply;

/// A good answer with an error as its event.
fn error_by_a_good_answer(message: &str) -> Reply {
    let lines = vec![event("ERROR", &status(500, message))];
    Reply::Lines(200, at_once(lines), Then::Ends)
}

/// The reply of a healthy server.
fn healthy(request: &Request) -> Reply {
    if request.has("sendInitialEvents=true") { watch(vec![end(1)]) } else { watch(vec![]) }
}

/// The delays between requests.
fn waits(requests: &[(Duration, String)]) -> Vec<f64> {
    requests.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect()
}

/// Asserts that each delay is twice the one before, up to 15 s, and at most twice that at random.
fn assert_grows(waits: &[f64], row: &str) {
    let mut least = 0.25;
    for wait in waits {
        assert!((least - 0.01..=2.0 * least + 0.01).contains(wait), "{row}: {least}: {waits:?}");
        least = f64::min(2.0 * least, 15.0);
    }
}

#[tokio::test(start_paused = true)]
async fn failing_server_is_requested_with_growing_delays_and_logged_once() {
    let long = "word\u{1b}[31m ".repeat(10_000);
    let rows: [(&str, FailingReply<String>); 5] = [
        ("unreachable", |_| Reply::Unreachable),
        ("refused", |long| whole(403, status(403, &long).to_string())),
        ("an answer of another server", |long| whole(503, long)),
        ("the version is always expired", |long| {
            Reply::Lines(200, at_once(vec![event("ERROR", &status(410, &long))]), Then::Ends)
        }),
        ("an error by a good answer", |long| error_by_a_good_answer(&long)),
    ];
    for (row, reply) in rows {
        for only_one in [true, false] {
            let long = long.clone();
            let mut follower = Follower::new(move |_, request| match only_one {
                true if !request.is_for("services") => healthy(request),
                _ => reply(long.clone()),
            });
            // Before the watches of other kinds end, whose new requests would end this one's delay.
            assert!(follower.until(seconds(280)).await.is_empty(), "{row}");
            let mut waits = waits(&follower.requests("services"));
            // The first expired version causes a list at once.
            waits.retain(|wait| *wait > 0.0);
            assert!((12..=28).contains(&waits.len()), "{row}: {waits:?}");
            assert_grows(&waits, row);
            let late = &waits[7..];
            assert!(late.iter().any(|wait| (wait - late[0]).abs() > 0.1), "{row}: {waits:?}");
            let mut log = follower.log("\"services\"");
            log.retain(|line| !line.contains("resourceVersion is expired"));
            assert_eq!(log.len(), 1, "{row}: {log:#?}");
            assert!(log[0].contains("cannot watch") && log[0].len() < 1000, "{row}: {log:#?}");
            assert!(!log[0].contains('\u{1b}'), "{row}: {log:#?}");
            let others = if only_one { 1 } else { 28 };
            assert!(
                follower.requests("nodes").len() <= others,
                "{row}: {:?}",
                follower.requests("nodes")
            );
            assert!(
                follower.log("resourceVersion is expired").len() <= 3,
                "{row}: {:#?}",
                follower.log("")
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn delays_begin_again_after_the_watch_was_healthy_for_a_while() {
    for (row, healthy_for, recovers) in [("a while", 80, true), ("a moment", 2, false)] {
        let mut follower = Follower::new(move |late, request| {
            if !request.is_for("services") {
                return healthy(request);
            }
            match late.as_secs() {
                0..120 => error_by_a_good_answer("trouble"),
                120..160 => {
                    let error = event("ERROR", &status(500, "trouble"));
                    let lines = vec![(Duration::ZERO, end(1)), (seconds(healthy_for), error)];
                    Reply::Lines(200, lines, Then::Ends)
                }
                _ => watch(vec![]),
            }
        });
        follower.until(seconds(300)).await;
        let requests: Vec<_> =
            follower.requests("services").into_iter().map(|(late, _)| late).collect();
        let good = requests.iter().position(|late| *late >= seconds(120)).unwrap();
        let wait = requests[good + 1] - requests[good] - seconds(healthy_for);
        let first = Duration::from_millis(240)..Duration::from_millis(510);
        assert_eq!(first.contains(&wait), recovers, "{row}: {wait:?}");
        let recoveries = follower.log("answers again").len();
        assert_eq!(recoveries, 1 + usize::from(recovers), "{row}: {:#?}", follower.log(""));
    }
}

#[tokio::test(start_paused = true)]
async fn delays_of_unreachable_kinds_end_when_another_reaches_the_server() {
    let mut follower = Follower::new(|late, request| {
        if request.is_for("nodes") {
            whole(403, status(403, "not yours").to_string())
        } else if late < seconds(100) {
            Reply::Unreachable
        } else {
            healthy(request)
        }
    });
    follower.until(seconds(300)).await;
    let first = |resource| {
        let requests = follower.requests(resource).into_iter();
        requests.map(|(late, _)| late).find(|late| *late >= seconds(100)).unwrap()
    };
    let (services, slices) = (first("services"), first("endpointslices"));
    assert!(services.abs_diff(slices) < Duration::from_millis(10), "{services:?}, {slices:?}");
    assert_grows(&waits(&follower.requests("nodes")), "it refuses");
}

#[tokio::test(start_paused = true)]
async fn good_answers_that_end_in_errors_do_not_defeat_the_delays_of_other_kinds() {
    // Each kind's good answer would end the delay of another kind.
    let mut follower = Follower::new(|late, _| match late.as_millis() % 2 {
        0 => error_by_a_good_answer("trouble"),
        _ => Reply::Unreachable,
    });
    follower.until(seconds(600)).await;
    for resource in ["services", "endpointslices", "nodes"] {
        let requests = follower.requests(resource);
        assert!(requests.len() < 250, "{resource}: {} requests in 600 s", requests.len());
    }
    assert!(follower.log("").len() < 20, "{:#?}", follower.log(""));
}

#[tokio::test(start_paused = true)]
async fn line_that_is_no_event_causes_a_list() {
    let rubbish = ["{ no JSON", r#"{"type":"RENAMED","object":{}}"#];
    for rubbish in rubbish {
        let mut follower = Follower::new(move |late, request| {
            if !request.is_for("services") {
                return healthy(request);
            }
            let [a, b] = ["a", "b"].map(|name| event("ADDED", &service(name, 1)));
            match late.as_secs() {
                0 => {
                    let lost = (seconds(20), rubbish.to_owned());
                    let more = event("MODIFIED", &service("a", 4));
                    let lines = [a, b, end(2)].map(|line| (Duration::ZERO, line));
                    let lines = lines.into_iter().chain([lost, (Duration::ZERO, more)]);
                    Reply::Lines(200, lines.collect(), Then::StaysOpen)
                }
                // The lost change: b is gone.
                _ => watch(vec![a, end(3)]),
            }
        });
        let batches = follower.until(seconds(600)).await;
        let changed: Vec<_> = batches.iter().flat_map(names).collect();
        assert_eq!(changed, ["a", "b", "-b"], "{rubbish}: {:#?}", follower.log(""));
        assert_eq!(follower.log("cannot watch").len(), 1, "{rubbish}");
    }
}

#[tokio::test(start_paused = true)]
async fn list_that_breaks_off_changes_nothing() {
    let rows: [(&str, FailingReply<String>); 5] = [
        ("it ends", |a| Reply::Lines(200, at_once(vec![a]), Then::Ends)),
        ("an error in it, and an end after that", |a| {
            watch(vec![a, event("ERROR", &status(500, "trouble")), end(4)])
        }),
        ("a line that is no event, and an end after that", |a| {
            watch(vec![a, "{ no JSON".to_owned(), end(4)])
        }),
        ("a status that is no event, and an end after that", |a| {
            watch(vec![a, status(500, "trouble").to_string(), end(4)])
        }),
        ("it stalls", |a| watch(vec![a])),
    ];
    for (row, reply) in rows {
        let mut follower = Follower::new(move |late, request| {
            if !request.is_for("services") {
                return healthy(request);
            }
            let [a, b] = ["a", "b"].map(|name| event("ADDED", &service(name, 1)));
            match late.as_secs() {
                0 => {
                    let gone = (seconds(20), event("ERROR", &status(410, "Expired")));
                    let lines = [a, b, end(2)].map(|line| (Duration::ZERO, line));
                    Reply::Lines(200, lines.into_iter().chain([gone]).collect(), Then::Ends)
                }
                20..50 => reply(event("MODIFIED", &service("a", 3))),
                _ if request.has("watch=true") => {
                    watch(vec![a, b, event("ADDED", &service("c", 1)), end(6)])
                }
                _ => {
                    let items = ["a", "b", "c"].map(|name| service(name, 1));
                    let metadata = json!({ "resourceVersion": "6" });
                    whole(200, json!({ "metadata": metadata, "items": items }).to_string())
                }
            }
        });
        let before = follower.until(seconds(49)).await;
        assert_eq!(before.iter().flat_map(names).collect::<Vec<_>>(), ["a", "b"], "{row}");
        let after = follower.until(seconds(300)).await;
        let changed = after.iter().flat_map(names).collect::<Vec<_>>();
        assert_eq!(changed, ["c"], "{row}: {:#?}", follower.log(""));
    }
}

#[tokio::test(start_paused = true)]
async fn incomplete_answer_is_given_up_and_logged() {
    let part =
        |status| Reply::Lines(status, at_once(vec![r#"{"items":["#.to_owned()]), Then::StaysOpen);
    let rows: [(&str, FailingReply<FailingReply<u16>>, &str); 4] = [
        ("a list", |part| part(200), "not at its end within 60 s"),
        ("an error", |part| part(500), "not at its end within 60 s"),
        ("no answer", |_| Reply::NoAnswer, "no answer within 30 s"),
        ("unreachable", |_| Reply::Unreachable, "unreachable"),
    ];
    for (row, reply, words) in rows {
        let mut follower = Follower::new(move |late, request| {
            if !request.is_for("services") {
                healthy(request)
            } else if request.has("sendInitialEvents") {
                whole(422, status(422, "no streams").to_string())
            } else if late < seconds(30) {
                reply(part)
            } else if request.has("watch=true") {
                watch(vec![])
            } else {
                let metadata = json!({ "resourceVersion": "6" });
                let list = json!({ "metadata": metadata, "items": [service("a", 1)] });
                whole(200, list.to_string())
            }
        });
        let batches = follower.until(seconds(110)).await;
        assert_eq!(batches.iter().flat_map(names).collect::<Vec<_>>(), ["a"], "{row}");
        assert_eq!(follower.log(words).len(), 1, "{row}: {:#?}", follower.log(""));
    }
}

#[tokio::test(start_paused = true)]
async fn refused_watch_causes_a_streamed_list() {
    for code in [400, 422, 501] {
        let mut follower = Follower::new(move |late, request| {
            let list = request.has("sendInitialEvents");
            if !request.is_for("services") {
                healthy(request)
            } else if late.as_secs() == 0 {
                // The server ends the watch, as API servers do after some minutes.
                let ends = (seconds(20), event("MODIFIED", &service("a", 2)));
                Reply::Lines(200, vec![(Duration::ZERO, end(1)), ends], Then::Ends)
            } else if list {
                watch(vec![event("ADDED", &service("b", 3)), end(4)])
            } else {
                whole(code, status(code, "not so").to_string())
            }
        });
        let batches = follower.until(seconds(200)).await;
        assert_eq!(batches.iter().flat_map(names).collect::<Vec<_>>(), ["a", "-a", "b"], "{code}");
        let requests = follower.requests("services");
        assert!(requests.iter().all(|(_, target)| target.contains("watch=true")), "{requests:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn streamed_lists_are_tried_again_after_ten_minutes() {
    // It does not stream until it is replaced after 20 minutes, and twice its versions expire.
    let rows: [(&str, FailingReply<()>); 2] = [
        ("it refuses", |()| whole(400, status(400, "no streams").to_string())),
        ("it stalls", |()| watch(vec![])),
    ];
    for (row, reply) in rows {
        let mut follower = Follower::new(move |late, request| {
            if !request.is_for("services") {
                return healthy(request);
            }
            if request.has("sendInitialEvents") {
                // With a bookmark, since a watch that is silent for long causes a list.
                let lines = vec![(Duration::ZERO, end(9)), (seconds(280), end(9))];
                let streams = Reply::Lines(200, lines, Then::Ends);
                return if late < seconds(1200) { reply(()) } else { streams };
            }
            if request.has("watch=true") {
                // It ends after some minutes, twice because the version is expired.
                let gone = event("ERROR", &status(410, "Expired"));
                let round = match late.as_secs() {
                    200..400 | 1200..1600 => vec![(seconds(280), gone)],
                    _ => vec![(seconds(280), event("MODIFIED", &service("a", 2)))],
                };
                return Reply::Lines(200, round, Then::Ends);
            }
            let metadata = json!({ "resourceVersion": "6" });
            let list = json!({ "metadata": metadata, "items": [service("a", 1)] });
            whole(200, list.to_string())
        });
        follower.until(seconds(3600)).await;
        let requests = follower.requests("services");
        let lists = |from: u64, to: u64, streamed: bool| {
            let within = requests.iter().filter(|(late, _)| (from..to).contains(&late.as_secs()));
            let lists = within.filter(|(_, target)| !target.contains("watch=true") || streamed);
            lists.filter(|(_, it)| it.contains("sendInitialEvents") == streamed).count()
        };
        assert_eq!((lists(0, 60, true), lists(0, 60, false)), (1, 1), "{row}: {requests:#?}");
        assert_eq!((lists(60, 1200, true), lists(60, 1200, false)), (0, 1), "{row}: {requests:#?}");
        assert_eq!(
            (lists(1200, 3600, true), lists(1200, 3600, false)),
            (1, 0),
            "{row}: {requests:#?}"
        );
        assert_eq!(follower.log("does not stream lists").len(), 1, "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn watch_of_a_frozen_server_goes_on_from_its_last_version() {
    let mut follower = Follower::new(|_, request| {
        if !request.is_for("services") {
            healthy(request)
        } else if request.has("resourceVersion=7") {
            watch(vec![event("DELETED", &service("a", 8))])
        } else {
            watch(vec![event("ADDED", &service("a", 1)), end(7)])
        }
    });
    let batches = follower.until(seconds(300)).await;
    assert_eq!(batches.iter().flat_map(names).collect::<Vec<_>>(), ["a", "-a"]);
    assert!(follower.log("cannot watch").is_empty(), "{:#?}", follower.log(""));
}

/// A kubeconfig with a plugin.
fn with_plugin(folder: &Path) -> KubeSettings {
    let user = json!({ "exec": {
        "apiVersion": "client.authentication.k8s.io/v1",
        "interactiveMode": "Never",
        "command": "sh",
    }});
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{ "name": "it", "cluster": { "server": "http://192.0.2.1" } }],
        "users": [{ "name": "it", "user": user }],
        "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
    });
    let path = folder.join("config");
    std::fs::write(&path, config.to_string()).unwrap();
    settings(Some(path))
}

#[tokio::test]
async fn invalid_kubeconfig_is_an_error_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let settings = with_plugin(folder.path());
    let provider = r#"auth-provider":{"name":"gcp","config":{"cmd-path":"sh"}},"as":"a""#;
    let path = settings.kubeconfig.clone().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    for (row, text) in [
        ("no YAML", "{".to_owned()),
        ("no such context", text.replace("t-context\":\"it", "t-context\":\"that")),
        ("a plugin without a program", text.replace("\"sh\"", "\"\"")),
        ("a command that is no plugin", text.replace("exec\"", &format!("{provider},\"exec\""))),
        ("no such file", String::new()),
    ] {
        match text.is_empty() {
            true => std::fs::remove_file(&path).unwrap(),
            false => std::fs::write(&path, text).unwrap(),
        }
        let error = format!("{:#}", Kube::new(settings.clone(), "node-a").await.unwrap_err());
        assert!(error.contains(path.to_str().unwrap()), "{row}: {error}");
    }
}
