//! What the node must have.
//!
//! * [`kernel`]: which kernel runs.
//! * [`cgroups`]: where a cgroup is, and which processes are outside of it.
//! * [`environment`]: mounts and kernel features, and one line for each that is missing.
//! * [`privileges`]: the capabilities that the agent needs, and giving up the rest.

pub mod cgroups;
pub mod environment;
pub mod kernel;
pub mod privileges;
