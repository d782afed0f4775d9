//! The node agent and the command `svclb`: reads Services from a source and keeps the BPF maps in step.
//!
//! * [`reconcile`]: one task that owns catalog, state and maps, and runs passes.
//! * [`cli`]: the command `svclb`.

pub mod cli;
mod memory;
pub mod reconcile;
