//! The source of a simulation: objects that another thread of the same process sends.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use svclb_core::model::{Unread, Update};
use svclb_sources::{Batch, Batches};
use tokio::sync::mpsc;

/// The most changes of one batch: the reconciler has other work in between.
const MOST: usize = 100_000;

/// A change, and the time at which it was sent.
pub(super) type TimedUpdate = (Instant, Update);

/// The objects that are sent over a channel.
#[derive(Debug)]
pub(super) struct Memory {
    updates: mpsc::UnboundedReceiver<TimedUpdate>,
    first: Option<Vec<Update>>,
    /// The number of changes that were handed on and are written: the reconciler asks for the next batch
    /// when it has written the last one.
    done: Arc<AtomicU64>,
    handed_on: u64,
}

impl Memory {
    /// Begins with these objects, and goes on with the changes that are sent.
    pub(super) fn new(first: Vec<Update>, updates: mpsc::UnboundedReceiver<TimedUpdate>) -> Self {
        Self { updates, first: Some(first), done: Arc::default(), handed_on: 0 }
    }

    /// Returns the number of changes that are written, the first objects not counted.
    pub(super) fn done(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.done)
    }
}

impl Batches for Memory {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = Batch> + '_>> {
        Box::pin(async {
            if let Some(updates) = self.first.take() {
                return Batch {
                    whole: true,
                    unread: Some(Unread::default()),
                    ..Batch::of(updates)
                };
            }
            self.done.store(self.handed_on, Ordering::Release);
            let mut taken = Vec::new();
            if self.updates.recv_many(&mut taken, MOST).await == 0 {
                std::future::pending::<()>().await;
            }
            self.handed_on += taken.len() as u64;
            let seen = taken.iter().map(|(seen, _)| *seen).min();
            let updates = taken.into_iter().map(|(_, update)| update).collect();
            Batch { seen: seen.unwrap_or_else(Instant::now), ..Batch::of(updates) }
        })
    }
}

#[cfg(test)]
mod tests {
    use svclb_core::model::ObjectName;

    use super::*;

    #[tokio::test]
    async fn changes_that_were_sent_meanwhile_are_one_batch_in_their_order() {
        let (sender, updates) = mpsc::unbounded_channel();
        let gone = |name: &str| Update::Service(ObjectName::new("default", name), None);
        let mut memory = Memory::new(vec![gone("a")], updates);
        let first = memory.next().await;
        assert!(first.whole && first.updates == [gone("a")]);
        let early = Instant::now();
        sender.send((early, gone("b"))).unwrap();
        sender.send((Instant::now(), gone("c"))).unwrap();
        let next = memory.next().await;
        assert!(!next.whole && next.updates == [gone("b"), gone("c")]);
        assert_eq!(next.seen, early);
        let done = memory.done();
        assert_eq!(done.load(Ordering::Acquire), 0);
        sender.send((early, gone("d"))).unwrap();
        memory.next().await;
        assert_eq!(done.load(Ordering::Acquire), 2);
    }
}
