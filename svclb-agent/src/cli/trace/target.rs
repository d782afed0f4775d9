//! The argument of `svclb trace`: an address or a Service.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use svclb_common::layout::{FrontendKey, Protocol, Scope};
use svclb_core::model::{ObjectName, ServiceKey};

/// An address that a client dials, or a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Target {
    /// This address and port, of either protocol.
    Address(SocketAddr),
    /// This Service object, or one of its ports.
    Service(ObjectName, Option<Port>),
}

/// A port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Port {
    Number(u16),
    Name(String),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            "expected an address with a port such as 10.96.0.10:80 or [fd00::10]:80, or a Service such as \
             shop/web, shop/web:80 or shop/web:http"
                .to_owned()
        };
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Address(SocketAddr::new(address.ip().to_canonical(), address.port())));
        }
        let (namespace, name) = text.split_once('/').ok_or_else(expected)?;
        let (name, port) = match name.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (name, None),
        };
        let is_missing = namespace.is_empty() || name.is_empty() || port.is_some_and(str::is_empty);
        if is_missing || name.contains('/') {
            return Err(expected());
        }
        let port = port
            .map(|port| port.parse().map_or_else(|_| Port::Name(port.to_owned()), Port::Number));
        Ok(Self::Service(ObjectName::new(namespace, name), port))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Service(object, None) => object.fmt(f),
            Self::Service(object, Some(Port::Number(port))) => write!(f, "{object}:{port}"),
            Self::Service(object, Some(Port::Name(port))) => write!(f, "{object}:{port}"),
        }
    }
}

impl Target {
    /// The keys of a dialled address: loopback is looked up as the host's only, and all of 127.0.0.0/8 is one
    /// address.
    pub(super) fn keys(&self) -> Vec<FrontendKey> {
        let Self::Address(address) = self else { return Vec::new() };
        let (ip, scope) = match address.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => (Ipv4Addr::LOCALHOST.into(), Scope::Host),
            ip if ip.is_loopback() => (ip, Scope::Host),
            ip => (ip, Scope::Any),
        };
        let key = |protocol: Protocol| FrontendKey {
            address: ip.into(),
            port: address.port(),
            protocol: protocol as u8,
            scope: scope as u8,
            _pad: 0,
        };
        [Protocol::Tcp, Protocol::Udp].map(key).into()
    }

    /// Returns true if a frontend with this port of this service is meant.
    pub(super) fn is_of(&self, service: &ServiceKey, port: u16) -> bool {
        let Self::Service(object, wanted) = self else { return false };
        service.object == *object
            && match wanted {
                None => true,
                Some(Port::Number(number)) => port == *number,
                Some(Port::Name(name)) => *service.port_name == **name,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_address_with_a_port_or_a_service() {
        let service = |port| Some(Target::Service(ObjectName::new("shop", "web"), port));
        let address = |text: &str| Some(Target::Address(text.parse().unwrap()));
        let rows = [
            ("10.96.0.10:80", address("10.96.0.10:80")),
            ("[fd00::10]:80", address("[fd00::10]:80")),
            ("[::ffff:10.96.0.10]:80", address("10.96.0.10:80")),
            ("shop/web", service(None)),
            ("shop/web:80", service(Some(Port::Number(80)))),
            ("shop/web:http", service(Some(Port::Name("http".to_owned())))),
            ("10.96.0.10", None),
            ("10.96.0.10:", None),
            ("fd00::10", None),
            ("web", None),
            ("/web", None),
            ("shop/", None),
            ("shop/web:", None),
            ("a/b/c", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(text.parse().ok(), expected, "{text}");
            if let (Some(target), false) = (expected, text.contains("ffff")) {
                assert_eq!(target.to_string(), text);
            }
        }
    }

    #[test]
    fn loopback_is_looked_up_as_the_hosts() {
        let keys = |text: &str| {
            let keys = text.parse::<Target>().unwrap().keys();
            keys.iter().map(|key| (key.address.ip(), key.scope)).collect::<Vec<_>>()
        };
        let (any, host) = (Scope::Any as u8, Scope::Host as u8);
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(keys("10.0.0.1:80"), [(at("10.0.0.1"), any); 2]);
        assert_eq!(keys("127.1.2.3:80"), [(at("127.0.0.1"), host); 2]);
        assert_eq!(keys("[::1]:80"), [(at("::1"), host); 2]);
    }
}
