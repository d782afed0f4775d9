//! `--kubeconfig` and in-cluster: the objects of an API server, watched.
//!
//! * Nothing is told before every kind was seen whole. Until then, and whenever the API server is away,
//!   what is served stays served: a list that comes anew is compared with what is known when it is at
//!   its end, and only the differences are told.
//! * A rejected object keeps its previous state, also through a list.
//! * Memory is bounded: of what was not handed on yet, an object's latest state counts, and the objects of
//!   a namespace may take a share of what all may.
//!
//! * `resources`: what is watched, with which rights.
//! * `plugin`: exec plugins of a kubeconfig, run within limits.
//! * `client`: requests to the API server, and who we are to it.
//! * `ways`: the ways to it, and which of them works.
//! * `dial`: connections to it.
//! * `encoding`: what the API server is asked to speak, and JSON of it.
//! * `health`: whether a watch does well, for the operator.
//! * `feed`: the watch of one kind.
//! * `silence`: how long a watch may send nothing.
//! * `object`: one object, read.
//! * `held`: what is known of one kind's objects.
//! * `capacity`: how much memory the objects of each namespace may take.

mod capacity;
mod client;
mod dial;
mod encoding;
mod feed;
mod health;
mod held;
mod object;
pub mod plugin;
pub mod resources;
mod silence;
#[cfg(test)]
mod tests;
mod ways;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use anyhow::Result;
use svclb_common::layout::{SOURCES, SourceRow};
use svclb_core::model::Unread;
use tokio::time::Instant;

use crate::batch::Batch;
use crate::convert::Skipped;
use capacity::Capacity;
use client::Link;
pub use client::Settings;
use feed::Feed;
use held::Held;
use resources::WATCHED;
pub use silence::SILENCE;
use ways::Ways;

/// The objects of an API server.
#[derive(Debug)]
pub struct Kube {
    feeds: [Feed; 3],
    ways: Ways,
    /// The whole state was handed on.
    started: bool,
    /// What was told last of what is rejected; none before the whole state was handed on.
    unread: Option<Unread>,
}

impl Kube {
    /// Watches what svclb reads, seen from this node. Must be called in a tokio runtime with I/O and
    /// time; the API server need not be there yet.
    ///
    /// # Errors
    /// When there is no configuration, or it cannot be understood.
    pub async fn new(settings: Settings, node: &str) -> Result<Self> {
        let link = Link::new(settings).await?;
        tracing::info!(server = link.server(), node, "watching the API server");
        Ok(Self::over(&link, node))
    }

    fn over(link: &Link, node: &str) -> Self {
        let capacity = Capacity::new(link.budget());
        let feeds = WATCHED.each_ref().map(|watched| {
            let held = Held::new(watched.kind, capacity.clone());
            Feed::new(watched, held, link, node)
        });
        Self { feeds, ways: link.ways().clone(), started: false, unread: None }
    }

    /// Adds endpoints of the API server that an earlier agent knew: these are ways to it.
    pub fn remember(&self, api_servers: Vec<SocketAddr>) {
        self.ways.remember(api_servers);
    }

    /// When each kind was last heard, and from where.
    pub fn rows(&self) -> [SourceRow; SOURCES] {
        self.feeds.each_ref().map(Feed::row)
    }

    /// Waits for news. The first batch is the whole state, once each kind was seen. May be dropped while
    /// it waits.
    pub async fn next(&mut self) -> Batch {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Batch> {
        loop {
            self.feeds.iter_mut().for_each(|feed| feed.poll(cx));
            // Where one gets an answer, the others do.
            let Some(heard) = self.feeds.iter().filter_map(Feed::heard).max() else { break };
            if self.feeds.iter_mut().filter_map(|feed| feed.hurry(heard).then_some(())).count() == 0
            {
                break;
            }
        }
        let synced = self.feeds.iter().all(|feed| feed.held.synced());
        let news = self.feeds.iter().any(|feed| feed.held.has_news());
        if !synced || self.started && !news {
            return Poll::Pending;
        }
        Poll::Ready(self.batch())
    }

    fn batch(&mut self) -> Batch {
        let whole = !std::mem::replace(&mut self.started, true);
        let (mut updates, mut rejects) = (Vec::new(), Vec::new());
        let mut seen = Instant::now();
        for feed in &mut self.feeds {
            let news = feed.held.take();
            updates.extend(news.updates.into_values());
            rejects.extend(news.rejects);
            seen = seen.min(feed.seen.take().unwrap_or(seen));
        }
        self.ways.learn(&updates);
        let mut unread = Unread::default();
        self.feeds.iter().for_each(|feed| feed.held.unread(&mut unread));
        let is_new = self.unread.as_ref() != Some(&unread);
        let unread = is_new.then(|| self.unread.insert(unread).clone());
        let standing = self.feeds.iter().map(|feed| feed.held.standing()).sum();
        let mut skipped = Skipped::default();
        self.feeds.iter().for_each(|feed| skipped.add(&feed.held.skipped()));
        Batch { updates, whole, rejects, unread, standing, skipped, seen: seen.into_std() }
    }
}
