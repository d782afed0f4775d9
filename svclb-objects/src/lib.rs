//! Kubernetes objects to [`svclb_core::model::Update`]s. All input is untrusted, and an invalid object is
//! rejected alone. No I/O, no tokio, no kube, so that it can be fuzzed alone.
//!
//! * [`convert`]: one object to the model.
//! * [`mod@file`]: the objects in a file of YAML or JSON.
//! * [`api`]: one object as an API server sends it.
//! * [`protobuf`]: objects that an API server sends in protobuf, carried by lines of JSON.
//! * [`ledger`]: the objects that a source accepted and rejected, and its changes to hand on.

pub mod api;
pub mod convert;
pub mod file;
pub mod ledger;
pub mod protobuf;
