//! Lists and watches of an API server: bytes of a body to frames, and frames to events. No I/O.
//!
//! A watch in protobuf is frames: four bytes of length (big-endian), then a meta/v1 WatchEvent
//! (apimachinery: pkg/util/framer/framer.go). A watch in JSON is lines. An object that cannot be read is handed
//! on as an invalid one, with its name where it has one, so it rejects only itself. A frame that is no event
//! ends the watch, since its change is lost.

use std::borrow::Cow;

use bytes::{Buf as _, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::{self, Read, Wire};
use crate::convert::Kind;
use crate::convert::wire::{self, Text};
use crate::protobuf::{self, Envelope, LIST_ENDS, Unreadable};
use crate::status::Status;

/// The most bytes that a frame may have. etcd takes requests of 1.5 MiB by default, and an object is in
/// one request; an operator may allow more.
pub const LONGEST: usize = 32 << 20;
/// The bytes of a frame's length in protobuf.
const HEADER: usize = 4;

/// The encoding of a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// Kubernetes' protobuf.
    Protobuf,
    /// JSON.
    Json,
}

impl Encoding {
    /// Returns the encoding of a media type, whatever its parameters.
    pub fn of(content_type: Option<&str>) -> Self {
        match content_type {
            Some(it) if it.to_ascii_lowercase().starts_with(protobuf::MEDIA_TYPE) => Self::Protobuf,
            _ => Self::Json,
        }
    }

    /// Its name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Protobuf => "protobuf",
            Self::Json => "json",
        }
    }

    /// Reads the body of an answer with this HTTP status code that reports an error. A body that is no
    /// Status is the message.
    pub fn status(self, code: u16, body: Bytes) -> Status {
        let status = match self {
            Self::Protobuf => Envelope::open(body)
                .and_then(Envelope::status)
                .map_err(|Unreadable(problem)| Malformed::Unreadable(self, problem).to_string()),
            Self::Json => serde_json::from_slice(&body)
                .map_err(|_| String::from_utf8_lossy(&body).trim().to_owned()),
        };
        let message = status.map_or_else(|message| message, |status: Status| status.message);
        Status { code, message }
    }
}

/// The reason why a body cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    /// The body ends within a frame, after so many bytes of it: its sender is gone. Earlier events count.
    #[error("the API server's {encoding} ends in the middle of an event, after {1} bytes of it", encoding = .0.name())]
    Cut(Encoding, usize),
    /// Something else is in place of an event, an envelope or a list; or it is too long.
    #[error("the API server's {encoding} cannot be read: {1}", encoding = .0.name())]
    Unreadable(Encoding, String),
}

/// An event of a watch.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most events are objects, and a box is an allocation"
)]
pub enum Event {
    /// An object that is new or changed, or gone.
    Object {
        /// Its `resourceVersion`, where it has one.
        version: Option<Text>,
        /// The object; as it was last, if it is gone.
        read: Read,
        /// It is gone.
        is_gone: bool,
    },
    /// All changes up to this version have been sent.
    Bookmark {
        /// The version.
        version: Text,
        /// A streamed list is complete.
        ends_list: bool,
    },
    /// The API server ends the watch.
    Error(Status),
}

/// The body of a watch, which comes in parts of any size.
#[derive(Clone, Debug)]
pub struct Decoder {
    encoding: Encoding,
    /// Bytes that are not decoded yet.
    bytes: BytesMut,
    /// The first of them that may end a line.
    searched: usize,
}

impl Decoder {
    /// Begins a body.
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, bytes: BytesMut::new(), searched: 0 }
    }

    /// Adds the next part of the body.
    pub fn push(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    /// Decodes the next event, about an object of this kind, if all of it is there.
    ///
    /// # Errors
    /// The next frame is no event. The decoder is of no use then.
    pub fn next(&mut self, kind: Kind) -> Result<Option<Event>, Malformed> {
        let event = match self.encoding {
            Encoding::Protobuf => self.delimited()?.map(|frame| protobuf_event(frame, kind)),
            Encoding::Json => self.line()?.map(|line| json_event(&line, kind)),
        };
        let event = event.transpose();
        event.map_err(|Unreadable(problem)| Malformed::Unreadable(self.encoding, problem))
    }

    /// Checks that the body may end here.
    ///
    /// # Errors
    /// A frame is not complete.
    pub fn end(&self) -> Result<(), Malformed> {
        match self.bytes.len() {
            0 => Ok(()),
            there => Err(Malformed::Cut(self.encoding, there)),
        }
    }

    fn delimited(&mut self) -> Result<Option<Bytes>, Malformed> {
        let Some(header) = self.bytes.first_chunk::<HEADER>() else { return Ok(None) };
        // No platform that has the programs has smaller addresses.
        let length = u32::from_be_bytes(*header) as usize;
        if length > LONGEST {
            return Err(self.too_long(length));
        }
        if self.bytes.len() - HEADER < length {
            return Ok(None);
        }
        self.bytes.advance(HEADER);
        Ok(Some(self.bytes.split_to(length).freeze()))
    }

    fn too_long(&self, length: usize) -> Malformed {
        let problem = format!("an event has {length} bytes: expected at most {LONGEST}");
        Malformed::Unreadable(self.encoding, problem)
    }

    fn line(&mut self) -> Result<Option<Bytes>, Malformed> {
        while self.bytes.first() == Some(&b'\n') {
            self.bytes.advance(1);
        }
        let rest = &self.bytes[self.searched..];
        let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return match self.searched > LONGEST {
                true => Err(self.too_long(self.searched)),
                false => Ok(None),
            };
        };
        let line = self.bytes.split_to(self.searched + length + 1);
        self.searched = 0;
        Ok(Some(line.freeze()))
    }
}

/// An event in JSON.
#[derive(Deserialize)]
struct JsonEvent<'a> {
    #[serde(rename = "type", borrow)]
    what: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The object of an event.
enum RawObject<'a> {
    Protobuf(Envelope),
    Json(&'a RawValue),
}

fn protobuf_event(frame: Bytes, kind: Kind) -> Result<Event, Unreadable> {
    let (what, object) = protobuf::event(frame)?;
    event(&what, RawObject::Protobuf(object), kind)
}

fn json_event(line: &[u8], kind: Kind) -> Result<Event, Unreadable> {
    let JsonEvent { what, object } = serde_json::from_slice(line)?;
    event(what.as_bytes(), RawObject::Json(object), kind)
}

fn event(what: &[u8], object: RawObject<'_>, kind: Kind) -> Result<Event, Unreadable> {
    match what {
        b"ADDED" | b"MODIFIED" | b"DELETED" => {
            let (version, read) = object.read(kind);
            Ok(Event::Object { version, read, is_gone: what == b"DELETED" })
        }
        b"BOOKMARK" => object.bookmark(),
        b"ERROR" => object.status().map(Event::Error),
        _ => {
            let what = String::from_utf8_lossy(what);
            Err(Unreadable(format!("an event of the type {what:?}")))
        }
    }
}

impl RawObject<'_> {
    fn read(self, kind: Kind) -> (Option<Text>, Read) {
        match kind {
            Kind::Service => self.read_as::<wire::Service>(),
            Kind::EndpointSlice => self.read_as::<wire::EndpointSlice>(),
            Kind::Node => self.read_as::<wire::Node>(),
        }
    }

    fn read_as<T: Wire>(self) -> (Option<Text>, Read) {
        match self {
            Self::Protobuf(envelope) => api::read_protobuf::<T>(envelope),
            Self::Json(text) => api::read::<T>(text.get()),
        }
    }

    /// A watch goes on from the version of a bookmark.
    fn bookmark(self) -> Result<Event, Unreadable> {
        let (version, ends_list) = match self {
            Self::Protobuf(envelope) => envelope.bookmark()?,
            Self::Json(text) => {
                let value: Value = serde_json::from_str(text.get())?;
                let metadata = &value["metadata"];
                let version = metadata["resourceVersion"].as_str().unwrap_or_default();
                (version.into(), metadata["annotations"].get(LIST_ENDS).is_some())
            }
        };
        match version.is_empty() {
            true => Err(Unreadable("a bookmark without a version".to_owned())),
            false => Ok(Event::Bookmark { version, ends_list }),
        }
    }

    fn status(self) -> Result<Status, Unreadable> {
        match self {
            Self::Protobuf(envelope) => envelope.status(),
            Self::Json(text) => Ok(serde_json::from_str(text.get())?),
        }
    }
}

/// A page of a list, in JSON.
#[derive(Deserialize)]
struct JsonPage<'a> {
    metadata: PageEnd,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

/// The end of a page of a list: its version, and the next page.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PageEnd {
    /// The version of the list: a watch goes on from it.
    #[serde(rename = "resourceVersion")]
    pub version: Text,
    /// The token of the next page; empty at the end of the list.
    #[serde(rename = "continue")]
    pub next: String,
}

/// Reads a page of a list in JSON, one object after the other.
///
/// # Errors
/// The body is no list. No object was read then.
pub fn page(kind: Kind, body: &[u8], mut each: impl FnMut(Read)) -> Result<PageEnd, Malformed> {
    let list: JsonPage<'_> = serde_json::from_slice(body)
        .map_err(|error| Malformed::Unreadable(Encoding::Json, error.to_string()))?;
    for item in list.items.unwrap_or_default() {
        each(RawObject::Json(item).read(kind).1);
    }
    Ok(list.metadata)
}

#[cfg(test)]
mod tests;
