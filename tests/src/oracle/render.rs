//! Renders a world as objects of the Kubernetes API.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::address_block::{AddressBlock, NODE, OTHER_NODE, node};
use super::world::{
    Addresses, Endpoint, Family, Ingress, Label, Mode, Place, SERVICES, Service, Slice, Transport,
    Type, World,
};
use crate::Protocol;

/// Label of an EndpointSlice with the name of its Service.
const OWNER: &str = "kubernetes.io/service-name";
/// The zone label of a Node.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// The objects of a world.
#[derive(Clone, Debug)]
pub(crate) struct Objects {
    /// The Services, without their status.
    pub(crate) services: Vec<Value>,
    /// Patches of the status of some Services, with the index into `services`.
    pub(crate) statuses: Vec<(usize, Value)>,
    /// The EndpointSlices.
    pub(crate) slices: Vec<Value>,
}

/// The name of a Service with this index.
pub(crate) fn name(service: usize) -> String {
    format!("s{service}")
}

/// The two points in time at which a world's objects are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// The past of the world.
    Before,
    /// The world itself.
    Now,
}

/// Renders the objects of a world with its addresses.
pub(crate) fn objects(world: &World, block: AddressBlock, when: When) -> Objects {
    assert!(world.services.len() <= SERVICES, "a world has at most SERVICES Services");
    let each = || {
        let all = world.services.iter().enumerate();
        all.filter_map(move |(at, service)| match when {
            When::Before => Some((at, service.before()?)),
            When::Now => Some((at, service)),
        })
    };
    // Only the status of a load balancer can be written; the API server clears that of a former one.
    let with_status = each().enumerate().filter(|(_, (_, it))| it.kind == Type::LoadBalancer);
    Objects {
        services: each().map(|(at, it)| service(it, at, block)).collect(),
        statuses: with_status.map(|(place, (at, it))| (place, status(it, at, block))).collect(),
        slices: each()
            .flat_map(|(at, service)| {
                let slices = service.slices.iter().enumerate();
                slices.map(move |(number, it)| slice(it, number, service, at, block))
            })
            .collect(),
    }
}

/// The Kubernetes namespace of a block of addresses.
pub(crate) fn namespace(block: AddressBlock) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": block.namespace() } })
}

/// The Node object, with or without a zone.
pub(crate) fn node_object(has_zone: bool) -> Value {
    let mut labels = Map::new();
    if has_zone {
        labels.insert(ZONE.to_owned(), zone(Place::Here).into());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": NODE, "labels": labels },
    })
}

/// The Node's status with its addresses.
pub(crate) fn node_status() -> Value {
    let addresses = Family::ALL
        .map(|family| json!({ "type": "InternalIP", "address": node(family).to_string() }));
    json!({ "status": { "addresses": addresses } })
}

/// The whole world as YAML, for reading and for `kubectl apply`.
pub(crate) fn yaml(world: &World, block: AddressBlock, when: When) -> String {
    let mut all = objects(world, block, when);
    for (at, status) in &all.statuses {
        all.services[*at]["status"] = status["status"].clone();
    }
    let mut node = node_object(world.has_zone == (when == When::Now));
    node["status"] = node_status()["status"].clone();
    let documents = [vec![node, namespace(block)], all.services, all.slices].concat();
    let written = documents.iter().map(|document| {
        serde_saphyr::to_string(document).unwrap_or_else(|error| format!("# {error}\n"))
    });
    written.map(|text| format!("---\n{text}")).collect()
}

fn service(service: &Service, at: usize, block: AddressBlock) -> Value {
    let mut spec = Map::new();
    let mut set = |name: &str, value: Value| {
        spec.insert(name.to_owned(), value);
    };
    let families: Vec<&str> = service.families.iter().map(|family| name_of(*family)).collect();
    match service.kind {
        Type::ExternalName => {
            set("type", "ExternalName".into());
            set("externalName", "name.example".into());
        }
        Type::Headless => {
            set("clusterIP", "None".into());
            set("clusterIPs", json!(["None"]));
        }
        kind => {
            let ip = |family: &Family| block.cluster_ip(at, *family).to_string();
            let ips: Vec<String> = service.families.iter().map(ip).collect();
            set("type", type_name(kind).into());
            set("clusterIP", ips[0].clone().into());
            set("clusterIPs", ips.into());
        }
    }
    if service.kind != Type::ExternalName {
        set(
            "ipFamilyPolicy",
            if families.len() > 1 { "RequireDualStack" } else { "SingleStack" }.into(),
        );
        set("ipFamilies", families.into());
        set("internalTrafficPolicy", policy(service.is_internal_local));
        set("publishNotReadyAddresses", service.publishes_not_ready.into());
    }
    if service.has_external_policy() {
        set("externalTrafficPolicy", policy(service.is_external_local));
    }
    if service.kind == Type::LoadBalancer {
        set("allocateLoadBalancerNodePorts", service.has_node_ports.into());
        set("loadBalancerSourceRanges", service.ranges.clone().into());
    }
    if let (true, Some(seconds)) = (service.has_cluster_ip(), service.affinity) {
        set("sessionAffinity", "ClientIP".into());
        set("sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": seconds } }));
    }
    let external = service.external.iter();
    let external: Vec<String> =
        external.map(|it| block.external_ip(at, it.is_shared, it.family).to_string()).collect();
    set("externalIPs", external.into());
    let ports = service.ports.iter().map(|port| {
        json!({
            "name": port.name,
            "protocol": transport(port.protocol),
            "port": port.number,
            // Proxies do not read it, and no host listens on it.
            "targetPort": 9,
        })
    });
    set("ports", ports.collect());
    let labels = match service.label {
        None => json!({}),
        Some(Label::ProxyName) => json!({ "service.kubernetes.io/service-proxy-name": "other" }),
        Some(Label::Headless) => json!({ "service.kubernetes.io/headless": "" }),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": block.namespace(), "name": name(at), "labels": labels },
        "spec": spec,
    })
}

fn status(service: &Service, at: usize, block: AddressBlock) -> Value {
    let ingress = service.ingress.iter().enumerate().map(|(number, ingress)| match ingress {
        Ingress::Name => json!({ "hostname": "balancer.example" }),
        Ingress::Address(family, mode) => {
            let mut entry = json!({ "ip": block.balancer(at, number, *family).to_string() });
            if let Some(mode) = mode {
                entry["ipMode"] = if *mode == Mode::Vip { "VIP" } else { "Proxy" }.into();
            }
            entry
        }
    });
    json!({ "status": { "loadBalancer": { "ingress": ingress.collect::<Vec<_>>() } } })
}

fn slice(slice: &Slice, number: usize, service: &Service, at: usize, block: AddressBlock) -> Value {
    let mut labels = Map::new();
    labels.insert("endpointslice.kubernetes.io/managed-by".to_owned(), "svclb-tests".into());
    if slice.is_owned {
        labels.insert(OWNER.to_owned(), name(at).into());
    }
    if slice.is_headless {
        labels.insert("service.kubernetes.io/headless".to_owned(), "".into());
    }
    let endpoints = slice.endpoints.iter().map(|host_ref| {
        let host = &service.hosts[host_ref.host];
        let state = if host_ref.is_dying { &host.dying } else { &host.alive };
        let second = (service.hosts.len() + 1) % super::world::HOSTS;
        let address = |host| match slice.addresses {
            Addresses::Of(family) => block.host(at, host, family).to_string(),
            Addresses::Names => format!("host-{host}.example"),
        };
        let mut addresses = vec![address(host_ref.host)];
        if host_ref.has_second && second != host_ref.host {
            addresses.push(address(second));
        }
        endpoint(state, &addresses)
    });
    let ports = slice.ports.iter().map(|port| {
        let mut entry = json!({ "protocol": transport(port.protocol) });
        if let Some(name) = port.name {
            entry["name"] = name.into();
        }
        if let Some(number) = port.number {
            entry["port"] = number.into();
        }
        entry
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": block.namespace(),
            // The address type is part of the name, because it cannot change.
            "name": format!("{}-{number}-{}", name(at), address_type(slice).to_lowercase()),
            "labels": labels,
        },
        "addressType": address_type(slice),
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn endpoint(state: &Endpoint, addresses: &[String]) -> Value {
    let mut conditions = Map::new();
    for (name, value) in
        [("ready", state.ready), ("serving", state.serving), ("terminating", state.terminating)]
    {
        if let Some(value) = value {
            conditions.insert(name.to_owned(), value.into());
        }
    }
    let mut entry = json!({ "addresses": addresses, "conditions": conditions });
    if let Some(place) = state.node {
        entry["nodeName"] = node_name(place).into();
    }
    let named = |places: &[Place], name: fn(Place) -> &'static str| -> Value {
        places.iter().map(|place| json!({ "name": name(*place) })).collect()
    };
    let mut hints = Map::new();
    if !state.zone_hints.is_empty() {
        hints.insert("forZones".to_owned(), named(&state.zone_hints, zone));
    }
    if !state.node_hints.is_empty() {
        hints.insert("forNodes".to_owned(), named(&state.node_hints, node_name));
    }
    if !hints.is_empty() {
        entry["hints"] = hints.into();
    }
    entry
}

fn address_type(slice: &Slice) -> &'static str {
    match slice.addresses {
        Addresses::Of(family) => name_of(family),
        Addresses::Names => "FQDN",
    }
}

fn name_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn type_name(kind: Type) -> &'static str {
    match kind {
        Type::Cluster | Type::Headless => "ClusterIP",
        Type::NodePort => "NodePort",
        Type::LoadBalancer => "LoadBalancer",
        Type::ExternalName => "ExternalName",
    }
}

fn policy(is_local: bool) -> Value {
    if is_local { "Local" } else { "Cluster" }.into()
}

fn transport(protocol: Transport) -> &'static str {
    match protocol {
        Transport::Of(Protocol::Tcp) => "TCP",
        Transport::Of(Protocol::Udp) => "UDP",
        Transport::Sctp => "SCTP",
    }
}

fn node_name(place: Place) -> &'static str {
    match place {
        Place::Here => NODE,
        Place::There => OTHER_NODE,
    }
}

fn zone(place: Place) -> &'static str {
    match place {
        Place::Here => "zone-here",
        Place::There => "zone-there",
    }
}

/// A marker: a dual-stack Service whose slices have one endpoint with a hint for this node's zone and
/// one with a hint for another zone. A proxy that serves it has seen everything written before, and the
/// node's zone.
pub(crate) fn marker_objects(block: AddressBlock, port: u16) -> Vec<Value> {
    let ips = Family::ALL.map(|family| block.cluster_ip(0, family).to_string());
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "namespace": block.namespace(), "name": name(0) },
        "spec": {
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "ipFamilyPolicy": "RequireDualStack",
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{ "port": port, "protocol": "TCP" }],
        },
    });
    let slices = Family::ALL.map(|family| {
        let endpoint = |host, place| {
            let state = Endpoint { zone_hints: vec![place], ..Endpoint::default() };
            endpoint(&state, &[block.host(0, host, family).to_string()])
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": block.namespace(),
                "name": format!("marker-{}", name_of(family).to_lowercase()),
                "labels": { OWNER: name(0) },
            },
            "addressType": name_of(family),
            "ports": [{ "name": "", "protocol": "TCP", "port": super::generate::LISTENING[0] }],
            "endpoints": [endpoint(0, Place::Here), endpoint(1, Place::There)],
        })
    });
    [vec![namespace(block), service], slices.to_vec()].concat()
}

/// The addresses of the marker's endpoints: with the hint for this node's zone, and for another zone.
pub(crate) fn marker_hosts(block: AddressBlock, family: Family) -> [IpAddr; 2] {
    [block.host(0, 0, family), block.host(0, 1, family)]
}
