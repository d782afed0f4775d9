//! The shape of each map: its kind, sizes and flags, and the layout of its entries.
//!
//! The kernel shows kind, sizes and flags of any map, but its types (its BTF) to CAP_SYS_ADMIN only, which the
//! agent does not have. So the agent that makes a map leaves a label beside its pin: a symbolic link whose target
//! is the text of [`MapShape::layout`]. A map with another label has another layout
//! (docs/decisions/0011-labels-beside-pins.md).

use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{MapInfo, MapType};
use svclb_common::layout::{
    AffinityKey, AffinityRow, BackendKey, BackendRow, ClientRow, Counters, FrontendKey,
    FrontendRow, Line, Meta, Origin, Overflow, Record, ServiceRow, Set, Slot, SourceRow,
};
use svclb_core::table::MapName;

/// A struct of the maps: its name, its size and where its fields lie, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Struct {
    pub(crate) name: &'static str,
    pub(crate) size: usize,
    pub(crate) fields: &'static [(&'static str, usize)],
}

macro_rules! structs {
    ($($constant:ident: $type:ident { $($field:ident),+ $(,)? })+) => {
        $(const $constant: Struct = Struct {
            name: stringify!($type),
            size: size_of::<$type>(),
            fields: &[$((stringify!($field), offset_of!($type, $field))),+],
        };)+
        /// Every struct of the maps. A test compares them with the object's BTF.
        #[cfg(test)]
        pub(crate) const STRUCTS: &[Struct] = &[$($constant),+];
    };
}

structs! {
    LINE: Line {
        address, port, protocol, scope, service, set, generation, heir, flags, reach, _pad0,
        affinity_seconds, _pad1, marks,
    }
    SET: Set { first, count }
    SLOT: Slot { address, port, flags, owner, threshold, alias }
    ORIGIN: Origin { cookie, count, spilled, record }
    RECORD: Record {
        dialled, given, dialled_port, given_port, protocol, flags, _pad, line, generation,
    }
    OVERFLOW: Overflow { dialled, given, next, client, records }
    FRONTEND_KEY: FrontendKey { address, port, protocol, scope, _pad }
    FRONTEND_ROW: FrontendRow { service, line }
    SERVICE_ROW: ServiceRow {
        namespace, name, port_name, protocol, internal_policy, external_policy, frontends,
        internal_backends, external_backends, notes,
    }
    BACKEND_KEY: BackendKey { address, port, _pad, service }
    BACKEND_ROW: BackendRow { sets, state, _pad, weight }
    AFFINITY_KEY: AffinityKey { client, service, family }
    AFFINITY_ROW: AffinityRow {
        address, port, _pad, line, generation, seal, used, counted_for, _pad1,
    }
    CLIENT_ROW: ClientRow { overflow, affinity }
    COUNTERS: Counters {
        translated, not_service, refused, overflowed, unrecorded, redrawn, torn, kept, replies, names,
        affine, over_share, affinity_unrecorded,
    }
    META: Meta {
        layout, index_lines, _pad, slots, origins, next_service, seed, passes, synced, agent,
        agent_started, proved, first_generation, failures, short, refused, sources,
    }
    SOURCE_ROW: SourceRow { heard, address, port, kind, way, rejected }
}

/// The shape that a map must have.
#[derive(Debug)]
pub struct MapShape {
    /// Its name, which is its pin's too.
    pub name: MapName,
    kind: MapType,
    key: usize,
    value: usize,
    flags: u32,
    structs: &'static [Struct],
    /// It outlives the maps that it was made with: sockets and clients are remembered in it, and what
    /// they remember is good whichever index and slots are in use.
    pub is_shared: bool,
}

/// Flags of include/uapi/linux/bpf.h: entries are allocated as they come; the values can be mapped.
const NO_PREALLOC: u32 = 1;
const MMAPABLE: u32 = 1 << 10;

const fn shape<K, V>(
    name: MapName,
    kind: MapType,
    flags: u32,
    structs: &'static [Struct],
) -> MapShape {
    let (key, value) = (size_of::<K>(), size_of::<V>());
    MapShape { name, kind, key, value, flags, structs, is_shared: false }
}

const fn hash<K, V>(name: MapName, structs: &'static [Struct]) -> MapShape {
    shape::<K, V>(name, MapType::Hash, NO_PREALLOC, structs)
}

const fn array<V>(name: MapName, flags: u32, structs: &'static [Struct]) -> MapShape {
    shape::<u32, V>(name, MapType::Array, flags, structs)
}

const fn shared(shape: MapShape) -> MapShape {
    MapShape { is_shared: true, ..shape }
}

/// Every map that is pinned, in the order of [`MapName`].
pub const MAPS: [MapShape; 11] = [
    array::<Line>(MapName::Index, MMAPABLE, &[LINE, SET]),
    array::<Slot>(MapName::Slots, MMAPABLE, &[SLOT]),
    shared(array::<Origin>(MapName::Origins, MMAPABLE, &[ORIGIN, RECORD])),
    shared(hash::<u64, Overflow>(MapName::Overflow, &[OVERFLOW, RECORD])),
    hash::<FrontendKey, FrontendRow>(MapName::Frontends, &[FRONTEND_KEY, FRONTEND_ROW]),
    hash::<u32, ServiceRow>(MapName::Services, &[SERVICE_ROW]),
    hash::<BackendKey, BackendRow>(MapName::Backends, &[BACKEND_KEY, BACKEND_ROW]),
    shared(hash::<AffinityKey, AffinityRow>(MapName::Affinity, &[AFFINITY_KEY, AFFINITY_ROW])),
    shared(hash::<u32, ClientRow>(MapName::Clients, &[CLIENT_ROW])),
    shared(shape::<u32, Counters>(MapName::Counters, MapType::PerCpuArray, 0, &[COUNTERS])),
    array::<Meta>(MapName::Meta, 0, &[META, SOURCE_ROW]),
];

/// The shape of a map.
pub const fn of(map: MapName) -> &'static MapShape {
    const ALL: &[MapShape] = &MAPS;
    &ALL[map as usize]
}

impl MapShape {
    /// How what the map holds is laid out, as text: each struct's name and size, and where its fields
    /// lie, in bytes.
    pub fn layout(&self) -> String {
        let mut text = String::new();
        for Struct { name, size, fields } in self.structs {
            let separator = if text.is_empty() { "" } else { "; " };
            // Writing to a string cannot fail.
            let _ = write!(text, "{separator}{name} {size}:");
            for (field, offset) in *fields {
                let _ = write!(text, " {field} {offset}");
            }
        }
        text
    }

    /// Returns the reason why the map pinned here does not fit; none if it does. `label` is the layout that its
    /// maker wrote.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn misfit(&self, pin: &Path, label: Option<&str>) -> Result<Option<String>> {
        let info = info_of(pin)?;
        let found = (
            info.map_type()?,
            info.key_size() as usize,
            info.value_size() as usize,
            info.map_flags(),
        );
        let expected = (self.kind, self.key, self.value, self.flags);
        let (entries, layout) = (info.max_entries(), self.layout());
        let why = if found != expected {
            format!(
                "has another type, key size, value size or flags ({found:?}, expected {expected:?})"
            )
        } else if self.name == MapName::Origins && !entries.is_power_of_two() {
            // Places are found by a mask; the other maps are as large as svclb_meta says.
            format!("has {entries} entries, expected a power of two")
        } else {
            match label {
                Some(found) if found == layout => return Ok(None),
                Some(found) => format!("has another layout ({found:?}, expected {layout:?})"),
                None => "has no label that tells its layout".to_owned(),
            }
        };
        Ok(Some(format!("{} {why}", pin.display())))
    }
}

/// Reads type, sizes and flags of a pinned map from the kernel.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn info_of(pin: &Path) -> Result<MapInfo> {
    MapInfo::from_pin(pin).with_context(|| format!("cannot read the pinned map {}", pin.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_layout_has_each_struct_and_field() {
        let expected = "Slot 32: address 0 port 16 flags 18 owner 20 threshold 24 alias 28";
        assert_eq!(of(MapName::Slots).layout(), expected);
        for (number, shape) in MAPS.iter().enumerate() {
            assert_eq!(shape.name as usize, number);
            let layout = shape.layout();
            assert!(!layout.is_empty() && layout.len() < 4096, "a link's target: {layout}");
        }
    }
}
