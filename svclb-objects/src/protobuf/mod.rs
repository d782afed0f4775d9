//! The watch of an API server that speaks protobuf, as the lines of JSON that it would have sent instead:
//! of each object what [`crate::convert::wire`] reads, and no more. No I/O: bytes in, bytes out.
//!
//! A body is frames: four bytes of length (big-endian), then a meta/v1 WatchEvent, whose object is in an
//! envelope that begins with `k8s\0` and says its kind (apimachinery: pkg/util/framer/framer.go and
//! pkg/runtime/serializer/protobuf/protobuf.go). A frame or an envelope that cannot be read ends the
//! stream: nobody knows what it said. An object that cannot be read is handed on as one that is wrong,
//! with its name where it has one, so it rejects only itself.

mod messages;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::{DecodeError, Message};
use serde::Serialize;

use crate::convert::Kind;
use messages::{EndpointSlice, Named, Node, Service, Status, Unknown, WatchEvent, text};

/// The media type. That of a watch has parameters behind it.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// The most bytes that a frame may have. etcd takes requests of 1.5 MiB by default, and an object is in
/// one request; an operator may allow more.
pub const LONGEST: usize = 32 << 20;

/// What an envelope begins with.
const MAGIC: &[u8] = b"k8s\0";
/// The bytes of a frame's length.
const HEADER: usize = 4;

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
        let event = WatchEvent::decode(self.bytes.split_to(length).freeze())?;
        let Some(object) = event.object else {
            return Err(Malformed::Unreadable("an event without an object".to_owned()));
        };
        Line { kind: event.kind, lines: &mut self.lines }.object(open(object.raw)?)?;
        Ok(true)
    }
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
    serde_json::to_vec(&typed("v1", "Status", Status::decode(envelope.raw)?)).map_err(unwritten)
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
        let [version, kind] =
            [&types.api_version, &types.kind].map(|it| String::from_utf8_lossy(it));
        format!("{version} {kind}")
    }
}

/// An event as a line of JSON. Its type comes first: that is how it is read without a detour.
struct Line<'a> {
    kind: Bytes,
    lines: &'a mut BytesMut,
}

impl Line<'_> {
    fn object(self, envelope: Unknown) -> Result<(), Malformed> {
        let kind = Kind::ALL.into_iter().find(|it| envelope.is(it.api_version(), it.name()));
        match kind {
            Some(Kind::Service) => self.one::<Service>(Kind::Service, "spec", envelope.raw),
            Some(Kind::EndpointSlice) => {
                self.one::<EndpointSlice>(Kind::EndpointSlice, "endpoints", envelope.raw)
            }
            Some(Kind::Node) => self.one::<Node>(Kind::Node, "status", envelope.raw),
            None if envelope.is("v1", "Status") => {
                self.write(&typed("v1", "Status", Status::decode(envelope.raw)?))
            }
            None => self.write(&envelope.what()),
        }
    }

    /// An object of a kind; or, where it cannot be read, its metadata, and in place of `rest` why.
    fn one<T: Message + Default + Serialize>(
        self,
        kind: Kind,
        rest: &str,
        raw: Bytes,
    ) -> Result<(), Malformed> {
        let (version, name) = (kind.api_version(), kind.name());
        let error = match T::decode(raw.clone()) {
            Ok(object) => return self.write(&typed(version, name, object)),
            Err(error) => error.to_string(),
        };
        match Named::decode(raw) {
            Ok(named) => {
                let rest = BTreeMap::from([(rest, error)]);
                self.write(&typed(version, name, Broken { named, rest }))
            }
            Err(_) => self.write(&error),
        }
    }

    fn write(self, object: &impl Serialize) -> Result<(), Malformed> {
        #[derive(Serialize)]
        struct Event<'a, T> {
            #[serde(rename = "type", serialize_with = "text")]
            kind: &'a Bytes,
            object: &'a T,
        }
        let event = Event { kind: &self.kind, object };
        serde_json::to_writer(self.lines.writer(), &event).map_err(unwritten)?;
        self.lines.put_u8(b'\n');
        Ok(())
    }
}

/// An object that says what it is, as in a watch.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Typed<'a, T> {
    kind: &'a str,
    api_version: &'a str,
    #[serde(flatten)]
    object: T,
}

const fn typed<'a, T>(api_version: &'a str, kind: &'a str, object: T) -> Typed<'a, T> {
    Typed { kind, api_version, object }
}

/// An object of which no more than the metadata can be read.
#[derive(Serialize)]
struct Broken<'a> {
    #[serde(flatten)]
    named: Named,
    #[serde(flatten)]
    rest: BTreeMap<&'a str, String>,
}

/// Nothing in a message is without a form in JSON.
fn unwritten(error: serde_json::Error) -> Malformed {
    Malformed::Unreadable(error.to_string())
}
