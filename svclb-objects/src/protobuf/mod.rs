//! Protobuf of an API server: decoding of events, envelopes and objects. No I/O.
//!
//! An object is in an envelope that begins with `k8s\0` and has its kind (apimachinery:
//! pkg/runtime/serializer/protobuf/protobuf.go). The frames of a watch are in [`crate::events`].

mod messages;
mod read;
#[cfg(test)]
pub(crate) mod tests;

use bytes::{Buf as _, Bytes};
use prost::{DecodeError, Message as _};
use serde_json::{Value, json};

use crate::convert::Kind;
use crate::convert::wire::{self, Text};
use crate::status::Status;
use messages::{MetadataOnly, Unknown, WatchEvent};
use read::{Pairs as _, text};

/// The media type. That of a watch has parameters behind it.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The annotation of the bookmark that ends a list.
pub(crate) const LIST_ENDS: &str = "k8s.io/initial-events-end";
/// The first bytes of an envelope.
const MAGIC: &[u8] = b"k8s\0";

/// The problem of an event, an envelope or a message that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable(pub String);

impl<E: std::error::Error> From<E> for Unreadable {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// The fields that are read of an object of a kind, decoded from protobuf.
pub trait Encoded: Sized {
    /// The kind.
    const KIND: Kind;
    /// The field that gets the error where the message cannot be decoded.
    const PARTS: &'static str;
    /// Reads its message, without the envelope.
    ///
    /// # Errors
    /// It is no such message.
    fn decode(message: Bytes) -> Result<Self, DecodeError>;
}

/// Decodes an event of a watch to its type and its object.
///
/// # Errors
/// It is no event, or has no object.
pub fn event(frame: Bytes) -> Result<(Bytes, Envelope), Unreadable> {
    let WatchEvent { kind, object } = WatchEvent::decode(frame)?;
    let object = object.ok_or_else(|| Unreadable("an event without an object".to_owned()))?;
    Ok((kind, Envelope::open(object.raw)?))
}

/// An object as it is sent, with its kind.
#[derive(Clone, Debug)]
pub struct Envelope(Unknown);

impl Envelope {
    /// Opens an envelope.
    ///
    /// # Errors
    /// It is no envelope.
    pub fn open(mut sent: Bytes) -> Result<Self, Unreadable> {
        if !sent.starts_with(MAGIC) {
            let problem = "an object that does not begin with \"k8s\\0\"".to_owned();
            return Err(Unreadable(problem));
        }
        sent.advance(MAGIC.len());
        Ok(Self(Unknown::decode(sent)?))
    }

    /// Reads the object of a kind.
    ///
    /// # Errors
    /// The error in place of its JSON: an object with its metadata and the error, where the metadata can be
    /// read; or a text.
    pub fn object<T: Encoded>(self) -> Result<T, Value> {
        if !self.is(T::KIND.api_version(), T::KIND.name()) {
            return Err(self.what().into());
        }
        T::decode(self.0.raw.clone()).map_err(|error| {
            let error = error.to_string();
            match MetadataOnly::decode(self.0.raw).ok().and_then(|named| named.metadata) {
                Some(metadata) => {
                    json!({ "metadata": wire::Metadata::from(metadata), T::PARTS: error })
                }
                None => error.into(),
            }
        })
    }

    /// Reads a bookmark, of whatever kind: its version, which may be empty, and whether it ends a list.
    pub(crate) fn bookmark(self) -> Result<(Text, bool), Unreadable> {
        let metadata = MetadataOnly::decode(self.0.raw)?.metadata.unwrap_or_default();
        let ends_list = metadata.annotations.value(LIST_ENDS).is_some();
        Ok((text(&metadata.resource_version), ends_list))
    }

    /// Reads an error.
    pub(crate) fn status(self) -> Result<Status, Unreadable> {
        if !self.is("v1", "Status") {
            return Err(Unreadable(format!("{} in place of an error", self.what())));
        }
        let messages::Status { message, code } = messages::Status::decode(self.0.raw)?;
        let message = String::from_utf8_lossy(&message).into_owned();
        Ok(Status { code: code.try_into().unwrap_or_default(), message })
    }

    fn is(&self, version: &str, kind: &str) -> bool {
        let types = self.0.types.as_ref();
        types.is_some_and(|types| types.api_version == version && types.kind == kind)
    }

    /// Its version and kind, for a message.
    fn what(&self) -> String {
        let types = self.0.types.clone().unwrap_or_default();
        format!("{} {}", text(&types.api_version), text(&types.kind))
    }
}
