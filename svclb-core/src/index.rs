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
        self.neighbourhood(self.home(key)).any(|(_, near)| near == line)
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

    /// The distance of a home's farthest frontend.
    pub fn reach(&self, home: LineNumber) -> u8 {
        let of_home = |(_, line): &(u8, LineNumber)| self.content(*line) == home.0;
        self.neighbourhood(home).filter(of_home).map(|(step, _)| step).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    /// Places Services with consecutive ClusterIPs and consecutive ports until one finds no line. Returns the
    /// percentage of lines that are filled then.
    fn load_until_full(seed: u64, lines: u32, ports: u16) -> u32 {
        let mut index = Index::new(seed, lines);
        for number in 0..lines {
            let (service, port) = (number / u32::from(ports), number % u32::from(ports));
            let address = IpAddr::from(Ipv4Addr::from(0x0a60_0001 + service)).into();
            let port = 8000 + u16::try_from(port).unwrap();
            let key = FrontendKey { address, port, protocol: 6, scope: 0, _pad: 0 };
            match index.place(&key, &mut BTreeSet::new()) {
                Ok(line) => assert!(index.occupy(line, &key)),
                Err(_) => return number * 100 / lines,
            }
        }
        100
    }

    #[test]
    fn frontends_with_consecutive_addresses_and_ports_find_lines_while_a_quarter_is_filled() {
        for (lines, ports) in [(4_096, 1), (8_192, 100), (16_384, 200), (16_384, 256), (32_768, 7)]
        {
            let least = (0..40).map(|seed: u64| {
                let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                load_until_full(seed, lines, ports)
            });
            let least = least.min().unwrap();
            assert!(least > 25, "{lines} lines, {ports} ports: no line at {least} %");
        }
    }

    #[test]
    fn frontends_of_one_home_fill_its_neighbourhood_and_no_further_line() {
        let mut index = Index::new(7, 64);
        let key = |port| {
            let address = IpAddr::from([10, 96, 0, 1]).into();
            FrontendKey { address, port, protocol: 6, scope: 0, _pad: 0 }
        };
        let home = index.home(&key(0));
        let mut keys = (0..=u16::MAX).map(key).filter(|key| index.home(key) == home);
        let keys: Vec<_> = keys.by_ref().take(NEIGHBOURHOOD as usize + 1).collect();
        let (last, near) = keys.split_last().unwrap();
        for (step, key) in near.iter().enumerate() {
            let line = index.place(key, &mut BTreeSet::new()).unwrap();
            assert!(index.is_near(key, line) && index.occupy(line, key));
            assert_eq!(usize::from(index.reach(home)), step);
        }
        let full = index.place(last, &mut BTreeSet::new());
        assert_eq!(full, Err(Unplaced::NoLine), "half of all lines are free");
        let at = |step| LineNumber((home.0 + step) % 64);
        assert!(!index.is_near(last, at(NEIGHBOURHOOD)));
        assert_eq!(index.reach(home), 31);
        index.quarantine(at(5));
        let waits = index.place(last, &mut BTreeSet::new());
        assert_eq!(waits, Err(Unplaced::Quarantined));
        index.release(at(5));
        assert_eq!(index.place(last, &mut BTreeSet::new()), Ok(at(5)));
    }
}
