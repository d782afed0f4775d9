//! What a Service object names, read from its JSON as plainly as can be: nothing here is shared with what
//! is tested. It may find more than counts, never less.
#![allow(dead_code, unreachable_pub, reason = "the fuzz targets use it too, and another part")]

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

/// Addresses, and ports with their protocols.
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

impl Claims {
    pub fn of(object: &Value) -> Self {
        let mut claims = Self::default();
        claims.add(object);
        claims
    }

    /// And what this names.
    pub fn add(&mut self, object: &Value) {
        let spec = &object["spec"];
        let mut named = texts(spec.get("clusterIP"));
        named.extend(texts(spec.get("clusterIPs")));
        named.extend(texts(spec.get("externalIPs")));
        let balancers = object["status"]["loadBalancer"]["ingress"].as_array();
        named.extend(balancers.into_iter().flatten().filter_map(|it| it["ip"].as_str()));
        self.addresses.extend(named.into_iter().filter_map(address));
        for port in spec["ports"].as_array().into_iter().flatten() {
            let protocol = match port["protocol"].as_str() {
                Some("UDP") => 17,
                _ => 6,
            };
            let number = |field: &str| u16::try_from(port[field].as_u64()?).ok();
            self.ports.extend(number("port").map(|number| (number, protocol)));
            self.node_ports.extend(number("nodePort").map(|number| (number, protocol)));
        }
    }

    pub fn name(&self, address: IpAddr, port: u16, protocol: u8) -> bool {
        self.addresses.contains(&address) && self.ports.contains(&(port, protocol))
    }

    pub fn node_port(&self, port: u16, protocol: u8) -> bool {
        self.node_ports.contains(&(port, protocol))
    }
}
