//! System calls and formats of BPF that aya does not offer.
//!
//! * `sys`: system calls.
//! * `value`: the types that may be values of maps.
//! * `mapping`: maps in this process's memory.
//! * `batch`: many rows in a call.
//! * [`btf`]: the kernel's own types.
//! * [`inspect`]: reads links and programs.
//! * [`grace`]: waits until every program that is running has ended.

pub(crate) mod batch;
pub mod btf;
pub mod grace;
pub mod inspect;
pub(crate) mod mapping;
pub(crate) mod sys;
pub(crate) mod value;
