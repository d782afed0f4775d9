//! Random Services and slices, with so few names and addresses that they often conflict.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use svclb_common::layout::{FrontendKey, ServiceNotes};

use crate::catalog::Catalog;
use crate::compile::Desired;
use crate::model::{
    Endpoint, Families, Node, ObjectName, Protocol, Service, ServiceKey, ServicePort, Slice,
    SlicePort, TrafficPolicy, Update,
};

/// Backends of a frontend, as text.
pub(super) type Routes = BTreeMap<FrontendKey, BTreeSet<String>>;

/// A change of the cluster.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A Service object is created or changed.
    Service(Spec),
    /// A Service object is deleted.
    Gone(u8),
    /// The endpoints of a Service: for each of several addresses none, or its state.
    Endpoints { name: u8, states: Vec<u8> },
    /// The own node has this zone and these addresses; or its object is deleted.
    Node(Option<(Option<u8>, Vec<u8>)>),
    /// The chosen interfaces have these addresses; or the node's own addresses count.
    Interfaces(Option<Vec<u8>>),
    /// A source lists one kind of objects again; the one of this name was deleted meanwhile.
    Relist(ObjectKind, u8),
}

/// The kinds of objects, each of which a source may list again by itself.
#[derive(Clone, Copy, Debug)]
pub(super) enum ObjectKind {
    Service,
    Slice,
    Node,
}

/// A Service object in a few numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Spec {
    pub(super) name: u8,
    /// ClusterIPs.
    pub(super) ips: Vec<u8>,
    pub(super) external: Option<u8>,
    pub(super) balancer: Option<u8>,
    /// Its load balancer addresses have source ranges: 1 of IPv4, 2 of IPv6.
    pub(super) ranges: u8,
    /// Indices of its ports in `PORTS`.
    pub(super) ports: Vec<u8>,
    /// Its ports have node ports, from this number.
    pub(super) node_port: Option<u16>,
    pub(super) age: u8,
    /// `internalTrafficPolicy: Local`.
    pub(super) local: bool,
    /// `externalTrafficPolicy: Local`.
    pub(super) external_local: bool,
    /// Seconds of session affinity, 0 for none.
    pub(super) affinity: u8,
    pub(super) sctp: bool,
}

fn spec() -> impl Strategy<Value = Spec> {
    let addresses = (
        proptest::collection::vec(0..5_u8, 1..3),
        proptest::option::of(0..3_u8),
        proptest::option::of(0..4_u8),
        0..4_u8,
    );
    let ports = (
        proptest::collection::vec(0..3_u8, 1..3),
        proptest::option::of(prop_oneof![Just(80_u16), Just(30_080)]),
    );
    let policies = (any::<bool>(), any::<bool>());
    (0..4_u8, addresses, ports, 0..3_u8, policies, 0..3_u8, any::<bool>()).prop_map(
        |(
            name,
            (ips, external, balancer, ranges),
            (ports, node_port),
            age,
            (local, external_local),
            affinity,
            sctp,
        )| {
            Spec {
                name,
                ips,
                external,
                balancer,
                ranges,
                ports,
                node_port,
                age,
                local,
                external_local,
                affinity,
                sctp,
            }
        },
    )
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    let name = || 0..4_u8;
    let addresses = || proptest::collection::vec(0..5_u8, 0..3);
    let kind =
        prop_oneof![Just(ObjectKind::Service), Just(ObjectKind::Slice), Just(ObjectKind::Node),];
    let node = proptest::option::weighted(0.8, (proptest::option::of(0..2_u8), addresses()));
    prop_oneof![
        6 => spec().prop_map(Event::Service),
        2 => name().prop_map(Event::Gone),
        8 => (name(), proptest::collection::vec(0..8_u8, 0..7))
            .prop_map(|(name, states)| Event::Endpoints { name, states }),
        2 => node.prop_map(Event::Node),
        1 => proptest::option::of(addresses()).prop_map(Event::Interfaces),
        2 => (kind, name()).prop_map(|(kind, name)| Event::Relist(kind, name)),
    ]
}

/// The report of a source about an event.
pub(super) enum Report {
    Change(Update),
    /// All objects of a kind.
    Changes(Vec<Update>),
}

impl Report {
    pub(super) fn apply_to(self, catalog: &mut Catalog) {
        match self {
            Self::Change(update) => catalog.apply(update),
            Self::Changes(updates) => {
                updates.into_iter().for_each(|update| catalog.apply(update));
            }
        }
    }
}

/// The state of the cluster, which turns events into updates.
#[derive(Default)]
pub(super) struct World {
    services: BTreeMap<u8, Update>,
    slices: BTreeMap<u8, Update>,
    node: Option<Update>,
    interfaces: Option<Update>,
}

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

const ZONES: [&str; 2] = ["a", "b"];

impl World {
    pub(super) fn change(&mut self, event: &Event) -> Report {
        let update = match event {
            Event::Gone(name) => {
                self.services.remove(name);
                Update::Service(object(*name), None)
            }
            Event::Service(spec) => {
                let update = Update::Service(object(spec.name), Some(service(spec)));
                self.services.insert(spec.name, update.clone());
                update
            }
            Event::Endpoints { name, states } => {
                let update = Update::Slice(object(*name), Some(slice(*name, states)));
                self.slices.insert(*name, update.clone());
                update
            }
            Event::Node(is) => {
                let node = |(zone, addresses): &(Option<u8>, Vec<u8>)| Node {
                    name: "here".into(),
                    zone: zone.map(|zone| ZONES[zone as usize].into()),
                    addresses: addresses.iter().map(|number| cluster_ip(*number)).collect(),
                    is_leaving: false,
                };
                let update = Update::Node(is.as_ref().map(node));
                self.node = Some(update.clone());
                update
            }
            Event::Interfaces(are) => {
                let addresses = are.as_ref().map(|numbers| {
                    numbers.iter().map(|number| cluster_ip(*number)).collect::<Vec<_>>()
                });
                let update = Update::Interfaces(addresses);
                self.interfaces = Some(update.clone());
                update
            }
            Event::Relist(kind, without) => {
                let name = object(*without);
                let gone = match kind {
                    ObjectKind::Service => {
                        self.services.remove(without);
                        Some(Update::Service(name, None))
                    }
                    ObjectKind::Slice => {
                        self.slices.remove(without);
                        Some(Update::Slice(name, None))
                    }
                    ObjectKind::Node if *without == 0 => {
                        self.node = None;
                        Some(Update::Node(None))
                    }
                    ObjectKind::Node => None,
                };
                // A source hands on the differences; equal objects change nothing.
                return Report::Changes(gone.into_iter().chain(self.all(*kind)).collect());
            }
        };
        Report::Change(update)
    }

    fn all(&self, kind: ObjectKind) -> Vec<Update> {
        match kind {
            ObjectKind::Service => self.services.values().cloned().collect(),
            ObjectKind::Slice => self.slices.values().cloned().collect(),
            ObjectKind::Node => self.node.iter().cloned().collect(),
        }
    }

    /// Applies the whole state to a catalog that has none.
    pub(super) fn apply_to(&self, catalog: &mut Catalog) {
        let kinds = [ObjectKind::Node, ObjectKind::Slice, ObjectKind::Service];
        let all = kinds.into_iter().flat_map(|kind| self.all(kind));
        all.chain(self.interfaces.clone()).for_each(|update| catalog.apply(update));
    }
}

fn service(spec: &Spec) -> Service {
    let numbers: BTreeSet<u8> = spec.ports.iter().copied().collect();
    let port = |number: u8| {
        let (name, protocol, port) = PORTS[number as usize];
        let node_port = spec.node_port.map(|first| first + u16::from(number));
        ServicePort { name: name.into(), protocol, port, node_port }
    };
    // A Service cannot have two ports of one number and protocol.
    let mut ports: Vec<ServicePort> = numbers.into_iter().map(port).collect();
    ports.dedup_by_key(|port| (port.protocol, port.port));
    let addresses =
        |numbers: &[u8]| numbers.iter().map(|number| cluster_ip(*number)).collect::<Vec<_>>();
    let policy = |is_local| if is_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    Service {
        created: Some(i64::from(spec.age)),
        cluster_ips: addresses(&spec.ips),
        external_ips: addresses(spec.external.as_slice()),
        load_balancer_ips: addresses(spec.balancer.as_slice()),
        source_ranges: Families { v4: spec.ranges == 1, v6: spec.ranges == 2 },
        internal_policy: policy(spec.local),
        external_policy: policy(spec.external_local),
        affinity_seconds: Some(u32::from(spec.affinity)).filter(|seconds| *seconds > 0),
        notes: if spec.sctp { ServiceNotes::SCTP } else { 0 },
        omitted: None,
        ports,
    }
}

fn slice(name: u8, states: &[u8]) -> Slice {
    let endpoints = states.iter().enumerate().filter_map(|(at, state)| {
        let at = u8::try_from(at).ok()?;
        endpoint(at, *state)
    });
    let port = |(name, protocol, _): (&str, Protocol, u16)| SlicePort {
        name: name.into(),
        protocol,
        port: 8080,
    };
    Slice {
        service: object(name),
        ports: PORTS.map(port).into(),
        endpoints: endpoints.collect(),
        triggered: None,
        omitted: None,
        notes: 0,
    }
}

/// Addresses are shared by all Services, as they are when Services select the same pods.
fn endpoint(at: u8, state: u8) -> Option<(IpAddr, Endpoint)> {
    let address = if at.is_multiple_of(2) {
        IpAddr::from([10, 244, 0, at])
    } else {
        IpAddr::from([0xfd00, 0x244, 0, 0, 0, 0, 0, u16::from(at)])
    };
    let (ready, serving, terminating) = match state {
        0 => return None,
        1 | 2 | 5 | 6 | 7 => (true, true, false),
        3 => (false, true, true),
        _ => (false, false, false),
    };
    let node = Some(if at < 4 { "here".into() } else { "there".into() });
    let zone_hints = match state {
        5 => [ZONES[0].into()].into(),
        6 => [ZONES[1].into()].into(),
        _ => Box::default(),
    };
    let node_hints = if state == 7 { ["here".into()].into() } else { Box::default() };
    Some((address, Endpoint { ready, serving, terminating, node, node_hints, zone_hints }))
}

/// The backends that each frontend should have.
pub(super) fn routes(catalog: &Catalog) -> Routes {
    let mut routes = Routes::new();
    for object in catalog.objects() {
        for desired in catalog.desired(object) {
            for frontend in &desired.frontends {
                let slots = desired.sets[frontend.set].iter();
                let backends =
                    slots.map(|slot| format!("{}:{}", slot.address, slot.port)).collect();
                assert!(routes.insert(frontend.key, backends).is_none(), "two owners");
            }
        }
    }
    routes
}

/// The backends that each service would give the frontends that it claims.
pub(super) fn claims(catalog: &Catalog) -> BTreeMap<ServiceKey, Routes> {
    let all = |object| catalog.claimed(object);
    let of = |desired: &Desired| {
        let frontends = desired.frontends.iter();
        let backends = |set: usize| {
            let slots = desired.sets[set].iter();
            slots.map(|slot| format!("{}:{}", slot.address, slot.port)).collect()
        };
        frontends.map(|frontend| (frontend.key, backends(frontend.set))).collect()
    };
    catalog.objects().flat_map(all).map(|desired| (desired.key.clone(), of(&desired))).collect()
}

/// The traits of a line: all but its backends.
pub(super) fn traits(key: &FrontendKey, flags: u16, affinity_seconds: u32) -> String {
    format!("{key:?} {flags} {affinity_seconds}")
}

/// The readable rows, without ids: service, its frontends' traits, and its members with their sets.
pub(super) fn rows(catalog: &Catalog) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for object in catalog.objects() {
        for desired in catalog.desired(object) {
            let (frontends, notes) = (desired.frontends.len(), desired.row.notes);
            rows.insert(format!("{} {frontends} {notes}", desired.key));
            for it in &desired.frontends {
                rows.insert(traits(&it.key, it.flags, it.affinity_seconds));
            }
            for (address, port, row) in &desired.members {
                rows.insert(format!("{} {address}:{port} {row:?}", desired.key));
            }
        }
    }
    rows
}
