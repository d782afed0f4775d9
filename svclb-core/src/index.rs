//! The writer's side of the index: the place of each frontend, and of a new one.
//!
//! It keeps the rules that `svclb_common::index` promises its reader, and knows no map: the planner
//! makes rows of it.

use std::collections::{BTreeSet, HashMap};

use svclb_common::index::{NEIGHBOURHOOD, Wanted};
use svclb_common::layout::{FrontendKey, Line};

use crate::number::LineNumber;

/// A line that holds nothing.
const EMPTY: u32 = u32::MAX;
/// A line in quarantine: a running program may still read the frontend that it held.
const QUARANTINED: u32 = u32::MAX - 1;

/// The line for a frontend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its line.
    pub line: LineNumber,
    /// Its home line.
    pub home: LineNumber,
    /// Behind the hashed lines: only `svclb_frontends` knows it.
    pub spilled: bool,
}

/// Why a frontend has no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPlace {
    /// There will be one once lines leave quarantine.
    Quarantined,
    /// There is none.
    Full,
}

/// Lines that planned steps fill.
#[derive(Clone, Default, Debug)]
pub struct Planned {
    hashed: BTreeSet<u32>,
    /// All free lines behind the hashed ones below this number.
    spill_end: u32,
}

/// The content of all lines.
#[derive(Clone, Debug)]
pub struct Index {
    seed: u64,
    lines: u32,
    /// By line: the home of the frontend in it, or EMPTY, or QUARANTINED.
    homes: Vec<u32>,
    /// Free lines behind the hashed ones.
    spill: BTreeSet<u32>,
    spill_quarantined: u32,
    /// By home, the number of its frontends behind the hashed lines.
    spilled: HashMap<u32, u32>,
}

/// The key by which a reader searches a frontend.
pub fn wanted(key: &FrontendKey) -> Wanted {
    Wanted { address: key.address.words(), key: Line::key_word(key.port, key.protocol, key.scope) }
}

impl Index {
    /// An index of `lines` hashed lines (a power of two) and `spill_lines` behind them, all empty.
    pub fn new(seed: u64, lines: u32, spill_lines: u32) -> Self {
        // Anything else is no size that this program gave a map.
        let lines = if lines.is_power_of_two() { lines } else { 1 };
        let end = lines.saturating_add(spill_lines);
        Self {
            seed,
            lines,
            homes: vec![EMPTY; end as usize],
            spill: (lines..end).collect(),
            spill_quarantined: 0,
            spilled: HashMap::new(),
        }
    }

    /// A frontend's home.
    pub fn home(&self, key: &FrontendKey) -> LineNumber {
        LineNumber(wanted(key).home(self.seed, self.lines))
    }

    /// The lines in which frontends of a home may lie, each with its distance.
    fn neighbourhood(&self, home: LineNumber) -> impl Iterator<Item = (u8, LineNumber)> + use<> {
        let mask = self.lines - 1;
        (0_u8..)
            .zip(0..NEIGHBOURHOOD)
            .map(move |(step, far)| (step, LineNumber((home.0 + far) & mask)))
    }

    fn content(&self, line: LineNumber) -> u32 {
        self.homes[line.0 as usize]
    }

    /// A line for a frontend that has none, which is added to `planned`.
    ///
    /// # Errors
    /// When there is none, or none yet.
    pub fn place(&self, key: &FrontendKey, planned: &mut Planned) -> Result<Place, NoPlace> {
        let home = self.home(key);
        let is_free =
            |line: LineNumber| self.content(line) == EMPTY && !planned.hashed.contains(&line.0);
        if let Some((_, line)) = self.neighbourhood(home).find(|(_, line)| is_free(*line)) {
            planned.hashed.insert(line.0);
            return Ok(Place { line, home, spilled: false });
        }
        if let Some(line) = self.spill.range(planned.spill_end..).next().copied() {
            planned.spill_end = line + 1;
            return Ok(Place { line: LineNumber(line), home, spilled: true });
        }
        let is_quarantined = |(_, line): (u8, LineNumber)| self.content(line) == QUARANTINED;
        if self.spill_quarantined > 0 || self.neighbourhood(home).any(is_quarantined) {
            return Err(NoPlace::Quarantined);
        }
        Err(NoPlace::Full)
    }

    /// Returns whether a line is one behind the hashed ones.
    pub fn is_spill(&self, line: LineNumber) -> bool {
        line.0 >= self.lines
    }

    /// Returns whether a frontend can be put into this line.
    pub fn is_free(&self, line: LineNumber) -> bool {
        self.homes.get(line.0 as usize) == Some(&EMPTY)
    }

    /// Returns whether a frontend would be found in this line.
    pub fn is_near(&self, key: &FrontendKey, line: LineNumber) -> bool {
        self.is_spill(line) || self.step(self.home(key), line).is_some()
    }

    /// Notes that a frontend lies in a line. Returns false when the line does not exist or is not free.
    pub fn occupy(&mut self, line: LineNumber, key: &FrontendKey) -> bool {
        let home = self.home(key).0;
        match self.homes.get_mut(line.0 as usize) {
            Some(found) if *found == EMPTY => *found = home,
            _ => return false,
        }
        if self.is_spill(line) {
            self.spill.remove(&line.0);
            *self.spilled.entry(home).or_default() += 1;
        }
        true
    }

    /// Puts a line into quarantine: it was emptied, or has to be.
    pub fn quarantine(&mut self, line: LineNumber) {
        let is_spill = self.is_spill(line);
        let Some(found) = self.homes.get_mut(line.0 as usize) else { return };
        let home = std::mem::replace(found, QUARANTINED);
        if home == QUARANTINED || !is_spill {
            return;
        }
        self.spill_quarantined += 1;
        if home == EMPTY {
            self.spill.remove(&line.0);
        } else if let Some(count) = self.spilled.get_mut(&home) {
            *count -= 1;
            if *count == 0 {
                self.spilled.remove(&home);
            }
        }
    }

    /// Frees a line that was in quarantine.
    pub fn release(&mut self, line: LineNumber) {
        let is_spill = self.is_spill(line);
        if let Some(found) = self.homes.get_mut(line.0 as usize)
            && *found == QUARANTINED
        {
            *found = EMPTY;
            if is_spill {
                self.spill_quarantined -= 1;
                self.spill.insert(line.0);
            }
        }
    }

    /// Returns the reach of a home when the lines `without` are empty.
    pub fn reach_without(&self, home: LineNumber, without: &BTreeSet<LineNumber>) -> u8 {
        let of_home =
            |(_, line): &(u8, LineNumber)| self.content(*line) == home.0 && !without.contains(line);
        self.neighbourhood(home).filter(of_home).map(|(step, _)| step).max().unwrap_or(0)
    }

    /// The distance of a line from a home; none for a line behind the hashed ones.
    pub fn step(&self, home: LineNumber, line: LineNumber) -> Option<u8> {
        self.neighbourhood(home).find(|(_, near)| *near == line).map(|(step, _)| step)
    }

    /// The number of a home's frontends behind the hashed lines.
    pub fn spilled(&self, home: LineNumber) -> u32 {
        self.spilled.get(&home.0).copied().unwrap_or(0)
    }
}
