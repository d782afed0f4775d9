//! The addresses, ports and backends that an object names, read from its JSON in the plainest way, without any
//! code that is tested. It may find more of them than count, never fewer.
#![allow(dead_code, unreachable_pub, reason = "the fuzz targets use it too, and another part")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

/// Returns true when an object has this namespace and name.
pub fn is(object: &Value, namespace: &str, name: &str) -> bool {
    let metadata = &object["metadata"];
    let own = metadata["namespace"].as_str().filter(|own| !own.is_empty()).unwrap_or("default");
    metadata["name"].as_str() == Some(name) && own == namespace
}

/// The addresses of a Service, and its ports with their protocols.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<(u16, u8)>,
    node_ports: BTreeSet<(u16, u8)>,
}

fn texts(value: Option<&Value>) -> Vec<&str> {
    match value {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// An address, which in IPv4 may have leading zeros.
fn address(text: &str) -> Option<IpAddr> {
    let plain = |part: &str| match part.trim_start_matches('0') {
        "" => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let text = match text.contains(':') {
        true => text.to_owned(),
        false => text.split('.').map(plain).collect::<Vec<_>>().join("."),
    };
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Returns true when a pod or a Service can have this address: none of 0.0.0.0, 127.0.0.0/8, 169.254.0.0/16,
/// 224.0.0.0/4, 255.255.255.255, ::, ::1, fe80::/10, ff00::/8.
pub fn is_usable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [a, b, _, _] = address.octets();
            !(u32::from(address) == 0
                || u32::from(address) == u32::MAX
                || a == 127
                || [a, b] == [169, 254]
                || (224..240).contains(&a))
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            u128::from(address) > 1 && first & 0xffc0 != 0xfe80 && first >> 8 != 0xff
        }
    }
}

/// The number of the protocol of a port.
fn protocol(port: &Value) -> Option<u8> {
    match &port["protocol"] {
        Value::Null => Some(6),
        Value::String(text) if text.is_empty() || text == "TCP" => Some(6),
        Value::String(text) if text == "UDP" => Some(17),
        _ => None,
    }
}

fn number(port: &Value, field: &str) -> Option<u16> {
    u16::try_from(port[field].as_u64()?).ok()
}

impl Claims {
    pub fn of(object: &Value) -> Self {
        let mut claims = Self::default();
        claims.add(object);
        claims
    }

    /// Adds those that this object names.
    pub fn add(&mut self, object: &Value) {
        let spec = &object["spec"];
        let mut named = texts(spec.get("clusterIP"));
        named.extend(texts(spec.get("clusterIPs")));
        named.extend(texts(spec.get("externalIPs")));
        let balancers = object["status"]["loadBalancer"]["ingress"].as_array();
        named.extend(balancers.into_iter().flatten().filter_map(|it| it["ip"].as_str()));
        self.addresses.extend(named.into_iter().filter_map(address));
        for port in spec["ports"].as_array().into_iter().flatten() {
            let Some(protocol) = protocol(port) else { continue };
            self.ports.extend(number(port, "port").map(|number| (number, protocol)));
            self.node_ports.extend(number(port, "nodePort").map(|number| (number, protocol)));
        }
    }

    pub fn name(&self, address: IpAddr, port: u16, protocol: u8) -> bool {
        self.addresses.contains(&address) && self.ports.contains(&(port, protocol))
    }

    pub fn node_port(&self, port: u16, protocol: u8) -> bool {
        self.node_ports.contains(&(port, protocol))
    }
}

/// The backends of an EndpointSlice, with the Service of its namespace that they are for.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// By the name of the Service, and the name and protocol of its port.
    backends: BTreeSet<(String, String, u8, IpAddr, u16)>,
}

impl Endpoints {
    pub fn of(object: &Value) -> Self {
        let mut endpoints = Self::default();
        endpoints.add(object);
        endpoints
    }

    /// Adds those that this object names.
    pub fn add(&mut self, object: &Value) {
        let labels = &object["metadata"]["labels"];
        let Some(service) = labels["kubernetes.io/service-name"].as_str() else { return };
        let endpoints = object["endpoints"].as_array().into_iter().flatten();
        let first =
            |endpoint: &Value| address(endpoint["addresses"].as_array()?.first()?.as_str()?);
        let addresses: Vec<IpAddr> = endpoints.filter_map(first).collect();
        for port in object["ports"].as_array().into_iter().flatten() {
            let (Some(name), Some(protocol), Some(number)) =
                (port["name"].as_str().or(Some("")), protocol(port), number(port, "port"))
            else {
                continue;
            };
            let backend = |address: &IpAddr| {
                (service.to_owned(), name.to_owned(), protocol, *address, number)
            };
            self.backends.extend(addresses.iter().map(backend));
        }
    }

    /// Returns true when this is a backend of a port of the Service of this name.
    pub fn name(
        &self,
        service: &str,
        (port_name, protocol): (&str, u8),
        address: IpAddr,
        port: u16,
    ) -> bool {
        let backend = (service.to_owned(), port_name.to_owned(), protocol, address, port);
        self.backends.contains(&backend) && is_usable(address)
    }
}
