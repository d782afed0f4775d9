//! Single fields: text and numbers to values of the model, or an error with the expected value.

use std::net::IpAddr;

use svclb_core::model::{Protocol, TrafficPolicy};

use super::Invalid;
use super::wire::Number;

/// The syntax of names (RFC 1123 as Kubernetes applies it).
#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    /// Namespaces, Services, ports: 63 bytes, no dots. It is also what a row of `svclb_services` holds.
    Label,
    /// EndpointSlices, Nodes: 253 bytes, with dots.
    Subdomain,
}

impl Name {
    pub(super) fn check<'a>(self, field: &str, name: &'a str) -> Result<&'a str, Invalid> {
        let (longest, dots) = match self {
            Self::Label => (63, false),
            Self::Subdomain => (253, true),
        };
        if name.len() > longest {
            let problem = format!(
                "{} is {} bytes long, at most {longest} are a name",
                quote(name),
                name.len()
            );
            return Err(Invalid::new(field, problem));
        }
        let part = |part: &str| {
            part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !(part.is_empty() || part.starts_with('-') || part.ends_with('-'))
        };
        if if dots { name.split('.').all(part) } else { part(name) } {
            return Ok(name);
        }
        let dot = if dots { " and dots" } else { "" };
        let problem = format!(
            "{} is not a name (lower-case letters, digits, dashes{dot} between them)",
            quote(name)
        );
        Err(Invalid::new(field, problem))
    }
}

/// A text from the cluster for a message: quoted as `Debug` does, so that nothing in it looks like words
/// of ours, and cut when long.
pub(super) fn quote(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A port; 0 is none.
pub(super) fn port(field: &str, number: Number) -> Result<u16, Invalid> {
    match u16::try_from(number.0) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(Invalid::new(field, format!("{} is not a port (1 to 65535)", number.0))),
    }
}

/// An address as Kubernetes has it, which reads leading zeros of IPv4 as decimal numbers (package
/// k8s.io/utils/net, `ParseIPSloppy`).
fn ip(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts = text.split('.').map(|part| Some(part).filter(is_number)?.parse::<u8>().ok());
    let parts: Vec<u8> = parts.collect::<Option<_>>()?;
    <[u8; 4]>::try_from(parts).ok().map(IpAddr::from)
}

/// An address. IPv4 written as v4-mapped IPv6 becomes IPv4.
pub(super) fn address(field: &str, text: &str) -> Result<IpAddr, Invalid> {
    ip(text).map(|address| address.to_canonical()).ok_or_else(|| {
        Invalid::new(field, format!("{} is not an IPv4 or IPv6 address", quote(text)))
    })
}

/// Returns why an address can be neither a frontend nor a backend, if that is so. The API server accepts
/// some of these in some fields (ranges of multicast, broadcast), and others nowhere (package validation,
/// `ValidateEndpointIP`). Loopback and link-local addresses are a node's own, such
/// as those of what runs on the node and of a cloud's metadata.
pub(super) fn unusable(address: &IpAddr) -> Option<&'static str> {
    let (is_broadcast, is_link_local) = match address {
        IpAddr::V4(v4) => (v4.is_broadcast(), v4.is_link_local()),
        IpAddr::V6(v6) => (false, v6.is_unicast_link_local()),
    };
    if address.is_unspecified() {
        Some("is the unspecified address")
    } else if address.is_multicast() {
        Some("is a multicast address")
    } else if is_broadcast {
        Some("is the broadcast address")
    } else if address.is_loopback() {
        Some("is a loopback address")
    } else if is_link_local {
        Some("is a link-local address")
    } else {
        None
    }
}

/// Checks that an object names no more than `most` pairs of its ports and of its `others`, such as addresses:
/// two lists that fit into an object need not fit into memory when they are multiplied.
pub(super) fn pairs(
    field: &str,
    ports: usize,
    (count, others): (usize, &str),
    most: usize,
) -> Result<(), Invalid> {
    if count.saturating_mul(ports) <= most {
        return Ok(());
    }
    let problem = format!(
        "{ports} ports of {count} {others} are too many: expected at most {most} pairs of both"
    );
    Err(Invalid::new(field, problem))
}

/// Returns the value of one of some words; absent or empty is the first of them.
pub(super) fn choice<T: Copy, const N: usize>(
    field: &str,
    text: Option<&str>,
    what: &str,
    choices: [(&str, T); N],
) -> Result<T, Invalid> {
    let text = text.unwrap_or_default();
    let chosen = match text.is_empty() {
        true => choices.first(),
        false => choices.iter().find(|(word, _)| *word == text),
    };
    if let Some((_, value)) = chosen {
        return Ok(*value);
    }
    let words = choices.map(|(word, _)| word).join(", ");
    Err(Invalid::new(field, format!("{} is not {what} ({words})", quote(text))))
}

/// A protocol; `None` is SCTP, which Kubernetes has and svclb does not translate.
pub(super) fn protocol(field: &str, text: Option<&str>) -> Result<Option<Protocol>, Invalid> {
    let choices = [("TCP", Some(Protocol::Tcp)), ("UDP", Some(Protocol::Udp)), ("SCTP", None)];
    choice(field, text, "a protocol", choices)
}

/// A traffic policy; absent or empty is the default one.
pub(super) fn policy(field: &str, text: Option<&str>) -> Result<TrafficPolicy, Invalid> {
    let choices = [("Cluster", TrafficPolicy::Cluster), ("Local", TrafficPolicy::Local)];
    choice(field, text, "a traffic policy", choices)
}

/// The error about a port with the name and protocol of an earlier one.
pub(super) fn repeated_name(field: String, name: &str, protocol: Protocol) -> Invalid {
    let (name, protocol) = (quote(name), protocol.name());
    let problem =
        format!("{name} is the name of an earlier {protocol} port too: expected names that differ");
    Invalid::new(field, problem)
}

/// The address and prefix length of a range such as `10.0.0.0/8`, blanks around it allowed (the API
/// server lets them pass, kube-proxy trims them).
pub(super) fn range(field: &str, text: &str) -> Result<(IpAddr, u8), Invalid> {
    let range = text.trim().split_once('/').and_then(|(address, length)| {
        let address = ip(address)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = length.parse::<u8>().ok().filter(|length| *length <= bits)?;
        Some((address, length))
    });
    range.ok_or_else(|| {
        let problem = format!("{} is not a range of addresses, such as 10.0.0.0/8", quote(text));
        Invalid::new(field, problem)
    })
}

/// Nanoseconds since the epoch of an RFC 3339 time; none of anything else.
pub(super) fn nanoseconds(text: &str) -> Option<i64> {
    i64::try_from(text.parse::<jiff::Timestamp>().ok()?.as_nanosecond()).ok()
}

/// Seconds since the epoch of an RFC 3339 time.
pub(super) fn time(field: &str, text: &str) -> Result<i64, Invalid> {
    text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_second).map_err(|_| {
        let problem = format!("{} is not a time, such as 2026-01-31T12:00:00Z", quote(text));
        Invalid::new(field, problem)
    })
}
