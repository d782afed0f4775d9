//! From a dump of the maps to the mirror, and the steps that heal what does not fit together.
//!
//! Maps can be in any state that an agent left that was killed between two steps, or that somebody
//! made by hand. What a reader could be misled by is removed; what only wastes room is.

use std::collections::{HashMap, HashSet};

use svclb_common::layout::{FrontendKey, Line, Meta, Set};

use super::Step;
use super::mirror::{Range, State, count_of, key_of};
use crate::compile::service_of;
use crate::table::{Dump, Key, Row};

/// The mirror of a dump, and the steps that have to be taken before anything else. `meta` says how
/// large the maps really are.
pub fn load(dump: &Dump, meta: Meta) -> (State, Vec<Step>) {
    let mut state = State::new(meta);
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
            Some(key) if *id != 0 && !state.ids.contains_key(&key) => state.put_service(*id, row),
            _ => steps.push(Step::Remove(Key::Service(*id))),
        }
    }
    for (key, row) in &dump.backends {
        highest = highest.max(key.service);
        match state.services.get_mut(&key.service) {
            Some(held) if row.sets != 0 => {
                held.members.insert(*key, *row);
            }
            _ => steps.push(Step::Remove(Key::Backend(*key))),
        }
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
    let ranges: HashMap<u32, &Vec<svclb_common::layout::Slot>> =
        dump.ranges.iter().map(|(first, slots)| (*first, slots)).collect();
    let mut held: Vec<&(u32, Line)> = Vec::new();
    for entry in &dump.lines {
        let (number, line) = entry;
        state.generations.insert(*number, line.generation);
        if line.protocol == 0 {
            continue;
        }
        held.push(entry);
    }
    // Of two lines with one frontend, the one that its row names stays.
    held.sort_by_key(|(number, line)| {
        rows.get(&key_of(line)).is_none_or(|(_, named)| named != number)
    });
    for (number, line) in held {
        let key = key_of(line);
        let fits = state.services.contains_key(&line.service)
            && !state.frontends.contains_key(&key)
            && state.index.is_near(&key, *number)
            && line.set != Set::ABSENT
            && set_fits(state, line.set, &ranges);
        if !fits || !state.index.occupy(*number, &key) {
            steps.push(Step::Remove(Key::Line(*number)));
            continue;
        }
        state.lines.insert(*number, *line);
        state.frontends.insert(key, (line.service, *number));
        if let Some(service) = state.services.get_mut(&line.service) {
            service.frontends.insert(key);
        }
        if let Some(slots) = ranges.get(&line.set.first).filter(|_| line.set.count != 0) {
            if !state.ranges.contains_key(&line.set.first) {
                state.free.take(line.set.first, count_of(slots));
                let range = Range { slots: (*slots).clone(), lines: 0 };
                state.ranges.insert(line.set.first, range);
            }
            state.refer(line.set);
        }
    }
}

/// Whether a set's range can be taken, or is the one that another line of the state has.
fn set_fits(
    state: &State,
    set: Set,
    ranges: &HashMap<u32, &Vec<svclb_common::layout::Slot>>,
) -> bool {
    if set.count == 0 {
        return true;
    }
    if let Some(range) = state.ranges.get(&set.first) {
        return count_of(&range.slots) == set.count;
    }
    let Some(slots) = ranges.get(&set.first) else { return false };
    count_of(slots) == set.count && state.free.is_free(set.first, set.count)
}

/// What home lines tell of their frontends.
fn places(state: &mut State, dump: &Dump, steps: &mut Vec<Step>) {
    let mut homes: HashSet<u32> = HashSet::new();
    for (number, line) in &dump.lines {
        state.reaches.insert(*number, line.reach);
        state.spills.insert(*number, line.spilled);
        if line.reach != 0 || line.spilled != 0 {
            homes.insert(*number);
        }
    }
    let found: Vec<FrontendKey> = state.frontends.keys().copied().collect();
    homes.extend(found.iter().map(|key| state.index.home(key)));
    for home in homes {
        let (reach, spilled) = (state.index.reach_without(home, &[]), state.index.spilled(home));
        if state.reaches.get(&home).copied().unwrap_or(0) != reach {
            steps.push(Step::Put(Row::Reach(home, reach)));
        }
        if state.spills.get(&home).copied().unwrap_or(0) != spilled {
            steps.push(Step::Put(Row::Spilled(home, spilled)));
        }
    }
}
