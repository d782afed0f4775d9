//! Code and data types that the kernel side and the agent share.
//!
//! * [`cookie`]: the kernel's numbers of sockets and network namespaces.
//! * [`layout`]: the map types, byte for byte.
//! * [`index`]: the line of a frontend, for the reader in the kernel and the writer in the agent.
//! * [`shared`]: loads and stores on memory that the other side changes meanwhile.
//! * [`translate`]: the datapath as plain functions, generic over [`translate::Lookup`].
//! * `memory`, with the feature of that name: the hooks' maps in memory, for tests and fuzzing.
//!
//! Everything here compiles for the BPF target and for the host, and the host's tests run the same
//! code that runs in the kernel.
#![no_std]
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    expect(
        internal_features,
        reason = "core's atomics are not there for the BPF target; see shared"
    )
)]

#[cfg(any(test, feature = "memory"))]
extern crate std;

pub mod cookie;
pub mod index;
pub mod layout;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod shared;
pub mod translate;
