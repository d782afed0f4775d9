//! The watch of one kind: kube's watcher, with the ways out that it leaves to its user.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kube::runtime::watcher::{self, Config, Event};
use kube::{Api, Client};
use svclb_common::layout::{SourceKind, SourceRow};
use svclb_core::text::short;
use tokio::time::{Instant, Sleep};

use super::client::Link;
use super::encoding::Encoding;
use super::health::Health;
use super::held::Held;
use super::object::{Object, Read, Wire};
use super::resources::Watched;
use super::silence::{Silence, by_chance};
use crate::convert::{Kind, wire};

/// A list that is streamed and stands still for so long is no streamed list: servers that know nothing
/// of them take the request for a plain watch, and never say that the list is at its end.
const STALL: Duration = Duration::from_secs(30);
/// Lists are not streamed for so long after that did not work: a server may be updated meanwhile.
const PAGED: Duration = Duration::from_secs(600);
/// Objects of one page, where lists are not streamed. A slice may be 25 KB of JSON.
const PAGE: u32 = 200;

/// After an error: the first wait and the longest, each up to twice as long by chance, so that the nodes
/// of a cluster do not ask all at once.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// What did well for so long is well: errors before count no more.
const WELL: Duration = Duration::from_secs(5);

type Events = BoxStream<'static, Result<Event<Read>, watcher::Error>>;

/// One kind, followed.
pub(super) struct Feed {
    pub(super) watched: &'static Watched,
    pub(super) held: Held,
    /// When the earliest news that was not handed on came.
    pub(super) seen: Option<Instant>,
    /// The object's name, where only one is watched.
    own: Option<String>,
    health: Health,
    encoding: Encoding,
    client: Client,
    /// The list that is or was read is streamed.
    streams: bool,
    /// When it was last found that lists are not streamed.
    paged: Option<Instant>,
    events: Events,
    /// A list is asked for or read, and is not at its end.
    listing: bool,
    /// The latest sign of life of the list that is being read, if one is.
    alive: Option<Instant>,
    stall: Alarm,
    silence: Silence,
    /// Objects whose contents were left out are listed again that long after the last list, if there is
    /// room for one of them.
    revisits: Duration,
    revisit: Alarm,
    /// When the last list was at its end.
    listed: Instant,
    well: Alarm,
    waits: ExponentialBackoff,
    wait: Option<Wait>,
    /// When a list was last asked for at once because the API server forgot what we knew.
    expired: Option<Instant>,
}

/// The wait after an error.
struct Wait {
    since: Instant,
    sleep: Pin<Box<Sleep>>,
}

/// Wakes at a time that may move.
struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    fn new() -> Self {
        Self(Box::pin(tokio::time::sleep(Duration::ZERO)))
    }

    /// Whether it is so late; if not, whoever polls is woken then.
    fn due(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        if self.0.deadline() != at {
            self.0.as_mut().reset(at);
        }
        self.0.as_mut().poll(cx).is_ready()
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("watched", &self.watched.resource)
            .field("held", &self.held)
            .field("streams", &self.streams)
            .finish_non_exhaustive()
    }
}

impl Feed {
    /// Watches a kind; `node` is the name of the own node.
    pub(super) fn new(watched: &'static Watched, held: Held, link: &Link, node: &str) -> Self {
        let health = Health::new(watched.resource);
        let encoding = Encoding::default();
        let client = link.client(&health, &encoding);
        let own = watched.own.then(|| node.to_owned());
        Self {
            watched,
            held,
            seen: None,
            events: open(watched, client.clone(), own.as_deref(), true),
            own,
            health,
            encoding,
            client,
            streams: true,
            paged: None,
            listing: true,
            alive: None,
            stall: Alarm::new(),
            silence: Silence::new(link.silence()),
            revisit: Alarm::new(),
            revisits: by_chance(link.silence()),
            listed: Instant::now(),
            well: Alarm::new(),
            waits: waits(),
            wait: None,
            expired: None,
        }
    }

    /// Takes in what is there.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        loop {
            if let Some(wait) = &mut self.wait {
                if wait.sleep.as_mut().poll(cx).is_pending() {
                    return;
                }
                self.wait = None;
            }
            match self.events.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(event))) => self.event(event),
                Poll::Ready(Some(Err(error))) => self.error(&error),
                Poll::Ready(None) => self.reopen(),
                Poll::Pending if self.stalls(cx) => {
                    self.plain("a list that it streams stands still")
                }
                Poll::Pending if self.recovers(cx) => self.well(),
                Poll::Pending if self.is_silent(cx) => self.reopen(),
                Poll::Pending if self.has_room(cx) => self.reopen(),
                Poll::Pending => return,
            }
        }
    }

    /// When the API server gave a good answer since this was asked last.
    pub(super) fn heard(&self) -> Option<Instant> {
        self.health.heard()
    }

    /// When this kind was last heard, from where, and how many of its objects are rejected.
    pub(super) fn row(&self) -> SourceRow {
        let row = self.health.row(match self.watched.kind {
            Kind::Service => SourceKind::Services,
            Kind::EndpointSlice => SourceKind::EndpointSlices,
            Kind::Node => SourceKind::Nodes,
        });
        let rejected = u32::try_from(self.held.standing()).unwrap_or(u32::MAX);
        SourceRow { rejected, ..row }
    }

    /// The API server answered somebody else: if it could not be reached before that, it is tried at
    /// once. True when there was something to hurry.
    pub(super) fn hurry(&mut self, heard: Instant) -> bool {
        let early = self.wait.as_ref().is_some_and(|wait| wait.since < heard);
        if !early || !self.health.unreached() {
            return false;
        }
        self.wait = None;
        self.waits = waits();
        true
    }

    fn event(&mut self, event: Event<Read>) {
        match event {
            Event::Init => {
                self.held.begin();
                self.alive = Some(Instant::now());
            }
            Event::InitApply(read) => {
                self.held.listed(read);
                self.alive = Some(Instant::now());
            }
            Event::InitDone => {
                (self.alive, self.listing) = (None, false);
                let first = !self.held.synced();
                let listed = self.held.done();
                self.silence.begin();
                self.listed = Instant::now();
                if listed.changed + listed.gone > 0 {
                    self.silence.end();
                }
                let resource = self.watched.resource;
                let encoding = self.encoding.name();
                if first {
                    tracing::info!(resource, objects = listed.objects, encoding, "listed");
                } else {
                    tracing::info!(
                        resource,
                        objects = listed.objects,
                        encoding,
                        changed = listed.changed,
                        gone = listed.gone,
                        "listed anew",
                    );
                }
                self.missing();
            }
            Event::Apply(read) => {
                self.held.apply(read);
            }
            Event::Delete(read) => {
                self.held.delete(read);
                self.missing();
            }
        }
        if self.held.has_news() && self.seen.is_none() {
            self.seen = Some(Instant::now());
        }
    }

    /// Nothing counts as local, and nobody knows our zone, without the own Node.
    fn missing(&self) {
        if let Some(name) = self.own.as_deref().filter(|_| self.held.count() == 0) {
            tracing::warn!(
                node = name,
                "the API server has no Node of this name, so neither its zone nor its addresses are \
                 known: give the name by --node",
            );
        }
    }

    fn error(&mut self, error: &watcher::Error) {
        use watcher::Error::{NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
        self.alive = None;
        // While the API server does not answer, no watch is silent. A watch that was open and broke off
        // was: some proxies cut what is silent.
        if matches!(error, WatchStartFailed(_)) {
            self.silence.begin();
        }
        let status = match error {
            WatchStartFailed(kube::Error::Api(status)) | WatchError(status) => Some(&**status),
            _ => None,
        };
        let code = status.map(|status| status.code);
        let refused = matches!(code, Some(400 | 422 | 501));
        // It forgot what was when we last heard it, so all is asked for anew, at once. (The watcher
        // would do so, too, but not for the first kind of error.) Unless that is all that comes of it.
        let again = |before: Instant| !self.health.is_well() || before.elapsed() <= WELL;
        if code == Some(410) && !self.expired.is_some_and(again) {
            tracing::info!(
                resource = self.watched.resource,
                "the API server does not know any more what changed since we heard it last",
            );
            self.expired = Some(Instant::now());
            return self.reopen();
        }
        if refused && self.listing && self.streams {
            return self.plain(status.map_or("", |status| &status.message));
        }
        if self.health.better().is_some_and(|since| since.elapsed() >= WELL) {
            self.well();
        }
        // The watcher reads on after a line that is no event, but nobody knows what it was. (One that is
        // any object is taken for a status.) A list with an error in it is none, and a watch that is
        // refused as such is not asked for again. What cannot be read may be read in another encoding.
        let lost = match error {
            _ if self.encoding.decline(error) => true,
            WatchFailed(error) => !matches!(error, kube::Error::ReadEvents(_)),
            NoResourceVersion => true,
            _ => false,
        };
        if self.listing || lost || refused || code == Some(410) {
            self.reopen();
        }
        let rest = if self.held.synced() {
            "what was served stays served"
        } else {
            "what an earlier agent left in the maps stays served"
        };
        self.health.bad(error, rest);
        let sleep = tokio::time::sleep(self.waits.next().unwrap_or(BACKOFF.1));
        self.wait = Some(Wait { since: Instant::now(), sleep: Box::pin(sleep) });
    }

    /// Whether a streamed list stands still.
    fn stalls(&mut self, cx: &mut Context<'_>) -> bool {
        let alive = self.alive.filter(|_| self.streams);
        alive.is_some_and(|alive| self.stall.due(alive + STALL, cx))
    }

    /// Whether the watch is silent for too long.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        if self.listing {
            return false;
        }
        let Some((lasts, first)) = self.silence.is_over(&self.health, cx) else { return false };
        if first {
            tracing::warn!(
                resource = self.watched.resource,
                seconds = lasts.as_secs(),
                "the API server sends nothing on an open watch, not even bookmarks, as after etcd was \
                 restored to an older state; listing all objects",
            );
        }
        true
    }

    /// Whether objects whose contents were left out have to be listed again. As long as there is no room for
    /// one of them, that is looked at as often.
    fn has_room(&mut self, cx: &mut Context<'_>) -> bool {
        if self.listing || !self.held.omits() {
            return false;
        }
        while self.revisit.due(self.listed + self.revisits, cx) {
            if self.held.has_room() {
                return true;
            }
            self.listed = Instant::now();
        }
        false
    }

    /// Whether it does well for long enough after something was wrong. (A good answer alone is not
    /// enough: an error may come by it.)
    fn recovers(&mut self, cx: &mut Context<'_>) -> bool {
        self.health.better().is_some_and(|since| self.well.due(since + WELL, cx))
    }

    fn well(&mut self) {
        self.health.well();
        self.expired = None;
        self.waits = waits();
    }

    /// Lists, then watches, for some time.
    fn plain(&mut self, why: &str) {
        tracing::info!(
            resource = self.watched.resource,
            why = short(why),
            "the API server does not stream lists; they are read page by page",
        );
        self.paged = Some(Instant::now());
        self.reopen();
    }

    /// Asks for a list anew.
    fn reopen(&mut self) {
        self.streams = self.paged.is_none_or(|since| since.elapsed() > PAGED);
        (self.listing, self.alive) = (true, None);
        self.events = open(self.watched, self.client.clone(), self.own.as_deref(), self.streams);
    }
}

fn waits() -> ExponentialBackoff {
    let (first, longest) = BACKOFF;
    let waits = ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest);
    waits.with_jitter().without_max_times().build()
}

fn open(watched: &Watched, client: Client, own: Option<&str>, streams: bool) -> Events {
    let mut config = Config::default().page_size(PAGE);
    if let Some(labels) = watched.labels {
        config = config.labels(labels);
    }
    if let Some(own) = own {
        config = config.fields(&format!("metadata.name={own}"));
    }
    if streams {
        config = config.streaming_lists();
    }
    match watched.kind {
        Kind::Service => events::<wire::Service>(client, config),
        Kind::EndpointSlice => events::<wire::EndpointSlice>(client, config),
        Kind::Node => events::<wire::Node>(client, config),
    }
}

fn events<T: Wire>(client: Client, config: Config) -> Events {
    let events = watcher::watcher(Api::<Object<T>>::all(client), config);
    events.map(|event| event.map(read)).boxed()
}

fn read<T>(event: Event<Object<T>>) -> Event<Read> {
    match event {
        Event::Apply(object) => Event::Apply(object.read),
        Event::Delete(object) => Event::Delete(object.read),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(object.read),
        Event::InitDone => Event::InitDone,
    }
}
