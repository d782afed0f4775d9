//! The watch of an API server that speaks protobuf, as lines of JSON, which is what kube's watcher reads.
//! What the watcher itself looks into is JSON: the end of a list, and errors. All other objects are carried
//! through it as they came, in base64, to [`crate::api::read`]. No I/O: bytes in, bytes out.
//!
//! A body is frames: four bytes of length (big-endian), then a meta/v1 WatchEvent, whose object is in an
//! envelope that begins with `k8s\0` and says its kind (apimachinery: pkg/util/framer/framer.go and
//! pkg/runtime/serializer/protobuf/protobuf.go). A frame or an envelope that cannot be read ends the
//! stream: nobody knows what it said. An object that cannot be read is handed on as one that is wrong,
//! with its name where it has one, so it rejects only itself.

mod messages;
mod read;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::{DecodeError, Message as _};
use serde_json::{Value, json};

use crate::convert::{Kind, wire};
use messages::{Named, RawExtension, Status, Unknown, WatchEvent};
use read::{Pairs as _, text};

/// The media type. That of a watch has parameters behind it.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The most bytes that a frame may have. etcd takes requests of 1.5 MiB by default, and an object is in
/// one request; an operator may allow more.
pub const LONGEST: usize = 32 << 20;

/// What an envelope begins with.
const MAGIC: &[u8] = b"k8s\0";
/// The bytes of a frame's length.
const HEADER: usize = 4;
/// What the end of a list is told by.
const LIST_ENDS: &str = "k8s.io/initial-events-end";

/// Why a body cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// The body ends within a frame: whoever sent it went away. All before it counts.
    #[error("the API server's protobuf ends in the middle of an event, after {there} bytes of it")]
    Cut {
        /// Bytes of the frame, its length among them.
        there: usize,
    },
    /// A frame is said to have so many bytes.
    #[error(
        "an event of the API server's protobuf has {0} bytes: expected at most {LONGEST}, as an object has"
    )]
    TooLong(usize),
    /// What is in place of an event or an envelope.
    #[error("the API server's protobuf cannot be read: {0}")]
    Unreadable(String),
}

impl From<DecodeError> for Malformed {
    fn from(error: DecodeError) -> Self {
        Self::Unreadable(error.to_string())
    }
}

/// What is read of an object of a kind that comes in protobuf.
pub trait Encoded: Sized {
    /// The kind.
    const KIND: Kind;
    /// The field that says what is wrong where the message cannot be taken apart.
    const PARTS: &'static str;
    /// Reads its message, without the envelope.
    ///
    /// # Errors
    /// It is no such message.
    fn decode(message: Bytes) -> Result<Self, DecodeError>;
}

/// The body of a watch, in whatever parts it comes.
#[derive(Clone, Debug, Default)]
pub struct Frames {
    /// What came and was not read.
    bytes: BytesMut,
    /// Lines that are being written. Their room is used again when whoever took them is done with them.
    lines: BytesMut,
    /// What is wrong behind the lines that were handed out.
    malformed: Option<Malformed>,
}

impl Frames {
    /// Takes in the next part of the body.
    pub fn take(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    /// The events that are there as a whole, each a line of JSON; none if there is no event.
    ///
    /// # Errors
    /// What follows is no event. All before it was handed out, and nothing behind it can be.
    pub fn lines(&mut self) -> Result<Option<Bytes>, Malformed> {
        while self.malformed.is_none() {
            let written = self.lines.len();
            match self.line() {
                Ok(true) => {}
                Ok(false) if written == 0 => return Ok(None),
                Ok(false) => return Ok(Some(self.lines.split().freeze())),
                Err(malformed) => {
                    self.lines.truncate(written);
                    self.malformed = Some(malformed);
                }
            }
        }
        match &self.malformed {
            Some(malformed) if self.lines.is_empty() => Err(malformed.clone()),
            _ => Ok(Some(self.lines.split().freeze())),
        }
    }

    /// Whether the body may end here.
    ///
    /// # Errors
    /// A frame is not at its end.
    pub fn end(&self) -> Result<(), Malformed> {
        match self.bytes.len() {
            0 => Ok(()),
            there => Err(Malformed::Cut { there }),
        }
    }

    /// Writes the next event, if it is there.
    fn line(&mut self) -> Result<bool, Malformed> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else { return Ok(false) };
        // No platform that has the programs has smaller addresses.
        let length = u32::from_be_bytes(*header) as usize;
        if length > LONGEST {
            return Err(Malformed::TooLong(length));
        }
        if self.bytes.len() - HEADER < length {
            return Ok(false);
        }
        self.bytes.advance(HEADER);
        let WatchEvent { kind, object } = WatchEvent::decode(self.bytes.split_to(length).freeze())?;
        let Some(RawExtension { raw }) = object else {
            return Err(Malformed::Unreadable("an event without an object".to_owned()));
        };
        let envelope = open(raw.clone())?;
        let object = if envelope.is("v1", "Status") {
            Some(Status::decode(envelope.raw)?.json())
        } else if kind == "BOOKMARK" {
            Some(envelope.bookmark()?)
        } else {
            None
        };
        // The type comes first: that is how a line is read without a detour.
        self.lines.put_slice(b"{\"type\":");
        self.json(&Value::from(text(&kind).as_str()))?;
        self.lines.put_slice(b",\"object\":");
        match object {
            Some(object) => self.json(&object)?,
            None => self.base64(&raw)?,
        }
        self.lines.put_slice(b"}\n");
        Ok(true)
    }

    fn json(&mut self, value: &Value) -> Result<(), Malformed> {
        serde_json::to_writer((&mut self.lines).writer(), value).map_err(unwritten)
    }

    fn base64(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.lines.put_u8(b'"');
        let start = self.lines.len();
        let room = base64::encoded_len(bytes.len(), true).unwrap_or_default();
        self.lines.resize(start + room, 0);
        BASE64_STANDARD.encode_slice(bytes, &mut self.lines[start..]).map_err(unwritten)?;
        self.lines.put_u8(b'"');
        Ok(())
    }
}

/// The text that a line has in place of an object, out of its JSON; none where that is no text.
pub fn carried(object: &str) -> Option<&str> {
    object.strip_prefix('"')?.strip_suffix('"')
}

/// The object of a kind that a line carries: what is between the quotes there.
///
/// # Errors
/// What says in JSON what is wrong with it: an object that has no more than the metadata, as far as it can
/// be read; or a text.
pub fn object<T: Encoded>(carried: &str) -> Result<T, Value> {
    let bytes = BASE64_STANDARD.decode(carried).map_err(|_| Value::from(carried))?;
    let envelope = open(bytes.into()).map_err(|malformed| Value::from(malformed.to_string()))?;
    if !envelope.is(T::KIND.api_version(), T::KIND.name()) {
        return Err(envelope.what().into());
    }
    T::decode(envelope.raw.clone()).map_err(|error| {
        let error = error.to_string();
        match Named::decode(envelope.raw).ok().and_then(|named| named.metadata) {
            Some(metadata) => {
                json!({ "metadata": wire::Metadata::from(metadata), T::PARTS: error })
            }
            None => error.into(),
        }
    })
}

/// An answer that is an error, in JSON.
///
/// # Errors
/// The body is no Status.
pub fn status(body: Bytes) -> Result<Vec<u8>, Malformed> {
    let envelope = open(body)?;
    if !envelope.is("v1", "Status") {
        let problem = format!("{} in place of an error", envelope.what());
        return Err(Malformed::Unreadable(problem));
    }
    serde_json::to_vec(&Status::decode(envelope.raw)?.json()).map_err(unwritten)
}

/// Takes an object out of what is sent.
fn open(mut sent: Bytes) -> Result<Unknown, Malformed> {
    if !sent.starts_with(MAGIC) {
        let problem = "an object that does not begin with \"k8s\\0\"".to_owned();
        return Err(Malformed::Unreadable(problem));
    }
    sent.advance(MAGIC.len());
    Ok(Unknown::decode(sent)?)
}

impl Unknown {
    fn is(&self, version: &str, kind: &str) -> bool {
        let types = self.types.as_ref();
        types.is_some_and(|types| types.api_version == version && types.kind == kind)
    }

    /// Its version and kind, for a message.
    fn what(&self) -> String {
        let types = self.types.clone().unwrap_or_default();
        format!("{} {}", text(&types.api_version), text(&types.kind))
    }

    /// In JSON, as far as a watcher reads it.
    fn bookmark(self) -> Result<Value, Malformed> {
        let types = self.types.unwrap_or_default();
        let metadata = Named::decode(self.raw)?.metadata.unwrap_or_default();
        // A watch goes on from it.
        if metadata.resource_version.is_empty() {
            return Err(Malformed::Unreadable("a bookmark without a version".to_owned()));
        }
        let mut bookmark = json!({
            "kind": text(&types.kind),
            "apiVersion": text(&types.api_version),
            "metadata": { "resourceVersion": text(&metadata.resource_version) },
        });
        if let Some(ends) = metadata.annotations.value(LIST_ENDS) {
            bookmark["metadata"]["annotations"] = json!({ LIST_ENDS: ends });
        }
        Ok(bookmark)
    }
}

impl Status {
    fn json(&self) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "status": text(&self.status),
            "message": text(&self.message),
            "reason": text(&self.reason),
            "code": self.code,
        })
    }
}

/// Nothing that is written here is without a form in JSON.
fn unwritten(error: impl std::fmt::Display) -> Malformed {
    Malformed::Unreadable(error.to_string())
}
