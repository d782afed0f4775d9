//! Kubernetes objects to [`svclb_core::model::Update`]s, whoever gave them: all of it is untrusted, and
//! none of it may do more than be rejected. No I/O, no tokio, no kube, so that it can be fuzzed alone.
//!
//! * [`convert`]: what an object means.
//! * [`mod@file`]: the objects in a file of YAML or JSON.
//! * [`events`]: lists and watches of an API server, bytes to events.
//! * [`api`]: one object of an API server.
//! * [`protobuf`]: its events and objects in protobuf.
//! * [`status`]: its errors.

pub mod api;
pub mod convert;
pub mod events;
pub mod file;
pub mod protobuf;
pub mod status;
