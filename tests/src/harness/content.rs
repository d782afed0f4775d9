//! All that the maps hold, read from the pins: what two agents over the same Services must agree on.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData};
use svclb_common::layout::{
    BackendKey, BackendRow, FrontendKey, FrontendRow, Line, Meta, ServiceRow, Slot, Text,
};

use super::agent::Agent;
use super::failing::Faults;
use super::wait::eventually;
use super::world::World;

/// A layout type as aya wants it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(crate) T);

// SAFETY: used with types of svclb_common::layout and integers only: plain data without padding.
unsafe impl<T: Copy + 'static> aya::Pod for Plain<T> {}

impl World {
    /// All that the maps say, but for what differs from agent to agent: numbers of services, lines and
    /// slots. What does not fit together in them is told in lines of its own, which no other world has.
    pub fn content(&self) -> BTreeSet<String> {
        let maps = self.maps_folder();
        self.inside(move || content(&maps))
    }

    /// Starts the agent on the folder, waits until it has written all that was in there, and makes it
    /// the world's.
    ///
    /// # Panics
    /// When it does not in good time.
    pub fn start_agent_under(&self, faults: Option<&Faults>) {
        let agent = self.launch_agent(faults);
        self.wait_until_written(&agent);
        self.put_agent(agent);
    }

    /// Waits until an agent is ready and has written all that was in the folder when it began.
    ///
    /// # Panics
    /// When it does not in good time.
    pub fn wait_until_written(&self, agent: &Agent) {
        agent.wait_until_ready();
        eventually("the agent has written what its source says", || match self.meta() {
            meta if meta.agent == agent.pid() && meta.synced == 1 => Ok(()),
            meta => Err(format!("{meta:?}; its log:\n{}", self.agent_log())),
        });
    }

    /// Looks whether the maps say what those of an agent that was never disturbed do.
    ///
    /// # Panics
    /// When they do not: with what is different.
    pub fn assert_as_fresh(&self) {
        let fresh = Self::builder("fresh").without_agent().start();
        fresh.start_agent_with(&[OsStr::new("--from"), self.yaml().as_os_str()]);
        eventually("a first agent has written all", || match fresh.meta().synced {
            1 => Ok(()),
            _ => Err(fresh.agent_log()),
        });
        let (found, expected) = (self.content(), fresh.content());
        let missing: Vec<_> = expected.difference(&found).collect();
        let too_much: Vec<_> = found.difference(&expected).collect();
        assert!(
            missing.is_empty() && too_much.is_empty(),
            "not what a first agent writes: missing {missing:#?}, too much {too_much:#?}"
        );
        assert!(!found.iter().any(|line| line.contains("wrong:")), "{found:#?}");
    }

    /// The folder of the pinned maps. Only processes inside see it.
    pub(crate) fn maps_folder(&self) -> PathBuf {
        self.version().join("maps")
    }

    /// The value of `svclb_meta`.
    pub fn meta(&self) -> Meta {
        let maps = self.maps_folder();
        self.inside(move || array::<Meta>(&maps, "svclb_meta").get(&0, 0).expect("a meta row").0)
    }
}

fn open(maps: &Path, name: &str) -> Map {
    let data = MapData::from_pin(maps.join(name));
    let data = data.unwrap_or_else(|error| panic!("cannot open the pinned map {name}: {error}"));
    Map::from_map_data(data).expect("a kind of map that aya knows")
}

pub(crate) fn array<V: Copy + 'static>(maps: &Path, name: &str) -> Array<MapData, Plain<V>> {
    open(maps, name).try_into().unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(crate) fn hash<K: Copy + 'static, V: Copy + 'static>(
    maps: &Path,
    name: &str,
) -> HashMap<MapData, Plain<K>, Plain<V>> {
    open(maps, name).try_into().unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn rows<K: Copy + 'static, V: Copy + 'static>(maps: &Path, name: &str) -> Vec<(K, V)> {
    let rows = hash::<K, V>(maps, name);
    let rows = rows.iter().map(|row| row.map(|(key, value)| (key.0, value.0)));
    rows.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("cannot read {name}: {error}"))
}

fn content(maps: &Path) -> BTreeSet<String> {
    let services: Vec<(u32, ServiceRow)> = rows(maps, "svclb_services");
    let names: BTreeMap<u32, String> =
        services.iter().map(|(id, row)| (*id, service_name(row))).collect();
    let mut said = BTreeSet::new();
    let mut wrong = BTreeSet::new();
    if names.values().collect::<BTreeSet<_>>().len() != names.len() {
        wrong.insert(format!("wrong: a service has two rows: {names:?}"));
    }
    for (id, row) in &services {
        said.insert(format!(
            "service {}: {} frontends, {} and {} backends, {} {}, notes {}",
            names[id],
            row.frontends,
            row.internal_backends,
            row.external_backends,
            text(&row.internal_policy),
            text(&row.external_policy),
            row.notes,
        ));
    }
    let name =
        |id: u32| names.get(&id).cloned().unwrap_or_else(|| format!("wrong: no service {id}"));
    for (key, row) in rows::<BackendKey, BackendRow>(maps, "svclb_backends") {
        let BackendRow { sets, state, weight, .. } = row;
        let (service, at) = (name(key.service), format!("{}:{}", key.address, key.port));
        said.insert(format!(
            "member {at} of {service}: sets {sets}, state {state}, weight {weight}"
        ));
    }
    let lines = lines(maps);
    let slots = array::<Slot>(maps, "svclb_slots");
    let mut placed = BTreeMap::new();
    for (number, line) in &lines {
        let key = line.frontend();
        if let Some(other) = placed.insert(key, *number) {
            wrong.insert(format!("wrong: {key:?} has the lines {other} and {number}"));
        }
        if line.heir != 0 {
            wrong.insert(format!("wrong: {key:?} is announced to {}", name(line.heir)));
        }
        let end = line.set.first.saturating_add(line.set.count);
        let drawn: Vec<String> = (line.set.first..end)
            .map(|number| match slots.get(&number, 0) {
                Ok(Plain(slot)) if slot.owner == line.service => {
                    let Slot { address, port, flags, threshold, alias, .. } = slot;
                    format!("{address}:{port} {flags} {threshold} {alias}")
                }
                Ok(Plain(slot)) => format!("wrong: a slot of {}", name(slot.owner)),
                Err(error) => format!("wrong: slot {number}: {error}"),
            })
            .collect();
        said.insert(format!(
            "{} of {}: flags {}, affinity {}, refuses {}, draws {drawn:?}",
            shown(&key),
            name(line.service),
            line.flags,
            line.affinity_seconds,
            line.set.count == 0,
        ));
    }
    for (key, row) in rows::<FrontendKey, FrontendRow>(maps, "svclb_frontends") {
        said.insert(format!("frontend {} of {}", shown(&key), name(row.service)));
        if placed.remove(&key) != Some(row.line) {
            wrong.insert(format!("wrong: {key:?} is not in line {}", row.line));
        }
    }
    wrong.extend(placed.keys().map(|key| format!("wrong: {key:?} has a line and no row")));
    said.append(&mut wrong);
    said
}

/// The lines that hold frontends.
fn lines(maps: &Path) -> Vec<(u32, Line)> {
    let index = array::<Line>(maps, "svclb_index");
    let line = |number| (number, index.get(&number, 0).expect("a line within the index").0);
    (0..index.len()).map(line).filter(|(_, line)| line.protocol != 0).collect()
}

fn shown(key: &FrontendKey) -> String {
    format!("{}:{}/{} scope {}", key.address, key.port, key.protocol, key.scope)
}

fn service_name(row: &ServiceRow) -> String {
    let (namespace, name) = (text(&row.namespace), text(&row.name));
    format!("{namespace}/{name}:{}/{}", text(&row.port_name), text(&row.protocol))
}

fn text<const N: usize>(text: &Text<N>) -> String {
    let bytes: Vec<u8> =
        text.iter().take_while(|it| **it != 0).map(|it| it.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
