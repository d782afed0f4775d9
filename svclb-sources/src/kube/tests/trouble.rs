//! What is made of an API server in trouble: how often it is asked, what is told of it, and that nothing
//! it says by halves counts.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::super::{Kube, Settings};
use super::peer::{Peer, Then, Told, at_once, watch, whole};
use super::server::Request;
use super::{end, event, names, service, settings, status};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A way to be in trouble.
type Way<T> = fn(T) -> Told;

/// An answer that is good, and the error that comes by it.
fn error_by_a_good_answer(message: &str) -> Told {
    let lines = vec![event("ERROR", &status(500, message))];
    Told::Lines(200, at_once(lines), Then::Ends)
}

/// All is well.
fn well(request: &Request) -> Told {
    if request.has("sendInitialEvents=true") { watch(vec![end(1)]) } else { watch(vec![]) }
}

/// The waits between requests.
fn waits(asked: &[(Duration, String)]) -> Vec<f64> {
    asked.windows(2).map(|pair| (pair[1].0 - pair[0].0).as_secs_f64()).collect()
}

/// Each is as long as the one before doubled, up to 15 s, and at most twice that by chance.
fn grows(waits: &[f64], row: &str) {
    let mut least = 0.25;
    for wait in waits {
        assert!((least - 0.01..=2.0 * least + 0.01).contains(wait), "{row}: {least}: {waits:?}");
        least = f64::min(2.0 * least, 15.0);
    }
}

#[tokio::test(start_paused = true)]
async fn failing_server_is_requested_with_growing_delays_and_logged_once() {
    let long = "word\u{1b}[31m ".repeat(10_000);
    let ways: [(&str, Way<String>); 5] = [
        ("nobody there", |_| Told::Nobody),
        ("refused", |long| whole(403, status(403, &long).to_string())),
        ("an answer that is no API server's", |long| whole(503, long)),
        ("it has always forgotten", |long| {
            Told::Lines(200, at_once(vec![event("ERROR", &status(410, &long))]), Then::Ends)
        }),
        ("an error by a good answer", |long| error_by_a_good_answer(&long)),
    ];
    for (row, way) in ways {
        for only_one in [true, false] {
            let long = long.clone();
            let mut peer = Peer::new(move |_, request| match only_one {
                true if !request.is_for("services") => well(request),
                _ => way(long.clone()),
            });
            // Before the others' watches end, which would hurry it.
            assert!(peer.until(seconds(280)).await.is_empty(), "{row}");
            let mut waits = waits(&peer.asked("services"));
            // The first time, it is asked at once.
            waits.retain(|wait| *wait > 0.0);
            assert!((12..=28).contains(&waits.len()), "{row}: {waits:?}");
            grows(&waits, row);
            let late = &waits[7..];
            assert!(late.iter().any(|wait| (wait - late[0]).abs() > 0.1), "{row}: {waits:?}");
            let mut log = peer.log("\"services\"");
            log.retain(|line| !line.contains("does not know any more"));
            assert_eq!(log.len(), 1, "{row}: {log:#?}");
            assert!(log[0].contains("cannot watch") && log[0].len() < 1000, "{row}: {log:#?}");
            assert!(!log[0].contains('\u{1b}'), "{row}: {log:#?}");
            let others = if only_one { 1 } else { 28 };
            assert!(peer.asked("nodes").len() <= others, "{row}: {:?}", peer.asked("nodes"));
            assert!(peer.log("does not know any more").len() <= 3, "{row}: {:#?}", peer.log(""));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn delays_begin_again_after_the_watch_was_healthy_for_a_while() {
    for (row, well_for, recovers) in [("a while", 80, true), ("a moment", 2, false)] {
        let mut peer = Peer::new(move |late, request| {
            if !request.is_for("services") {
                return well(request);
            }
            match late.as_secs() {
                0..120 => error_by_a_good_answer("trouble"),
                120..160 => {
                    let error = event("ERROR", &status(500, "trouble"));
                    let lines = vec![(Duration::ZERO, end(1)), (seconds(well_for), error)];
                    Told::Lines(200, lines, Then::Ends)
                }
                _ => watch(vec![]),
            }
        });
        peer.until(seconds(300)).await;
        let asked: Vec<_> = peer.asked("services").into_iter().map(|(late, _)| late).collect();
        let good = asked.iter().position(|late| *late >= seconds(120)).unwrap();
        let wait = asked[good + 1] - asked[good] - seconds(well_for);
        let first = Duration::from_millis(240)..Duration::from_millis(510);
        assert_eq!(first.contains(&wait), recovers, "{row}: {wait:?}");
        let told = peer.log("answers again").len();
        assert_eq!(told, 1 + usize::from(recovers), "{row}: {:#?}", peer.log(""));
    }
}

#[tokio::test(start_paused = true)]
async fn delays_of_unreachable_kinds_end_when_another_reaches_the_server() {
    let mut peer = Peer::new(|late, request| {
        if request.is_for("nodes") {
            whole(403, status(403, "not yours").to_string())
        } else if late < seconds(100) {
            Told::Nobody
        } else {
            well(request)
        }
    });
    peer.until(seconds(300)).await;
    let first = |resource| {
        let asked = peer.asked(resource).into_iter();
        asked.map(|(late, _)| late).find(|late| *late >= seconds(100)).unwrap()
    };
    let (services, slices) = (first("services"), first("endpointslices"));
    assert!(services.abs_diff(slices) < Duration::from_millis(10), "{services:?}, {slices:?}");
    grows(&waits(&peer.asked("nodes")), "it refuses");
}

#[tokio::test(start_paused = true)]
async fn good_answers_that_end_in_errors_do_not_defeat_the_delays_of_other_kinds() {
    // Each kind's good answer would make another one's wait end.
    let mut peer = Peer::new(|late, _| match late.as_millis() % 2 {
        0 => error_by_a_good_answer("trouble"),
        _ => Told::Nobody,
    });
    peer.until(seconds(600)).await;
    for resource in ["services", "endpointslices", "nodes"] {
        let asked = peer.asked(resource);
        assert!(asked.len() < 250, "{resource}: {} requests in 600 s", asked.len());
    }
    assert!(peer.log("").len() < 20, "{:#?}", peer.log(""));
}

#[tokio::test(start_paused = true)]
async fn line_that_is_no_event_causes_a_list() {
    let rubbish = ["{ no JSON", r#"{"type":"RENAMED","object":{}}"#];
    for rubbish in rubbish {
        let mut peer = Peer::new(move |late, request| {
            if !request.is_for("services") {
                return well(request);
            }
            let [a, b] = ["a", "b"].map(|name| event("ADDED", &service(name, 1)));
            match late.as_secs() {
                0 => {
                    let lost = (seconds(20), rubbish.to_owned());
                    let more = event("MODIFIED", &service("a", 4));
                    let lines = [a, b, end(2)].map(|line| (Duration::ZERO, line));
                    let lines = lines.into_iter().chain([lost, (Duration::ZERO, more)]);
                    Told::Lines(200, lines.collect(), Then::Stands)
                }
                // What was lost: b is gone.
                _ => watch(vec![a, end(3)]),
            }
        });
        let batches = peer.until(seconds(600)).await;
        let told: Vec<_> = batches.iter().flat_map(names).collect();
        assert_eq!(told, ["a", "b", "-b"], "{rubbish}: {:#?}", peer.log(""));
        assert_eq!(peer.log("cannot watch").len(), 1, "{rubbish}");
    }
}

#[tokio::test(start_paused = true)]
async fn list_that_breaks_off_changes_nothing() {
    let ways: [(&str, Way<String>); 5] = [
        ("it ends", |a| Told::Lines(200, at_once(vec![a]), Then::Ends)),
        ("an error in it, and an end after that", |a| {
            watch(vec![a, event("ERROR", &status(500, "trouble")), end(4)])
        }),
        ("a line that is no event, and an end after that", |a| {
            watch(vec![a, "{ no JSON".to_owned(), end(4)])
        }),
        ("a status that is no event, and an end after that", |a| {
            watch(vec![a, status(500, "trouble").to_string(), end(4)])
        }),
        ("it stands still", |a| watch(vec![a])),
    ];
    for (row, way) in ways {
        let mut peer = Peer::new(move |late, request| {
            if !request.is_for("services") {
                return well(request);
            }
            let [a, b] = ["a", "b"].map(|name| event("ADDED", &service(name, 1)));
            match late.as_secs() {
                0 => {
                    let gone = (seconds(20), event("ERROR", &status(410, "Expired")));
                    let lines = [a, b, end(2)].map(|line| (Duration::ZERO, line));
                    Told::Lines(200, lines.into_iter().chain([gone]).collect(), Then::Ends)
                }
                20..50 => way(event("MODIFIED", &service("a", 3))),
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
        let before = peer.until(seconds(49)).await;
        assert_eq!(before.iter().flat_map(names).collect::<Vec<_>>(), ["a", "b"], "{row}");
        let after = peer.until(seconds(300)).await;
        let told = after.iter().flat_map(names).collect::<Vec<_>>();
        assert_eq!(told, ["c"], "{row}: {:#?}", peer.log(""));
    }
}

#[tokio::test(start_paused = true)]
async fn incomplete_answer_is_given_up_and_logged() {
    let part =
        |status| Told::Lines(status, at_once(vec![r#"{"items":["#.to_owned()]), Then::Stands);
    let rows: [(&str, Way<Way<u16>>, &str); 4] = [
        ("a list", |part| part(200), "not at its end within 60 s"),
        ("an error", |part| part(500), "not at its end within 60 s"),
        ("no answer", |_| Told::Silence, "no answer within 30 s"),
        ("nobody", |_| Told::Nobody, "nobody is there"),
    ];
    for (row, way, words) in rows {
        let mut peer = Peer::new(move |late, request| {
            if !request.is_for("services") {
                well(request)
            } else if request.has("sendInitialEvents") {
                whole(422, status(422, "no streams").to_string())
            } else if late < seconds(30) {
                way(part)
            } else if request.has("watch=true") {
                watch(vec![])
            } else {
                let metadata = json!({ "resourceVersion": "6" });
                let list = json!({ "metadata": metadata, "items": [service("a", 1)] });
                whole(200, list.to_string())
            }
        });
        let told = peer.until(seconds(110)).await;
        assert_eq!(told.iter().flat_map(names).collect::<Vec<_>>(), ["a"], "{row}");
        assert_eq!(peer.log(words).len(), 1, "{row}: {:#?}", peer.log(""));
    }
}

#[tokio::test(start_paused = true)]
async fn refused_watch_causes_a_streamed_list() {
    for code in [400, 422, 501] {
        let mut peer = Peer::new(move |late, request| {
            let list = request.has("sendInitialEvents");
            if !request.is_for("services") {
                well(request)
            } else if late.as_secs() == 0 {
                // The server ends the watch, as it does after some minutes.
                let ends = (seconds(20), event("MODIFIED", &service("a", 2)));
                Told::Lines(200, vec![(Duration::ZERO, end(1)), ends], Then::Ends)
            } else if list {
                watch(vec![event("ADDED", &service("b", 3)), end(4)])
            } else {
                whole(code, status(code, "not so").to_string())
            }
        });
        let told = peer.until(seconds(200)).await;
        assert_eq!(told.iter().flat_map(names).collect::<Vec<_>>(), ["a", "-a", "b"], "{code}");
        let asked = peer.asked("services");
        assert!(asked.iter().all(|(_, target)| target.contains("watch=true")), "{asked:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn streamed_lists_are_tried_again_after_ten_minutes() {
    // Until it is made anew after 20 minutes, it does not stream; and it forgets twice what was.
    let ways: [(&str, Way<()>); 2] = [
        ("it refuses", |()| whole(400, status(400, "no streams").to_string())),
        ("it stands still", |()| watch(vec![])),
    ];
    for (row, way) in ways {
        let mut peer = Peer::new(move |late, request| {
            if !request.is_for("services") {
                return well(request);
            }
            if request.has("sendInitialEvents") {
                // A bookmark, too: a watch that is silent for long is listed anew.
                let lines = vec![(Duration::ZERO, end(9)), (seconds(280), end(9))];
                let streams = Told::Lines(200, lines, Then::Ends);
                return if late < seconds(1200) { way(()) } else { streams };
            }
            if request.has("watch=true") {
                // It ends after some minutes, and twice it has forgotten all by then.
                let gone = event("ERROR", &status(410, "Expired"));
                let round = match late.as_secs() {
                    200..400 | 1200..1600 => vec![(seconds(280), gone)],
                    _ => vec![(seconds(280), event("MODIFIED", &service("a", 2)))],
                };
                return Told::Lines(200, round, Then::Ends);
            }
            let metadata = json!({ "resourceVersion": "6" });
            let list = json!({ "metadata": metadata, "items": [service("a", 1)] });
            whole(200, list.to_string())
        });
        peer.until(seconds(3600)).await;
        let asked = peer.asked("services");
        let lists = |from: u64, to: u64, streamed: bool| {
            let within = asked.iter().filter(|(late, _)| (from..to).contains(&late.as_secs()));
            let lists = within.filter(|(_, target)| !target.contains("watch=true") || streamed);
            lists.filter(|(_, it)| it.contains("sendInitialEvents") == streamed).count()
        };
        assert_eq!((lists(0, 60, true), lists(0, 60, false)), (1, 1), "{row}: {asked:#?}");
        assert_eq!((lists(60, 1200, true), lists(60, 1200, false)), (0, 1), "{row}: {asked:#?}");
        assert_eq!(
            (lists(1200, 3600, true), lists(1200, 3600, false)),
            (1, 0),
            "{row}: {asked:#?}"
        );
        assert_eq!(peer.log("does not stream lists").len(), 1, "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn watch_of_a_frozen_server_goes_on_from_its_last_version() {
    let mut peer = Peer::new(|_, request| {
        if !request.is_for("services") {
            well(request)
        } else if request.has("resourceVersion=7") {
            watch(vec![event("DELETED", &service("a", 8))])
        } else {
            watch(vec![event("ADDED", &service("a", 1)), end(7)])
        }
    });
    let told = peer.until(seconds(300)).await;
    assert_eq!(told.iter().flat_map(names).collect::<Vec<_>>(), ["a", "-a"]);
    assert!(peer.log("cannot watch").is_empty(), "{:#?}", peer.log(""));
}

/// A kubeconfig with a plugin.
fn with_plugin(folder: &Path) -> Settings {
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
