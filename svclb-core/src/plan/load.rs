//! From a dump of the maps to the mirror, and the steps that heal what does not fit together.
//!
//! Maps can be in any state that an agent left that was killed between two steps, or that somebody
//! made by hand. What a reader could be misled by is removed; what only wastes room is.

use std::collections::{HashMap, HashSet};

use svclb_common::layout::{FrontendKey, Line, Meta, Set};

use super::Step;
use super::mirror::{Range, State};
use crate::compile::service_of;
use crate::table::{Dump, Key, Row, Written};

/// The mirror of a dump, and the steps that have to be taken before anything else. `meta` says how
/// large the maps really are. All of it is what an earlier agent wrote ([`State::take_earlier`]).
pub fn load(dump: &Dump, meta: Meta) -> (State, Vec<Step>) {
    let (mut state, steps) = fill(State::new(meta), dump);
    state.earlier.clone_from(&dump.services);
    (state, steps)
}

impl State {
    /// The mirror of a dump that was taken later of the same maps, and the steps that heal them. What
    /// rests goes on resting.
    pub fn reload(&self, dump: &Dump) -> (Self, Vec<Step>) {
        fill(self.only_resting(), dump)
    }
}

fn fill(mut state: State, dump: &Dump) -> (State, Vec<Step>) {
    let mut steps = Vec::new();
    services(&mut state, dump, &mut steps);
    let rows: HashMap<FrontendKey, (u32, u32)> =
        dump.frontends.iter().map(|(key, row)| (*key, (row.service, row.line))).collect();
    lines(&mut state, dump, &rows, &mut steps);
    // Rows whose line does not hold them.
    for (key, (_, line)) in &rows {
        if state.frontends.get(key).is_none_or(|(_, number)| number != line) {
            // One whose line was found is written anew below.
            if !state.frontends.contains_key(key) {
                steps.push(Step::Remove(Key::Frontend(*key)));
            }
        }
    }
    let found: Vec<(FrontendKey, (u32, u32))> =
        state.frontends.iter().map(|(key, at)| (*key, *at)).collect();
    for (key, (service, line)) in found {
        if rows.get(&key) != Some(&(service, line)) {
            let row = svclb_common::layout::FrontendRow { service, line };
            steps.push(Step::Put(Row::Frontend(key, row)));
        }
    }
    places(&mut state, dump, &mut steps);
    (state, steps)
}

fn services(state: &mut State, dump: &Dump, steps: &mut Vec<Step>) {
    let mut highest = 0;
    let mut rows: Vec<_> = dump.services.iter().collect();
    rows.sort_by_key(|(id, _)| *id);
    for (id, row) in rows {
        highest = highest.max(*id);
        match service_of(row) {
            Some(key) if *id != 0 && state.id_of(&key).is_none() => state.put_service(*id, row),
            _ => steps.push(Step::Remove(Key::Service(*id))),
        }
    }
    let mut backends: Vec<_> = dump.backends.iter().collect();
    backends.sort_by_key(|(key, _)| (key.service, key.address, key.port));
    for (key, row) in backends {
        highest = highest.max(key.service);
        match state.services.get_mut(&key.service) {
            Some(held) if row.sets != 0 => {
                held.members.put(key.address, key.port, row);
            }
            _ => steps.push(Step::Remove(Key::Backend(*key))),
        }
    }
    for held in state.services.values_mut() {
        held.members.shrink();
    }
    let owners = dump.lines.iter().map(|(_, line)| line.service.max(line.heir));
    highest = highest.max(owners.max().unwrap_or(0));
    // A meta row that fell behind would give an id twice.
    state.meta.next_service = state.meta.next_service.max(highest.saturating_add(1));
}

fn lines(
    state: &mut State,
    dump: &Dump,
    rows: &HashMap<FrontendKey, (u32, u32)>,
    steps: &mut Vec<Step>,
) {
    let ranges: HashMap<u32, &Written> =
        dump.ranges.iter().map(|written| (written.first, written)).collect();
    let mut held: Vec<&(u32, Line)> = Vec::new();
    for entry in &dump.lines {
        let (number, line) = entry;
        if line.generation != 0 {
            state.generations.insert(*number, line.generation);
        }
        if line.protocol == 0 {
            continue;
        }
        held.push(entry);
    }
    // Of two lines with one frontend, the one that its row names stays.
    held.sort_by_key(|(number, line)| {
        rows.get(&line.frontend()).is_none_or(|(_, named)| named != number)
    });
    let mut misfits: Vec<&(u32, Line)> = Vec::new();
    for entry in held {
        let (number, line) = entry;
        let key = line.frontend();
        let fits = state.services.contains_key(&line.service)
            && !state.frontends.contains_key(&key)
            && state.index.is_near(&key, *number)
            && line.set != Set::ABSENT
            && set_fits(state, line.set, &ranges);
        if !fits || !state.index.occupy(*number, &key) {
            misfits.push(entry);
            continue;
        }
        state.lines.insert(*number, *line);
        // A backend may have left before its agent died: whoever settled on it asks again, also as long as
        // nobody knows what the sources say. The heir stays until a pass has moved it once more: should
        // this step fail, the next load knows it by that.
        if line.heir != 0 {
            steps.push(Step::Put(Row::Generation(*number, state.next_generation(*number))));
        }
        state.frontends.insert(key, (line.service, *number));
        if let Some(service) = state.services.get_mut(&line.service) {
            service.push_frontend(&key);
        }
        if let Some(written) = ranges.get(&line.set.first).filter(|_| line.set.count != 0) {
            if !state.ranges.contains_key(&line.set.first) {
                state.room.take(line.set.first, written.count);
                state.ranges.insert(line.set.first, Range::of(written));
            }
            state.refer(line.set);
        }
    }
    for held in state.services.values_mut() {
        held.frontends.make_contiguous().sort_unstable();
        held.frontends.shrink_to_fit();
    }
    // A reader may stand in one of these: neither it nor its slots are free before they have rested.
    for (number, line) in misfits {
        state.index.empty(*number);
        state.misfits.insert(*number);
        state.misfit_ranges.extend(state.room.take_free(line.set.first, line.set.count));
        steps.push(Step::Remove(Key::Line(*number)));
    }
}

/// Whether a set's range can be taken, or is the one that another line of the state has.
fn set_fits(state: &State, set: Set, ranges: &HashMap<u32, &Written>) -> bool {
    if set.count == 0 {
        return true;
    }
    if let Some(range) = state.ranges.get(&set.first) {
        return range.count == set.count;
    }
    let Some(written) = ranges.get(&set.first) else { return false };
    written.count == set.count && state.room.is_free(set.first, set.count)
}

/// What home lines tell of their frontends.
fn places(state: &mut State, dump: &Dump, steps: &mut Vec<Step>) {
    let mut homes: HashSet<u32> = HashSet::new();
    for (number, line) in &dump.lines {
        if line.reach != 0 {
            state.reaches.insert(*number, line.reach);
            homes.insert(*number);
        }
        if line.spilled != 0 {
            state.spills.insert(*number, line.spilled);
            homes.insert(*number);
        }
    }
    let found: Vec<FrontendKey> = state.frontends.keys().copied().collect();
    homes.extend(found.iter().map(|key| state.index.home(key)));
    state.touched.extend(homes);
    steps.extend(state.mend());
}
