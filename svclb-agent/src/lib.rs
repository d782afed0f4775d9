//! The node agent and the command `svclb`: reads Services from a source and keeps the BPF maps in step.
//!
//! * [`reconcile`]: one task that owns catalog, state and maps, and runs passes.
//! * [`observe`]: metrics and health of the agent over HTTP.
//! * [`cli`]: the command `svclb`.

pub mod cli;
mod memory;
pub mod observe;
pub mod reconcile;
