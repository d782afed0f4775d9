//! The node agent: reads Services from a source and keeps the BPF maps in step.
//!
//! * [`source`]: where Services come from, turned into the model.
//! * [`reconcile`]: one task that owns catalog, state and maps, and runs passes.
//! * [`dataplane`]: maps, programs, links, pins.
//! * [`privilege`]: what the agent may do, and what it gives up at its start.
//! * [`cli`]: the command `svclb`.

pub mod cli;
pub mod dataplane;
mod memory;
pub mod privilege;
pub mod reconcile;
pub mod source;
