//! The kernel's side as the agent sees it: maps, programs, links and their pins.
//!
//! * [`environment`]: what the node must have, and one line for each thing that it lacks.
//! * [`bpffs`]: where one is mounted, and mounting one.
//! * [`cgroups`]: where a cgroup is, and which processes are outside of it.
//! * [`inspect`]: what is on the hooks, asked without changing anything.
//! * [`pins`], [`folder`], [`places`]: where maps and links lie on bpffs.
//! * [`kernel`]: which one runs.
//! * [`own`]: whose their folders are.
//! * [`shapes`]: what each map must be for these programs.
//! * [`lock`]: one agent at a time over a folder of pins.
//! * [`installed`]: programs, maps and links of a running agent: adopted, replaced, looked after.
//! * [`object`]: the compiled hooks, loaded over new or adopted maps.
//! * [`hooks`]: which program goes where.
//! * [`attach`]: the links of the hooks to a cgroup.
//! * [`foreign`]: programs of svclb on these hooks that belong to other pins.
//! * [`programs`]: names and maps of all programs in the kernel, by the kernel's own types (`btf`).
//! * [`maps`]: the real [`svclb_core::table::Table`].
//!   Their rows one by one (`rows`) or many in a call (`batch`), and sets (`slots`).
//! * [`meta`]: the row of svclb_meta by itself.
//! * [`sockets`]: what each live socket dialled and was given.
//! * [`shares`]: the counts of clients' entries in shared maps, corrected.
//! * [`expiry`]: affinity whose time is over, removed.
//! * [`grace`]: waiting until no program runs any more that ran before.
//! * [`probe`]: a connect of our own that proves translation.
//! * [`trial`]: a connect to a Service that exists, which leaves no trace.

pub mod attach;
mod batch;
pub mod bpffs;
mod btf;
pub mod cgroups;
pub mod environment;
pub mod expiry;
pub mod folder;
pub mod foreign;
pub mod grace;
pub mod hooks;
pub mod inspect;
pub mod installed;
pub mod kernel;
pub mod lock;
mod mapping;
pub mod maps;
pub mod meta;
pub mod object;
pub mod own;
pub mod pins;
pub mod places;
pub mod probe;
pub mod programs;
mod rows;
pub mod shapes;
pub mod shares;
mod slots;
pub mod sockets;
mod sys;
pub mod trial;
