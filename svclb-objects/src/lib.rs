//! Kubernetes objects to [`svclb_core::model::Update`]s, whoever gave them: all of it is untrusted, and
//! none of it may do more than be rejected. No I/O, no tokio, no kube, so that it can be fuzzed alone.
//!
//! * [`convert`]: what an object means.
//! * [`mod@file`]: the objects in a file of YAML or JSON.
//! * [`api`]: one object as an API server tells it.
//! * [`protobuf`]: what an API server tells in protobuf, carried by lines of JSON.

pub mod api;
pub mod convert;
pub mod file;
pub mod protobuf;
