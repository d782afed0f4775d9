//! Calls of the agent that the kernel refuses, once or for a while: what was served stays served, the
//! agent tries again, says so, and comes to what it would have written at once. And what it cannot read when
//! it starts.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the set-up of a test: what fails in it fails the test"
)]

mod lasting;
mod once;
mod stage;
mod start;
mod unread;
