//! Where Services come from, turned into [`svclb_core::model::Update`]s.
//!
//! * [`convert`]: Kubernetes objects to updates, whatever they were read from.
//! * [`files`]: objects in YAML and JSON files, followed as they change.

pub mod convert;
pub mod files;
