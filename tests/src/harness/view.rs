//! The JSON output of `svclb services`, `backends` and `sockets`, parsed, and the rows expected there.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::Value;

use super::yaml::{Port, Service};

/// A frontend or backend in the maps.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Row {
    /// An address that clients dial.
    Frontend {
        /// `NAMESPACE/NAME`.
        service: String,
        /// Name of the Service's port.
        port_name: String,
        /// `TCP` or `UDP`.
        protocol: String,
        /// The address and port that clients dial.
        address: SocketAddr,
    },
    /// A backend of a service.
    Backend {
        /// `NAMESPACE/NAME`.
        service: String,
        /// Name of the Service's port.
        port_name: String,
        /// `TCP` or `UDP`.
        protocol: String,
        /// The address and port of the backend.
        address: SocketAddr,
    },
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, (service, port_name, protocol, address)) = match self {
            Self::Frontend { service, port_name, protocol, address } => {
                ("frontend", (service, port_name, protocol, address))
            }
            Self::Backend { service, port_name, protocol, address } => {
                ("backend", (service, port_name, protocol, address))
            }
        };
        write!(f, "{what} {address} of {service}:{port_name}/{protocol}")
    }
}

/// The recorded origin of a live socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The socket's cookie.
    pub cookie: u64,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The address that the socket dialled.
    pub dialled: SocketAddr,
    /// The backend that it was given.
    pub given: SocketAddr,
}

/// The rows that these Services must have in the maps, on a node with these addresses.
pub(crate) fn expected<'a>(
    services: impl Iterator<Item = &'a Service>,
    node: &[IpAddr],
) -> BTreeSet<Row> {
    let mut rows = BTreeSet::new();
    for service in services {
        for port in &service.ports {
            let name = || (service.key(), port.name.clone(), port.protocol.name().to_owned());
            let ips = service.cluster_ips.iter().chain(&service.external_ips);
            let dialled = ips.map(|ip| SocketAddr::new(*ip, port.number));
            for address in dialled.chain(node_ports(service, port, node)) {
                let (service, port_name, protocol) = name();
                rows.insert(Row::Frontend { service, port_name, protocol, address });
            }
            for endpoint in port.usable() {
                let (service, port_name, protocol) = name();
                let address = endpoint.address;
                rows.insert(Row::Backend { service, port_name, protocol, address });
            }
        }
    }
    rows
}

/// The addresses of a node port: those of the node, and loopback.
fn node_ports(service: &Service, port: &Port, node: &[IpAddr]) -> impl Iterator<Item = SocketAddr> {
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let ips = node.iter().copied().chain(loopback);
    let ips = ips.filter(|ip| service.cluster_ips.iter().any(|it| it.is_ipv4() == ip.is_ipv4()));
    let addresses = ips.flat_map(|ip| port.node_port.map(|number| SocketAddr::new(ip, number)));
    addresses.collect::<Vec<_>>().into_iter()
}

/// The rows in the output of `svclb services` and `svclb backends`.
pub(crate) fn rows(services: &Value, backends: &Value) -> Result<BTreeSet<Row>, String> {
    let mut rows = BTreeSet::new();
    for shown in array(services)? {
        let (port_name, protocol) = (text(shown, "port_name")?, text(shown, "protocol")?);
        let service = format!("{}/{}", text(shown, "namespace")?, text(shown, "name")?);
        for dialled in array(&shown["frontends"])? {
            let address = address(dialled)?;
            let (service, port_name) = (service.clone(), port_name.clone());
            let protocol = protocol.clone();
            rows.insert(Row::Frontend { service, port_name, protocol, address });
        }
    }
    for shown in array(backends)? {
        let (port_name, protocol) = (text(shown, "port_name")?, text(shown, "protocol")?);
        let service = format!("{}/{}", text(shown, "namespace")?, text(shown, "service")?);
        let ip = text(shown, "address")?.parse().map_err(|error| format!("{shown}: {error}"))?;
        let port = shown["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let address = SocketAddr::new(ip, port.ok_or_else(|| format!("no port in {shown}"))?);
        rows.insert(Row::Backend { service, port_name, protocol, address });
    }
    Ok(rows)
}

/// The origins of live sockets.
pub(crate) fn origins(sockets: &Value) -> Result<Vec<Origin>, String> {
    let origin = |shown: &Value| {
        Ok(Origin {
            cookie: shown["cookie"].as_u64().ok_or_else(|| format!("no cookie in {shown}"))?,
            protocol: text(shown, "protocol")?,
            dialled: address(&shown["dialled"])?,
            given: address(&shown["given"])?,
        })
    };
    array(sockets)?.iter().map(origin).collect()
}

/// The number of entries of the overflow map, from `svclb status`.
pub(crate) fn overflow_entries(status: &Value) -> Result<u64, String> {
    status["overflow_entries"].as_u64().ok_or_else(|| format!("no overflow_entries in {status}"))
}

/// A counter of `svclb status -o json`.
///
/// # Panics
/// If there is no such counter.
pub fn counter(status: &Value, name: &str) -> u64 {
    let count = status["counters"][name].as_u64();
    count.unwrap_or_else(|| panic!("no counter {name:?} in {status}"))
}

fn array(value: &Value) -> Result<&Vec<Value>, String> {
    value.as_array().ok_or_else(|| format!("{value} is not an array"))
}

fn text(row: &Value, field: &str) -> Result<String, String> {
    row[field].as_str().map(str::to_owned).ok_or_else(|| format!("no text {field:?} in {row}"))
}

/// Parses `10.96.0.10:80` or `[fd00:96::10]:80`.
fn address(value: &Value) -> Result<SocketAddr, String> {
    let text = value.as_str().ok_or_else(|| format!("{value} is not an address"))?;
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}
