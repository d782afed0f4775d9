//! The rows that a dry run changes, by service.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Serialize;
use svclb_common::layout::{Address, BackendRow, FrontendKey, ServiceRow};
use svclb_core::compile::{name_of, service_of};
use svclb_core::model::ServiceKey;

use super::super::list;
use crate::reconcile::{DryRun, Rows};

/// The way in which something differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Change {
    /// The maps lack it.
    Added,
    /// The maps have it, and should not.
    Removed,
    /// The maps have it in another state.
    Changed,
}

/// The kind of row or setting that differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Service,
    Frontend,
    Backend,
    InternalPolicy,
    ExternalPolicy,
    AffinitySeconds,
    Notes,
    /// Rows that no service is known to be changed by.
    Maps,
}

/// One difference of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub(in crate::cli) struct Difference {
    /// The way in which it differs.
    pub(super) change: Change,
    /// The kind of row or setting.
    pub(super) kind: Kind,
    /// The frontend or the backend, `address:port`; otherwise empty.
    pub(super) subject: String,
    /// The state in the maps: of a frontend its service, of a backend its state, of a setting its value.
    pub(super) actual: String,
    /// The same as it should be.
    pub(super) desired: String,
}

/// The differences of each service that has any.
pub(in crate::cli) type Differences = BTreeMap<ServiceKey, Vec<Difference>>;

/// Returns what a dry run changes. It takes time in proportion to the rows, and their logarithm.
pub(in crate::cli) fn compare(run: &DryRun) -> Differences {
    let (before, after) = (Service::all(&run.before), Service::all(&run.after));
    let services: BTreeSet<&ServiceKey> = before.keys().chain(after.keys()).collect();
    let compared = services.into_iter().map(|service| {
        let found = differences(run, service, before.get(service), after.get(service));
        (service.clone(), found)
    });
    compared.filter(|(_, found)| !found.is_empty()).collect()
}

/// The rows of one service.
struct Service<'a> {
    row: &'a ServiceRow,
    affinity_seconds: u32,
    /// With their lines.
    frontends: BTreeMap<FrontendKey, u32>,
    backends: BTreeMap<(Address, u16), BackendRow>,
}

impl<'a> Service<'a> {
    fn all(rows: &'a Rows) -> BTreeMap<ServiceKey, Self> {
        let empty = |row| Self {
            row,
            affinity_seconds: 0,
            frontends: BTreeMap::new(),
            backends: BTreeMap::new(),
        };
        let mut found: HashMap<u32, Self> =
            rows.services.iter().map(|(id, row)| (*id, empty(row))).collect();
        for (key, row) in &rows.frontends {
            if let Some(service) = found.get_mut(&row.service) {
                let seconds = rows.affinity_seconds.get(&row.line).copied().unwrap_or(0);
                service.affinity_seconds = service.affinity_seconds.max(seconds);
                service.frontends.insert(*key, row.line);
            }
        }
        for (key, row) in &rows.backends {
            if let Some(service) = found.get_mut(&key.service) {
                service.backends.insert((key.address, key.port), *row);
            }
        }
        found.into_values().filter_map(|it| Some((service_of(it.row)?, it))).collect()
    }
}

/// The settings of a service, as text. A service without a row has those that most have.
fn settings(service: Option<&Service<'_>>) -> [(Kind, String); 4] {
    let policy = |of: fn(&ServiceRow) -> String| {
        service.map_or_else(|| "Cluster".to_owned(), |service| of(service.row))
    };
    let seconds = service.map_or(0, |service| service.affinity_seconds);
    let notes = service.map(|service| list::notes(service.row)).unwrap_or_default();
    [
        (Kind::InternalPolicy, policy(|row| name_of(&row.internal_policy))),
        (Kind::ExternalPolicy, policy(|row| name_of(&row.external_policy))),
        (Kind::AffinitySeconds, seconds.to_string()),
        (Kind::Notes, notes.join(",")),
    ]
}

fn differences(
    run: &DryRun,
    service: &ServiceKey,
    before: Option<&Service<'_>>,
    after: Option<&Service<'_>>,
) -> Vec<Difference> {
    let mut found = Vec::new();
    let whole = match (before, after) {
        (None, Some(_)) => Some(Change::Added),
        (Some(_), None) => Some(Change::Removed),
        _ => None,
    };
    found.extend(whole.map(|change| difference(change, Kind::Service, "", "", "")));
    frontends(run, service, before, after, &mut found);
    backends(before, after, &mut found);
    // Those of a service that goes say nothing.
    if after.is_some() {
        for ((kind, actual), (_, desired)) in settings(before).into_iter().zip(settings(after)) {
            if actual != desired {
                found.push(difference(Change::Changed, kind, "", &actual, &desired));
            }
        }
    }
    if let (true, Some(after)) = (found.is_empty(), after) {
        // The rows are equal. A line that is written all the same had another set or other flags.
        for (key, _) in after.frontends.iter().filter(|(_, line)| run.lines.contains(*line)) {
            let (subject, owner) = (at(key.address, key.port), service.to_string());
            found.push(difference(Change::Changed, Kind::Frontend, &subject, &owner, &owner));
        }
    }
    found
}

fn frontends(
    run: &DryRun,
    service: &ServiceKey,
    before: Option<&Service<'_>>,
    after: Option<&Service<'_>>,
    found: &mut Vec<Difference>,
) {
    let has = |of: Option<&Service<'_>>, key: &FrontendKey| {
        of.is_some_and(|it| it.frontends.contains_key(key))
    };
    let own = service.to_string();
    for key in merged(before.map(|it| &it.frontends), after.map(|it| &it.frontends)) {
        let subject = at(key.address, key.port);
        match (has(before, key), has(after, key)) {
            (false, true) => {
                let actual = owner(&run.before, key);
                found.push(difference(Change::Added, Kind::Frontend, &subject, &actual, &own));
            }
            (true, false) => {
                let desired = owner(&run.after, key);
                found.push(difference(Change::Removed, Kind::Frontend, &subject, &own, &desired));
            }
            _ => {}
        }
    }
}

fn backends(
    before: Option<&Service<'_>>,
    after: Option<&Service<'_>>,
    found: &mut Vec<Difference>,
) {
    let of = |service: Option<&Service<'_>>, key: &(Address, u16)| {
        let row = service.and_then(|service| service.backends.get(key))?;
        Some(format!("{} in {}", list::state(row), list::sets(row).join(",")))
    };
    for key in merged(before.map(|it| &it.backends), after.map(|it| &it.backends)) {
        let (actual, desired) = (of(before, key), of(after, key));
        let change = match (&actual, &desired) {
            (None, _) => Change::Added,
            (_, None) => Change::Removed,
            (actual, desired) if actual != desired => Change::Changed,
            _ => continue,
        };
        let (actual, desired) = (actual.unwrap_or_default(), desired.unwrap_or_default());
        found.push(difference(change, Kind::Backend, &at(key.0, key.1), &actual, &desired));
    }
}

/// The keys of both, in order.
fn merged<'a, K: Ord, V>(
    before: Option<&'a BTreeMap<K, V>>,
    after: Option<&'a BTreeMap<K, V>>,
) -> BTreeSet<&'a K> {
    [before, after].into_iter().flatten().flat_map(BTreeMap::keys).collect()
}

/// The service that has a frontend; empty when none has.
fn owner(rows: &Rows, key: &FrontendKey) -> String {
    let row = rows.frontends.get(key).and_then(|row| rows.services.get(&row.service));
    row.and_then(service_of).map_or_else(String::new, |service| service.to_string())
}

fn at(address: Address, port: u16) -> String {
    SocketAddr::new(address.ip(), port).to_string()
}

fn difference(
    change: Change,
    kind: Kind,
    subject: &str,
    actual: &str,
    desired: &str,
) -> Difference {
    let [subject, actual, desired] = [subject, actual, desired].map(str::to_owned);
    Difference { change, kind, subject, actual, desired }
}
