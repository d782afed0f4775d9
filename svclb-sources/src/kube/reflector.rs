//! The reflector of one kind: lists its objects, watches them, and lists again where it must.
//!
//! A list is streamed, and the watch goes on in the same answer. A server that does not stream is listed in
//! pages. A watch that ends goes on from its last version, unless that is gone or something may be missed.

use std::fmt;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use svclb_common::layout::SourceRow;
use svclb_core::text::short;
use svclb_objects::convert::wire::Text;
use svclb_objects::events::{Encoding, Event, Malformed, page};
use tokio::time::Instant;

use super::client::ApiClient;
use super::health::Health;
use super::request::{Answer, Content, EventStream, Fetch, FetchError, LIFETIME};
use super::resources::Watched;
use super::silence::Silence;
use super::store::Store;
use super::timing::Alarm;
use crate::convert::Kind;

/// A streamed list without an event for this time is no streamed list: servers that do not know them take
/// the request for a plain watch, and never report that the list is complete.
const STALL: Duration = Duration::from_secs(30);
/// A watch without an event for this time has lost its other side, which would have ended it by now.
const IDLE: Duration = LIFETIME.saturating_add(Duration::from_secs(5));
/// An answer that ends sooner is an error: otherwise a server that ends each at once would get requests as fast
/// as it can answer.
const SHORTEST: Duration = Duration::from_secs(1);
/// Lists are not streamed for this time after that did not work: a server may be updated meanwhile.
const PAGED: Duration = Duration::from_secs(600);
/// Protobuf is not accepted for this time after it could not be read: a proxy may spoil it.
const DECLINED: Duration = Duration::from_secs(600);

/// Keeps the objects of one kind as the API server has them.
pub(super) struct Reflector {
    pub(super) store: Store,
    /// The time of the earliest change that was not handed on.
    pub(super) seen: Option<Instant>,
    watched: &'static Watched,
    /// The object's name, where only one is watched.
    own: Option<String>,
    client: ApiClient,
    health: Health,
    /// The request whose answer is read, or that is sent next.
    fetch: Fetch,
    pending: PendingRequest,
    /// The beginning and the end of the delay after an error.
    delay: Option<(Instant, Instant)>,
    /// The encoding of the latest good answer.
    encoding: Encoding,
    /// The time at which protobuf last could not be read.
    declined: Option<Instant>,
    /// The time at which lists were last found not to be streamed.
    paged: Option<Instant>,
    /// The time of the latest event, or of the beginning of the answer.
    alive: Instant,
    silence: Silence,
    /// The time at which the last list was complete, or at which there last was no capacity to list again.
    /// Objects whose contents were left out are listed again as long after it as a watch may be silent, if
    /// there is capacity for one of them.
    listed: Instant,
    alarm: Alarm,
}

/// The reasons for an alarm.
#[derive(Clone, Copy)]
enum Due {
    /// The delay after an error ends.
    Retry,
    /// A list or a watch was without events for too long.
    Stall,
    /// There was no error for long enough after one.
    Recovery,
    /// The watch was silent for too long.
    Silence,
    /// Objects whose contents were left out may be listed again.
    Revisit,
}

/// The request that is under way.
enum PendingRequest {
    None,
    Sent(BoxFuture<'static, Result<Answer, FetchError>>),
    /// A list or a watch.
    Open(EventStream),
}

impl fmt::Debug for Reflector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reflector")
            .field("watched", &self.watched.resource)
            .field("fetch", &self.fetch)
            .finish_non_exhaustive()
    }
}

impl Reflector {
    /// Reflects a kind; `node` is the name of the own node.
    pub(super) fn new(
        watched: &'static Watched,
        store: Store,
        client: &ApiClient,
        node: &str,
    ) -> Self {
        let now = Instant::now();
        Self {
            store,
            seen: None,
            watched,
            own: (watched.kind == Kind::Node).then(|| node.to_owned()),
            client: client.clone(),
            health: Health::new(watched.resource),
            fetch: Fetch::Stream,
            pending: PendingRequest::None,
            delay: None,
            encoding: Encoding::Json,
            declined: None,
            paged: None,
            alive: now,
            silence: Silence::new(client.settings.silence),
            listed: now,
            alarm: Alarm::new(),
        }
    }

    /// Takes in what was received, and sends the next request.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        loop {
            let step = if self.delay.is_some() { Poll::Pending } else { self.step(cx) };
            match step {
                Poll::Ready(Ok(())) if self.store.has_changes() => {
                    self.seen.get_or_insert_with(Instant::now);
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(failure)) => self.fail(&failure),
                Poll::Pending => match self.next_due() {
                    Some((at, due)) if self.alarm.poll_at(at, cx).is_ready() => self.wake(due),
                    _ => return,
                },
            }
        }
    }

    /// Returns the time of a good answer, if there was one since the last call.
    pub(super) fn take_answered(&mut self) -> Option<Instant> {
        self.health.answered.take()
    }

    /// Returns the time at which this kind was last received, its sender, and the number of rejected objects.
    pub(super) fn row(&self) -> SourceRow {
        let rejected = u32::try_from(self.store.standing()).unwrap_or(u32::MAX);
        SourceRow { rejected, ..self.health.row(self.watched.kind) }
    }

    /// Names the kind, with the last error of its watch, as long as it was not listed.
    pub(super) fn missing(&self) -> Option<String> {
        let resource = self.watched.resource;
        (!self.store.synced()).then(|| match self.health.error() {
            Some(error) => format!("{resource} ({error})"),
            None => resource.to_owned(),
        })
    }

    /// Ends a delay that began before the API server answered another kind at this time, if it could not be
    /// reached. Returns true when there was one.
    pub(super) fn hurry(&mut self, answered: Instant) -> bool {
        let is_early = self.delay.is_some_and(|(since, _)| since < answered);
        if !is_early || !self.health.unreached {
            return false;
        }
        self.delay = None;
        self.health.backoff.reset();
        true
    }

    /// Sends the request, or takes in its answer or the next event.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), FetchError>> {
        match &mut self.pending {
            PendingRequest::None => {
                let protobuf = self.declined.is_none_or(|since| since.elapsed() > DECLINED);
                let (client, own) = (self.client.clone(), self.own.clone());
                let sent = self.fetch.clone().send(client, self.watched, own, protobuf);
                self.pending = PendingRequest::Sent(Box::pin(sent));
                Poll::Ready(Ok(()))
            }
            PendingRequest::Sent(answer) => {
                let answer = ready!(answer.as_mut().poll(cx));
                self.pending = PendingRequest::None;
                if let Err(failure) = &answer {
                    self.health.unreached = matches!(failure, FetchError::Unanswered(_));
                    // A watch is not silent while the API server does not answer. An open one that broke off
                    // may have been: some proxies cut silent connections.
                    self.silence.restart();
                }
                Poll::Ready(answer.and_then(|answer| self.answered(answer)))
            }
            PendingRequest::Open(stream) => {
                if let Some(event) = ready!(stream.poll(self.watched.kind, cx)?) {
                    return Poll::Ready(self.event(event));
                }
                let is_short = stream.since.elapsed() < SHORTEST;
                self.pending = PendingRequest::None;
                let problem = match self.fetch {
                    Fetch::Watch(_) if !is_short => return Poll::Ready(Ok(())),
                    Fetch::Watch(_) => "the API server ended a watch at once",
                    _ => "the API server ended a list before it was complete",
                };
                Poll::Ready(Err(FetchError::Broken(problem.into())))
            }
        }
    }

    /// Takes in a good answer.
    fn answered(&mut self, answer: Answer) -> Result<(), FetchError> {
        let peer = answer.peer.map(|peer| (peer, self.client.ways.kind_of(peer)));
        self.health.answered_by(peer);
        self.encoding = answer.encoding;
        if matches!(self.fetch, Fetch::Stream | Fetch::Page(None)) {
            self.store.begin();
        }
        match answer.content {
            Content::Events(stream) => {
                self.alive = stream.since;
                self.pending = PendingRequest::Open(stream);
            }
            Content::Page(body) => {
                let end = page(self.watched.kind, &body, |read| self.store.listed(read))?;
                if !end.next.is_empty() {
                    self.fetch = Fetch::Page(Some(end.next));
                } else if !end.version.is_empty() {
                    self.end_list(end.version);
                } else {
                    return Err(self.without_version());
                }
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Event) -> Result<(), FetchError> {
        self.alive = Instant::now();
        self.health.received();
        // A list is no sign of life of the watch before it.
        if matches!(self.fetch, Fetch::Watch(_)) {
            self.silence.received();
        }
        match (event, &mut self.fetch) {
            (Event::Error(status), _) => return Err(status.into()),
            (Event::Bookmark { version, .. }, Fetch::Watch(last)) => *last = version,
            (Event::Bookmark { version, ends_list: true }, _) => self.end_list(version),
            (Event::Object { version, read, is_gone }, Fetch::Watch(last)) => {
                let version = version.filter(|version| !version.is_empty());
                let Some(version) = version else { return Err(self.without_version()) };
                *last = version;
                if is_gone {
                    self.store.delete(read);
                    self.warn_if_missing();
                } else {
                    self.store.apply(read);
                }
            }
            (Event::Object { read, is_gone: false, .. }, _) => self.store.listed(read),
            // In a streamed list no object is gone.
            (Event::Bookmark { .. } | Event::Object { .. }, _) => {}
        }
        Ok(())
    }

    fn without_version(&self) -> FetchError {
        let problem = "there is no resourceVersion to go on from".to_owned();
        Malformed::Unreadable(self.encoding, problem).into()
    }

    /// Compares a complete list with the store. A watch goes on from its version.
    fn end_list(&mut self, version: Text) {
        self.fetch = Fetch::Watch(version);
        let first = !self.store.synced();
        let summary = self.store.done();
        self.silence.restart();
        self.listed = Instant::now();
        if summary.changed + summary.gone > 0 {
            self.silence.end();
        }
        let (resource, encoding) = (self.watched.resource, self.encoding.name());
        let (objects, again) = (summary.objects, if first { "" } else { " anew" });
        let [changed, gone] =
            [summary.changed, summary.gone].map(|count| (!first).then_some(count));
        tracing::info!(resource, objects, encoding, changed, gone, "listed{again}");
        self.warn_if_missing();
    }

    /// Warns without the own Node: then no endpoint is local, and the own zone is not known.
    fn warn_if_missing(&self) {
        if let Some(name) = self.own.as_deref().filter(|_| self.store.count() == 0) {
            tracing::warn!(
                node = name,
                "the API server has no Node of this name, so neither its zone nor its addresses are \
                 known: give the name by --node",
            );
        }
    }

    /// Decides where to go on after an error, and when. A watch goes on from its last version, unless that
    /// version is gone or changes may have been missed; a list begins again.
    fn fail(&mut self, failure: &FetchError) {
        self.pending = PendingRequest::None;
        let (code, message) = match failure {
            FetchError::Status(status) => (status.code, &*status.message),
            _ => (0, ""),
        };
        if code == 410 && self.health.expires() {
            tracing::info!(
                resource = self.watched.resource,
                "the last resourceVersion is expired; listing all objects",
            );
            return self.list();
        }
        let is_refused = matches!(code, 400 | 422 | 501);
        if is_refused && self.fetch == Fetch::Stream {
            return self.list_in_pages(message);
        }
        // An event that cannot be read is lost. In another encoding it may be readable.
        let is_lost = match failure {
            FetchError::Malformed(malformed) => !matches!(malformed, Malformed::Cut(..)),
            _ => false,
        };
        if is_lost && self.encoding == Encoding::Protobuf {
            self.declined = Some(Instant::now());
        }
        if !matches!(self.fetch, Fetch::Watch(_)) || is_lost || is_refused || code == 410 {
            self.list();
        }
        let rest = match self.store.synced() {
            true => "what was served stays served",
            false => "what an earlier agent left in the maps stays served",
        };
        let now = Instant::now();
        self.delay = Some((now, now + self.health.report(failure, rest)));
    }

    /// Returns the next time at which something is due.
    fn next_due(&self) -> Option<(Instant, Due)> {
        if let Some((_, until)) = self.delay {
            return Some((until, Due::Retry));
        }
        let is_open = matches!(self.pending, PendingRequest::Open(_));
        let is_watch = matches!(self.fetch, Fetch::Watch(_));
        let limit = if is_watch { IDLE } else { STALL };
        let all = [
            is_open.then(|| (self.alive + limit, Due::Stall)),
            self.health.recovery().map(|at| (at, Due::Recovery)),
            is_watch.then(|| (self.silence.since + self.silence.limit, Due::Silence)),
            (is_watch && self.store.omits())
                .then(|| (self.listed + self.silence.limit, Due::Revisit)),
        ];
        all.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn wake(&mut self, due: Due) {
        match due {
            Due::Retry => self.delay = None,
            Due::Stall if self.fetch == Fetch::Stream => {
                self.list_in_pages("a list that it streams stands still");
            }
            Due::Stall => self.pending = PendingRequest::None,
            Due::Recovery => self.health.recover(),
            Due::Silence => {
                if let Some(lasts) = self.silence.exceeds_first() {
                    tracing::warn!(
                        resource = self.watched.resource,
                        seconds = lasts.as_secs(),
                        "the API server sends nothing on an open watch, not even bookmarks, as after \
                         etcd was restored to an older state; listing all objects",
                    );
                }
                self.list();
            }
            Due::Revisit if self.store.has_capacity() => self.list(),
            Due::Revisit => self.listed = Instant::now(),
        }
    }

    /// Lists in pages for some time.
    fn list_in_pages(&mut self, why: &str) {
        tracing::info!(
            resource = self.watched.resource,
            why = short(why),
            "the API server does not stream lists; they are read page by page",
        );
        self.paged = Some(Instant::now());
        self.list();
    }

    /// Lists all objects.
    fn list(&mut self) {
        self.pending = PendingRequest::None;
        self.fetch = match self.paged.is_none_or(|since| since.elapsed() > PAGED) {
            true => Fetch::Stream,
            false => Fetch::Page(None),
        };
    }
}
