//! Watches that are open and send nothing.

use std::time::Duration;

use svclb_core::budget::{Amount, Budget, Resource};
use svclb_core::model::Update;

use super::follower::{Follower, Reply, Then, at_once, watch};
use super::server::Request;
use super::{KubeSettings, end, event, names, service, settings};

/// The answer to a watch.
type WatchReply = fn() -> Reply;

const MINUTE: Duration = Duration::from_secs(60);

/// Bookmarks, one each minute.
fn bookmarks(count: u32) -> Vec<(Duration, String)> {
    (0..count).map(|number| (MINUTE, end(2000 + number))).collect()
}

/// A watch that ends after some minutes, as those of API servers do, and a bookmark each minute.
fn lively(request: &Request) -> Reply {
    let list = if request.has("sendInitialEvents=true") { vec![end(1)] } else { vec![] };
    let lines = at_once(list).into_iter().chain(bookmarks(4)).collect();
    Reply::Lines(200, lines, Then::Ends)
}

/// The times at which a resource was listed.
fn lists(follower: &Follower, resource: &str) -> Vec<Duration> {
    let requests = follower.requests(resource).into_iter();
    requests.filter(|(_, it)| it.contains("sendInitialEvents=true")).map(|(late, _)| late).collect()
}

fn is_within(late: Duration, minutes: std::ops::Range<u64>) -> bool {
    (minutes.start * 60..minutes.end * 60 + 10).contains(&late.as_secs())
}

#[tokio::test(start_paused = true)]
async fn silent_watch_after_a_restore_of_etcd_is_listed_again() {
    // The watch after the list stays open, is ended by the server, or is cut by a proxy.
    let rows: [(&str, WatchReply); 3] = [
        ("it stays open", || watch(vec![])),
        ("it ends", || Reply::Lines(200, vec![], Then::EndsAfter(Duration::from_secs(290)))),
        ("it is cut", || Reply::Lines(200, vec![], Then::BreaksAfter(MINUTE))),
    ];
    for (row, reply) in rows {
        let mut follower = Follower::new(move |late, request| {
            if !request.is_for("services") {
                return lively(request);
            }
            let [a, b, c] = ["a", "b", "c"].map(|name| event("ADDED", &service(name, 1)));
            if late < MINUTE {
                return watch(vec![a, b, end(100)]);
            }
            match request.has("sendInitialEvents=true") {
                // The restored state, and a change after it.
                true => {
                    let lines = at_once(vec![a, c, end(7)]).into_iter().chain(bookmarks(4));
                    Reply::Lines(200, lines.collect(), Then::Ends)
                }
                false if request.has("resourceVersion=100") => reply(),
                false => Reply::Lines(200, bookmarks(4), Then::Ends),
            }
        });
        let batches = follower.until(300 * MINUTE).await;
        let changed: Vec<_> = batches.iter().map(names).collect();
        assert_eq!(changed, [vec!["a", "b"], vec!["-b", "c"]], "{row}: only the differences");
        let lists = lists(&follower, "services");
        assert_eq!(lists.len(), 2, "{row}: {lists:?}");
        assert!(is_within(lists[1], 5..10), "{row}: {lists:?}");
        let log = follower.log("not even bookmarks");
        assert_eq!(log.len(), 1, "{row}: {log:#?}");
        assert!(log[0].contains("WARN") && log[0].contains("\"services\""), "{log:?}");
        assert_eq!(self::lists(&follower, "nodes").len(), 1, "{row}: bookmarks are enough");
    }
}

#[tokio::test(start_paused = true)]
async fn server_without_bookmarks_is_listed_every_one_to_two_hours() {
    let mut follower = Follower::new(|_, request| match request.has("sendInitialEvents=true") {
        true => watch(vec![end(1)]),
        false => watch(vec![]),
    });
    follower.until(24 * 60 * MINUTE).await;
    for resource in ["services", "endpointslices", "nodes"] {
        let lists = lists(&follower, resource);
        assert!((14..=30).contains(&lists.len()), "{resource}: {lists:?}");
        let log = follower.log("not even bookmarks");
        assert_eq!(log.iter().filter(|line| line.contains(resource)).count(), 1, "{log:#?}");
    }
    // Not all at the same time.
    let first =
        ["services", "endpointslices", "nodes"].map(|resource| lists(&follower, resource)[1]);
    assert!(first[0].abs_diff(first[1]) + first[1].abs_diff(first[2]) > Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn server_that_was_unreachable_for_long_is_not_listed_again_when_it_is_back() {
    let mut follower = Follower::new(|late, request| match late.as_secs() {
        120..3600 => Reply::Unreachable,
        _ => lively(request),
    });
    follower.until(120 * MINUTE).await;
    for resource in ["services", "endpointslices", "nodes"] {
        assert_eq!(lists(&follower, resource).len(), 1, "{resource}");
    }
    assert!(follower.log("not even bookmarks").is_empty());
}

/// A Service with so many external IPs.
fn large(name: &str, addresses: u8) -> String {
    let mut object = service(name, 1);
    let addresses = (1..=addresses).map(|last| format!("192.0.2.{last}"));
    object["spec"]["externalIPs"] = addresses.collect();
    event("ADDED", &object)
}

/// Bookmarks come all the time, so that only free capacity is a reason to list.
#[tokio::test(start_paused = true)]
async fn object_without_contents_is_listed_again_once_there_is_capacity_for_it() {
    let memory = Amount::default().with(Resource::Memory, 9_000);
    let budget = Budget { namespace: memory.percent(50), cluster: memory, ..Budget::UNLIMITED };
    let settings = KubeSettings { budget, ..settings(None) };
    // Each of the large ones takes some 4 KB, and the namespace may have 6 KB.
    let mut follower = Follower::with(settings, |late, request| {
        if !request.is_for("services") {
            return lively(request);
        }
        let lines = match (request.has("sendInitialEvents=true"), late < MINUTE) {
            (true, true) => vec![large("a", 200), large("b", 200), end(1)],
            (true, false) => vec![large("b", 200), end(3)],
            (false, _) => vec![],
        };
        let is_first = late < MINUTE;
        let mut lines = at_once(lines);
        lines.extend(bookmarks(40));
        if is_first {
            lines.push((Duration::ZERO, event("DELETED", &service("a", 2))));
        }
        lines.extend(bookmarks(4));
        Reply::Lines(200, lines, Then::Ends)
    });
    let batches = follower.until(120 * MINUTE).await;
    let all: Vec<_> = batches
        .iter()
        .flat_map(|batch| &batch.updates)
        .filter_map(|update| match update {
            Update::Service(name, service) => {
                let addresses = service.as_ref().map(|service| service.external_ips.len());
                Some((&*name.name, addresses))
            }
            _ => None,
        })
        .collect();
    let (first, later) = all.split_at(2);
    assert!(first.contains(&("a", Some(200))) && first.contains(&("b", Some(0))), "{all:?}");
    assert_eq!(later, [("a", None), ("b", Some(200))]);
    let lists = lists(&follower, "services");
    assert_eq!(lists.len(), 2, "once there is capacity, and not before: {lists:?}");
    assert!(is_within(lists[1], 40..50), "{lists:?}");
}
