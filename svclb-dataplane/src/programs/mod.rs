//! The hooks in the kernel.
//!
//! * [`object`]: the compiled hooks, loaded over new or adopted maps.
//! * [`attach`]: their links to a cgroup.
//! * [`loaded`]: names and maps of all programs in the kernel.
//! * [`foreign`]: programs of svclb on these hooks that belong to other pins.
//! * `log`: the log that hooks write.
//! * [`installed`]: programs, maps and links of a running agent: adopted, replaced, looked after.

pub mod attach;
pub mod foreign;
pub mod installed;
pub mod loaded;
mod log;
pub mod object;
