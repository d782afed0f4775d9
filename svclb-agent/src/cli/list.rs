//! The reading commands: from the pins to rows that people and scripts read. They need no agent.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use svclb_common::layout::{
    Address, BackendKey, BackendState, FrontendKey, LineFlags, Policy, Protocol, RecordFlags,
    ServiceRow,
};
use svclb_core::compile::name_of;
use svclb_core::table::{Dump, Table as _};

use crate::dataplane::attach;
use crate::dataplane::hooks::HOOKS;
use crate::dataplane::maps::Maps;
use crate::dataplane::pins::Pins;
use crate::dataplane::sockets::{Origins, SocketOrigin};

use super::output::{self, BackendView, Format, HookView, ServiceView, SocketView, StatusView};

/// `svclb services`.
pub(super) fn services(pins: &Pins, format: Format) -> Result<()> {
    let dump = Maps::open(pins, false)?.load()?;
    let mut frontends: HashMap<u32, Vec<&FrontendKey>> = HashMap::new();
    for (key, row) in &dump.frontends {
        frontends.entry(row.service).or_default().push(key);
    }
    let mut backends: HashMap<u32, usize> = HashMap::new();
    for (key, _) in &dump.backends {
        *backends.entry(key.service).or_default() += 1;
    }
    let mut views: Vec<ServiceView> = dump
        .services
        .iter()
        .map(|(id, row)| {
            let mut keys = frontends.remove(id).unwrap_or_default();
            keys.sort();
            let endpoint = |key: &FrontendKey| output::endpoint(&key.address.ip(), key.port);
            ServiceView {
                namespace: name_of(&row.namespace),
                name: name_of(&row.name),
                port_name: name_of(&row.port_name),
                protocol: name_of(&row.protocol),
                frontends: keys.into_iter().map(endpoint).collect(),
                internal_policy: name_of(&row.internal_policy),
                external_policy: name_of(&row.external_policy),
                backends: backends.get(id).copied().unwrap_or(0),
                id: *id,
            }
        })
        .collect();
    views.sort_by(|a, b| {
        (&a.namespace, &a.name, &a.port_name, &a.protocol).cmp(&(
            &b.namespace,
            &b.name,
            &b.port_name,
            &b.protocol,
        ))
    });
    output::list(&views, format)
}

/// `svclb backends`.
pub(super) fn backends(pins: &Pins, format: Format) -> Result<()> {
    let dump = Maps::open(pins, false)?.load()?;
    let services: HashMap<u32, &ServiceRow> =
        dump.services.iter().map(|(id, row)| (*id, row)).collect();
    let owners = Owners::of(&dump);
    let mut connections: HashMap<(u32, Address, u16), usize> = HashMap::new();
    for origin in Origins::open(pins)?.read()? {
        if let Some(service) = owners.of_origin(&origin) {
            let given = (service, origin.record.given, origin.record.given_port);
            *connections.entry(given).or_default() += 1;
        }
    }
    let mut rows = dump.backends.clone();
    rows.sort_by_key(|(key, _)| (key.service, key.address, key.port));
    let views: Vec<BackendView> = rows
        .iter()
        .map(|(key, row)| {
            let named = |field: fn(&ServiceRow) -> String| {
                services.get(&key.service).map(|service| field(service)).unwrap_or_default()
            };
            let sets = [(Policy::Internal, "internal"), (Policy::External, "external")];
            let is_in = |(policy, _): &(Policy, &str)| row.sets & policy.bit() != 0;
            BackendView {
                namespace: named(|row| name_of(&row.namespace)),
                service: named(|row| name_of(&row.name)),
                port_name: named(|row| name_of(&row.port_name)),
                protocol: named(|row| name_of(&row.protocol)),
                address: key.address.ip().to_string(),
                port: key.port,
                state: match BackendState::from_number(row.state) {
                    Some(BackendState::Ready) => "ready",
                    Some(BackendState::Terminating) => "terminating",
                    None => "unknown",
                },
                sets: sets.into_iter().filter(is_in).map(|(_, name)| name).collect(),
                weight: row.weight,
                connections: connections
                    .get(&(key.service, key.address, key.port))
                    .copied()
                    .unwrap_or(0),
            }
        })
        .collect();
    output::list(&views, format)
}

/// `svclb sockets`.
pub(super) fn sockets(pins: &Pins, format: Format) -> Result<()> {
    let dump = Maps::open(pins, false)?.load()?;
    let services: HashMap<u32, &ServiceRow> =
        dump.services.iter().map(|(id, row)| (*id, row)).collect();
    let owners = Owners::of(&dump);
    let views: Vec<SocketView> = Origins::open(pins)?
        .read()?
        .iter()
        .map(|origin| {
            let record = &origin.record;
            let service = owners.of_origin(origin);
            SocketView {
                cookie: origin.cookie,
                protocol: Protocol::from_number(record.protocol.into())
                    .map_or("unknown", Protocol::name),
                dialled: output::endpoint(&record.dialled.ip(), record.dialled_port),
                given: output::endpoint(&record.given.ip(), record.given_port),
                service: service.and_then(|id| services.get(&id)).map_or_else(String::new, |row| {
                    let port = name_of(&row.port_name);
                    format!("{}/{}:{port}", name_of(&row.namespace), name_of(&row.name))
                }),
                connected: record.flags & RecordFlags::CONNECTED != 0,
                current: owners.is_current(origin),
                place: if origin.overflow { "overflow" } else { "origins" },
            }
        })
        .collect();
    output::list(&views, format)
}

/// `svclb status`.
pub(super) fn status(pins: &Pins, format: Format) -> Result<()> {
    let mut maps = Maps::open(pins, false)?;
    let (dump, counters) = (maps.load()?, maps.counters()?);
    let origins = Origins::open(pins)?;
    let meta = dump.meta;
    let held = origins.read()?;
    let mut cookies: Vec<u64> = held.iter().map(|origin| origin.cookie).collect();
    cookies.sort_unstable();
    cookies.dedup();
    let hooks = HOOKS
        .iter()
        .map(|hook| Ok(HookView { name: hook.name, attached: attach::is_attached(pins, hook)? }))
        .collect::<Result<_>>()?;
    let slots_used: usize = dump.ranges.iter().map(|(_, slots)| slots.len()).sum();
    let view = StatusView {
        pins: pins.root().display().to_string(),
        layout: meta.layout,
        synced: meta.synced != 0,
        passes: meta.passes,
        agent_pid: meta.agent,
        agent_running: is_running(meta.agent),
        services: dump.services.len(),
        frontends: dump.frontends.len(),
        backends: dump.backends.len(),
        sockets: cookies.len(),
        overflow_entries: origins.overflow_entries()?,
        index_lines_used: dump.lines.iter().filter(|(_, line)| line.protocol != 0).count(),
        index_lines: meta.index_lines,
        slots_used,
        slots: meta.slots,
        origins: origins.places(),
        hooks,
        counters: BTreeMap::from([
            ("translated", counters.translated),
            ("not_service", counters.not_service),
            ("refused", counters.refused),
            ("overflowed", counters.overflowed),
            ("unrecorded", counters.unrecorded),
            ("redrawn", counters.redrawn),
            ("torn", counters.torn),
            ("kept", counters.kept),
            ("replies", counters.replies),
            ("names", counters.names),
        ]),
    };
    output::one(&view, format)
}

/// `svclb uninstall`.
pub(super) fn uninstall(pins: &Pins) -> Result<()> {
    for path in pins.uninstall()? {
        output::line(&format!("removed {}", path.display()))?;
    }
    Ok(())
}

/// Whether a process with this number runs an svclb, as far as this pid namespace shows.
fn is_running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "svclb")
}

/// Who owns what sockets dialled.
struct Owners<'a> {
    dump: &'a Dump,
    by_frontend: HashMap<FrontendKey, (u32, u32)>,
    members: HashMap<BackendKey, u8>,
}

impl<'a> Owners<'a> {
    fn of(dump: &'a Dump) -> Self {
        let frontends = dump.frontends.iter();
        Self {
            dump,
            by_frontend: frontends.map(|(key, row)| (*key, (row.service, row.line))).collect(),
            members: dump.backends.iter().map(|(key, row)| (*key, row.sets)).collect(),
        }
    }

    fn frontend(&self, origin: &SocketOrigin) -> Option<(u32, u32)> {
        let record = &origin.record;
        let key = FrontendKey {
            address: record.dialled,
            port: record.dialled_port,
            protocol: record.protocol,
            scope: 0,
            _pad: 0,
        };
        self.by_frontend.get(&key).copied()
    }

    /// The service that what the socket dialled belongs to now.
    fn of_origin(&self, origin: &SocketOrigin) -> Option<u32> {
        self.frontend(origin).map(|(service, _)| service)
    }

    /// Whether the socket's backend is still a member of the set that its frontend uses.
    fn is_current(&self, origin: &SocketOrigin) -> bool {
        let Some((service, number)) = self.frontend(origin) else { return false };
        let record = &origin.record;
        let key = BackendKey { address: record.given, port: record.given_port, _pad: 0, service };
        let line = self.dump.lines.binary_search_by_key(&number, |(number, _)| *number);
        let flags = line.map_or(0, |at| self.dump.lines[at].1.flags);
        let policy =
            if flags & LineFlags::EXTERNAL != 0 { Policy::External } else { Policy::Internal };
        self.members.get(&key).is_some_and(|sets| sets & policy.bit() != 0)
    }
}
