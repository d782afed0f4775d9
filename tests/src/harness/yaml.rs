//! Services and their endpoints as YAML for the agent: one file for each Service.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::world::World;
use crate::{Backend, Protocol};

/// One endpoint of a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) ready: bool,
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
}

impl Endpoint {
    /// Marks the endpoint as that of a terminating pod.
    pub fn terminating(self) -> Self {
        Self { ready: false, terminating: true, ..self }
    }

    /// Marks the endpoint as that of a pod that is not ready.
    pub fn unready(self) -> Self {
        Self { ready: false, serving: false, ..self }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self { address, ready: true, serving: true, terminating: false }
    }
}

impl From<&Backend> for Endpoint {
    fn from(backend: &Backend) -> Self {
        backend.address().into()
    }
}

impl From<&Endpoint> for Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        *endpoint
    }
}

/// One port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
    pub(crate) node_port: Option<u16>,
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A Service and its endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) cluster_ips: Vec<IpAddr>,
    pub(crate) external_ips: Vec<IpAddr>,
    /// Timeout of session affinity in seconds, if the Service has affinity.
    pub(crate) affinity: Option<u32>,
    pub(crate) ports: Vec<Port>,
}

/// A Service that is being described.
#[derive(Clone)]
#[must_use = "nothing is written before `apply` or `write`"]
pub struct ServiceBuilder<'a> {
    world: &'a World,
    service: Service,
}

impl<'a> ServiceBuilder<'a> {
    pub(crate) fn new(world: &'a World, name: &str) -> Self {
        let (namespace, name) = name.split_once('/').expect("a Service is named NAMESPACE/NAME");
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let service = Service {
            namespace,
            name,
            cluster_ips: Vec::new(),
            external_ips: Vec::new(),
            affinity: None,
            ports: Vec::new(),
        };
        Self { world, service }
    }

    /// Adds a ClusterIP.
    pub fn cluster_ip(mut self, address: &str) -> Self {
        let address = address.parse().unwrap_or_else(|error| panic!("{address:?}: {error}"));
        self.service.cluster_ips.push(address);
        self
    }

    /// Adds an external IP.
    pub fn external_ip(mut self, address: &str) -> Self {
        let address = address.parse().unwrap_or_else(|error| panic!("{address:?}: {error}"));
        self.service.external_ips.push(address);
        self
    }

    /// Sets session affinity with this timeout in seconds.
    pub fn affinity(mut self, seconds: u32) -> Self {
        self.service.affinity = Some(seconds);
        self
    }

    /// Adds a node port to the port that was added last.
    pub fn node_port(mut self, number: u16) -> Self {
        let port = self.service.ports.last_mut().expect("a port comes before its node port");
        port.node_port = Some(number);
        self
    }

    /// Adds a port, to which the next `backends` apply.
    pub fn port(mut self, number: u16, protocol: Protocol) -> Self {
        let ports = &mut self.service.ports;
        let name = if ports.is_empty() { String::new() } else { format!("port-{}", ports.len()) };
        ports.push(Port { name, number, protocol, node_port: None, endpoints: Vec::new() });
        if let [first, _] = &mut ports[..] {
            // Only a single port may have no name.
            first.name = "port-0".to_owned();
        }
        self
    }

    /// Sets the endpoints of the port that was added last.
    pub fn backends<E: Into<Endpoint>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        let port = self.service.ports.last_mut().expect("a port comes before its backends");
        port.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// Writes the Service, and waits until the agent has written it to the maps.
    pub fn apply(&self) {
        self.write();
        self.world.settle();
    }

    /// Writes the Service without waiting.
    pub fn write(&self) {
        self.world.put(self.service.clone());
    }
}

impl Service {
    /// `NAMESPACE/NAME`.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The YAML documents: the Service, and an EndpointSlice for each port, family and backend port.
    pub(crate) fn documents(&self) -> String {
        let mut text = String::new();
        let Self { namespace, name, cluster_ips, external_ips, affinity, ports } = self;
        let ips = list(cluster_ips.iter().map(|ip| format!("{ip:?}")));
        let first = cluster_ips.first().map_or("None".to_owned(), |ip| ip.to_string());
        let _ = writeln!(text, "apiVersion: v1\nkind: Service");
        let _ = writeln!(text, "metadata: {{ name: {name}, namespace: {namespace} }}");
        let _ = writeln!(text, "spec:\n  clusterIP: \"{first}\"\n  clusterIPs: {ips}");
        if ports.iter().any(|port| port.node_port.is_some()) {
            let _ = writeln!(text, "  type: NodePort");
        }
        if !external_ips.is_empty() {
            let ips = list(external_ips.iter().map(|ip| format!("{ip:?}")));
            let _ = writeln!(text, "  externalIPs: {ips}");
        }
        if let Some(seconds) = affinity {
            let _ = writeln!(text, "  sessionAffinity: ClientIP");
            let config = format!("{{ clientIP: {{ timeoutSeconds: {seconds} }} }}");
            let _ = writeln!(text, "  sessionAffinityConfig: {config}");
        }
        let _ = writeln!(text, "  ports:");
        for Port { name, number, protocol, node_port, .. } in ports {
            let protocol = protocol.name();
            let node_port =
                node_port.map_or(String::new(), |number| format!(", nodePort: {number}"));
            let _ = writeln!(
                text,
                "    - {{ name: \"{name}\", protocol: {protocol}, port: {number}{node_port} }}"
            );
        }
        for port in ports {
            let mut slices: BTreeMap<(bool, u16), Vec<&Endpoint>> = BTreeMap::new();
            for endpoint in &port.endpoints {
                let key = (endpoint.address.is_ipv6(), endpoint.address.port());
                slices.entry(key).or_default().push(endpoint);
            }
            for ((is_v6, number), endpoints) in slices {
                self.slice(&mut text, port, is_v6, number, &endpoints);
            }
        }
        text
    }

    fn slice(
        &self,
        text: &mut String,
        port: &Port,
        is_v6: bool,
        number: u16,
        endpoints: &[&Endpoint],
    ) {
        let Self { namespace, name, .. } = self;
        let family = if is_v6 { "IPv6" } else { "IPv4" };
        let (port_name, protocol) = (&port.name, port.protocol.name());
        let slice = format!("{name}-{}-{}-{family}-{number}", port.number, protocol).to_lowercase();
        let _ = writeln!(text, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice");
        let _ = writeln!(text, "metadata:\n  name: {slice}\n  namespace: {namespace}");
        let _ = writeln!(text, "  labels: {{ kubernetes.io/service-name: {name} }}");
        let _ = writeln!(text, "addressType: {family}");
        let _ = writeln!(
            text,
            "ports:\n  - {{ name: \"{port_name}\", protocol: {protocol}, port: {number} }}\nendpoints:"
        );
        for Endpoint { address, ready, serving, terminating } in endpoints {
            let _ = writeln!(text, "  - addresses: [\"{}\"]", address.ip());
            let _ = writeln!(
                text,
                "    conditions: {{ ready: {ready}, serving: {serving}, terminating: {terminating} }}"
            );
        }
    }
}

/// The YAML of a Node object.
pub(crate) fn node(name: &str, addresses: &[IpAddr]) -> String {
    let address = |ip: &IpAddr| format!("{{ type: InternalIP, address: \"{ip}\" }}");
    let addresses: Vec<String> = addresses.iter().map(address).collect();
    let addresses = addresses.join(", ");
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{ name: {name} }}\nstatus:\n  addresses: [{addresses}]\n"
    )
}

impl Port {
    /// The endpoints that clients may be given: the ready ones, else those that terminate and still
    /// serve.
    pub(crate) fn usable(&self) -> Vec<Endpoint> {
        let of = |check: fn(&Endpoint) -> bool| {
            self.endpoints.iter().copied().filter(check).collect::<Vec<_>>()
        };
        let ready = of(|endpoint| endpoint.ready);
        if ready.is_empty() {
            return of(|endpoint| endpoint.serving && endpoint.terminating);
        }
        ready
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_is_written_as_kubernetes_would_write_it() {
        let endpoint = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap());
        let service = Service {
            namespace: "default".into(),
            name: "hello".into(),
            cluster_ips: vec!["10.96.0.10".parse().unwrap(), "fd00:96::10".parse().unwrap()],
            external_ips: Vec::new(),
            affinity: None,
            ports: vec![Port {
                name: String::new(),
                number: 80,
                protocol: Protocol::Tcp,
                node_port: None,
                endpoints: vec![
                    endpoint("10.244.0.1:8080"),
                    endpoint("10.244.0.2:8080").terminating(),
                    endpoint("[fd00:244::1]:8080"),
                ],
            }],
        };
        let expected = include_str!("../../scenarios/hello.yaml");
        assert_eq!(service.documents(), expected);
        let usable: Vec<_> = service.ports[0].usable().iter().map(|it| it.address).collect();
        assert_eq!(usable.len(), 2, "the terminating endpoint must not be usable: {usable:?}");
    }
}
