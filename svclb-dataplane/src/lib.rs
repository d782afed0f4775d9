//! The kernel side as the agent sees it: maps, programs, links and their pins. The only crate that makes
//! system calls for BPF.
//!
//! Each module uses only those above it:
//! * [`hooks`], [`shapes`]: the hooks and maps that there are, as data.
//! * [`bpf`]: system calls, memory mapped maps, types of the kernel, and waiting for running programs.
//! * [`node`]: what the node must have: kernel, mounts, cgroups, privileges.
//! * [`pins`]: where maps and links lie on a bpffs, and whose they are.
//! * [`maps`]: the maps: the real [`svclb_core::table::Table`], and those that only hooks write.
//! * [`probe`]: a connect that proves translation.
//! * [`interface`]: what a reconciler needs of the kernel, so that it can be tested without one.
//! * [`programs`]: loading, attaching and replacing programs, and finding those of others.

pub mod bpf;
pub mod hooks;
pub mod interface;
pub mod maps;
pub mod node;
pub mod pins;
pub mod probe;
pub mod programs;
pub mod shapes;
