//! One batch of changes, as every source hands it on.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use svclb_core::model::{ObjectName, Unread, Update};
use svclb_objects::convert::{Ignored, Invalid, Kind, ObjectId, Skipped};
use svclb_objects::file::FileReject;
use svclb_objects::ledger::until_corrected;

/// The consequence of the reject of an object of an API server whose name cannot be read.
const NAMELESS: &str = "until this is corrected, it has no effect; its previous state stays until all objects \
                        are listed again, and state that an earlier agent wrote stays";

/// The changes of a source since its last batch.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Changed objects.
    pub updates: Vec<Update>,
    /// The updates are the whole state of the source: objects that are not among them are gone. That is so
    /// for the first batch of every source and for no later one: a source that loses its connection and
    /// finds it again hands on the differences, so that an object which is rejected then keeps its state.
    pub whole: bool,
    /// Objects and files rejected, and objects ignored in part, since the last batch.
    pub rejects: Vec<Reject>,
    /// The objects that are rejected now, where that changed. The first batch always has it.
    pub unread: Option<Unread>,
    /// The number of rejects that stand, with those of earlier batches. A batch may change this alone.
    pub standing: usize,
    /// The parts of its objects that the source leaves out on purpose now.
    pub skipped: Skipped,
    /// When the earliest of these changes was noticed.
    pub seen: Instant,
}

impl Batch {
    /// Returns these changes, noticed now, of a source that rejects and leaves out nothing.
    pub fn of(updates: Vec<Update>) -> Self {
        Self {
            updates,
            whole: false,
            rejects: Vec::new(),
            unread: None,
            standing: 0,
            skipped: Skipped::default(),
            seen: Instant::now(),
        }
    }
}

/// An object or a file that was rejected, or of which parts are ignored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reject {
    /// A file, or a part of one.
    File(FileReject),
    /// An object of an API server, and whether it has a state from before.
    Object(Invalid, bool),
    /// Parts of an object of an API server.
    Parts(ObjectId, Box<Ignored>),
}

impl fmt::Display for Reject {
    /// Writes the problem and what svclb does meanwhile.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(reject) => write!(f, "{reject}"),
            Self::Object(invalid, has_state) if invalid.object.is_some() => {
                write!(f, "rejected {invalid}; {}", until_corrected(*has_state))
            }
            Self::Object(invalid, _) => write!(f, "rejected an object: {invalid}; {NAMELESS}"),
            Self::Parts(object, ignored) => write!(f, "{object}: {ignored}"),
        }
    }
}

impl Reject {
    /// Logs it, with its age unless it was reported just now.
    pub fn log(&self, age: Duration) {
        let seconds_ago = Some(age.as_secs()).filter(|seconds| *seconds > 0);
        tracing::warn!(seconds_ago, "{self}");
    }

    /// Returns true when this one makes an earlier reject obsolete: an object of an API server has one at a
    /// time, a file may have several of one object.
    pub fn replaces(&self, earlier: &Self) -> bool {
        match self {
            Self::File(_) => self == earlier,
            _ => self.object().is_some_and(|object| earlier.object() == Some(object)),
        }
    }

    /// Returns the file, or the namespace of the object; empty where that is not known.
    pub fn origin(&self) -> Cow<'_, str> {
        match self {
            Self::File(reject) => reject.file.to_string_lossy(),
            _ => self.object().map_or("", |object| &object.name.namespace).into(),
        }
    }

    /// Returns true if it is about this Service object, or about a slice that is known to be the Service's.
    pub fn concerns(&self, service: &ObjectName) -> bool {
        let of_slice = match self {
            Self::File(reject) => reject.rejection.as_ref().and_then(|it| it.service.as_ref()),
            Self::Object(invalid, _) => invalid.service.as_deref(),
            Self::Parts(..) => None,
        };
        let is_named = |object: &ObjectId| object.kind == Kind::Service && object.name == *service;
        of_slice == Some(service) || self.object().is_some_and(is_named)
    }

    fn object(&self) -> Option<&ObjectId> {
        match self {
            Self::File(reject) => reject.object.as_ref(),
            Self::Object(invalid, _) => invalid.object.as_ref(),
            Self::Parts(object, _) => Some(object),
        }
    }
}
