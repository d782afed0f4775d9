//! The node: what svclb needs of it, and what it may do there.
//!
//! * [`kernel`]: the version of the running kernel.
//! * `mounts`: the mounts that this process sees.
//! * [`cgroups`]: positions of cgroups, and the processes outside of one.
//! * [`environment`]: checks of mounts and kernel features.
//! * [`namespaces`]: network namespaces of other processes.
//! * [`processes`]: the processes that hold sockets open, and their pods.
//! * [`privileges`]: the capabilities that the agent needs; it gives up the rest.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod cgroups;
pub mod environment;
pub mod kernel;
pub(crate) mod mounts;
pub mod namespaces;
pub mod privileges;
pub mod processes;
