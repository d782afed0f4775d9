//! A review of the marks of backends in the index, beside the reconciler (docs/decisions/0007).

use std::future::pending;

use anyhow::{Context as _, Result};
use svclb_common::layout::BackendKey;
use tokio::task::{JoinHandle, spawn_blocking};

use svclb_dataplane::interface::Remembered;

/// The part of a review that is under way elsewhere.
#[derive(Debug, Default)]
pub(super) struct Marks(Option<JoinHandle<Result<Vec<BackendKey>>>>);

impl Marks {
    /// True while a review is under way.
    pub(super) const fn are_reviewed(&self) -> bool {
        self.0.is_some()
    }

    /// Starts it, on a thread of its own.
    pub(super) fn start(&mut self, remembered: Remembered) {
        self.0 = Some(spawn_blocking(remembered));
    }

    /// Its end, and the backends that sockets remember; never, when there is none.
    ///
    /// # Errors
    /// When they could not be read.
    pub(super) async fn ended(&mut self) -> Result<Vec<BackendKey>> {
        let Some(under_way) = &mut self.0 else { return pending().await };
        let ended = under_way.await;
        self.0 = None;
        ended.context("the thread that reads origins died")?
    }

    /// Gives it up: the maps that it is of are not in use any more.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }
}
