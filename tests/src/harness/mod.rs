//! The harness of the kernel tests.
//!
//! * [`world`]: the environment of one test, which contains everything below, and its removal.
//! * [`namespace`]: a thread in a network and mount namespace of its own.
//! * [`routes`]: its routes, so that no packet leaves. [`link`]: interfaces between two namespaces.
//! * [`cgroup`]: its cgroup, and the removal of what earlier runs left behind.
//! * [`agent`]: the program under test as a process. [`program`]: where the program is.
//! * [`failing`]: system calls of the agent that fail on request.
//! * [`pins`]: the pinned maps and links. [`content`]: all that the maps hold.
//! * [`raw_maps`]: direct reads and damage of the pinned maps.
//! * [`third_party`]: a BPF program of another owner on the same hook.
//! * [`cli`]: what the commands of `svclb` print. [`view`]: their JSON, parsed.
//! * [`yaml`]: Services and their endpoints as the agent reads them.
//! * [`backend`]: a responder.
//! * [`factory`]: a process in the cgroup that creates sockets and passes them to the test.
//! * [`client`]: such a socket in the hands of a test. [`fd_passing`]: passing and inheriting sockets.
//! * [`pod`]: a client in a network namespace of its own.
//! * [`continuous`]: clients that connect without pause. [`sticky`]: clients that keep their backend.
//! * [`many_sockets`]: processes of one workload with very many sockets.
//! * [`tunnel`]: UDP sockets that the kernel creates itself.
//! * [`kernel`]: optional features of the running kernel.
//! * [`wait`]: waits with a limit, which everything above uses.

pub(crate) mod agent;
pub(crate) mod backend;
pub(crate) mod cgroup;
pub(crate) mod cli;
pub(crate) mod client;
pub(crate) mod content;
pub(crate) mod continuous;
pub(crate) mod factory;
pub(crate) mod failing;
pub(crate) mod fd_passing;
pub(crate) mod kernel;
pub(crate) mod link;
pub(crate) mod many_sockets;
pub(crate) mod namespace;
pub(crate) mod pins;
pub(crate) mod pod;
pub(crate) mod program;
pub(crate) mod raw_maps;
pub(crate) mod routes;
pub(crate) mod sticky;
pub(crate) mod third_party;
pub(crate) mod tunnel;
pub(crate) mod view;
pub(crate) mod wait;
pub(crate) mod world;
pub(crate) mod yaml;
