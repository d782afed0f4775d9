//! The frontends of a target in the maps, each with the backends that a connection gets.

use std::collections::{BTreeSet, HashMap};

use svclb_common::layout::{
    BackendKey, BackendRow, FrontendKey, FrontendRow, Line, LineFlags, Policy, Protocol, Scope,
    ServiceRow,
};
use svclb_core::compile::{name_of, service_of};
use svclb_core::model::{ObjectName, ServiceKey};
use svclb_core::table::Dump;

use super::super::list;
use super::target::Target;
use super::view::{BackendTrace, FrontendTrace, Outcome, shown};

/// Returns the frontends that are asked about, in order, and the Service objects that have them.
pub(super) fn of(target: &Target, dump: &Dump) -> (Vec<FrontendTrace>, BTreeSet<ObjectName>) {
    let services: HashMap<u32, (&ServiceRow, ServiceKey)> =
        dump.services.iter().filter_map(|(id, row)| Some((*id, (row, service_of(row)?)))).collect();
    let keys = target.keys();
    let mut found: Vec<(&FrontendKey, &FrontendRow)> = dump
        .frontends
        .iter()
        .filter(|(key, row)| {
            let service = services.get(&row.service);
            keys.contains(key)
                || service.is_some_and(|(_, service)| target.is_of(service, key.port))
        })
        .map(|(key, row)| (key, row))
        .collect();
    found.sort_by_key(|(key, _)| **key);
    let objects = found.iter().filter_map(|(_, row)| services.get(&row.service));
    let objects = objects.map(|(_, service)| service.object.clone()).collect();
    let traces = found.into_iter().map(|(key, row)| {
        let service = services.get(&row.service).map(|(row, key)| (*row, key));
        frontend(key, dump.line(row.line), row.service, service, dump)
    });
    (traces.collect(), objects)
}

fn frontend(
    key: &FrontendKey,
    line: Option<&Line>,
    id: u32,
    service: Option<(&ServiceRow, &ServiceKey)>,
    dump: &Dump,
) -> FrontendTrace {
    let flags = line.map_or(0, |line| line.flags);
    let policy = match flags & LineFlags::EXTERNAL {
        0 => Policy::Internal,
        _ => Policy::External,
    };
    let mut members: Vec<&(BackendKey, BackendRow)> = dump
        .backends
        .iter()
        .filter(|(backend, row)| {
            let is_of_family = backend.address.is_v4() == key.address.is_v4();
            backend.service == id && row.sets & policy.bit() != 0 && is_of_family
        })
        .collect();
    members.sort_by_key(|(backend, _)| (backend.address, backend.port));
    let total: u64 = members.iter().map(|(_, row)| u64::from(row.weight)).sum();
    let backends = members.iter().map(|(backend, row)| BackendTrace {
        address: shown(backend.address, backend.port),
        state: list::state(row),
        // A weight of 32 bits fits.
        percent: f64::from(row.weight) * 100.0 / (total.max(1) as f64),
    });
    let traffic_policy = service.map(|(row, _)| match policy {
        Policy::Internal => name_of(&row.internal_policy),
        Policy::External => name_of(&row.external_policy),
    });
    FrontendTrace {
        frontend: shown(key.address, key.port),
        protocol: Protocol::from_number(key.protocol.into()).map_or("unknown", Protocol::name),
        host_only: key.scope == Scope::Host as u8,
        service: service.map(|(_, service)| service.to_string()).unwrap_or_default(),
        policy: list::policy(policy),
        traffic_policy: traffic_policy.unwrap_or_default(),
        outcome: match line {
            Some(line) if line.set.count > 0 => Outcome::Backend,
            Some(_) => Outcome::Refused,
            None => Outcome::LeftAlone,
        },
        backends: backends.collect(),
        affinity_seconds: line.map_or(0, |line| line.affinity_seconds),
        notes: service.map(|(row, _)| list::notes(row)).unwrap_or_default(),
    }
}
