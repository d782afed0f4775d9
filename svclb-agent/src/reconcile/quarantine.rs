//! Quarantine: freed lines and slots wait on a thread until no running program can still read them.

use std::future::pending;
use std::io;
use std::mem::take;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use svclb_core::plan::Freed;
use tokio::task::JoinSet;
use tokio::time;

use super::{RETRY, Retry};
use svclb_dataplane::interface::GracePeriod;

/// The least time between two grace periods, unless a service is unplaced: each takes a thread and more of
/// the kernel's time than a small change.
const APART: Duration = Duration::from_millis(100);

/// Freed lines and slots in quarantine, and those that wait for the next grace period.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    /// The grace period that is under way, if one is, with what waits for its end.
    under_way: JoinSet<(Vec<Freed>, io::Result<()>)>,
    /// When the latest wait began.
    began: Option<Instant>,
    /// Freed while a grace period is under way, soon after one, or after one failed.
    pub(super) waits: Vec<Freed>,
    /// The start of the next grace period after one that failed.
    later: Option<Retry>,
}

impl Quarantine {
    /// Takes what a pass freed.
    pub(super) fn add(&mut self, resting: Freed) {
        if !resting.is_empty() {
            self.waits.push(resting);
        }
    }

    /// Begins a grace period for all that was freed, unless one is under way or was just now. It is called again
    /// with the next change, and periodically. `is_needed` says that a service is unplaced until then.
    pub(super) fn start(&mut self, is_needed: bool, grace: impl FnOnce() -> GracePeriod) {
        let is_early = self.began.is_some_and(|began| began.elapsed() < APART);
        // After a failure the back-off decides.
        let may_wait = !is_needed && self.later.is_none();
        if !self.under_way.is_empty() || self.waits.is_empty() || is_early && may_wait {
            return;
        }
        self.began = Some(Instant::now());
        let (resting, grace) = (take(&mut self.waits), grace());
        let later = self.later.as_ref().map(|later| later.at);
        self.under_way.spawn(async move {
            if let Some(later) = later {
                time::sleep_until(later).await;
            }
            let waited = tokio::task::spawn_blocking(grace).await;
            (resting, waited.unwrap_or_else(|died| Err(io::Error::other(died))))
        });
    }

    /// Waits for the end of the grace period that is under way, for ever if none is. Returns what was freed before
    /// it; after a failure that waits for the next grace period.
    ///
    /// # Errors
    /// When the thread that waits died.
    pub(super) async fn ended(&mut self) -> Result<io::Result<Vec<Freed>>> {
        let Some(ended) = self.under_way.join_next().await else { return pending().await };
        let (resting, waited) = ended.context("the thread that waits for running programs died")?;
        Ok(match waited {
            Ok(()) => {
                self.later = None;
                Ok(resting)
            }
            Err(error) => {
                self.later = Some(Retry::after(self.later.take(), RETRY));
                self.waits.extend(resting);
                Err(error)
            }
        })
    }

    /// Forgets freed lines and slots of maps that are not in use any more.
    pub(super) fn forget(&mut self) {
        self.under_way.detach_all();
        self.later = None;
        self.waits.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at_once, freed};
    use super::*;

    #[tokio::test]
    async fn grace_period_begins_soon_after_another_only_if_a_service_is_unplaced() {
        let rows = [
            ("the first", None, false, false, true),
            ("soon after another", Some(APART / 2), false, false, false),
            ("soon after another, and a service is unplaced", Some(APART / 2), true, false, true),
            ("soon after another, which failed", Some(APART / 2), false, true, true),
            ("later", Some(APART), false, false, true),
        ];
        for (row, before, is_needed, has_failed, begins) in rows {
            let mut rests = Quarantine {
                began: before.map(|before| Instant::now().checked_sub(before).unwrap()),
                later: has_failed.then(|| Retry::after(None, RETRY)),
                ..Quarantine::default()
            };
            rests.start(is_needed, at_once);
            assert!(rests.under_way.is_empty(), "{row}: nothing was freed");
            rests.add(freed());
            rests.start(is_needed, at_once);
            assert_eq!(!rests.under_way.is_empty(), begins, "{row}");
            if begins {
                assert_eq!(rests.ended().await.unwrap().unwrap().len(), 1, "{row}");
                rests.add(freed());
                rests.began = Some(Instant::now());
                rests.start(false, at_once);
                assert!(rests.under_way.is_empty() && rests.waits.len() == 1, "{row}: again");
            }
        }
    }
}
