//! A client that connects all the time while something else happens.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::client::Place;
use super::world::World;
use crate::Protocol;

impl World {
    /// Connects to an address all the time while `task` runs. Gives how often, and what the task gave.
    ///
    /// # Panics
    /// When a single connect failed or was not answered, or the task panics.
    pub fn without_a_gap<R>(
        &self,
        protocol: Protocol,
        to: impl Place + Sync,
        task: impl FnOnce() -> R,
    ) -> (u32, R) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut rounds = 0_u32;
                while !done.load(Ordering::Relaxed) {
                    let asked = self.ask(protocol, &to);
                    asked.map_err(|error| format!("after {rounds} connects: {error}"))?;
                    rounds += 1;
                }
                Ok::<u32, String>(rounds)
            });
            let result = catch_unwind(AssertUnwindSafe(task));
            done.store(true, Ordering::Relaxed);
            let rounds = client.join().unwrap().unwrap();
            (rounds, result.unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }
}
