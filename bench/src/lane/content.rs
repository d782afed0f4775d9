//! The Services, as files for svclb and as objects for an API server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::servers::{ECHO, PLAIN, SINK};

/// Number of servers, each of which is a backend of every Service.
const SERVERS: u8 = 10;
/// The first two bytes of every ClusterIP.
const RANGE: [u8; 2] = [10, 96];
/// The first two bytes of every backend's address.
const PODS: [u8; 2] = [10, 244];
/// The namespace of all Services.
pub(crate) const NAMESPACE: &str = "default";

/// Returns the servers' addresses.
pub(crate) fn backends() -> Vec<IpAddr> {
    (1..=SERVERS).map(|host| Ipv4Addr::new(PODS[0], PODS[1], 0, host).into()).collect()
}

/// Returns this port of each server.
pub(crate) fn servers(port: u16) -> Vec<SocketAddr> {
    backends().iter().map(|ip| SocketAddr::new(*ip, port)).collect()
}

/// Returns addresses that belong to neither a Service nor a backend.
pub(crate) fn elsewhere() -> Vec<SocketAddr> {
    let hosts = (1..=SERVERS).map(|host| Ipv4Addr::new(PODS[0], PODS[1], 255, host));
    hosts.map(|ip| SocketAddr::new(ip.into(), PLAIN)).collect()
}

/// A number of Services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    /// Number of Services.
    pub(crate) services: u32,
    /// Number of UDP ports of each, all with the target port [`PLAIN`].
    pub(crate) ports: u16,
    /// True if each of them is also a TCP port, and there are ports for [`SINK`] and [`ECHO`].
    pub(crate) has_tcp: bool,
    /// Number of backends of each: the servers first, then unused addresses.
    pub(crate) backends: u32,
}

/// The Service without endpoints.
const EMPTY: &str = "empty";
/// The third and fourth byte of its address.
const EMPTY_AT: [u8; 2] = [255, 254];

impl Content {
    /// Ten Services with the ten servers.
    pub(crate) const SMALL: Self =
        Self { services: 10, ports: 1, has_tcp: true, backends: SERVERS as u32 };

    /// Returns the Services' addresses and ports with this target port.
    pub(crate) fn places(&self, target: u16) -> Vec<SocketAddr> {
        let each = (0..self.services).map(|number| (number, self.first_port(target)));
        each.flat_map(|(number, first)| {
            let count = if target == PLAIN { self.ports } else { 1 };
            (0..count).map(move |more| SocketAddr::new(address(number), first + more))
        })
        .collect()
    }

    /// Returns the address of the Service without backends.
    pub(crate) fn without_backends() -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(RANGE[0], RANGE[1], EMPTY_AT[0], EMPTY_AT[1]).into(), 80)
    }

    fn first_port(&self, target: u16) -> u16 {
        match target {
            SINK => 81,
            ECHO => 82,
            _ => 1_000,
        }
    }

    /// Returns all objects.
    pub(crate) fn objects(&self) -> Vec<Value> {
        let mut objects = vec![self.service(EMPTY, Self::without_backends().ip(), empty_ports())];
        for number in 0..self.services {
            objects.push(self.service(&name(number), address(number), self.service_ports()));
            objects.push(self.slice(number));
        }
        objects
    }

    /// Returns all objects as one file, in which each line of JSON is a YAML document.
    pub(crate) fn yaml(&self) -> String {
        self.objects().iter().map(|object| format!("---\n{object}\n")).collect()
    }

    fn service_ports(&self) -> Vec<Value> {
        let mut ports = Vec::new();
        for more in 0..self.ports {
            let number = self.first_port(PLAIN) + more;
            ports.push(port(&format!("u{more}"), "UDP", number, PLAIN));
            if self.has_tcp {
                ports.push(port(&format!("t{more}"), "TCP", number, PLAIN));
            }
        }
        if !self.has_tcp {
            return ports;
        }
        ports.push(port("sink", "TCP", self.first_port(SINK), SINK));
        ports.push(port("echo", "TCP", self.first_port(ECHO), ECHO));
        ports
    }

    fn service(&self, name: &str, ip: IpAddr, ports: Vec<Value>) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": { "clusterIP": ip, "ports": ports },
        })
    }

    fn slice(&self, number: u32) -> Value {
        let endpoint = |at: u32| {
            let [_, _, high, low] = (at + 1).to_be_bytes();
            json!({ "addresses": [Ipv4Addr::new(PODS[0], PODS[1], high, low)] })
        };
        let ports: Vec<Value> = self
            .service_ports()
            .iter()
            .map(|port| json!({ "name": port["name"], "protocol": port["protocol"], "port": port["targetPort"] }))
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": format!("{}-1", name(number)), "namespace": NAMESPACE,
                "labels": { "kubernetes.io/service-name": name(number) },
            },
            "ports": ports,
            "endpoints": (0..self.backends).map(endpoint).collect::<Vec<_>>(),
        })
    }
}

fn empty_ports() -> Vec<Value> {
    let number = Content::without_backends().port();
    ["TCP", "UDP"].map(|protocol| port(&protocol.to_lowercase(), protocol, number, PLAIN)).into()
}

fn port(name: &str, protocol: &str, number: u16, target: u16) -> Value {
    json!({ "name": name, "protocol": protocol, "port": number, "targetPort": target })
}

fn name(number: u32) -> String {
    format!("service-{number}")
}

/// Returns the address of a Service. The first 256 addresses are left to Services of the API server.
fn address(number: u32) -> IpAddr {
    let [_, _, high, low] = (number + 256).to_be_bytes();
    Ipv4Addr::new(RANGE[0], RANGE[1], high, low).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_a_port_of_a_service() {
        let content = Content { services: 3, ports: 2, has_tcp: true, backends: 10 };
        let objects = content.objects();
        let mut offered = Vec::new();
        for service in objects.iter().filter(|object| object["kind"] == "Service") {
            let ip: IpAddr = service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap();
            for port in service["spec"]["ports"].as_array().unwrap() {
                let number = u16::try_from(port["port"].as_u64().unwrap()).unwrap();
                offered.push((SocketAddr::new(ip, number), port["targetPort"].as_u64().unwrap()));
            }
        }
        for target in [PLAIN, SINK, ECHO] {
            let places = content.places(target);
            assert_eq!(places.len(), if target == PLAIN { 6 } else { 3 });
            for place in places {
                assert!(offered.contains(&(place, target.into())), "{place} for {target}");
            }
        }
        assert!(offered.contains(&(Content::without_backends(), PLAIN.into())));
    }
}
