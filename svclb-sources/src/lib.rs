//! Where Services come from, turned into [`svclb_core::model::Update`]s.
//!
//! * [`convert`] (of svclb-objects): Kubernetes objects to updates, whatever they were read from.
//! * [`files`]: objects in YAML and JSON files, followed as they change.
//! * [`kube`]: objects of an API server, watched.
//! * [`memory`]: what somebody in the same process says.
//! * [`interfaces`]: the addresses of the node's interfaces that node ports are served at.

pub mod files;
pub mod interfaces;
pub mod kube;
pub mod memory;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use svclb_common::layout::{SOURCES, SourceKind, SourceRow};
use svclb_core::model::{Unread, Update};
pub use svclb_objects::convert;

use convert::{Ignored, Invalid, ObjectId, Skipped};
use interfaces::Interfaces;

/// What a source says that it did not say before.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Changed objects.
    pub updates: Vec<Update>,
    /// The updates are all that the source has: what is not among them is gone. So is the first batch
    /// of every source, and no later one: a source that loses sight of its objects and finds them again
    /// says what changed and what is gone, so that an object which is rejected then keeps its state.
    pub whole: bool,
    /// What is rejected, or ignored of an object, since this batch.
    pub rejects: Vec<Reject>,
    /// The objects that are rejected now, where that changed. The first batch always says.
    pub unread: Option<Unread>,
    /// How many rejects stand, with those of earlier batches. A batch may hold no other news.
    pub standing: usize,
    /// What the source holds now that is left out on purpose.
    pub skipped: Skipped,
    /// When the earliest of these changes was noticed.
    pub seen: Instant,
}

impl Batch {
    /// These changes, noticed now, of a source that rejects and leaves out nothing.
    pub fn of(updates: Vec<Update>) -> Self {
        Self {
            updates,
            whole: false,
            rejects: Vec::new(),
            unread: None,
            standing: 0,
            skipped: Skipped::default(),
            seen: Instant::now(),
        }
    }
}

/// An object or a file that was rejected, or of which parts are ignored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reject {
    /// Of a file.
    File(files::Reject),
    /// An object of an API server.
    Object(Invalid),
    /// Parts of an object of an API server.
    Parts(ObjectId, Box<Ignored>),
}

impl Reject {
    /// Logs it, with how long ago it was reported, unless that is now. Its words end with what happens
    /// meanwhile.
    pub fn log(&self, age: Duration) {
        let seconds_ago = Some(age.as_secs()).filter(|seconds| *seconds > 0);
        match self {
            Self::File(reject) => tracing::warn!(seconds_ago, "{reject}"),
            Self::Object(invalid) => tracing::warn!(
                seconds_ago,
                "rejected {}{invalid}; until this is corrected, its previous state stays, and gives way \
                 to every other claimant of its frontends",
                if invalid.object.is_some() { "" } else { "an object: " },
            ),
            Self::Parts(object, ignored) => tracing::warn!(seconds_ago, "{object}: {ignored}"),
        }
    }

    /// True when this one makes an earlier reject obsolete: an object of an API server has one at a time, a
    /// file may have several of one object.
    pub fn replaces(&self, earlier: &Self) -> bool {
        match self {
            Self::File(_) => self == earlier,
            _ => self.object().is_some_and(|object| earlier.object() == Some(object)),
        }
    }

    /// The file, or the namespace of the object; empty where that is not known.
    pub fn origin(&self) -> Cow<'_, str> {
        match self {
            Self::File(reject) => reject.file.to_string_lossy(),
            _ => self.object().map_or("", |object| &object.name.namespace).into(),
        }
    }

    fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::File(reject) => reject.object.as_ref(),
            Self::Object(invalid) => invalid.object.as_ref(),
            Self::Parts(object, _) => Some(object),
        }
    }
}

impl From<files::Batch> for Batch {
    fn from(batch: files::Batch) -> Self {
        let files::Batch { updates, rejects, unread, standing, skipped, first, seen } = batch;
        let rejects = rejects.into_iter().map(Reject::File).collect();
        Self { updates, whole: first, rejects, unread, standing, skipped, seen }
    }
}

/// Who says which objects there are.
#[derive(Debug)]
pub enum Objects {
    /// Files.
    Files(Box<files::Files>),
    /// An API server.
    Kube(Box<kube::Kube>),
    /// Somebody in the same process.
    Memory(memory::Memory),
}

/// All that the reconciler follows.
#[derive(Debug)]
pub struct Source {
    objects: Objects,
    interfaces: Option<Interfaces>,
    /// Of the latest batch; `None` before the first.
    told: Option<(usize, Skipped)>,
    /// When the latest batch of files came.
    read: Option<SystemTime>,
}

impl Source {
    /// Follows objects, and the addresses of interfaces if they count.
    pub const fn new(objects: Objects, interfaces: Option<Interfaces>) -> Self {
        Self { objects, interfaces, told: None, read: None }
    }

    /// Adds endpoints of the API server that an earlier agent knew: these are ways to it.
    pub fn remember(&self, api_servers: Vec<SocketAddr>) {
        if let Objects::Kube(kube) = &self.objects {
            kube.remember(api_servers);
        }
    }

    /// Whether its objects are an API server's.
    pub const fn is_kube(&self) -> bool {
        matches!(self.objects, Objects::Kube(_))
    }

    /// When each part of it was last heard, through which way, and how much of it is rejected.
    pub fn rows(&self) -> [SourceRow; SOURCES] {
        if let Objects::Kube(kube) = &self.objects {
            return kube.rows();
        }
        let read = self.read.and_then(|read| read.duration_since(UNIX_EPOCH).ok());
        let heard = read.map_or(0, |since| since.as_secs());
        let rejected = self.told.map_or(0, |(standing, _)| standing);
        let rejected = u32::try_from(rejected).unwrap_or(u32::MAX);
        let kind = SourceKind::Files as u8;
        let files = SourceRow { heard, kind, rejected, ..SourceRow::default() };
        let mut rows = [SourceRow::default(); SOURCES];
        rows[0] = files;
        rows
    }

    /// Waits for news; the first are the whole state, once all of it is known. May be dropped while it
    /// waits.
    pub async fn next(&mut self) -> Batch {
        let Self { objects, interfaces, told, read } = self;
        let batch = match *told {
            // The addresses of interfaces mean nothing before there are objects.
            None => {
                let mut batch = objects.next().await;
                let addresses = interfaces.as_ref().map(Interfaces::now);
                batch.updates.extend(addresses.map(|now| Update::Interfaces(Some(now))));
                batch
            }
            Some((standing, skipped)) => tokio::select! {
                batch = objects.next() => batch,
                addresses = changed(interfaces) => Batch {
                    standing,
                    skipped,
                    ..Batch::of(vec![Update::Interfaces(Some(addresses))])
                },
            },
        };
        (*told, *read) = (Some((batch.standing, batch.skipped)), Some(SystemTime::now()));
        batch
    }
}

impl Objects {
    async fn next(&mut self) -> Batch {
        match self {
            Self::Files(files) => files.next().await.into(),
            Self::Kube(kube) => kube.next().await,
            Self::Memory(memory) => memory.next().await,
        }
    }
}

/// Other addresses than before; never, where none are followed.
async fn changed(interfaces: &mut Option<Interfaces>) -> Vec<IpAddr> {
    match interfaces {
        Some(interfaces) => interfaces.next().await,
        None => std::future::pending().await,
    }
}
