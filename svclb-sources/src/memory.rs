//! Objects that somebody in the same process says, as they come: for simulations of clusters that no
//! machine can run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use svclb_core::model::{Unread, Update};
use tokio::sync::mpsc;

use crate::batch::Batch;

/// More changes than are taken at once: the reconciler looks at other things in between.
const MOST: usize = 100_000;

/// A change, and when it was said.
pub type Said = (Instant, Update);

/// What is said. It waits for ever once nobody says anything any more.
#[derive(Debug)]
pub struct Memory {
    said: mpsc::UnboundedReceiver<Said>,
    first: Option<Vec<Update>>,
    /// How many changes were handed on, and are written: whoever asks for more has done with them.
    done: Arc<AtomicU64>,
    handed_on: u64,
}

impl Memory {
    /// Begins with these objects, and goes on with what is said.
    pub fn new(first: Vec<Update>, said: mpsc::UnboundedReceiver<Said>) -> Self {
        Self { said, first: Some(first), done: Arc::default(), handed_on: 0 }
    }

    /// How many changes were taken and are dealt with, the first objects not counted.
    pub fn done(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.done)
    }

    /// Waits for news, and takes all that there is. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Batch {
        if let Some(updates) = self.first.take() {
            return Batch { whole: true, unread: Some(Unread::default()), ..Batch::of(updates) };
        }
        self.done.store(self.handed_on, Ordering::Release);
        let mut said = Vec::new();
        if self.said.recv_many(&mut said, MOST).await == 0 {
            std::future::pending::<()>().await;
        }
        self.handed_on += said.len() as u64;
        let seen = said.iter().map(|(seen, _)| *seen).min();
        let updates = said.into_iter().map(|(_, update)| update).collect();
        Batch { seen: seen.unwrap_or_else(Instant::now), ..Batch::of(updates) }
    }
}

#[cfg(test)]
mod tests {
    use svclb_core::model::ObjectName;

    use super::*;

    #[tokio::test]
    async fn what_was_said_meanwhile_comes_at_once_and_in_order() {
        let (say, said) = mpsc::unbounded_channel();
        let gone = |name: &str| Update::Service(ObjectName::new("default", name), None);
        let mut memory = Memory::new(vec![gone("a")], said);
        let first = memory.next().await;
        assert!(first.whole && first.updates == [gone("a")]);
        let early = Instant::now();
        say.send((early, gone("b"))).unwrap();
        say.send((Instant::now(), gone("c"))).unwrap();
        let next = memory.next().await;
        assert!(!next.whole && next.updates == [gone("b"), gone("c")]);
        assert_eq!(next.seen, early);
        let done = memory.done();
        assert_eq!(done.load(Ordering::Acquire), 0);
        say.send((early, gone("d"))).unwrap();
        memory.next().await;
        assert_eq!(done.load(Ordering::Acquire), 2);
    }
}
