//! What the kernel offers for BPF and aya does not.
//!
//! * [`sys`]: system calls.
//! * [`value`]: which types are values of maps.
//! * [`mapping`]: maps in this process's memory.
//! * [`batch`]: many rows in a call.
//! * [`btf`]: the kernel's own types.
//! * [`inspect`]: questions about links and programs, which change nothing.
//! * [`grace`]: waiting until no program runs any more that ran before.

pub(crate) mod batch;
pub mod btf;
pub mod grace;
pub mod inspect;
pub(crate) mod mapping;
pub(crate) mod sys;
pub(crate) mod value;
