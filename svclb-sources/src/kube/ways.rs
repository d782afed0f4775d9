//! The ways to the API server, and the record of which one worked last and which ones failed.
//!
//! No way depends on the maps: the hooks leave the agent's sockets alone (`dial`). The endpoints of
//! `default/kubernetes` come from the cluster, so they are not trusted: the server's certificate decides
//! (docs/decisions/0017-the-way-to-the-api-server.md).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::Uri;
pub(super) use svclb_common::layout::WayKind;
use svclb_core::compile::is_api_server;
use svclb_core::model::{ObjectName, Protocol, Slice, Update};
use svclb_core::text::short;
use tokio::time::Instant;

use super::lock;

/// The most endpoints that are tried: a user who may write slices in the namespace `default` may name any.
const ENDPOINTS: usize = 8;
/// The number of peers that are remembered.
const PEERS: usize = 64;

/// One way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Way {
    /// Its origin.
    pub(super) kind: WayKind,
    /// Its destination.
    pub(super) url: Uri,
}

impl Way {
    /// Returns a way to this URL.
    pub(super) const fn new(kind: WayKind, url: Uri) -> Self {
        Self { kind, url }
    }

    /// Returns the way to an endpoint: never without TLS.
    fn endpoint(at: SocketAddr) -> Option<Self> {
        let url = format!("https://{at}/").parse().ok()?;
        Some(Self::new(WayKind::Endpoint, url))
    }

    /// Returns true when both lead to the same host and port.
    fn leads_to(&self, other: &Self) -> bool {
        let place = |way: &Self| (way.url.host().map(str::to_ascii_lowercase), port(&way.url));
        place(self) == place(other)
    }
}

/// Returns the port of a URL.
pub(super) fn port(url: &Uri) -> u16 {
    let is_plain = url.scheme_str() == Some("http");
    url.port_u16().unwrap_or(if is_plain { 80 } else { 443 })
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.to_string();
        write!(f, "{} ({})", url.trim_end_matches('/'), self.kind.name())
    }
}

/// A way that failed, and its error in words.
pub(super) type Failed = (Way, String);

/// The record of all ways, shared between the watches, which learn endpoints, and the client.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways(Arc<Mutex<KnownWays>>);

#[derive(Debug, Default)]
struct KnownWays {
    /// The endpoints in each slice of `default/kubernetes`.
    slices: BTreeMap<ObjectName, Vec<SocketAddr>>,
    /// The last endpoints that were not none: an API server that stops removes its own.
    endpoints: Vec<SocketAddr>,
    /// The way that worked last.
    latest: Option<Way>,
    /// The time of the last failure of each way that did not work since.
    failed: HashMap<Way, Instant>,
    /// The last logged error of each way that did not work since.
    logged: HashMap<Way, String>,
    /// The kind of way that led to each peer.
    peers: HashMap<SocketAddr, WayKind>,
}

impl Ways {
    /// Adds endpoints that an earlier agent knew, unless the cluster has named some meanwhile.
    pub(super) fn remember(&self, endpoints: Vec<SocketAddr>) {
        let mut state = lock(&self.0);
        if state.endpoints.is_empty() {
            state.endpoints = few(endpoints);
        }
    }

    /// Records the API servers' endpoints from changes of slices.
    pub(super) fn learn(&self, updates: &[Update]) {
        let slices = updates.iter().filter_map(|update| match update {
            Update::Slice(name, slice) => Some((name, slice.as_ref())),
            _ => None,
        });
        for (name, slice) in slices {
            let mut state = lock(&self.0);
            let own = slice.filter(|slice| is_api_server(&slice.service));
            let is_changed = match own {
                Some(slice) => {
                    let endpoints = endpoints_of(slice);
                    state.slices.insert(name.clone(), endpoints.clone()) != Some(endpoints)
                }
                None => state.slices.remove(name).is_some(),
            };
            if is_changed {
                // The slice that API servers maintain comes first.
                let mut slices: Vec<_> = state.slices.iter().collect();
                slices.sort_by_key(|(name, _)| !is_api_server(name));
                let all = slices.into_iter().flat_map(|(_, endpoints)| endpoints);
                let all: Vec<SocketAddr> = all.copied().collect();
                if !all.is_empty() {
                    state.endpoints = few(all);
                }
            }
        }
    }

    /// Returns the ways in the order in which they are tried: first the one that worked last, then those
    /// without a failure, then the others, the one with the oldest failure first.
    pub(super) fn order(&self, configured: &Way, given: &[Way], learned: bool) -> Vec<Way> {
        let state = lock(&self.0);
        let endpoints = state.endpoints.iter().filter(|_| learned);
        let endpoints = endpoints.filter_map(|at| Way::endpoint(*at));
        let mut ways: Vec<Way> = Vec::new();
        let named: Vec<&Way> = std::iter::once(configured).chain(given).collect();
        ways.extend(endpoints.filter(|way| !named.iter().any(|named| named.leads_to(way))));
        for way in named {
            if !ways.contains(way) {
                ways.push(way.clone());
            }
        }
        ways.sort_by_key(|way| {
            let failed = state.failed.get(way).copied();
            (failed.is_some() || state.latest.as_ref() != Some(way), failed)
        });
        ways
    }

    /// Records that a way worked, and led to this peer, after these had failed.
    pub(super) fn worked(&self, way: &Way, peer: Option<SocketAddr>, failed: Vec<Failed>) {
        self.failed(&failed);
        let mut state = lock(&self.0);
        for (failed, error) in failed {
            if state.logged.get(&failed) != Some(&error) {
                let error = short(&error);
                tracing::warn!(way = %failed, error, "cannot reach the API server this way");
                state.logged.insert(failed, error);
            }
        }
        state.failed.remove(way);
        state.logged.remove(way);
        if let Some(peer) = peer {
            if state.peers.len() >= PEERS {
                state.peers.clear();
            }
            state.peers.insert(peer, way.kind);
        }
        if state.latest.as_ref() != Some(way) {
            tracing::info!(way = %way, "connected to the API server");
            state.latest = Some(way.clone());
        }
    }

    /// Records that these ways failed just now.
    pub(super) fn failed(&self, failed: &[Failed]) {
        let mut state = lock(&self.0);
        // Endpoints come and go, and the failures of former ones must not add up.
        if state.failed.len() >= PEERS {
            state.failed.clear();
            state.logged.clear();
        }
        for (way, _) in failed {
            state.failed.insert(way.clone(), Instant::now());
        }
    }

    /// Records that the way that worked last led to a connection on which a request had no answer.
    pub(super) fn unanswered(&self) {
        let mut state = lock(&self.0);
        if let Some(way) = state.latest.clone() {
            state.failed.insert(way, Instant::now());
        }
    }

    /// Returns the kind of way that led to a peer.
    pub(super) fn kind_of(&self, peer: SocketAddr) -> WayKind {
        lock(&self.0).peers.get(&peer).copied().unwrap_or(WayKind::Configuration)
    }
}

/// Returns the endpoints of a slice that may be API servers. `default/kubernetes` has one port.
fn endpoints_of(slice: &Slice) -> Vec<SocketAddr> {
    let ports = slice.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let ports: Vec<u16> = ports.map(|port| port.port).collect();
    let live = slice.endpoints.iter().filter(|(_, endpoint)| endpoint.ready || endpoint.serving);
    let all = live.flat_map(|(address, _)| ports.iter().map(move |port| (address, *port)));
    all.take(ENDPOINTS).map(SocketAddr::from).collect()
}

/// Returns each endpoint once, no more than are tried, beginning with a random one: agents that start at the
/// same time must not all begin with the same API server.
fn few(mut endpoints: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let mut known = HashSet::new();
    endpoints.retain(|endpoint| known.insert(*endpoint));
    endpoints.truncate(ENDPOINTS);
    let random = usize::try_from(RandomState::new().hash_one(()) >> 33).unwrap_or(0);
    let first = random % endpoints.len().max(1);
    endpoints.rotate_left(first);
    endpoints
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use svclb_core::model::{Endpoint, SlicePort};

    use super::*;

    fn way(kind: WayKind, url: &str) -> Way {
        Way::new(kind, url.parse().unwrap())
    }

    fn configured() -> Way {
        way(WayKind::Configuration, "https://10.96.0.1")
    }

    fn shown(ways: &Ways, given: &[Way], learned: bool) -> Vec<String> {
        let ways = ways.order(&configured(), given, learned);
        ways.iter().map(|way| way.url.authority().unwrap().to_string()).collect()
    }

    fn slice(name: &str, service: &str, addresses: &[&str]) -> Update {
        let endpoints = addresses.iter().map(|address| {
            let address: IpAddr = address.parse().unwrap();
            (address, Endpoint::default())
        });
        let slice = Slice {
            service: ObjectName::new("default", service),
            ports: [SlicePort { name: "https".into(), protocol: Protocol::Tcp, port: 6443 }].into(),
            endpoints: endpoints.collect(),
            triggered: None,
            omitted: None,
            notes: 0,
        };
        Update::Slice(ObjectName::new("default", name), Some(slice))
    }

    fn gone(name: &str) -> Update {
        Update::Slice(ObjectName::new("default", name), None)
    }

    #[test]
    fn endpoints_come_first_then_the_configured_address_then_the_flags() {
        let ways = Ways::default();
        let given = [way(WayKind::ApiServer, "https://192.0.2.1:6443")];
        assert_eq!(shown(&ways, &given, true), ["10.96.0.1", "192.0.2.1:6443"]);
        ways.learn(&[slice("kubernetes", "kubernetes", &["10.0.0.1"])]);
        assert_eq!(shown(&ways, &given, true), ["10.0.0.1:6443", "10.96.0.1", "192.0.2.1:6443"]);
        assert_eq!(shown(&ways, &given, false), ["10.96.0.1", "192.0.2.1:6443"]);
        // The same place twice is tried once.
        let given = [way(WayKind::ApiServer, "https://10.0.0.1:6443/"), configured()];
        assert_eq!(shown(&ways, &given[..1], true), ["10.96.0.1", "10.0.0.1:6443"]);
        assert_eq!(shown(&ways, &given[1..], true), ["10.0.0.1:6443", "10.96.0.1"]);
    }

    #[test]
    fn last_known_endpoints_are_kept_when_an_api_server_removes_its_own() {
        let ways = Ways::default();
        ways.remember(vec![SocketAddr::from(([10, 0, 0, 9], 6443))]);
        assert_eq!(shown(&ways, &[], true), ["10.0.0.9:6443", "10.96.0.1"]);
        ways.learn(&[slice("other-1", "other", &["10.0.0.7"])]);
        assert_eq!(shown(&ways, &[], true), ["10.0.0.9:6443", "10.96.0.1"]);
        ways.learn(&[slice("kubernetes", "kubernetes", &["10.0.0.1"])]);
        ways.learn(&[slice("kubernetes", "kubernetes", &[])]);
        ways.learn(&[gone("kubernetes")]);
        assert_eq!(shown(&ways, &[], true), ["10.0.0.1:6443", "10.96.0.1"]);
        ways.learn(&[slice("kubernetes", "kubernetes", &["10.0.0.2"])]);
        assert_eq!(shown(&ways, &[], true), ["10.0.0.2:6443", "10.96.0.1"]);
        ways.remember(vec![SocketAddr::from(([10, 0, 0, 9], 6443))]);
        assert_eq!(shown(&ways, &[], true), ["10.0.0.2:6443", "10.96.0.1"]);
    }

    #[test]
    fn many_endpoints_are_not_all_tried() {
        let ways = Ways::default();
        let many: Vec<String> = (0..200).map(|number| format!("10.1.0.{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        ways.learn(&[
            slice("a-tenant's", "kubernetes", &many),
            slice("kubernetes", "kubernetes", &["10.0.0.1"]),
        ]);
        let shown = shown(&ways, &[], true);
        assert_eq!(shown.len(), ENDPOINTS + 1);
        assert!(shown.contains(&"10.0.0.1:6443".to_owned()), "{shown:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn latest_working_way_comes_first_and_failed_ones_last() {
        let ways = Ways::default();
        let given = [way(WayKind::ApiServer, "https://192.0.2.1:6443")];
        let failed = |way: &Way| (way.clone(), "refused".to_owned());
        ways.worked(&given[0], None, vec![failed(&configured())]);
        assert_eq!(shown(&ways, &given, true), ["192.0.2.1:6443", "10.96.0.1"]);
        tokio::time::advance(std::time::Duration::from_secs(1)).await;
        ways.unanswered();
        assert_eq!(shown(&ways, &given, true), ["10.96.0.1", "192.0.2.1:6443"]);
        ways.learn(&[slice("kubernetes", "kubernetes", &["10.0.0.1"])]);
        assert_eq!(shown(&ways, &given, true), ["10.0.0.1:6443", "10.96.0.1", "192.0.2.1:6443"]);
    }
}
