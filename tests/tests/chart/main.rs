//! charts/svclb as a user lints, renders and installs it: with the real Helm 3 and 4 and a real API server, beside
//! what the real kustomize makes of manifests/.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failure in a helper fails the test, with its reason"
)]

mod helm;
mod install;
mod options;
#[path = "../rendered/mod.rs"]
mod rendered;
mod same;
mod values;
