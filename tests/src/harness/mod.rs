//! What a test stands on.
//!
//! * [`world`]: one test's surroundings, with everything below in it, and the end of it all.
//! * [`shown`]: what `svclb` shows of it. [`pins`]: where its maps and links are pinned.
//! * [`namespace`]: a thread in a network and mount namespace of its own.
//! * [`routes`]: its routes, so that no packet leaves. [`link`]: interfaces between two.
//! * [`cgroup`]: a cgroup of its own, and what earlier runs left behind.
//! * [`failing`]: calls of the agent that fail on request. [`content`]: all that the maps hold.
//! * [`factory`]: a process in the cgroup that makes sockets and hands them over.
//! * [`crowd`]: processes of one workload with very many sockets.
//! * [`client`]: such a socket in a test's hands.
//! * [`gap`]: one that connects all the time.
//! * [`pod`]: a client in a network namespace of its own.
//! * [`passing`]: sockets that change hands.
//! * [`backend`]: who answers.
//! * [`yaml`]: Services and their endpoints as the agent reads them.
//! * [`agent`]: the program under test. [`view`]: what it shows, taken apart. [`program`]: where it is.
//! * [`stranger`]: somebody else's program on the same hook. [`spoil`]: somebody else in the maps.
//! * [`kernel`]: what the running kernel has. [`remembered`]: what sockets and clients remember.
//! * [`tunnel`]: UDP sockets of the kernel's own.
//! * [`wait`]: the bounded waits that all of it uses.

pub(crate) mod agent;
pub(crate) mod backend;
pub(crate) mod cgroup;
pub(crate) mod client;
pub(crate) mod content;
pub(crate) mod crowd;
pub(crate) mod factory;
pub(crate) mod failing;
pub(crate) mod gap;
pub(crate) mod kernel;
pub(crate) mod link;
pub(crate) mod namespace;
pub(crate) mod passing;
pub(crate) mod pins;
pub(crate) mod pod;
pub(crate) mod program;
pub(crate) mod remembered;
pub(crate) mod routes;
pub(crate) mod shown;
pub(crate) mod spoil;
pub(crate) mod stranger;
pub(crate) mod tunnel;
pub(crate) mod view;
pub(crate) mod wait;
pub(crate) mod world;
pub(crate) mod yaml;
