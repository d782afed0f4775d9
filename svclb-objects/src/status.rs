//! An error as an API server reports it (meta/v1 Status): the answer to a request, or an event of a watch.

use serde::Deserialize;
use svclb_core::text::short;

/// An error of an API server.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, thiserror::Error)]
#[error("the API server answered {code}: {message}", message = short(.message))]
#[serde(default)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Its words.
    pub message: String,
}
