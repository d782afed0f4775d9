//! The agent on a real API server: what it writes and when, how it handles failures of the connection,
//! and that it converges to what a fresh agent would write.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failure in the set-up fails the test")]

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
