//! The lines of `svclb_index`: what each holds, and where a new frontend goes.
//!
//! Invariants:
//! * A line is in `filled` when it holds a frontend, else in `empty` when a generation or a reach is left in
//!   it; no line is in both.
//! * `index` has the home of each line of `filled`, and has lines that are in quarantine, or unrecognized, as
//!   quarantined.

use std::collections::{BTreeSet, HashMap};

use svclb_common::layout::{FrontendKey, Line, Meta};

use super::quarantine::QuarantinedItems;
use crate::index::Index;
use crate::number::{Generation, LineNumber};
use crate::table::{Key, Row, Step};

/// The content of an empty line: much less than a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Remainder {
    generation: u32,
    reach: u8,
}

impl Remainder {
    const fn of(line: &Line) -> Self {
        Self { generation: line.generation, reach: line.reach }
    }

    fn line(self) -> Line {
        Line { generation: self.generation, reach: self.reach, ..Line::default() }
    }
}

/// All lines.
#[derive(Clone, Debug)]
pub(crate) struct IndexLines {
    index: Index,
    /// The generation of lines that were never used.
    first_generation: u32,
    filled: HashMap<LineNumber, Line>,
    empty: HashMap<LineNumber, Remainder>,
    /// Homes whose reach may be wrong: a frontend of theirs came or went since it was compared.
    unsettled: BTreeSet<LineNumber>,
    /// Lines that a dump holds and no reader can use, until they are emptied.
    unrecognized: BTreeSet<LineNumber>,
    quarantine: QuarantinedItems<LineNumber>,
}

impl IndexLines {
    pub(super) fn new(meta: &Meta) -> Self {
        Self {
            index: Index::new(meta.seed, meta.index_lines),
            first_generation: meta.first_generation,
            filled: HashMap::new(),
            empty: HashMap::new(),
            unsettled: BTreeSet::new(),
            unrecognized: BTreeSet::new(),
            quarantine: QuarantinedItems::default(),
        }
    }

    /// Lines of which nothing is known but what is in quarantine.
    pub(super) fn reset(&self, meta: &Meta) -> Self {
        let mut lines = Self { quarantine: self.quarantine.clone(), ..Self::new(meta) };
        self.quarantine.iter().for_each(|line| lines.index.quarantine(line));
        lines
    }

    pub(crate) const fn index(&self) -> &Index {
        &self.index
    }

    /// A line that holds a frontend.
    pub(crate) fn get(&self, number: LineNumber) -> Option<&Line> {
        self.filled.get(&number)
    }

    /// A line that holds this frontend.
    pub(crate) fn holding(&self, number: LineNumber, key: &FrontendKey) -> Option<&Line> {
        self.get(number).filter(|line| line.frontend() == *key)
    }

    /// A line as the map holds it, without its marks.
    pub(crate) fn line(&self, number: LineNumber) -> Line {
        let empty = || self.empty.get(&number).copied().unwrap_or_default().line();
        self.get(number).copied().unwrap_or_else(empty)
    }

    pub(crate) fn next_generation(&self, number: LineNumber) -> Generation {
        let now = match self.line(number).generation {
            0 => self.first_generation,
            generation => generation,
        };
        Generation(now.wrapping_add(1))
    }

    /// The highest generation that a line has or begins with.
    pub(crate) fn highest_generation(&self) -> Generation {
        Generation(self.generations().fold(self.first_generation, u32::max))
    }

    fn generations(&self) -> impl Iterator<Item = u32> {
        let filled = self.filled.values().map(|line| line.generation);
        filled.chain(self.empty.values().map(|it| it.generation))
    }

    /// Changes a line that holds a frontend, or what an empty one may hold.
    pub(super) fn change(&mut self, number: LineNumber, change: impl FnOnce(&mut Line)) {
        if let Some(line) = self.filled.get_mut(&number) {
            change(line);
            return;
        }
        let mut line = self.line(number);
        change(&mut line);
        self.keep_remainder(number, &line);
    }

    /// The same for what belongs to a line as the home of frontends.
    pub(super) fn change_home(&mut self, home: LineNumber, change: impl FnOnce(&mut Line)) {
        self.change(home, change);
        self.unsettled.insert(home);
    }

    fn keep_remainder(&mut self, number: LineNumber, line: &Line) {
        let left = Remainder::of(line);
        if left == Remainder::default() {
            self.empty.remove(&number);
        } else {
            self.empty.insert(number, left);
        }
    }

    /// Puts a frontend into an empty line. Returns false when the line is not free.
    pub(super) fn fill(&mut self, number: LineNumber, line: &Line) -> bool {
        let key = line.frontend();
        if !self.index.occupy(number, &key) {
            return false;
        }
        let Remainder { reach, .. } = self.empty.remove(&number).unwrap_or_default();
        self.filled.insert(number, Line { reach, marks: 0, ..*line });
        self.unsettled.insert(self.index.home(&key));
        true
    }

    /// Empties a line, which is in quarantine from now on. Returns what it held, unless it was unrecognized.
    pub(super) fn empty(&mut self, number: LineNumber) -> Option<Line> {
        let line = self.filled.remove(&number);
        if let Some(line) = &line {
            self.keep_remainder(number, line);
            self.index.quarantine(number);
            self.unsettled.insert(self.index.home(&line.frontend()));
        } else if !self.unrecognized.remove(&number) {
            return None;
        }
        self.quarantine.add(number);
        line
    }

    /// Notes a line that holds what no reader can use.
    pub(super) fn add_unrecognized(&mut self, number: LineNumber) {
        self.index.quarantine(number);
        self.unrecognized.insert(number);
    }

    pub(super) fn has_unrecognized(&self) -> bool {
        !self.unrecognized.is_empty()
    }

    pub(super) fn take_freed(&mut self) -> BTreeSet<LineNumber> {
        self.quarantine.take()
    }

    pub(super) fn release(&mut self, number: LineNumber) {
        self.quarantine.release(number);
        if !self.unrecognized.contains(&number) {
            self.index.release(number);
        }
    }

    pub(crate) const fn unsettled(&self) -> &BTreeSet<LineNumber> {
        &self.unsettled
    }

    /// The home whose reach a step may change: that of the frontend in a line that it fills or empties.
    pub(crate) fn home(&self, step: &Step) -> Option<LineNumber> {
        let line = match step {
            Step::Put(Row::Line(_, line)) => line,
            Step::Remove(Key::Line(number)) => self.get(*number)?,
            _ => return None,
        };
        Some(self.index.home(&line.frontend()))
    }

    /// Notes that a home has the reach that it should have.
    pub(crate) fn set_settled(&mut self, home: LineNumber) {
        self.unsettled.remove(&home);
    }

    /// The step that corrects the reach of a home.
    pub(crate) fn settle(&self, home: LineNumber) -> Option<Step> {
        let reach = self.index.reach(home);
        (self.line(home).reach != reach).then_some(Step::Put(Row::Reach(home, reach)))
    }

    /// Returns whether no step that belongs to another one failed.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.is_empty() && self.unrecognized.is_empty()
    }

    pub(super) fn count_frontends(&self) -> usize {
        self.filled.len()
    }

    /// Returns whether a dump has just these lines. Marks are not compared: nothing takes them away.
    pub(super) fn are(&self, dump: &[(u32, Line)]) -> bool {
        let found = dump.iter().map(|(number, line)| (LineNumber(*number), compared(line)));
        let mut found = found.filter(|(_, line)| *line != Line::default());
        let mut count = 0;
        found.all(|(number, line)| {
            count += 1;
            self.line(number) == line
        }) && count == self.filled.len() + self.empty.len()
    }

    #[cfg(test)]
    pub(crate) fn lowest_generation(&self, is_filled: bool) -> Option<u32> {
        let filled = self.filled.values().map(|line| line.generation).min();
        if is_filled { filled } else { self.generations().filter(|it| *it != 0).min() }
    }
}

/// A line of a dump without its marks, and an empty one without what an agent left that died emptying it.
fn compared(line: &Line) -> Line {
    if line.protocol == 0 { Remainder::of(line).line() } else { Line { marks: 0, ..*line } }
}
