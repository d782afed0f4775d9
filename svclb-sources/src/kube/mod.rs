//! `--kubeconfig` and in-cluster: the objects of an API server, watched.
//!
//! * Nothing is handed on before every kind was listed. Until then, and whenever the API server is away, the
//!   state that is served stays: a later list is compared with the known objects when it is complete, and only
//!   the differences are handed on.
//! * A rejected object keeps its previous state, also through a list.
//! * Memory is bounded: of changes that are not handed on yet, only the latest state of each object is kept,
//!   and the objects of a namespace may take a share of the memory for all.
//!
//! * `resources`: the kinds that are watched, with the rights that this takes.
//! * `settings`: the configuration, and the credentials in it.
//! * `plugin`: exec plugins of a kubeconfig, run within limits.
//! * `client`: connections that renew themselves, with their credentials.
//! * `ways`: the ways to the API server, and which of them works.
//! * `dial`: connections to it.
//! * `request`: requests for the objects of one kind, and their answers.
//! * `reflector`: lists and watches one kind.
//! * `silence`: watches that are silent for too long.
//! * `timing`: an alarm, and delays that grow.
//! * `health`: the health of a watch, for the operator.
//! * `store`: the known objects of one kind.
//! * `capacity`: how much memory the objects of each namespace may take.

mod capacity;
mod client;
mod dial;
mod health;
pub mod plugin;
mod reflector;
mod request;
pub mod resources;
mod settings;
mod silence;
mod store;
#[cfg(test)]
mod tests;
mod timing;
mod ways;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use anyhow::Result;
use svclb_common::layout::{SOURCES, SourceRow};
use svclb_core::model::Unread;
use tokio::time::Instant;

use crate::batch::Batch;
use crate::convert::Skipped;
use capacity::Capacity;
use client::ApiClient;
use reflector::Reflector;
use resources::WATCHED;
pub use settings::KubeSettings;
pub use silence::SILENCE;
use store::Store;
use ways::Ways;

/// Locks data that are consistent even after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The objects of an API server.
#[derive(Debug)]
pub struct Kube {
    reflectors: [Reflector; 3],
    ways: Ways,
    /// The API server's address as configured.
    server: Arc<str>,
    /// The whole state was handed on.
    started: bool,
    /// The rejected objects as they were last handed on; `None` before the whole state was.
    unread: Option<Unread>,
}

impl Kube {
    /// Watches the kinds that svclb reads, as this node. Must be called in a tokio runtime with I/O and
    /// time; the API server need not be there yet.
    ///
    /// # Errors
    /// When there is no configuration, or it cannot be understood.
    pub async fn new(settings: KubeSettings, node: &str) -> Result<Self> {
        let client = ApiClient::new(settings).await?;
        tracing::info!(server = &*client.server, node, "watching the API server");
        Ok(Self::over(&client, node))
    }

    fn over(client: &ApiClient, node: &str) -> Self {
        let capacity = Capacity::new(&client.settings.budget);
        let reflectors = WATCHED.each_ref().map(|watched| {
            let store = Store::new(watched.kind, capacity.clone());
            Reflector::new(watched, store, client, node)
        });
        let (ways, server) = (client.ways.clone(), Arc::clone(&client.server));
        Self { reflectors, ways, server, started: false, unread: None }
    }

    /// Adds endpoints of the API server that an earlier agent knew: these are ways to it.
    pub fn remember(&self, api_servers: Vec<SocketAddr>) {
        self.ways.remember(api_servers);
    }

    /// Returns the time at which each kind was last received, and its sender.
    pub fn rows(&self) -> [SourceRow; SOURCES] {
        self.reflectors.each_ref().map(Reflector::row)
    }

    /// Describes what the first batch waits for: the API server, and the kinds that were not listed yet, each
    /// with its last error.
    pub fn missing(&self) -> String {
        let kinds: Vec<String> = self.reflectors.iter().filter_map(Reflector::missing).collect();
        format!("the API server {}: {}", self.server, kinds.join(", "))
    }

    /// Waits for changes. The first batch is the whole state, once each kind was listed. Cancel-safe.
    pub async fn next(&mut self) -> Batch {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Batch> {
        loop {
            self.reflectors.iter_mut().for_each(|reflector| reflector.poll(cx));
            // When one gets an answer, the others try again at once.
            let answered = self.reflectors.iter_mut().filter_map(Reflector::take_answered).max();
            let Some(answered) = answered else { break };
            let hurried = self.reflectors.iter_mut().map(|reflector| reflector.hurry(answered));
            if hurried.filter(|hurried| *hurried).count() == 0 {
                break;
            }
        }
        let mut store = self.reflectors.iter().map(|reflector| &reflector.store);
        let synced = store.clone().all(Store::synced);
        if !synced || self.started && !store.any(Store::has_changes) {
            return Poll::Pending;
        }
        Poll::Ready(self.batch())
    }

    fn batch(&mut self) -> Batch {
        let whole = !std::mem::replace(&mut self.started, true);
        let (mut updates, mut rejects) = (Vec::new(), Vec::new());
        let mut seen = Instant::now();
        for reflector in &mut self.reflectors {
            let news = reflector.store.take();
            updates.extend(news.updates.into_values());
            rejects.extend(news.rejects);
            seen = seen.min(reflector.seen.take().unwrap_or(seen));
        }
        self.ways.learn(&updates);
        let (mut unread, mut standing, mut skipped) = (Unread::default(), 0, Skipped::default());
        for Reflector { store, .. } in &self.reflectors {
            store.unread(&mut unread);
            standing += store.standing();
            skipped.add(store.skipped());
        }
        let is_new = self.unread.as_ref() != Some(&unread);
        let unread = is_new.then(|| self.unread.insert(unread).clone());
        Batch { updates, whole, rejects, unread, standing, skipped, seen: seen.into_std() }
    }
}
