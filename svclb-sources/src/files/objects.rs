//! The objects of all files together. An object may be in several files: the last in path order counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use svclb_core::model::{Unread, Update};
use svclb_core::text::line;
use svclb_objects::file::{Contents, FileObject, FileReject};
use svclb_objects::ledger::{Ledger, StandingReports, has_contents};

use super::layout::FileKey;
use crate::batch::{Batch, Reject};
use crate::convert::{Kind, ObjectId};

/// The objects of all files, and the changes that are not handed on yet.
#[derive(Debug, Default)]
pub(super) struct FileObjects {
    files: BTreeMap<FileKey, ReadFile>,
    /// The files that hold, or may hold, each object.
    holders: HashMap<ObjectId, BTreeSet<FileKey>>,
    /// With the state of each object that was handed on.
    ledger: Ledger<Option<Update>>,
    reports: StandingReports<Subject, FileReject>,
    touched: BTreeSet<ObjectId>,
    /// As handed on last; `None` at first.
    unread: Option<Unread>,
}

/// The subject of a report.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Subject {
    File(FileKey),
    /// An object that is in several files.
    Object(ObjectId),
}

/// The contents of a file. Its `rejected` objects include those that it had earlier and may still have, and
/// `unknown` is false once a state of the file without that was read.
#[derive(Debug, Default)]
struct ReadFile {
    contents: Contents,
    /// The file is not there at the moment.
    is_gone: bool,
}

impl ReadFile {
    fn objects(&self) -> impl Iterator<Item = &ObjectId> {
        self.contents.objects.keys().chain(self.contents.rejected.keys())
    }
}

impl FileObjects {
    /// Returns true when there are objects of this file.
    pub(super) fn has_objects(&self, file: &FileKey) -> bool {
        self.files.get(file).is_some_and(|file| file.objects().next().is_some())
    }

    /// Records what a file holds now. While something in it is rejected that may be any object, the file may
    /// still hold all that it held before.
    pub(super) fn put(&mut self, file: &FileKey, mut contents: Contents) {
        let before = self.take_file(file);
        let rejects = std::mem::take(&mut contents.rejects);
        self.reports.set(Subject::File(file.clone()), rejects, contents.standing);
        let was_unknown = before.as_ref().is_none_or(|before| before.contents.unknown);
        if contents.unknown {
            for object in before.iter().flat_map(ReadFile::objects) {
                let rejection = before.as_ref().and_then(|it| it.contents.rejected.get(object));
                let rejected = contents.rejected.entry(object.clone());
                rejected.or_insert_with(|| rejection.cloned().unwrap_or_default());
            }
        }
        contents.unknown &= was_unknown;
        let read = ReadFile { contents, is_gone: false };
        for object in read.objects() {
            self.holders.entry(object.clone()).or_default().insert(file.clone());
            self.touched.insert(object.clone());
        }
        self.files.insert(file.clone(), read);
    }

    /// Records that a file is not there at the moment: its objects keep their state, unless another file has
    /// them too. Returns false when the file was never read.
    pub(super) fn mark_gone(&mut self, file: &FileKey) -> bool {
        let Some(read) = self.files.get_mut(file) else { return false };
        read.is_gone = true;
        self.touched.extend(read.objects().cloned());
        true
    }

    /// Removes a file and its objects.
    pub(super) fn remove(&mut self, file: &FileKey) {
        self.take_file(file);
        self.reports.clear(Subject::File(file.clone()));
    }

    fn take_file(&mut self, file: &FileKey) -> Option<ReadFile> {
        let before = self.files.remove(file)?;
        for object in before.objects() {
            if let Some(holders) = self.holders.get_mut(object) {
                holders.remove(file);
            }
            self.touched.insert(object.clone());
        }
        Some(before)
    }

    /// Takes the changes since the last call; `None` when there are none. `has_late` is true while there are
    /// files that were never read.
    pub(super) fn take(&mut self, has_late: bool) -> Option<Batch> {
        for object in std::mem::take(&mut self.touched) {
            self.settle(object);
        }
        let mut unread = Unread { unknown: has_late, ..Unread::default() };
        unread.unknown |= self.files.values().any(|file| file.contents.unknown);
        self.ledger.unread(&mut unread);
        let is_new = self.unread.as_ref() != Some(&unread);
        if !is_new && !self.ledger.has_changes() && !self.reports.has_changes() {
            return None;
        }
        let mut rejects: Vec<FileReject> = self.reports.take().collect();
        for reject in &mut rejects {
            let has_state = reject.object.as_ref().is_some_and(|it| self.ledger.has_state(it));
            reject.add_consequence(has_state);
        }
        rejects.sort_by(|a, b| (&a.file, a.document, a.line).cmp(&(&b.file, b.document, b.line)));
        Some(Batch {
            rejects: rejects.into_iter().map(Reject::File).collect(),
            unread: is_new.then(|| self.unread.insert(unread).clone()),
            standing: self.reports.standing(),
            skipped: self.ledger.skipped(),
            ..Batch::of(self.ledger.take().into_values().collect())
        })
    }

    /// Returns another Node than the own one, where the own one is in no file.
    pub(super) fn other_node(&self) -> Option<&ObjectId> {
        let mut objects = self.files.values().flat_map(ReadFile::objects);
        if objects.any(|object| object.kind == Kind::Node) {
            return None;
        }
        self.files.values().find_map(|file| file.contents.other_node.as_ref())
    }

    /// Decides which file counts for an object.
    fn settle(&mut self, object: ObjectId) {
        let holders = self.holders.get(&object).into_iter().flatten();
        let holders: Vec<(&FileKey, &ReadFile)> =
            holders.filter_map(|file| Some((file, self.files.get(file)?))).collect();
        let stated = holders.iter().filter(|(_, file)| !file.is_gone);
        let mut stated: Vec<(&FileKey, &FileObject)> = stated
            .filter_map(|(key, file)| Some((*key, file.contents.objects.get(&object)?)))
            .collect();
        if let Some((file, winner)) = stated.pop() {
            let shadowed: Vec<FileReject> =
                stated.iter().map(|(key, it)| shadowed(&object, key, it, (file, winner))).collect();
            let standing = shadowed.len();
            self.reports.set(Subject::Object(object.clone()), shadowed, standing);
            let update = &winner.update;
            if !has_contents(update) {
                self.ledger.delete(&object);
            } else if self.ledger.get(&object).is_some_and(|state| state.as_ref() == Some(update)) {
                self.ledger.confirm(&object, winner.uid);
            } else {
                let state = self.ledger.accept(&object, winner.uid, update.clone());
                *state = Some(update.clone());
            }
            self.ledger.skip(&object, winner.skipped);
            return;
        }
        self.reports.clear(Subject::Object(object.clone()));
        if holders.iter().any(|(_, file)| file.is_gone) {
            // The file may be about to be replaced.
            return;
        }
        match holders.last().and_then(|(_, file)| file.contents.rejected.get(&object)) {
            Some(rejection) => drop(self.ledger.reject(&object, rejection.clone())),
            None => {
                self.ledger.delete(&object);
                self.holders.remove(&object);
            }
        }
    }
}

/// Reports an object that another file has too.
fn shadowed(
    object: &ObjectId,
    file: &FileKey,
    stated: &FileObject,
    (other, winner): (&FileKey, &FileObject),
) -> FileReject {
    let problem = format!(
        "{object} is in {}, document {}, too, and the last in path order counts: remove one of them",
        line(&other.path.display().to_string()),
        winner.document,
    );
    FileReject {
        file: file.path.to_path_buf(),
        document: Some(stated.document),
        object: Some(object.clone()),
        problem,
        ..FileReject::default()
    }
}
