//! The contents of one file: its objects, and its rejects. Files are read elsewhere (svclb-sources).

mod documents;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use svclb_core::model::Update;

use crate::convert::{self, Accepted, Invalid, Kind, ObjectId, Skipped, Uid};
use crate::ledger::{Rejection, until_corrected};
use documents::ParseError;
use svclb_core::text::{line, short};

/// The number of rejects of a file that are reported one by one. A value that is no object takes two bytes
/// of a file, and its reject hundreds.
pub const MOST_REPORTED: usize = 100;
/// The consequence of a reject that may be any object.
const UNKNOWN: &str =
    "; until this is corrected, objects that the file had before and lacks now keep their state";

/// A part of a file that was rejected or ignored, and why. It affects nothing else.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct FileReject {
    /// The file, as `--from` names it.
    pub file: PathBuf,
    /// Line of the file, from 1, where it is known.
    pub line: Option<usize>,
    /// Number of the document in the file, from 1; `None` when it is the file itself.
    pub document: Option<usize>,
    /// The object, where its name can be read.
    pub object: Option<ObjectId>,
    /// The rejection of the object as a whole. The consequence depends on the object's state:
    /// [`FileReject::add_consequence`] adds it to `problem`.
    pub rejection: Option<Rejection>,
    /// The problem, what was expected, and the consequence.
    pub problem: String,
}

impl FileReject {
    /// Adds the consequence to the rejection of an object as a whole, which has a state or none.
    pub fn add_consequence(&mut self, has_state: bool) {
        if self.rejection.is_some() {
            self.problem += "; ";
            self.problem += until_corrected(has_state);
        }
    }
}

impl fmt::Display for FileReject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&line(&self.file.display().to_string()))?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(document) = self.document {
            write!(f, ": document {document}")?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// An object of a file.
#[derive(Clone, PartialEq, Debug)]
pub struct FileObject {
    /// Its state.
    pub update: Update,
    /// Its `metadata.uid`, where it has one.
    pub uid: Option<Uid>,
    /// The document that it is in.
    pub document: usize,
    /// The parts of it that are left out on purpose.
    pub skipped: Skipped,
}

/// The contents of one file.
#[derive(Debug, Default)]
pub struct Contents {
    /// Objects. One that svclb does not serve has an update without an object.
    pub objects: BTreeMap<ObjectId, FileObject>,
    /// Rejected objects whose names can be read.
    pub rejected: BTreeMap<ObjectId, Rejection>,
    /// Something was rejected that may be any object.
    pub unknown: bool,
    /// The first [`MOST_REPORTED`] rejects, then one with the number of the others, then objects of which
    /// parts are ignored, [`MOST_REPORTED`] at most.
    pub rejects: Vec<FileReject>,
    /// The number of rejects, with those that are not in `rejects`.
    pub standing: usize,
    /// A Node that is not the own one.
    pub other_node: Option<ObjectId>,
}

/// Reads the contents of a file. `node` is the only Node that counts.
pub fn contents(path: &Path, bytes: io::Result<Vec<u8>>, node: &str) -> Contents {
    let mut builder =
        ContentsBuilder { path, node, contents: Contents::default(), ignored: Vec::new() };
    let text = bytes.and_then(|bytes| {
        String::from_utf8(bytes).map_err(|_| io::Error::other("it is not text in UTF-8"))
    });
    match text {
        Err(error) => builder.unreadable_file(&error),
        Ok(text) if path.extension().is_some_and(|extension| extension == "json") => {
            for (number, value) in documents::parse_json(&text) {
                builder.document(number, value, |_| None);
            }
        }
        Ok(text) => {
            for document in documents::split(&text) {
                let lines = documents::Lines::of(&document);
                let line = |field: &str| Some(lines.of_field(field));
                builder.document(document.number, documents::parse(&document), line);
            }
        }
    }
    builder.finish()
}

struct ContentsBuilder<'a> {
    path: &'a Path,
    node: &'a str,
    contents: Contents,
    /// Objects of which parts are ignored.
    ignored: Vec<FileReject>,
}

impl ContentsBuilder<'_> {
    fn unreadable_file(&mut self, error: &io::Error) {
        self.contents.unknown = true;
        self.contents.standing += 1;
        let problem = format!("cannot be read: {error}; its objects keep their state");
        let report = self.report(None, None, problem);
        self.contents.rejects.push(report);
    }

    /// Reads a document. `line` returns the line of a field of it.
    fn document(
        &mut self,
        number: usize,
        value: Result<Value, ParseError>,
        line: impl Fn(&str) -> Option<usize>,
    ) {
        let value = match value {
            Ok(Value::Null) => return,
            Ok(value) => value,
            Err(ParseError { line, problem }) => {
                self.contents.unknown = true;
                if !self.count_reject() {
                    return;
                }
                let report = self.report(Some(number), Some(line), short(&problem) + UNKNOWN);
                return self.contents.rejects.push(report);
            }
        };
        let converted = convert::objects(value);
        for Accepted { update, uid, left_out } in converted.accepted {
            let Some(object) = ObjectId::of(&update) else { continue };
            if object.kind == Kind::Node && *object.name.name != *self.node {
                self.contents.other_node = Some(object);
                continue;
            }
            if let Some(ignored) = left_out.ignored
                && self.ignored.len() < MOST_REPORTED
            {
                let problem = short(&format!("{object}: {ignored}"));
                let report = self.report(Some(number), line(&ignored.field), problem);
                self.ignored.push(FileReject { object: Some(object.clone()), ..report });
            }
            let skipped = left_out.counts;
            let stated = FileObject { update, uid, document: number, skipped };
            let earlier = self.contents.objects.insert(object.clone(), stated);
            if let Some(FileObject { document: earlier, .. }) = earlier
                && self.count_reject()
            {
                let problem = format!(
                    "{object} is in document {number} of this file again, and the last one counts: \
                     remove one of them"
                );
                let report = self.report(Some(earlier), None, problem);
                self.contents.rejects.push(FileReject { object: Some(object), ..report });
            }
        }
        for invalid in converted.rejects {
            self.invalid(number, invalid, &line);
        }
        self.contents.standing += converted.nameless.saturating_sub(convert::MOST_NAMELESS);
    }

    fn invalid(&mut self, number: usize, invalid: Invalid, line: impl Fn(&str) -> Option<usize>) {
        let rejection = Rejection { service: invalid.part_of().cloned(), uid: invalid.uid };
        match &invalid.object {
            Some(object) => {
                self.contents.rejected.insert(object.clone(), rejection.clone());
            }
            None => self.contents.unknown = true,
        }
        if !self.count_reject() {
            return;
        }
        let line = line(&format!("{}{}", invalid.at, invalid.field));
        // The report of an object is bounded.
        let invalid = Invalid {
            field: short(&invalid.field),
            problem: short(&invalid.problem),
            at: short(&invalid.at).into(),
            ..invalid
        };
        let mut report = self.report(Some(number), line, invalid.to_string());
        match invalid.object {
            None => report.problem += UNKNOWN,
            object => (report.object, report.rejection) = (object, Some(rejection)),
        }
        self.contents.rejects.push(report);
    }

    /// Counts a reject. Returns true when it is to be reported, too.
    const fn count_reject(&mut self) -> bool {
        self.contents.standing += 1;
        self.contents.standing <= MOST_REPORTED
    }

    fn report(&self, document: Option<usize>, line: Option<usize>, problem: String) -> FileReject {
        let file = self.path.to_path_buf();
        FileReject { file, line, document, problem, ..FileReject::default() }
    }

    fn finish(mut self) -> Contents {
        let more = self.contents.standing.saturating_sub(MOST_REPORTED);
        if more > 0 {
            let problem = format!(
                "{more} more are rejected than the {MOST_REPORTED} that are reported one by one: correct \
                 those, and the next are reported"
            );
            let report = self.report(None, None, problem);
            self.contents.rejects.push(report);
        }
        self.contents.rejects.append(&mut self.ignored);
        self.contents
    }
}
