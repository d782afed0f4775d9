//! What the files say together, and what of it was not reported yet.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use svclb_core::model::{ObjectName, Unread, Update};
use svclb_core::text::line;
use svclb_objects::file::{Contents, FileReject, Object, Rejected};

use crate::convert::{Kind, ObjectId, Skipped, Uid};

/// A file in path order: by its place among the `--from` arguments, then by its path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct FileKey {
    /// Which argument it belongs to.
    pub(super) target: usize,
    /// Its path as the argument names it.
    pub(super) path: Arc<Path>,
}

/// An object as one file has it.
#[derive(Debug)]
struct Held {
    update: Update,
    uid: Option<Uid>,
    document: usize,
    stands: Stands,
}

/// Whether a file says an object now. In the order of which file's word counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stands {
    /// It does not, but something in it was rejected that is the object, or may be.
    Retained,
    /// The file is not there at the moment.
    Waits,
    /// It does.
    Said,
}

#[derive(Debug, Default)]
struct FileState {
    objects: BTreeMap<ObjectId, Held>,
    rejected: BTreeMap<ObjectId, Rejected>,
    /// What is rejected may be any object, and there never was a state of the file without that.
    unknown: bool,
    rejects: Vec<FileReject>,
    /// How many there are, with those that are not told.
    standing: usize,
    skipped: Skipped,
}

/// All files' objects.
#[derive(Debug, Default)]
pub(super) struct State {
    files: BTreeMap<FileKey, FileState>,
    holders: HashMap<ObjectId, BTreeSet<FileKey>>,
    /// What was reported last. Objects that are gone or mean nothing here are not in it.
    reported: HashMap<ObjectId, Update>,
    shadowed: BTreeMap<ObjectId, Vec<FileReject>>,
    touched: BTreeSet<ObjectId>,
    fresh: Vec<FileReject>,
    standing: usize,
    /// Services whose state is one that no file says any more.
    retained: BTreeSet<ObjectName>,
    /// What was told last; none at first.
    unread: Option<Unread>,
}

/// What was not reported yet.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) updates: Vec<Update>,
    pub(super) rejects: Vec<FileReject>,
    pub(super) unread: Option<Unread>,
    pub(super) standing: usize,
}

impl State {
    /// Whether there are objects of this file.
    pub(super) fn holds_something(&self, file: &FileKey) -> bool {
        self.files.get(file).is_some_and(|state| !state.objects.is_empty())
    }

    /// A file is not there at the moment: what it held stays, unless another file says it too. False
    /// when the file was never read.
    pub(super) fn fade(&mut self, file: &FileKey) -> bool {
        let Some(state) = self.files.get_mut(file) else { return false };
        for (object, held) in &mut state.objects {
            held.stands = held.stands.min(Stands::Waits);
            self.touched.insert(object.clone());
        }
        true
    }

    /// The files that were read.
    pub(super) fn files(&self) -> impl Iterator<Item = &FileKey> {
        self.files.keys()
    }

    /// What a file holds now. What it held before and was rejected stays, unless that is another object of
    /// the same name; so does all that it held, while something in it was rejected that may be any object.
    pub(super) fn put(&mut self, file: &FileKey, contents: Contents) {
        let before = self.files.remove(file);
        let unknown = contents.unknown && before.as_ref().is_none_or(|before| before.unknown);
        let before = before.unwrap_or_default();
        let mut objects = BTreeMap::new();
        for (object, held) in before.objects {
            self.touched.insert(object.clone());
            let rejected = contents.rejected.get(&object);
            let is_another = rejected.is_some_and(|it| Uid::differ(it.uid, held.uid));
            if !is_another && (contents.unknown || rejected.is_some()) {
                objects.insert(object, Held { stands: Stands::Retained, ..held });
            } else if let Some(holders) = self.holders.get_mut(&object) {
                holders.remove(file);
            }
        }
        for (object, Object { update, uid, document }) in contents.objects {
            self.touched.insert(object.clone());
            objects.insert(object, Held { update, uid, document, stands: Stands::Said });
        }
        for object in objects.keys() {
            self.holders.entry(object.clone()).or_default().insert(file.clone());
        }
        let known: HashSet<&FileReject> = before.rejects.iter().collect();
        self.fresh.extend(contents.rejects.iter().filter(|new| !known.contains(new)).cloned());
        let Contents { mut rejected, rejects, standing, skipped, .. } = contents;
        if contents.unknown {
            // It may still be in there, and was never accepted.
            for (object, why) in before.rejected {
                rejected.entry(object).or_insert(why);
            }
        }
        let state = FileState { objects, rejected, unknown, rejects, standing, skipped };
        self.files.insert(file.clone(), state);
    }

    /// A file is gone, and with it what it held.
    pub(super) fn remove(&mut self, file: &FileKey) {
        let Some(before) = self.files.remove(file) else { return };
        for object in before.objects.into_keys() {
            if let Some(holders) = self.holders.get_mut(&object) {
                holders.remove(file);
            }
            self.touched.insert(object);
        }
    }

    /// What changed since the last time; `None` when nothing did. `unread` says that there are files that
    /// were never read.
    pub(super) fn changes(&mut self, unread: bool) -> Option<Changes> {
        let mut changes = Changes::default();
        for object in std::mem::take(&mut self.touched) {
            self.settle(&object, &mut changes);
        }
        changes.rejects.append(&mut self.fresh);
        changes
            .rejects
            .sort_by(|a, b| (&a.file, a.document, a.line).cmp(&(&b.file, b.document, b.line)));
        changes.standing = self.files.values().map(|file| file.standing).sum::<usize>()
            + self.shadowed.values().map(Vec::len).sum::<usize>();
        let cleared = changes.standing != self.standing;
        self.standing = changes.standing;
        let unread = self.unread(unread);
        if self.unread.as_ref() != Some(&unread) {
            changes.unread = Some(self.unread.insert(unread).clone());
        }
        let is_new = cleared || changes.unread.is_some();
        (is_new || !changes.updates.is_empty() || !changes.rejects.is_empty()).then_some(changes)
    }

    /// What is rejected now, and said by no other file. `late` says that there are files that were never
    /// read.
    fn unread(&self, late: bool) -> Unread {
        let mut unread =
            Unread { unknown: late, services: self.retained.clone(), ..Unread::default() };
        for file in self.files.values() {
            unread.unknown |= file.unknown;
            for (object, Rejected { service, .. }) in &file.rejected {
                match (object.kind, service) {
                    _ if self.is_said(object) => {}
                    (Kind::Service, _) => drop(unread.services.insert(object.name.clone())),
                    (Kind::EndpointSlice, Some(service)) => {
                        unread.slices.insert(service.clone());
                    }
                    _ => {}
                }
            }
        }
        unread
    }

    /// Whether a file says this object now.
    fn is_said(&self, object: &ObjectId) -> bool {
        let held = |file| self.files.get(file)?.objects.get(object);
        let mut holders = self.holders.get(object).into_iter().flatten().filter_map(held);
        holders.any(|held| held.stands == Stands::Said)
    }

    /// What the files hold that is left out on purpose.
    pub(super) fn skipped(&self) -> Skipped {
        let mut skipped = Skipped::default();
        for file in self.files.values() {
            skipped.add(&file.skipped);
        }
        skipped
    }

    /// Decides which file's word counts for an object, and whether that is news.
    fn settle(&mut self, object: &ObjectId, changes: &mut Changes) {
        let holders = self.holders.get(object);
        let mut held: Vec<(&FileKey, &Held)> = holders
            .into_iter()
            .flatten()
            .filter_map(|file| Some((file, self.files.get(file)?.objects.get(object)?)))
            .collect();
        // What a file really says goes before what it said once; then the last in path order.
        held.sort_by_key(|(file, held)| (held.stands, *file));
        let winner = held.pop();
        let shadowed: Vec<FileReject> = held
            .iter()
            .filter(|(_, held)| held.stands == Stands::Said)
            .filter_map(|(file, held)| Some(shadow(object, file, held, winner?)))
            .collect();
        if object.kind == Kind::Service {
            if winner.is_some_and(|(_, held)| held.stands == Stands::Retained) {
                self.retained.insert(object.name.clone());
            } else {
                self.retained.remove(&object.name);
            }
        }
        let now = winner.map(|(_, held)| &held.update).filter(|update| means_something(update));
        match (self.reported.get(object), now) {
            (Some(before), Some(now)) if before == now => {}
            (None, None) => {}
            (_, Some(now)) => {
                changes.updates.push(now.clone());
                self.reported.insert(object.clone(), now.clone());
            }
            (Some(_), None) => {
                changes.updates.push(object.gone());
                self.reported.remove(object);
            }
        }
        let known = self.shadowed.remove(object).unwrap_or_default();
        changes.rejects.extend(shadowed.iter().filter(|new| !known.contains(new)).cloned());
        if !shadowed.is_empty() {
            self.shadowed.insert(object.clone(), shadowed);
        }
        if self.holders.get(object).is_some_and(BTreeSet::is_empty) {
            self.holders.remove(object);
        }
    }
}

fn shadow(object: &ObjectId, file: &FileKey, held: &Held, winner: (&FileKey, &Held)) -> FileReject {
    let (other, other_held) = winner;
    let problem = format!(
        "{object} is in {}, document {}, too, and the last in path order counts: remove one of them",
        line(&other.path.display().to_string()),
        other_held.document,
    );
    FileReject {
        file: file.path.to_path_buf(),
        line: None,
        document: Some(held.document),
        object: Some(object.clone()),
        field: String::new(),
        problem,
    }
}

const fn means_something(update: &Update) -> bool {
    !matches!(update, Update::Service(_, None) | Update::Slice(_, None) | Update::Node(None))
}
