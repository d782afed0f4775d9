//! Random Services and slices: few names and addresses, so that they meet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use svclb_common::layout::FrontendKey;

use crate::catalog::Catalog;
use crate::model::{
    Endpoint, ObjectName, Protocol, Service, ServicePort, Slice, SlicePort, TrafficPolicy, Update,
};

/// Backends of a frontend, as text.
pub(super) type Routes = BTreeMap<FrontendKey, BTreeSet<String>>;

/// What happens to one Service object.
#[derive(Clone, Debug)]
pub(super) enum Deed {
    /// It is (again) like this: which ClusterIPs, which external IP, which ports, how old, local.
    Service { name: u8, ips: Vec<u8>, external: Option<u8>, ports: Vec<u8>, age: u8, local: bool },
    /// It goes.
    Gone(u8),
    /// Its endpoints: for each of several addresses none, ready, terminating or unready.
    Endpoints { name: u8, states: Vec<u8> },
}

pub(super) fn deed() -> impl Strategy<Value = Deed> {
    let name = || 0..4_u8;
    let service = (
        name(),
        proptest::collection::vec(0..5_u8, 1..3),
        proptest::option::of(0..3_u8),
        proptest::collection::vec(0..3_u8, 1..3),
        0..3_u8,
        any::<bool>(),
    );
    prop_oneof![
        3 => service.prop_map(|(name, ips, external, ports, age, local)| Deed::Service {
            name, ips, external, ports, age, local
        }),
        1 => name().prop_map(Deed::Gone),
        4 => (name(), proptest::collection::vec(0..5_u8, 0..7))
            .prop_map(|(name, states)| Deed::Endpoints { name, states }),
    ]
}

/// Makes updates of deeds.
#[derive(Default)]
pub(super) struct World;

fn object(name: u8) -> ObjectName {
    ObjectName::new("default", &format!("s{name}"))
}

/// Even numbers are IPv4, odd ones IPv6.
fn cluster_ip(number: u8) -> IpAddr {
    if number.is_multiple_of(2) {
        IpAddr::from([10, 96, 0, number])
    } else {
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)])
    }
}

const PORTS: [(&str, Protocol, u16); 3] =
    [("http", Protocol::Tcp, 80), ("web", Protocol::Tcp, 80), ("dns", Protocol::Udp, 80)];

impl World {
    pub(super) fn change(&mut self, deed: &Deed) -> Vec<Update> {
        match deed {
            Deed::Gone(name) => vec![Update::Service(object(*name), None)],
            Deed::Service { name, ips, external, ports, age, local } => {
                let numbers: BTreeSet<u8> = ports.iter().copied().collect();
                let port = |number: u8| {
                    let (name, protocol, port) = PORTS[number as usize];
                    ServicePort { name: name.into(), protocol, port, node_port: None }
                };
                // A Service cannot have two ports of one number and protocol.
                let mut ports: Vec<ServicePort> = numbers.into_iter().map(port).collect();
                ports.dedup_by_key(|port| (port.protocol, port.port));
                let policy = if *local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
                let service = Service {
                    created: Some(i64::from(*age)),
                    cluster_ips: ips.iter().map(|ip| cluster_ip(*ip)).collect(),
                    external_ips: external.iter().map(|ip| cluster_ip(*ip)).collect(),
                    load_balancer_ips: Vec::new(),
                    source_ranges: false,
                    internal_policy: policy,
                    external_policy: TrafficPolicy::Cluster,
                    affinity_seconds: None,
                    ports,
                };
                vec![Update::Service(object(*name), Some(service))]
            }
            Deed::Endpoints { name, states } => {
                let endpoints = states.iter().enumerate().filter_map(|(at, state)| {
                    let at = u8::try_from(at).ok()?;
                    endpoint(at, *state)
                });
                let port = |(name, protocol, _): (&str, Protocol, u16)| SlicePort {
                    name: name.into(),
                    protocol,
                    port: 8080,
                };
                let slice = Slice {
                    service: object(*name),
                    ports: PORTS.map(port).to_vec(),
                    endpoints: endpoints.collect(),
                };
                vec![Update::Slice(object(*name), Some(slice))]
            }
        }
    }
}

/// Addresses are shared by all Services, as they are when Services select the same pods.
fn endpoint(at: u8, state: u8) -> Option<Endpoint> {
    let address = if at.is_multiple_of(2) {
        IpAddr::from([10, 244, 0, at])
    } else {
        IpAddr::from([0xfd00, 0x244, 0, 0, 0, 0, 0, u16::from(at)])
    };
    let (ready, serving, terminating) = match state {
        0 => return None,
        1 | 2 => (true, true, false),
        3 => (false, true, true),
        _ => (false, false, false),
    };
    let node = Some(if at < 4 { "here".into() } else { "there".into() });
    let (node_hints, zone_hints) = (Vec::new(), Vec::new());
    Some(Endpoint { address, ready, serving, terminating, node, node_hints, zone_hints })
}

/// Where each frontend should go.
pub(super) fn routes(catalog: &Catalog) -> Routes {
    let mut routes = Routes::new();
    for object in catalog.objects() {
        for desired in catalog.desired(object) {
            for frontend in &desired.frontends {
                let slots = desired.sets[frontend.set].iter();
                let backends =
                    slots.map(|slot| format!("{}:{}", slot.address, slot.port)).collect();
                assert!(routes.insert(frontend.key, backends).is_none(), "two holders");
            }
        }
    }
    routes
}

/// The readable rows, without ids: service, and its members with their sets.
pub(super) fn rows(catalog: &Catalog) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for object in catalog.objects() {
        for desired in catalog.desired(object) {
            rows.insert(format!("{} {}", desired.key, desired.frontends.len()));
            for (address, port, row) in &desired.members {
                rows.insert(format!("{} {address}:{port} {row:?}", desired.key));
            }
        }
    }
    rows
}
