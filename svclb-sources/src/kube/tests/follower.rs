//! A source that follows an API server without a network, in paused time: minutes pass at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Response;
use http::header::{ACCEPT, CONTENT_TYPE};
use http_body_util::channel::Channel;
use kube::Client;
use kube::client::Body;
use tempfile::NamedTempFile;
use tokio::time::{Instant, sleep};
use tower::{BoxError, service_fn};
use tracing::subscriber::DefaultGuard;

use super::super::client::ApiClient;
use super::super::{Batch, Kube, KubeSettings};
use super::server::Request;
use super::settings;

/// The answer to a request.
pub(super) enum Reply {
    /// The server cannot be reached.
    Unreachable,
    /// The server never answers.
    NoAnswer,
    /// A status, and lines with the delay before each.
    Lines(u16, Vec<(Duration, String)>, Then),
    /// A status, and parts of a body in protobuf with the delay before each.
    Protobuf(u16, Vec<(Duration, Vec<u8>)>, Then),
}

/// The end of an answer.
pub(super) enum Then {
    Ends,
    StaysOpen,
    /// It ends after this time without a byte.
    EndsAfter(Duration),
    /// It breaks off after this time without a byte.
    BreaksAfter(Duration),
}

/// A watch that sends all lines at once and stays open.
pub(super) fn watch(lines: Vec<String>) -> Reply {
    Reply::Lines(200, at_once(lines), Then::StaysOpen)
}

/// A complete answer.
pub(super) fn whole(status: u16, text: String) -> Reply {
    Reply::Lines(status, at_once(vec![text]), Then::Ends)
}

pub(super) fn at_once(lines: Vec<String>) -> Vec<(Duration, String)> {
    lines.into_iter().map(|line| (Duration::ZERO, line)).collect()
}

/// The source, and the requests and log lines that it made.
pub(super) struct Follower {
    kube: Kube,
    start: Instant,
    requests: Requests,
    log: NamedTempFile,
    _subscriber: DefaultGuard,
}

/// Each request: the time since the start, and the target.
type Requests = Arc<Mutex<Vec<(Duration, String)>>>;

impl Follower {
    /// Follows a server that answers by this function of the time since the start and the request. Time must
    /// be paused.
    pub(super) fn new(
        answer: impl Fn(Duration, &Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with(settings(None), answer)
    }

    /// The same with other settings.
    pub(super) fn with(
        settings: KubeSettings,
        answer: impl Fn(Duration, &Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let log = NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt().with_ansi(false);
        let subscriber = subscriber.with_writer(Arc::new(log.reopen().unwrap())).finish();
        let subscriber = tracing::subscriber::set_default(subscriber);
        let start = Instant::now();
        let requests = Requests::default();
        let (answer, seen) = (Arc::new(answer), Arc::clone(&requests));
        let service = service_fn(move |request: http::Request<Body>| {
            let target = request.uri().to_string();
            let late = start.elapsed();
            seen.lock().unwrap().push((late, target.clone()));
            let accept = request.headers().get(ACCEPT).map(|accept| accept.to_str().unwrap());
            let protobuf =
                accept.is_some_and(|it| it.starts_with("application/vnd.kubernetes.protobuf"));
            let reply = answer(late, &Request(target, protobuf));
            async move {
                let (status, kind, parts, then) = match reply {
                    Reply::Unreachable => return Err(BoxError::from("unreachable")),
                    Reply::NoAnswer => std::future::pending().await,
                    Reply::Lines(status, lines, then) => {
                        let lines = lines.into_iter();
                        let parts = lines.map(|(wait, line)| (wait, (line + "\n").into_bytes()));
                        (status, "application/json", parts.collect(), then)
                    }
                    Reply::Protobuf(status, parts, then) => {
                        (status, "application/vnd.kubernetes.protobuf;stream=watch", parts, then)
                    }
                };
                let (mut sender, body) = Channel::<_, BoxError>::new(1);
                tokio::spawn(async move {
                    for (wait, part) in parts {
                        sleep(wait).await;
                        if sender.send_data(part.into()).await.is_err() {
                            return;
                        }
                    }
                    match then {
                        Then::Ends => {}
                        Then::StaysOpen => std::future::pending().await,
                        Then::EndsAfter(time) => sleep(time).await,
                        Then::BreaksAfter(time) => {
                            sleep(time).await;
                            sender.abort(BoxError::from("it broke off"));
                        }
                    }
                });
                Ok(Response::builder().status(status).header(CONTENT_TYPE, kind).body(body)?)
            }
        });
        let client = Client::new(service, "default");
        let client = ApiClient::over(Some(client), settings, "server".into());
        let kube = Kube::over(&client, "node-a");
        Self { kube, start, requests, log, _subscriber: subscriber }
    }

    /// Follows until this time after the start. Returns the batches.
    pub(super) async fn until(&mut self, late: Duration) -> Vec<Batch> {
        let mut batches = Vec::new();
        let end = self.start + late;
        while let Ok(batch) = tokio::time::timeout_at(end, self.kube.next()).await {
            batches.push(batch);
        }
        batches
    }

    /// The requests for a resource.
    pub(super) fn requests(&self, resource: &str) -> Vec<(Duration, String)> {
        let mut requests = self.requests.lock().unwrap().clone();
        requests.retain(|(_, target)| Request(target.clone(), false).is_for(resource));
        requests
    }

    /// The lines of the log with these words.
    pub(super) fn log(&self, words: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.log.path()).unwrap();
        log.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }
}
