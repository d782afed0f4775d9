//! The writer's side of the index: the place of each frontend, and of a new one.
//!
//! It keeps the rules that `svclb_common::index` promises its reader, and knows no map: the planner
//! makes rows of it.

use std::collections::BTreeSet;

use svclb_common::index::{NEIGHBOURHOOD, Wanted};
use svclb_common::layout::{FrontendKey, Line};

use crate::number::LineNumber;
use crate::plan::Unplaced;

/// A line that holds nothing.
const EMPTY: u32 = u32::MAX;
/// A line in quarantine: a running program may still read the frontend that it held.
const QUARANTINED: u32 = u32::MAX - 1;

/// The content of all lines.
#[derive(Clone, Debug)]
pub struct Index {
    seed: u64,
    /// By line: the home of the frontend in it, or EMPTY, or QUARANTINED.
    homes: Vec<u32>,
}

/// The key by which a reader searches a frontend.
pub fn wanted(key: &FrontendKey) -> Wanted {
    Wanted { address: key.address.words(), key: Line::key_word(key.port, key.protocol, key.scope) }
}

impl Index {
    /// An index of `lines` empty lines, a power of two.
    pub fn new(seed: u64, lines: u32) -> Self {
        // Anything else is no size that this program gave a map.
        let lines = if lines.is_power_of_two() { lines } else { 1 };
        Self { seed, homes: vec![EMPTY; lines as usize] }
    }

    fn lines(&self) -> u32 {
        u32::try_from(self.homes.len()).unwrap_or(u32::MAX)
    }

    /// A frontend's home.
    pub fn home(&self, key: &FrontendKey) -> LineNumber {
        LineNumber(wanted(key).home(self.seed, self.lines()))
    }

    /// The lines in which frontends of a home may lie, each with its distance.
    fn neighbourhood(&self, home: LineNumber) -> impl Iterator<Item = (u8, LineNumber)> + use<> {
        let mask = self.lines() - 1;
        (0_u8..)
            .zip(0..NEIGHBOURHOOD.min(self.lines()))
            .map(move |(step, far)| (step, LineNumber((home.0 + far) & mask)))
    }

    fn content(&self, line: LineNumber) -> u32 {
        self.homes[line.0 as usize]
    }

    /// A line for a frontend that has none, which is added to `planned`: the lines that planned steps fill.
    ///
    /// # Errors
    /// When there is none, or none before lines leave quarantine.
    pub fn place(
        &self,
        key: &FrontendKey,
        planned: &mut BTreeSet<LineNumber>,
    ) -> Result<LineNumber, Unplaced> {
        let mut has_quarantined = false;
        for (_, line) in self.neighbourhood(self.home(key)) {
            match self.content(line) {
                EMPTY if planned.insert(line) => return Ok(line),
                QUARANTINED => has_quarantined = true,
                _ => {}
            }
        }
        Err(if has_quarantined { Unplaced::Quarantined } else { Unplaced::NoLine })
    }

    /// Returns whether a frontend can be put into this line.
    pub fn is_free(&self, line: LineNumber) -> bool {
        self.homes.get(line.0 as usize) == Some(&EMPTY)
    }

    /// Returns whether a reader would find a frontend in this line.
    pub fn is_near(&self, key: &FrontendKey, line: LineNumber) -> bool {
        self.step(self.home(key), line).is_some()
    }

    /// Notes that a frontend lies in a line. Returns false when the line does not exist or is not free.
    pub fn occupy(&mut self, line: LineNumber, key: &FrontendKey) -> bool {
        let is_free = self.is_free(line);
        if is_free {
            self.homes[line.0 as usize] = self.home(key).0;
        }
        is_free
    }

    /// Puts a line into quarantine: it was emptied, or has to be.
    pub fn quarantine(&mut self, line: LineNumber) {
        if let Some(found) = self.homes.get_mut(line.0 as usize) {
            *found = QUARANTINED;
        }
    }

    /// Frees a line that was in quarantine.
    pub fn release(&mut self, line: LineNumber) {
        if let Some(found) = self.homes.get_mut(line.0 as usize)
            && *found == QUARANTINED
        {
            *found = EMPTY;
        }
    }

    /// Returns the reach of a home when the lines `without` are empty.
    pub fn reach_without(&self, home: LineNumber, without: &BTreeSet<LineNumber>) -> u8 {
        let of_home =
            |(_, line): &(u8, LineNumber)| self.content(*line) == home.0 && !without.contains(line);
        self.neighbourhood(home).filter(of_home).map(|(step, _)| step).max().unwrap_or(0)
    }

    /// The distance of a line from a home; none when it is too far away.
    pub fn step(&self, home: LineNumber, line: LineNumber) -> Option<u8> {
        self.neighbourhood(home).find(|(_, near)| *near == line).map(|(step, _)| step)
    }
}
