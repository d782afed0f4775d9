//! Steps as text: a table that prints each step and takes it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use svclb_common::layout::{
    Address, BackendKey, BackendRow, BackendState, FrontendKey, Line, LineFlags, Meta, Policy,
    Protocol, Scope, ServiceNotes, ServiceRow, Set, Slot,
};
use svclb_core::compile::name_of;
use svclb_core::number::{LineNumber, ServiceId, SlotNumber};
use svclb_core::table::{Dump, Key, MemoryTable, Row, Table, TableError};

/// Maps in memory, with the text of the steps that they took.
pub(crate) struct PrintingTable {
    pub(crate) maps: MemoryTable,
    /// The frontend that each line holds, or held last.
    frontends: BTreeMap<LineNumber, FrontendKey>,
    text: String,
}

impl PrintingTable {
    pub(crate) const fn new(maps: MemoryTable) -> Self {
        Self { maps, frontends: BTreeMap::new(), text: String::new() }
    }

    /// The steps since the last call, a line each.
    pub(crate) fn take(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    fn print(&mut self, step: &str) {
        // A meta row may change in what is not printed.
        if !step.is_empty() {
            let _ = writeln!(self.text, "{step}");
        }
    }

    /// The frontend that a line holds, or held last.
    fn frontend_in(&self, number: LineNumber) -> String {
        self.frontends.get(&number).map_or_else(|| format!("line {}", number.0), frontend)
    }

    fn describe(&self, row: &Row) -> String {
        let of = |number: &LineNumber| self.frontend_in(*number);
        match row {
            Row::Service(ServiceId(id), row) => format!("put service {id}: {}", service(row)),
            Row::Backend(key, row) => format!("put backend {}: {}", backend(key), member(row)),
            Row::Frontend(key, row) => {
                format!("put frontend {} of service {}", frontend(key), row.service)
            }
            Row::Slots(SlotNumber(first), slots) => put_slots(*first, slots),
            Row::Line(_, line) => format!("publish line {}", self::line(line)),
            Row::Set(number, to) => format!("flip {} to {}", of(number), set(*to)),
            Row::Heir(number, ServiceId(0)) => format!("clear the successor of {}", of(number)),
            Row::Heir(number, ServiceId(id)) => {
                format!("set the successor of {} to service {id}", of(number))
            }
            Row::Owner(number, ServiceId(id)) => {
                format!("set the owner of {} to service {id}", of(number))
            }
            Row::Traits(number, flags, seconds) => {
                format!("set the flags of {} to {}", of(number), traits(*flags, *seconds))
            }
            Row::Generation(number, to) => {
                format!("set the generation of {} to {}", of(number), to.0)
            }
            Row::Reach(number, reach) => {
                format!("set the reach of home line {} to {reach}", number.0)
            }
            Row::Meta(meta) => changes(&self.maps.meta(), meta),
        }
    }

    fn describe_removal(&self, key: &Key) -> String {
        match key {
            Key::Service(ServiceId(id)) => format!("remove service {id}"),
            Key::Backend(key) => format!("remove backend {}", backend(key)),
            Key::Frontend(key) => format!("remove frontend {}", frontend(key)),
            Key::Line(number) => format!("empty the line of {}", self.frontend_in(*number)),
        }
    }
}

impl Table for PrintingTable {
    fn load(&mut self) -> Result<Dump, TableError> {
        self.maps.load()
    }

    fn put(&mut self, row: &Row) -> Result<(), TableError> {
        let step = self.describe(row);
        self.maps.put(row)?;
        if let Row::Line(number, line) = row {
            self.frontends.insert(*number, key_of(line));
        }
        self.print(&step);
        Ok(())
    }

    fn remove(&mut self, key: &Key) -> Result<(), TableError> {
        let step = self.describe_removal(key);
        self.maps.remove(key)?;
        self.print(&step);
        Ok(())
    }
}

/// An address with a port, as a client writes it.
pub(crate) fn socket(address: Address, port: u16) -> String {
    std::net::SocketAddr::new(address.ip(), port).to_string()
}

/// The key of the frontend in a line.
pub(crate) const fn key_of(line: &Line) -> FrontendKey {
    let &Line { address, port, protocol, scope, .. } = line;
    FrontendKey { address, port, protocol, scope, _pad: 0 }
}

/// A frontend as a client dials it.
pub(crate) fn frontend(key: &FrontendKey) -> String {
    let protocol = Protocol::from_number(key.protocol.into()).map_or("?", Protocol::name);
    let scope = if key.scope == Scope::Host as u8 { " (host network only)" } else { "" };
    format!("{}/{protocol}{scope}", socket(key.address, key.port))
}

fn backend(key: &BackendKey) -> String {
    format!("{} of service {}", socket(key.address, key.port), key.service)
}

/// The sets of a member, and its state.
pub(crate) fn member(row: &BackendRow) -> String {
    let sets = [(Policy::Internal, "internal"), (Policy::External, "external")];
    let sets: Vec<&str> = sets
        .into_iter()
        .filter_map(|(policy, name)| (row.sets & policy.bit() != 0).then_some(name))
        .collect();
    let state = match BackendState::from_number(row.state) {
        Some(BackendState::Ready) => "ready",
        Some(BackendState::Terminating) => "terminating",
        None => "?",
    };
    let weight = if row.weight == 1 { String::new() } else { format!(", weight {}", row.weight) };
    format!("{state}, in the {} set{weight}", sets.join(" and "))
}

/// A set by its range of slots.
pub(crate) fn set(set: Set) -> String {
    match set {
        Set::REFUSE => "refuse".to_owned(),
        Set { count: 0, .. } => "ABSENT".to_owned(),
        Set { first, count } => format!("slots {first}..{}", first + count),
    }
}

fn put_slots(first: u32, slots: &[Slot]) -> String {
    let backends: Vec<String> = slots.iter().map(|slot| socket(slot.address, slot.port)).collect();
    let owner = slots.first().map_or(0, |slot| slot.owner);
    let range = set(Set { first, count: u32::try_from(slots.len()).unwrap_or(u32::MAX) });
    format!("put {range} of service {owner}: {}", backends.join(" "))
}

fn line(line: &Line) -> String {
    let traits = traits(line.flags, line.affinity_seconds);
    format!(
        "{} of service {}: {}, {traits}, generation {}",
        frontend(&key_of(line)),
        line.service,
        set(line.set),
        line.generation
    )
}

/// The flags of a line, with its session affinity.
pub(crate) fn traits(flags: u16, affinity_seconds: u32) -> String {
    let is_external = flags & LineFlags::EXTERNAL != 0;
    let mut text = if is_external { "external" } else { "internal" }.to_owned();
    if flags & LineFlags::API_SERVER != 0 {
        text.push_str(", API server");
    }
    if affinity_seconds != 0 {
        let _ = write!(text, ", affinity {affinity_seconds} s");
    }
    text
}

/// The row of a service, on one line.
pub(crate) fn service(row: &ServiceRow) -> String {
    const NOTES: [(u32, &str); 7] = [
        (ServiceNotes::CONFLICT, "conflict"),
        (ServiceNotes::PORTS_WITHOUT_NUMBER, "ports_without_number"),
        (ServiceNotes::RETAINED, "retained"),
        (ServiceNotes::SCTP, "sctp"),
        (ServiceNotes::SOURCE_RANGES, "source_ranges"),
        (ServiceNotes::UNUSABLE_ADDRESSES, "unusable_addresses"),
        (ServiceNotes::UNUSABLE_ENDPOINTS, "unusable_endpoints"),
    ];
    let name = |text: &[i8]| name_of(text);
    let mut text = format!(
        "{}/{}:{}/{}, policies {} and {}, frontends {}, backends {} internal {} external",
        name(&row.namespace),
        name(&row.name),
        name(&row.port_name),
        name(&row.protocol),
        name(&row.internal_policy),
        name(&row.external_policy),
        row.frontends,
        row.internal_backends,
        row.external_backends,
    );
    let notes: Vec<&str> =
        NOTES.iter().filter(|(bit, _)| row.notes & bit != 0).map(|(_, name)| *name).collect();
    if !notes.is_empty() {
        let _ = write!(text, ", notes {}", notes.join(" "));
    }
    text
}

/// Returns the changes of the meta row, without the counts of passes.
fn changes(old: &Meta, new: &Meta) -> String {
    let fields = [
        ("next_service", old.next_service, new.next_service),
        ("short", old.short, new.short),
        ("refused", old.refused, new.refused),
    ];
    let changed = fields.iter().filter(|(_, old, new)| old != new);
    let changed: Vec<String> =
        changed.map(|(name, old, new)| format!("{name} {old} -> {new}")).collect();
    if changed.is_empty() { String::new() } else { format!("put meta: {}", changed.join(", ")) }
}
