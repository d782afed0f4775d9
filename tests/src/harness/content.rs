//! The content of all maps, read from the pins, in a form that is the same for two agents over the same
//! Services.

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

/// A layout type for which aya's `Pod` can be implemented.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Plain<T>(pub(crate) T);

// SAFETY: used with types of svclb_common::layout and integers only: plain data without padding.
unsafe impl<T: Copy + 'static> aya::Pod for Plain<T> {}

impl World {
    /// Returns all content of the maps as lines of text, without what differs from agent to agent: the
    /// numbers of services, lines and slots. Each inconsistency between maps becomes a line with
    /// `wrong:`, which no intact world has.
    pub fn content(&self) -> BTreeSet<String> {
        let maps = self.maps_folder();
        self.inside(move || read_content(&maps))
    }

    /// Starts the agent on the folder, optionally with faults, waits until it has written everything
    /// that the folder held, and makes it the world's agent.
    ///
    /// # Panics
    /// If the agent does not do so within the limit.
    pub fn start_agent_with_faults(&self, faults: Option<&Faults>) {
        let agent = self.launch_agent(faults);
        self.wait_until_written(&agent);
        self.put_agent(agent);
    }

    /// Waits until an agent is ready and has written everything that was in the folder when it started.
    ///
    /// # Panics
    /// If the agent does not do so within the limit.
    pub fn wait_until_written(&self, agent: &Agent) {
        agent.wait_until_ready();
        eventually("the agent has written all of its source", || match self.meta() {
            meta if meta.agent == agent.pid() && meta.synced == 1 => Ok(()),
            meta => Err(format!("{meta:?}; its log:\n{}", self.agent_log())),
        });
    }

    /// Asserts that the maps have the content that a fresh agent over the same folder would write.
    ///
    /// # Panics
    /// If they differ, with the differences.
    pub fn assert_same_as_fresh_agent(&self) {
        let fresh = Self::builder("fresh").without_agent().start();
        fresh.start_agent_with(&[OsStr::new("--from"), self.yaml().as_os_str()]);
        eventually("a fresh agent has written all of its source", || match fresh.meta().synced {
            1 => Ok(()),
            _ => Err(fresh.agent_log()),
        });
        let (found, expected) = (self.content(), fresh.content());
        let missing: Vec<_> = expected.difference(&found).collect();
        let unexpected: Vec<_> = found.difference(&expected).collect();
        assert!(
            missing.is_empty() && unexpected.is_empty(),
            "the maps differ from those of a fresh agent: missing {missing:#?}, unexpected {unexpected:#?}"
        );
        assert!(!found.iter().any(|line| line.contains("wrong:")), "{found:#?}");
    }

    /// The folder of the pinned maps, which only processes in the mount namespace see.
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

fn read_content(maps: &Path) -> BTreeSet<String> {
    let services: Vec<(u32, ServiceRow)> = rows(maps, "svclb_services");
    let names: BTreeMap<u32, String> =
        services.iter().map(|(id, row)| (*id, service_name(row))).collect();
    let mut found = BTreeSet::new();
    let mut wrong = BTreeSet::new();
    if names.values().collect::<BTreeSet<_>>().len() != names.len() {
        wrong.insert(format!("wrong: a service has two rows: {names:?}"));
    }
    for (id, row) in &services {
        found.insert(format!(
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
        found.insert(format!(
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
        found.insert(format!(
            "{} of {}: flags {}, affinity {}, refuses {}, draws {drawn:?}",
            frontend_text(&key),
            name(line.service),
            line.flags,
            line.affinity_seconds,
            line.set.count == 0,
        ));
    }
    for (key, row) in rows::<FrontendKey, FrontendRow>(maps, "svclb_frontends") {
        found.insert(format!("frontend {} of {}", frontend_text(&key), name(row.service)));
        if placed.remove(&key) != Some(row.line) {
            wrong.insert(format!("wrong: {key:?} is not in line {}", row.line));
        }
    }
    wrong.extend(placed.keys().map(|key| format!("wrong: {key:?} has a line and no row")));
    found.append(&mut wrong);
    found
}

/// The lines of the index that hold a frontend, with their numbers.
fn lines(maps: &Path) -> Vec<(u32, Line)> {
    let index = array::<Line>(maps, "svclb_index");
    let line = |number| (number, index.get(&number, 0).expect("a line within the index").0);
    (0..index.len()).map(line).filter(|(_, line)| line.protocol != 0).collect()
}

fn frontend_text(key: &FrontendKey) -> String {
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
