//! Watches of servers that behave unlike current API servers.

mod follower;
mod protobuf;
mod server;
mod silence;
mod trouble;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use svclb_core::budget::Budget;
use svclb_core::model::{ObjectName, Update};

use super::plugin::PluginLimits;
use super::{Batch, Kube, KubeSettings, SILENCE};
use crate::Reject;
use server::{Answer, Request, Server};

const PATIENCE: Duration = Duration::from_secs(20);

fn service(name: &str, version: u32) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "default", "resourceVersion": version.to_string() },
        "spec": { "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ports": [{ "port": 80 }] },
    })
}

fn event(kind: &str, object: &Value) -> String {
    // The type comes first, as API servers write it.
    format!(r#"{{"type":"{kind}","object":{object}}}"#)
}

/// The end of a list that is streamed.
fn end(version: u32) -> String {
    let annotations = json!({ "k8s.io/initial-events-end": "true" });
    let metadata = json!({ "resourceVersion": version.to_string(), "annotations": annotations });
    event("BOOKMARK", &json!({ "kind": "Service", "apiVersion": "v1", "metadata": metadata }))
}

fn list(items: &[Value], version: u32) -> Answer {
    let metadata = json!({ "resourceVersion": version.to_string() });
    let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items });
    Answer::Whole(200, list.to_string())
}

fn status(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": reason, "reason": reason, "code": code,
    })
}

fn settings(kubeconfig: Option<PathBuf>) -> KubeSettings {
    let (api_servers, plugins, budget) = (Vec::new(), PluginLimits::default(), Budget::of_agent());
    KubeSettings { kubeconfig, api_servers, plugins, silence: SILENCE, budget }
}

async fn follow(server: &Server) -> Kube {
    let settings = settings(Some(server.kubeconfig()));
    Kube::new(settings, "node-a").await.unwrap()
}

async fn next(kube: &mut Kube) -> Batch {
    let next = tokio::time::timeout(PATIENCE, kube.next());
    next.await.expect("a batch comes in time")
}

/// Names of the Services in a batch; those that are gone with a minus.
fn names(batch: &Batch) -> Vec<String> {
    let mut names: Vec<String> = batch
        .updates
        .iter()
        .filter_map(|update| match update {
            Update::Service(ObjectName { name, .. }, service) => {
                Some(format!("{}{name}", if service.is_some() { "" } else { "-" }))
            }
            _ => None,
        })
        .collect();
    names.sort();
    names
}

/// Answers requests for Services by this function, and with empty lists for the other kinds.
fn services(
    answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
) -> impl Fn(&Request) -> Answer + Send + Sync + 'static {
    move |request| match (request.is_for("services"), request.has("sendInitialEvents=true")) {
        (true, _) => answer(request),
        (false, true) => Answer::Watch(vec![end(1)]),
        (false, false) => list(&[], 1),
    }
}

#[tokio::test]
async fn server_that_refuses_to_stream_lists_is_listed_in_pages() {
    let server = Server::new(services(|request| {
        if request.has("sendInitialEvents") {
            let why = status(422, "sendInitialEvents is forbidden for watch");
            Answer::Whole(422, why.to_string())
        } else if request.has("watch=true") {
            Answer::Watch(vec![event("ADDED", &service("c", 9))])
        } else if request.has("continue=more") {
            list(&[service("b", 2)], 8)
        } else {
            let metadata = json!({ "resourceVersion": "8", "continue": "more" });
            let list = json!({ "metadata": metadata, "items": [service("a", 1)] });
            Answer::Whole(200, list.to_string())
        }
    }));
    let mut kube = follow(&server).await;
    let batch = next(&mut kube).await;
    assert!(batch.whole);
    let mut found = names(&batch);
    if found == ["a", "b"] {
        found.extend(names(&next(&mut kube).await));
    }
    assert_eq!(found, ["a", "b", "c"]);
    let requests = server.requests();
    let watch = requests
        .iter()
        .find(|target| target.contains("services") && target.contains("resourceVersion=8"));
    assert!(watch.is_some(), "it watches from the version of the list: {requests:#?}");
}

#[tokio::test]
async fn requests_select_only_the_objects_that_are_read() {
    let server = Server::new(services(|_| Answer::Watch(vec![end(1)])));
    next(&mut follow(&server).await).await;
    let requests = server.requests();
    for (resource, selectors) in [
        (
            "/api/v1/services",
            &[
                "labelSelector=%21service.kubernetes.io%2Fservice-proxy-name%2C%21service.kubernetes.io%2Fheadless",
            ][..],
        ),
        (
            "/apis/discovery.k8s.io/v1/endpointslices",
            &["labelSelector=%21service.kubernetes.io%2Fheadless"],
        ),
        ("/api/v1/nodes", &["fieldSelector=metadata.name%3Dnode-a"]),
    ] {
        let requests: Vec<_> =
            requests.iter().filter(|target| target.starts_with(resource)).collect();
        assert_eq!(requests.len(), 1, "{resource}: {requests:?}");
        for selector in
            selectors.iter().chain(&["allowWatchBookmarks=true", "sendInitialEvents=true"])
        {
            assert!(requests[0].contains(selector), "{selector}: {requests:?}");
        }
    }
}

#[tokio::test]
async fn streamed_list_is_requested_without_a_version_and_a_watch_from_its_version() {
    let server = Server::new(services(|request| match request.has("sendInitialEvents") {
        true => Answer::Ends(vec![event("ADDED", &service("a", 1)), end(7)]),
        false => Answer::Watch(vec![event("ADDED", &service("b", 8))]),
    }));
    let mut kube = follow(&server).await;
    let mut found = names(&next(&mut kube).await);
    if found == ["a"] {
        found.extend(names(&next(&mut kube).await));
    }
    assert_eq!(found, ["a", "b"]);
    let requests = server.requests();
    let (lists, watches): (Vec<_>, Vec<_>) =
        requests.iter().partition(|target| target.contains("sendInitialEvents=true"));
    assert_eq!((lists.len(), watches.len()), (3, 1), "{requests:#?}");
    for list in lists {
        assert!(list.contains("resourceVersionMatch=NotOlderThan"), "{list}");
        assert!(list.contains("watch=true") && !list.contains("resourceVersion="), "{list}");
    }
    assert!(watches[0].contains("resourceVersion=7"), "{watches:?}");
}

#[tokio::test]
async fn unreadable_objects_are_rejected_and_the_others_count() {
    let server = Server::new(services(|_| {
        Answer::Watch(vec![
            event("ADDED", &service("a", 1)),
            event("ADDED", &json!({ "metadata": { "resourceVersion": "2" }, "spec": 7 })),
            event("ADDED", &json!("rubbish")),
            event("ADDED", &service("b", 3)),
            end(4),
            event(
                "MODIFIED",
                &json!({
                    "metadata": { "name": "a", "namespace": "default", "resourceVersion": "5" },
                    "spec": { "clusterIP": "10.96.0.10", "ports": "none" },
                }),
            ),
            event("ADDED", &service("c", 6)),
        ])
    }));
    let mut kube = follow(&server).await;
    let (mut found, mut rejects) = (Vec::new(), Vec::new());
    while !found.contains(&"c".to_owned()) {
        let batch = next(&mut kube).await;
        found.extend(names(&batch));
        rejects.extend(batch.rejects);
    }
    assert_eq!(found, ["a", "b", "c"]);
    let of_a = rejects.iter().find_map(|reject| match reject {
        Reject::Object(invalid, _) if invalid.field == "spec.ports" => invalid.object.clone(),
        _ => None,
    });
    assert_eq!(of_a.expect("a is rejected").to_string(), "Service default/a");
}

#[tokio::test]
async fn expired_version_is_listed_again_at_once_and_only_differences_are_handed_on() {
    let round = AtomicUsize::new(0);
    let server = Server::new(services(move |_| match round.fetch_add(1, Ordering::Relaxed) {
        0 => Answer::Watch(vec![
            event("ADDED", &service("stays", 1)),
            event("ADDED", &service("goes", 2)),
            end(3),
            event("ERROR", &status(410, "Expired")),
        ]),
        _ => Answer::Watch(vec![
            event("ADDED", &service("stays", 1)),
            event("ADDED", &service("comes", 7)),
            end(8),
        ]),
    }));
    let mut kube = follow(&server).await;
    let mut found = names(&next(&mut kube).await);
    if found == ["goes", "stays"] {
        found = names(&next(&mut kube).await);
        assert_eq!(found, ["-goes", "comes"]);
    } else {
        // The second list came before the first was handed on.
        assert_eq!(found, ["-goes", "comes", "stays"]);
    }
}

#[tokio::test]
async fn watch_that_expires_before_it_begins_is_listed_again() {
    let server = Server::new(services(move |request| {
        if request.has("sendInitialEvents") {
            Answer::Ends(vec![event("ADDED", &service("a", 1)), end(2)])
        } else {
            Answer::Whole(410, status(410, "Expired").to_string())
        }
    }));
    let mut kube = follow(&server).await;
    next(&mut kube).await;
    let start = Instant::now();
    let lists = || {
        server
            .requests()
            .iter()
            .filter(|target| target.contains("services") && target.contains("sendInitialEvents"))
            .count()
    };
    while lists() < 2 {
        assert!(start.elapsed() < PATIENCE, "{:#?}", server.requests());
        // The list has no changes.
        let none = tokio::time::timeout(Duration::from_millis(50), kube.next()).await;
        assert!(none.is_err());
    }
}

#[tokio::test]
async fn server_that_ends_each_watch_at_once_is_requested_with_delays() {
    let server = Server::new(services(|_| Answer::Ends(vec![])));
    let mut kube = follow(&server).await;
    let none = tokio::time::timeout(Duration::from_secs(3), kube.next()).await;
    assert!(none.is_err(), "there is no list");
    let requests = server.requests().iter().filter(|target| target.contains("services")).count();
    assert!((2..=15).contains(&requests), "{requests} requests in 3 s");
}
