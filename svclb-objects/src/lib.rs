//! Kubernetes objects to [`svclb_core::model::Update`]s. All input is untrusted, and an invalid object is
//! rejected alone. No I/O, no tokio, no kube, so that it can be fuzzed alone.
//!
//! * [`convert`]: one object to the model.
//! * [`mod@file`]: the objects in a file of YAML or JSON.
//! * [`events`]: lists and watches of an API server, bytes to events.
//! * [`api`]: one object of an API server.
//! * [`protobuf`]: its events and objects in protobuf.
//! * [`status`]: its errors.
//! * [`ledger`]: the objects that a source accepted and rejected, and its changes to hand on.

pub mod api;
pub mod convert;
pub mod events;
pub mod file;
pub mod ledger;
pub mod protobuf;
pub mod status;
