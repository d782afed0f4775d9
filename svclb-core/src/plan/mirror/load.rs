//! From a dump of the maps to the mirror, and the steps that repair rows that do not fit together.
//!
//! Maps can be in any state that an agent left that was killed between two steps, or that another program
//! made. Entries that would mislead a reader are removed, and so are those that only take space.

use std::collections::HashMap;

use svclb_common::layout::{FrontendKey, FrontendRow, Line, Set};

use super::Mirror;
use crate::compile::service_of;
use crate::number::{Generation, LineNumber, ServiceId};
use crate::table::{Dump, Key, Row, Step, Written};

impl Mirror {
    /// Takes in a dump of these maps, which are not known to hold anything yet. Returns the repairs, which
    /// have to be made before anything else.
    pub(crate) fn load(&mut self, dump: &Dump) -> Vec<Step> {
        let mut repairs = Vec::new();
        self.load_services(dump, &mut repairs);
        self.load_lines(dump, &mut repairs);
        self.services.shrink_all();
        self.load_frontends(dump, &mut repairs);
        let unsettled = self.lines.unsettled().iter();
        repairs.extend(unsettled.flat_map(|home| self.lines.settle(*home)));
        repairs
    }

    /// Reads again what the maps hold, and forgets what they were known to hold. What is in quarantine stays
    /// there.
    pub(crate) fn reload(&mut self, dump: &Dump) -> Vec<Step> {
        let (ids, lines) = (self.ids.reset(), self.lines.reset(&self.meta));
        let slots = self.slots.reset(self.meta.slots);
        *self = Self { ids, lines, slots, ..Self::new(self.meta) };
        self.load(dump)
    }

    fn load_services(&mut self, dump: &Dump, repairs: &mut Vec<Step>) {
        let mut rows: Vec<_> = dump.services.iter().collect();
        rows.sort_by_key(|(id, _)| *id);
        for (id, row) in rows {
            let is_known = |service| self.services.id_of(&service).is_some();
            if *id == 0 || service_of(row).is_none_or(is_known) {
                repairs.push(Step::Remove(Key::Service(ServiceId(*id))));
            } else {
                self.put(&Row::Service(ServiceId(*id), *row));
            }
        }
        let mut backends: Vec<_> = dump.backends.iter().collect();
        backends.sort_by_key(|(key, _)| (key.service, key.address, key.port));
        for (key, row) in backends {
            if row.sets != 0 && self.services.get(ServiceId(key.service)).is_some() {
                self.put(&Row::Backend(*key, *row));
            } else {
                repairs.push(Step::Remove(Key::Backend(*key)));
            }
        }
        let services = dump.services.iter().map(|(id, _)| *id);
        let members = dump.backends.iter().map(|(key, _)| key.service);
        let owners = dump.lines.iter().map(|(_, line)| line.service.max(line.heir));
        let highest = services.chain(members).chain(owners).max().unwrap_or(0);
        // A meta row that fell behind would give an id twice.
        self.meta.next_service = self.meta.next_service.max(highest.saturating_add(1));
    }

    fn load_lines(&mut self, dump: &Dump, repairs: &mut Vec<Step>) {
        let rows: HashMap<&FrontendKey, u32> =
            dump.frontends.iter().map(|(key, row)| (key, row.line)).collect();
        let ranges: HashMap<u32, &Written> =
            dump.ranges.iter().map(|written| (written.first, written)).collect();
        for (number, line) in &dump.lines {
            self.load_place(LineNumber(*number), line);
        }
        let filled = dump.lines.iter().filter(|(_, line)| line.protocol != 0);
        let mut filled: Vec<&(u32, Line)> = filled.collect();
        // If two lines have one frontend, the line that its row names stays.
        filled.sort_by_key(|(number, line)| rows.get(&line.frontend()) != Some(number));
        let mut unrecognized: Vec<(LineNumber, Set)> = Vec::new();
        for (number, line) in filled {
            let (number, found) = (LineNumber(*number), ranges.get(&line.set.first).copied());
            if !self.load_line(number, line, found) {
                unrecognized.push((number, line.set));
            } else if line.heir != 0 {
                // The agent may have died after a backend left and before the generation moved. It moves now:
                // it may be long before the sources are known. The successor stays until a pass has moved it
                // once more: if this step fails, the next agent finds the line by it.
                let next = self.lines.next_generation(number);
                repairs.push(Step::Put(Row::Generation(number, next)));
            }
        }
        // A reader may be using one of these: neither it nor its slots are free before the end of a
        // quarantine.
        for (number, set) in unrecognized {
            self.lines.add_unrecognized(number);
            self.slots.add_unrecognized(set);
            repairs.push(Step::Remove(Key::Line(number)));
        }
    }

    /// Takes in what belongs to the place of a line.
    fn load_place(&mut self, number: LineNumber, line: &Line) {
        if line.generation != 0 {
            self.put(&Row::Generation(number, Generation(line.generation)));
        }
        if line.reach != 0 {
            self.put(&Row::Reach(number, line.reach));
        }
    }

    /// Takes in a line with its frontend. Returns false when no reader can use it.
    fn load_line(&mut self, number: LineNumber, line: &Line, found: Option<&Written>) -> bool {
        let key = line.frontend();
        let is_usable = self.services.get(ServiceId(line.service)).is_some()
            && self.services.frontend(&key).is_none()
            && self.lines.index().is_near(&key, number)
            && self.lines.index().is_free(number)
            && line.set != Set::ABSENT
            && self.slots.accepts(line.set, found);
        if is_usable {
            if let Some(written) = found
                && line.set.count != 0
                && !self.slots.is_written(line.set)
            {
                self.slots.write(written);
            }
            self.put(&Row::Frontend(key, FrontendRow { service: line.service, line: number.0 }));
            self.put(&Row::Line(number, line.to_owned()));
        }
        is_usable
    }

    /// Compares the rows of frontends with the lines.
    fn load_frontends(&mut self, dump: &Dump, repairs: &mut Vec<Step>) {
        let rows: HashMap<&FrontendKey, &FrontendRow> =
            dump.frontends.iter().map(|(key, row)| (key, row)).collect();
        for key in rows.keys().filter(|key| self.services.frontend(key).is_none()) {
            repairs.push(Step::Remove(Key::Frontend(**key)));
        }
        for (key, row) in self.services.frontends() {
            if rows.get(key) != Some(&row) {
                repairs.push(Step::Put(Row::Frontend(*key, *row)));
            }
        }
    }
}
