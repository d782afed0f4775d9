//! The writer's side of the index: which line holds what, and where a new frontend goes.
//!
//! It keeps the rules that `svclb_common::index` promises its reader, and knows no map: the planner
//! turns what is said here into rows.

use std::collections::{BTreeSet, HashMap};

use svclb_common::index::{NEIGHBOURHOOD, Wanted};
use svclb_common::layout::{FrontendKey, Line};

/// A line that holds nothing.
const EMPTY: u32 = u32::MAX;
/// A line that was emptied and that a running program may still hold.
const RESTING: u32 = u32::MAX - 1;

/// Where a frontend goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its line.
    pub line: u32,
    /// Its home line.
    pub home: u32,
    /// Behind the hashed lines: only `svclb_frontends` knows it.
    pub spilled: bool,
}

/// Why a frontend has no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPlace {
    /// There will be one when what rests has rested.
    Resting,
    /// There is none.
    Full,
}

/// Lines that a plan uses already, which the index does not know yet.
#[derive(Clone, Default, Debug)]
pub struct Planned {
    hashed: BTreeSet<u32>,
    /// Of those behind the hashed ones, all below this.
    spill_end: u32,
}

/// Which line holds what.
#[derive(Clone, Debug)]
pub struct Index {
    seed: u64,
    lines: u32,
    /// By line: the home of the frontend in it, or EMPTY, or RESTING.
    homes: Vec<u32>,
    /// Free lines behind the hashed ones.
    spill: BTreeSet<u32>,
    spill_resting: u32,
    /// Homes with frontends behind the hashed lines, and how many.
    spilled: HashMap<u32, u32>,
}

/// What `Wanted` is to a frontend.
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
            spill_resting: 0,
            spilled: HashMap::new(),
        }
    }

    /// A frontend's home.
    pub fn home(&self, key: &FrontendKey) -> u32 {
        wanted(key).home(self.seed, self.lines)
    }

    fn neighbourhood(&self, home: u32) -> impl Iterator<Item = (u8, u32)> + use<> {
        let lines = self.lines;
        (0_u8..).zip(0..NEIGHBOURHOOD).map(move |(step, far)| (step, (home + far) & (lines - 1)))
    }

    /// A place for a frontend that has none, apart from the lines that its plan uses already. It is one
    /// of those then.
    ///
    /// # Errors
    /// When there is none, or none yet.
    pub fn place(&self, key: &FrontendKey, planned: &mut Planned) -> Result<Place, NoPlace> {
        let home = self.home(key);
        let is_free =
            |line: &u32| self.homes[*line as usize] == EMPTY && !planned.hashed.contains(line);
        if let Some((_, line)) = self.neighbourhood(home).find(|(_, line)| is_free(line)) {
            planned.hashed.insert(line);
            return Ok(Place { line, home, spilled: false });
        }
        if let Some(line) = self.spill.range(planned.spill_end..).next().copied() {
            planned.spill_end = line + 1;
            return Ok(Place { line, home, spilled: true });
        }
        let rests = |(_, line): (u8, u32)| self.homes[line as usize] == RESTING;
        if self.spill_resting > 0 || self.neighbourhood(home).any(rests) {
            return Err(NoPlace::Resting);
        }
        Err(NoPlace::Full)
    }

    /// Whether a line is one behind the hashed ones.
    pub fn is_spill(&self, line: u32) -> bool {
        line >= self.lines
    }

    /// Whether a frontend would be found in this line.
    pub fn is_near(&self, key: &FrontendKey, line: u32) -> bool {
        let home = self.home(key);
        self.is_spill(line) || self.neighbourhood(home).any(|(_, near)| near == line)
    }

    /// Notes that a frontend lies in a line; false when something is there, or the line is not.
    pub fn occupy(&mut self, line: u32, key: &FrontendKey) -> bool {
        let home = self.home(key);
        match self.homes.get_mut(line as usize) {
            Some(found) if *found == EMPTY => *found = home,
            _ => return false,
        }
        if self.is_spill(line) {
            self.spill.remove(&line);
            *self.spilled.entry(home).or_default() += 1;
        }
        true
    }

    /// Notes that a line was emptied, or has to be. It rests.
    pub fn empty(&mut self, line: u32) {
        let Some(found) = self.homes.get_mut(line as usize) else { return };
        let home = std::mem::replace(found, RESTING);
        if home == RESTING || line < self.lines {
            return;
        }
        self.spill_resting += 1;
        if home == EMPTY {
            self.spill.remove(&line);
        } else if let Some(count) = self.spilled.get_mut(&home) {
            *count -= 1;
            if *count == 0 {
                self.spilled.remove(&home);
            }
        }
    }

    /// Notes that a line has rested.
    pub fn rested(&mut self, line: u32) {
        if let Some(found) = self.homes.get_mut(line as usize)
            && *found == RESTING
        {
            *found = EMPTY;
            if line >= self.lines {
                self.spill_resting -= 1;
                self.spill.insert(line);
            }
        }
    }

    /// How far the frontends of a home reach when the lines `without` are empty.
    pub fn reach_without(&self, home: u32, without: &BTreeSet<u32>) -> u8 {
        let of_home =
            |(_, line): &(u8, u32)| self.homes[*line as usize] == home && !without.contains(line);
        self.neighbourhood(home).filter(of_home).map(|(step, _)| step).max().unwrap_or(0)
    }

    /// How far a line is from a home; none for a line behind the hashed ones.
    pub fn step(&self, home: u32, line: u32) -> Option<u8> {
        self.neighbourhood(home).find(|(_, near)| *near == line).map(|(step, _)| step)
    }

    /// How many frontends of a home lie behind the hashed lines.
    pub fn spilled(&self, home: u32) -> u32 {
        self.spilled.get(&home).copied().unwrap_or(0)
    }
}
