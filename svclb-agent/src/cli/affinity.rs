//! `svclb affinity`: the backends that clients keep by session affinity.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use schemars::JsonSchema;
use serde::Serialize;
use svclb_common::layout::{BackendKey, ServiceRow};
use svclb_core::compile::name_of;
use svclb_core::table::Table as _;
use svclb_dataplane::maps::Maps;
use svclb_dataplane::maps::expiry::{self, Entry};
use svclb_dataplane::pins::places::Places;

use super::ListArgs;
use super::output::{self, Column, ListRow, yes};

/// A backend that a client keeps by session affinity. Sorted by its first fields.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Affinity")]
pub(super) struct AffinityView {
    /// Namespace of the Service object; empty where the service is gone.
    pub(super) namespace: String,
    /// Name of the Service object; empty where the service is gone.
    pub(super) service: String,
    /// Name of the port; empty where it has none.
    pub(super) port_name: String,
    /// `TCP` or `UDP`; empty where the service is gone.
    pub(super) protocol: String,
    /// Family of what was dialled, `IPv4` or `IPv6`: each has backends of its own.
    pub(super) family: &'static str,
    /// The client: cookie of its network namespace (SO_NETNS_COOKIE), which is a pod's, or the host's for all
    /// that runs in it.
    pub(super) client: u64,
    /// The backend that the client keeps: `address:port`.
    pub(super) backend: SocketAddr,
    /// The backend still belongs to the service; false: the client's next connection is given another.
    pub(super) current: bool,
    /// Seconds since the client's latest new connection.
    pub(super) age_seconds: u64,
    /// Seconds until the client is given any backend again, if it makes no new connection; 0: the time is over.
    pub(super) remaining_seconds: u64,
}

impl ListRow for AffinityView {
    const COLUMNS: &'static [Column<Self>] = &[
        ("NAMESPACE", |row| row.namespace.clone()),
        ("SERVICE", |row| row.service.clone()),
        ("PORT", |row| row.port_name.clone()),
        ("PROTOCOL", |row| row.protocol.clone()),
        ("CLIENT", |row| row.client.to_string()),
        ("BACKEND", |row| row.backend.to_string()),
        ("AGE", |row| format!("{}s", row.age_seconds)),
        ("REMAINING", |row| format!("{}s", row.remaining_seconds)),
    ];
    const MORE_COLUMNS: &'static [Column<Self>] =
        &[("FAMILY", |row| row.family.to_owned()), ("CURRENT", |row| yes(row.current).to_owned())];

    fn name(&self) -> String {
        let Self { namespace, service, port_name, protocol, family, client, .. } = self;
        format!("{client}/{namespace}/{service}:{port_name}/{protocol}/{family}")
    }
}

/// `svclb affinity`.
pub(super) fn affinity(args: &ListArgs) -> Result<()> {
    let pins = &args.pins.pins;
    let dump = Maps::read(pins)?.load()?;
    let services: HashMap<u32, &ServiceRow> =
        dump.services.iter().map(|(id, row)| (*id, row)).collect();
    let members: HashSet<BackendKey> = dump.backends.iter().map(|(key, _)| *key).collect();
    let mut views: Vec<AffinityView> = expiry::entries(&Places::current(pins))?
        .iter()
        .map(|entry| {
            let backend = BackendKey {
                address: entry.row.address,
                port: entry.row.port,
                _pad: 0,
                service: entry.key.service,
            };
            view(entry, services.get(&entry.key.service).copied(), members.contains(&backend))
        })
        .collect();
    views.sort();
    output::list(&views, args.output)
}

fn view(entry: &Entry, service: Option<&ServiceRow>, current: bool) -> AffinityView {
    let named = |field: fn(&ServiceRow) -> String| service.map_or_else(String::new, field);
    AffinityView {
        namespace: named(|row| name_of(&row.namespace)),
        service: named(|row| name_of(&row.name)),
        port_name: named(|row| name_of(&row.port_name)),
        protocol: named(|row| name_of(&row.protocol)),
        family: if entry.key.family == 4 { "IPv4" } else { "IPv6" },
        client: entry.key.client,
        backend: SocketAddr::new(entry.row.address.ip(), entry.row.port),
        current,
        age_seconds: entry.age.as_secs(),
        remaining_seconds: rounded_up(entry.remaining),
    }
}

/// Whole seconds, so that 0 means that the time is over.
fn rounded_up(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use svclb_common::layout::{AffinityKey, AffinityRow};

    use super::*;

    #[test]
    fn an_entry_shows_its_time_in_whole_seconds_and_no_name_of_a_service_that_is_gone() {
        let key = AffinityKey { client: 7, service: 1, family: 6 };
        let address = "fd00::1".parse::<std::net::IpAddr>().unwrap().into();
        let row = AffinityRow { address, port: 8080, ..AffinityRow::default() };
        let rows = [
            ("fresh", 0, 10_800_000, 0, 10_800),
            ("used for a while", 1_900, 100, 1, 1),
            ("over", 2_000, 0, 2, 0),
        ];
        for (name, age, remaining, expected_age, expected_remaining) in rows {
            let [age, remaining] = [age, remaining].map(Duration::from_millis);
            let shown = view(&Entry { key, row, age, remaining }, None, false);
            let times = (shown.age_seconds, shown.remaining_seconds);
            assert_eq!(times, (expected_age, expected_remaining), "{name}");
            assert_eq!((shown.service.as_str(), shown.family), ("", "IPv6"));
            assert_eq!(shown.backend.to_string(), "[fd00::1]:8080");
        }
    }
}
