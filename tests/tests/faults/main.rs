//! System calls of the agent that fail once or for a while: served Services stay served, the agent logs
//! the error, retries, and finally writes what it would have written at once. Also objects that cannot
//! be read at a start.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failure in the set-up fails the test")]

mod lasting;
mod once;
mod stage;
mod start;
mod unread;
