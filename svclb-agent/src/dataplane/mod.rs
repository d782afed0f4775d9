//! The kernel's side as the agent sees it: maps, programs, links and their pins.
//!
//! * [`environment`]: what the node must have, and one line for each thing that it lacks.
//! * [`bpffs`]: mounting one.
//! * [`pins`]: where maps and links lie on bpffs.
//! * [`lock`]: one agent at a time over a folder of pins.
//! * [`installed`]: hooks and pins, looked after while an agent runs.
//! * [`object`]: the compiled hooks, loaded over new or adopted maps.
//! * [`hooks`]: which program goes where.
//! * [`attach`]: the links of the hooks to a cgroup.
//! * [`maps`]: the real [`svclb_core::table::Table`].
//! * [`meta`]: the row of svclb_meta by itself.
//! * [`sockets`]: what each live socket dialled and was given.
//! * [`grace`]: waiting until no program runs any more that ran before.
//! * [`probe`]: a connect of our own that proves translation.

pub mod attach;
pub mod bpffs;
pub mod environment;
pub mod grace;
pub mod hooks;
pub mod installed;
pub mod lock;
mod mapping;
pub mod maps;
pub mod meta;
pub mod object;
pub mod pins;
pub mod probe;
mod rows;
pub mod sockets;
mod sys;
