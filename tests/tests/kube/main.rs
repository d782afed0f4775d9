//! The agent on a real API server: what it writes and when, what it does when the way there breaks, and
//! that it ends with what an agent that starts afresh would have written.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the set-up of a test: what fails in it fails the test"
)]

mod capacity;
mod claims;
mod connection;
mod names;
mod objects;
mod protobuf;
mod restore;
mod stage;
mod start;
mod ways;
