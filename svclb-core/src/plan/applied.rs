//! What each step that succeeded changes in the mirror.

use svclb_common::layout::{Line, Set};

use super::Step;
use super::mirror::{Range, State, count_of};
use crate::table::{Key, Row, Written};

impl State {
    /// Notes a step that succeeded.
    pub(super) fn applied(&mut self, step: &Step) {
        match step {
            Step::Put(row) => self.put(row),
            Step::Remove(key) => self.removed(key),
        }
    }

    fn put(&mut self, row: &Row) {
        match row {
            Row::Service(id, row) => {
                self.spare_id = self.spare_id.filter(|spare| spare != id);
                self.put_service(*id, row);
            }
            Row::Backend(key, row) => {
                if let Some(held) = self.services.get_mut(&key.service) {
                    held.members.put(key.address, key.port, row);
                }
            }
            Row::Frontend(key, row) => {
                if let Some((old, _)) = self.frontends.insert(*key, (row.service, row.line))
                    && let Some(held) = self.services.get_mut(&old)
                {
                    held.drop_frontend(key);
                }
                if let Some(held) = self.services.get_mut(&row.service) {
                    held.add_frontend(key);
                }
            }
            Row::Slots(first, slots) => {
                self.room.take(*first, count_of(slots));
                self.ranges.insert(*first, Range::of(&Written::of(*first, slots.iter().copied())));
                self.unreferenced.insert(*first);
            }
            Row::Line(number, line) => {
                self.index.occupy(*number, &line.frontend());
                self.touched.insert(self.index.home(&line.frontend()));
                self.generations.insert(*number, line.generation);
                self.lines.insert(*number, *line);
                self.refer(line.set);
            }
            Row::Set(number, set) => {
                if let Some(line) = self.lines.get_mut(number) {
                    let old = std::mem::replace(&mut line.set, *set);
                    self.refer(*set);
                    self.unrefer(old);
                }
            }
            Row::Heir(number, id) => self.line(*number, |line| line.heir = *id),
            Row::Owner(number, id) => self.line(*number, |line| line.service = *id),
            Row::Traits(number, flags, affinity) => self.line(*number, |line| {
                line.flags = *flags;
                line.affinity_seconds = *affinity;
            }),
            Row::Generation(number, generation) => {
                self.generations.insert(*number, *generation);
                self.line(*number, |line| line.generation = *generation);
            }
            Row::Reach(number, reach) => {
                self.reaches.insert(*number, *reach);
            }
            Row::Spilled(number, count) => {
                self.spills.insert(*number, *count);
            }
            Row::Meta(meta) => {
                if meta.next_service > self.meta.next_service {
                    self.spare_id = Some(meta.next_service - 1);
                }
                self.meta = *meta;
            }
        }
    }

    fn line(&mut self, number: u32, change: impl FnOnce(&mut Line)) {
        if let Some(line) = self.lines.get_mut(&number) {
            change(line);
        }
    }

    fn removed(&mut self, key: &Key) {
        match key {
            Key::Service(id) => {
                let Some(held) = self.services.get(id) else { return };
                if let Some((object, mut ids)) = self.of_object.remove_entry(&held.key.object) {
                    if let Ok(at) = self.place_of(&ids, &held.key) {
                        ids.remove(at);
                    }
                    if !ids.is_empty() {
                        self.of_object.insert(object, ids);
                    }
                }
                self.services.remove(id);
            }
            Key::Backend(key) => {
                if let Some(held) = self.services.get_mut(&key.service) {
                    held.members.remove(key.address, key.port);
                }
            }
            Key::Frontend(key) => {
                if let Some((id, _)) = self.frontends.remove(key)
                    && let Some(held) = self.services.get_mut(&id)
                {
                    held.drop_frontend(key);
                }
            }
            Key::Line(number) => {
                if let Some(line) = self.lines.remove(number) {
                    self.index.empty(*number);
                    self.touched.insert(self.index.home(&line.frontend()));
                    self.resting.lines.insert(*number);
                    self.unrefer(line.set);
                } else if self.misfits.remove(number) {
                    self.resting.lines.insert(*number);
                    if self.misfits.is_empty() {
                        for (first, count) in std::mem::take(&mut self.misfit_ranges) {
                            self.rest(first, count);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn refer(&mut self, set: Set) {
        if let Some(range) = self.ranges.get_mut(&set.first)
            && set.count != 0
        {
            range.lines += 1;
            self.unreferenced.remove(&set.first);
        }
    }

    fn unrefer(&mut self, set: Set) {
        if set.count == 0 {
            return;
        }
        let Some(range) = self.ranges.get_mut(&set.first) else { return };
        range.lines -= 1;
        if range.lines == 0 {
            self.ranges.remove(&set.first);
            self.rest(set.first, set.count);
        }
    }

    fn rest(&mut self, first: u32, count: u32) {
        self.resting.ranges.insert((first, count));
        self.room.rest(first, count);
    }
}
