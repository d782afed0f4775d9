//! An API server without a network, in time that passes as fast as it can: what takes minutes is seen at
//! once.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Response;
use http::header::{ACCEPT, CONTENT_TYPE};
use http_body_util::channel::Channel;
use kube::Client;
use kube::client::Body;
use tokio::time::{Instant, sleep};
use tower::{BoxError, service_fn};
use tracing::subscriber::DefaultGuard;

use super::super::client::ApiClient;
use super::super::{Batch, Kube, Settings};
use super::server::Request;
use super::settings;

/// What a request is answered with.
pub(super) enum Told {
    /// Nobody is there.
    Nobody,
    /// No answer.
    Silence,
    /// A status, lines and how long each is waited for.
    Lines(u16, Vec<(Duration, String)>, Then),
    /// A status, parts of a body in protobuf and how long each is waited for.
    Protobuf(u16, Vec<(Duration, Vec<u8>)>, Then),
}

/// What comes after the lines.
pub(super) enum Then {
    Ends,
    Stands,
    /// After this time without a byte it ends.
    EndsAfter(Duration),
    /// After this time without a byte it breaks off.
    BreaksAfter(Duration),
}

/// All lines at once, after which a watch stands.
pub(super) fn watch(lines: Vec<String>) -> Told {
    Told::Lines(200, at_once(lines), Then::Stands)
}

/// All at once, and that is the end.
pub(super) fn whole(status: u16, text: String) -> Told {
    Told::Lines(status, at_once(vec![text]), Then::Ends)
}

pub(super) fn at_once(lines: Vec<String>) -> Vec<(Duration, String)> {
    lines.into_iter().map(|line| (Duration::ZERO, line)).collect()
}

/// Somebody who follows such an API server, and what is seen of it.
pub(super) struct Peer {
    kube: Kube,
    start: Instant,
    asked: Asked,
    log: Log,
    _subscriber: DefaultGuard,
}

type Asked = Arc<Mutex<Vec<(Duration, String)>>>;

impl Peer {
    /// One that answers as this says, which is told how late it is. Time must be paused.
    pub(super) fn new(answer: impl Fn(Duration, &Request) -> Told + Send + Sync + 'static) -> Self {
        Self::with(settings(None), answer)
    }

    /// The same with other settings.
    pub(super) fn with(
        settings: Settings,
        answer: impl Fn(Duration, &Request) -> Told + Send + Sync + 'static,
    ) -> Self {
        let (log, subscriber) = Log::begin();
        let start = Instant::now();
        let asked = Asked::default();
        let (answer, seen) = (Arc::new(answer), Arc::clone(&asked));
        let service = service_fn(move |request: http::Request<Body>| {
            let target = request.uri().to_string();
            let late = start.elapsed();
            seen.lock().unwrap().push((late, target.clone()));
            let accept = request.headers().get(ACCEPT).map(|accept| accept.to_str().unwrap());
            let protobuf =
                accept.is_some_and(|it| it.starts_with("application/vnd.kubernetes.protobuf"));
            let told = answer(late, &Request(target, protobuf));
            async move {
                let (status, kind, parts, then) = match told {
                    Told::Nobody => return Err(BoxError::from("nobody is there")),
                    Told::Silence => std::future::pending().await,
                    Told::Lines(status, lines, then) => {
                        let lines = lines.into_iter();
                        let parts = lines.map(|(wait, line)| (wait, (line + "\n").into_bytes()));
                        (status, "application/json", parts.collect(), then)
                    }
                    Told::Protobuf(status, parts, then) => {
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
                        Then::Stands => std::future::pending().await,
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
        let kube = Kube::over(&ApiClient::over(client, settings, "peer".into()), "node-a");
        Self { kube, start, asked, log, _subscriber: subscriber }
    }

    /// Follows until so late after the start; gives what was told.
    pub(super) async fn until(&mut self, late: Duration) -> Vec<Batch> {
        let mut told = Vec::new();
        let end = self.start + late;
        while let Ok(batch) = tokio::time::timeout_at(end, self.kube.next()).await {
            told.push(batch);
        }
        told
    }

    /// When a resource was asked for, and how.
    pub(super) fn asked(&self, resource: &str) -> Vec<(Duration, String)> {
        let asked = self.asked.lock().unwrap().clone();
        asked
            .into_iter()
            .filter(|(_, target)| Request(target.clone(), false).is_for(resource))
            .collect()
    }

    /// Lines of the log that have these words.
    pub(super) fn log(&self, words: &str) -> Vec<String> {
        let log = String::from_utf8(self.log.0.lock().unwrap().clone()).unwrap();
        log.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// What this thread says from here on.
    fn begin() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
        (log, tracing::subscriber::set_default(subscriber.finish()))
    }
}

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
