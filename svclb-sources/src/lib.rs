//! The sources of Services, each a stream of [`Batch`]es of changes.
//!
//! * [`files`]: objects in YAML and JSON files, followed as they change.
//! * [`kube`]: objects of an API server, watched.
//! * [`interfaces`]: the addresses of the node's interfaces that node ports are served at.
//! * [`convert`] (of svclb-objects): Kubernetes objects to [`Update`]s, for all of them.

pub mod files;
pub mod interfaces;
pub mod kube;

mod batch;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use svclb_common::layout::{SOURCES, SourceKind, SourceRow};
use svclb_core::model::Update;
pub use svclb_objects::convert;

pub use batch::{Batch, Reject};
use convert::Skipped;
use interfaces::Interfaces;

/// The source of Kubernetes objects.
#[derive(Debug)]
pub enum Objects {
    /// Files.
    Files(Box<files::Files>),
    /// An API server.
    Kube(Box<kube::Kube>),
    /// Another one, as of a simulation.
    Other(Box<dyn Batches>),
}

/// Another source of objects.
pub trait Batches: fmt::Debug {
    /// Waits for changes, as [`Source::next`] does. Cancel-safe.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Batch> + '_>>;
}

/// The source of all that the reconciler follows: objects, and the addresses of interfaces.
#[derive(Debug)]
pub struct Source {
    objects: Objects,
    interfaces: Option<Interfaces>,
    /// The latest batch; `None` before the first.
    latest: Option<Latest>,
}

/// The parts of a batch that describe the present, which the next batch repeats where they did not change.
#[derive(Clone, Copy, Debug)]
struct Latest {
    standing: usize,
    skipped: Skipped,
    at: SystemTime,
}

impl Source {
    /// Follows objects, and the addresses of interfaces where `Some`.
    pub const fn new(objects: Objects, interfaces: Option<Interfaces>) -> Self {
        Self { objects, interfaces, latest: None }
    }

    /// Adds endpoints of the API server that an earlier agent knew, as paths to it.
    pub fn remember(&self, api_servers: Vec<SocketAddr>) {
        if let Objects::Kube(kube) = &self.objects {
            kube.remember(api_servers);
        }
    }

    /// Returns true when its objects are an API server's.
    pub const fn is_kube(&self) -> bool {
        matches!(self.objects, Objects::Kube(_))
    }

    /// Returns for each part of it when it last answered, over which path, and how many of its objects are
    /// rejected.
    pub fn rows(&self) -> [SourceRow; SOURCES] {
        if let Objects::Kube(kube) = &self.objects {
            return kube.rows();
        }
        let latest = self.latest.as_ref();
        let since = latest.and_then(|latest| latest.at.duration_since(UNIX_EPOCH).ok());
        let rejected = latest.map_or(0, |latest| latest.standing);
        let mut rows = [SourceRow::default(); SOURCES];
        rows[0] = SourceRow {
            heard: since.map_or(0, |since| since.as_secs()),
            kind: SourceKind::Files as u8,
            rejected: u32::try_from(rejected).unwrap_or(u32::MAX),
            ..SourceRow::default()
        };
        rows
    }

    /// Describes what the first batch waits for.
    pub fn missing(&self) -> String {
        match &self.objects {
            Objects::Kube(kube) => kube.missing(),
            Objects::Files(_) => "the files".to_owned(),
            Objects::Other(_) => "the objects".to_owned(),
        }
    }

    /// Waits for changes. The first batch is the whole state, once all of it is known. Cancel-safe.
    pub async fn next(&mut self) -> Batch {
        let Self { objects, interfaces, latest } = self;
        let batch = match *latest {
            // The addresses of interfaces mean nothing before there are objects.
            None => {
                let mut batch = objects.next().await;
                let addresses = interfaces.as_ref().map(Interfaces::now);
                batch.updates.extend(addresses.map(|now| Update::Interfaces(Some(now))));
                batch
            }
            Some(Latest { standing, skipped, .. }) => tokio::select! {
                batch = objects.next() => batch,
                addresses = changed(interfaces) => Batch {
                    standing,
                    skipped,
                    ..Batch::of(vec![Update::Interfaces(Some(addresses))])
                },
            },
        };
        let Batch { standing, skipped, .. } = batch;
        *latest = Some(Latest { standing, skipped, at: SystemTime::now() });
        batch
    }
}

impl Objects {
    async fn next(&mut self) -> Batch {
        match self {
            Self::Files(files) => files.next().await,
            Self::Kube(kube) => kube.next().await,
            Self::Other(other) => other.next().await,
        }
    }
}

/// Waits for other addresses than before; for ever, where interfaces are not followed.
async fn changed(interfaces: &mut Option<Interfaces>) -> Vec<IpAddr> {
    match interfaces {
        Some(interfaces) => interfaces.next().await,
        None => std::future::pending().await,
    }
}
