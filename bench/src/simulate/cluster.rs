//! Generates the objects and events of a large cluster. The same seed gives the same events.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use svclb_core::model::{
    Endpoint, ObjectName, Protocol, Service, ServicePort, Slice, SlicePort, Update,
};

/// Number of endpoints that the controller puts into one slice.
const SLICE: usize = 100;
/// Number of zones.
const ZONES: usize = 3;
/// Number of Services with the most endpoints. The sizes of the others decrease with their number.
const LARGE: usize = 500;

/// Size of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size {
    /// Number of nodes.
    pub(super) nodes: usize,
    /// Number of Services.
    pub(super) services: usize,
    /// Number of endpoints of each large Service.
    pub(super) endpoints: usize,
}

/// A pod behind a Service.
#[derive(Clone, Copy, Debug)]
struct Pod {
    number: u32,
    node: usize,
    is_ready: bool,
}

/// The cluster.
pub(super) struct Cluster {
    size: Size,
    dice: ChaCha8Rng,
    /// The pods of each Service, slice by slice.
    slices: Vec<Vec<Vec<Pod>>>,
    /// The endpoint of a ready and of an unready pod on each node, without its address.
    templates: Vec<[Arc<Endpoint>; 2]>,
    namespace: Arc<str>,
    port: Arc<str>,
    next_pod: u32,
}

impl Cluster {
    /// Generates a cluster in which all pods are ready.
    pub(super) fn new(size: Size, seed: u64) -> Self {
        let template = |node: usize| {
            let name: Arc<str> = format!("node-{node}").into();
            [true, false].map(|ready| {
                let node = Some(Arc::clone(&name));
                Arc::new(Endpoint { ready, serving: ready, node, ..Endpoint::default() })
            })
        };
        let mut cluster = Self {
            size,
            dice: ChaCha8Rng::seed_from_u64(seed),
            slices: Vec::new(),
            templates: (0..size.nodes).map(template).collect(),
            namespace: "default".into(),
            port: "http".into(),
            next_pod: 0,
        };
        for service in 0..size.services {
            let count = match service.checked_sub(LARGE) {
                None => size.endpoints,
                Some(behind) => (size.endpoints * LARGE / (LARGE + behind)).max(1),
            };
            let pods: Vec<Pod> = (0..count).map(|_| cluster.pod()).collect();
            cluster.slices.push(pods.chunks(SLICE).map(<[Pod]>::to_vec).collect());
        }
        cluster
    }

    /// Returns the number of pods of all Services.
    pub(super) fn endpoints(&self) -> usize {
        self.slices.iter().flatten().map(Vec::len).sum()
    }

    /// Returns the number of ready pods.
    pub(super) fn ready(&self) -> usize {
        self.slices.iter().flatten().flatten().filter(|pod| pod.is_ready).count()
    }

    fn pod(&mut self) -> Pod {
        self.next_pod += 1;
        Pod {
            number: self.next_pod,
            node: self.dice.random_range(0..self.size.nodes),
            is_ready: true,
        }
    }

    /// Returns all objects.
    pub(super) fn objects(&self) -> Vec<Update> {
        let mut objects = Vec::new();
        for service in 0..self.size.services {
            objects.push(self.service(service));
            objects.extend((0..self.slices[service].len()).map(|slice| self.slice(service, slice)));
        }
        objects
    }

    /// Rolls out Deployments at the same time: for each pod a new one is added, then the old one is removed.
    /// Each of these is an event of a slice.
    pub(super) fn restart(&mut self, services: usize, mut event: impl FnMut(Update)) {
        let mut all: Vec<usize> = (0..self.size.services).collect();
        all.shuffle(&mut self.dice);
        all.truncate(services);
        let most = all.iter().map(|service| self.pods(*service)).max().unwrap_or_default();
        for turn in 0..most {
            for service in &all {
                let slices = self.slices[*service].len();
                let slice = turn % slices;
                if turn / slices >= self.slices[*service][slice].len() {
                    continue;
                }
                let pod = self.pod();
                self.slices[*service][slice].push(pod);
                event(self.slice(*service, slice));
                self.slices[*service][slice].remove(0);
                event(self.slice(*service, slice));
            }
        }
    }

    /// Loses a zone: all pods on its nodes become unready, node by node. Each pod is an event of its slice.
    pub(super) fn lose_zone(&mut self, mut event: impl FnMut(Update)) {
        let mut of_node: Vec<Vec<(usize, usize, usize)>> = vec![Vec::new(); self.size.nodes];
        for (service, slices) in self.slices.iter().enumerate() {
            for (slice, pods) in slices.iter().enumerate() {
                for (at, pod) in pods.iter().enumerate() {
                    of_node[pod.node].push((service, slice, at));
                }
            }
        }
        for pods in of_node.into_iter().step_by(ZONES) {
            for (service, slice, at) in pods {
                self.slices[service][slice][at].is_ready = false;
                event(self.slice(service, slice));
            }
        }
    }

    fn pods(&self, service: usize) -> usize {
        self.slices[service].iter().map(Vec::len).sum()
    }

    fn name(&self, service: usize) -> ObjectName {
        let name = format!("service-{service}").into();
        ObjectName { namespace: Arc::clone(&self.namespace), name }
    }

    fn service(&self, number: usize) -> Update {
        let [_, _, high, low] = u32::try_from(number + 1).unwrap_or_default().to_be_bytes();
        let port = ServicePort {
            name: Arc::clone(&self.port),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        };
        let service = Service {
            created: Some(0),
            cluster_ips: vec![IpAddr::from([10, 96, high, low])],
            ports: vec![port],
            ..Service::default()
        };
        Update::Service(self.name(number), Some(service))
    }

    fn slice(&self, service: usize, number: usize) -> Update {
        let endpoint = |pod: &Pod| {
            let address = Ipv4Addr::from_bits((11 << 24) | pod.number);
            let template = &self.templates[pod.node][usize::from(!pod.is_ready)];
            (IpAddr::from(address), Arc::clone(template))
        };
        let port = SlicePort { name: Arc::clone(&self.port), protocol: Protocol::Tcp, port: 8080 };
        let slice = Slice {
            service: self.name(service),
            ports: [port].into(),
            endpoints: self.slices[service][number].iter().map(endpoint).collect(),
            triggered: None,
            omitted: None,
            notes: 0,
        };
        let name = format!("service-{service}-{number}").into();
        Update::Slice(ObjectName { namespace: Arc::clone(&self.namespace), name }, Some(slice))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { nodes: 30, services: 600, endpoints: 250 };

    fn events(seed: u64) -> Vec<Update> {
        let mut cluster = Cluster::new(SIZE, seed);
        let mut events = cluster.objects();
        cluster.restart(5, |event| events.push(event));
        cluster.lose_zone(|event| events.push(event));
        events
    }

    #[test]
    fn the_same_seed_gives_the_same_events() {
        let first = events(1);
        assert_eq!(first, events(1));
        assert_ne!(first, events(2));
    }

    #[test]
    fn a_restart_keeps_the_number_of_pods_and_a_lost_zone_makes_a_third_unready() {
        let mut cluster = Cluster::new(SIZE, 1);
        let before = cluster.endpoints();
        let mut events = 0;
        cluster.restart(5, |_| events += 1);
        assert!(events >= 2 * 5 && cluster.endpoints() == before, "{events} events");
        cluster.lose_zone(|_| {});
        let share = cluster.ready() * 100 / before;
        assert!((60..=73).contains(&share), "{share} % are ready");
    }
}
