//! discovery.k8s.io/v1 EndpointSlice to the model.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use svclb_core::model::{Endpoints, ObjectName, Slice, SlicePort, Update};

use super::field::{self, Name};
use super::{Invalid, Kind, ObjectId, Skipped, names, object_name, wire};

/// How many backends an object may name: its ports times its endpoints. It is the most that the API
/// documents for one (1,000 endpoints of 100 ports; the controller's default is 100 endpoints). A longer
/// list of each fits into an object than fits into the memory of a node when both are multiplied.
const MOST_BACKENDS: usize = 100_000;

/// Converts an EndpointSlice. One that belongs to no Service, is labelled headless or holds other
/// addresses than IPv4 or IPv6 is `None` in the update, counted, and not looked at further.
///
/// # Errors
/// The field that is wrong, with the object it belongs to as far as it has a name.
pub fn slice(slice: &wire::EndpointSlice) -> Result<(Update, Skipped), Invalid> {
    let name = object_name(&slice.metadata, Name::Subdomain)?;
    let mut skipped = Skipped::default();
    let converted = convert(slice, &name, &mut skipped).map_err(|invalid| {
        let service = slice.metadata.labels.service_name.as_deref();
        let service = service.and_then(|service| named(&name, service));
        Invalid { service, ..invalid }
            .of(&ObjectId { kind: Kind::EndpointSlice, name: name.clone() })
    })?;
    Ok((Update::Slice(name, converted), skipped))
}

/// The Service that a slice's label names.
pub(super) fn named(slice: &ObjectName, service: &str) -> Option<Box<ObjectName>> {
    let name = names::name(Name::Label.check("", service).ok()?);
    Some(Box::new(ObjectName { namespace: Arc::clone(&slice.namespace), name }))
}

fn convert(
    slice: &wire::EndpointSlice,
    name: &ObjectName,
    skipped: &mut Skipped,
) -> Result<Option<Slice>, Invalid> {
    let labels = &slice.metadata.labels;
    if labels.headless {
        skipped.slices_headless += 1;
        return Ok(None);
    }
    let Some(service) = labels.service_name.as_deref().filter(|service| !service.is_empty()) else {
        skipped.slices_without_service += 1;
        return Ok(None);
    };
    Name::Label.check("metadata.labels[kubernetes.io/service-name]", service)?;
    let ipv4 = match slice.address_type.as_deref() {
        Some("IPv4") => true,
        Some("IPv6") => false,
        None | Some("") => {
            let problem = "missing: expected IPv4 or IPv6";
            return Err(Invalid::new("addressType", problem));
        }
        Some(_) => {
            skipped.slices_of_other_addresses += 1;
            return Ok(None);
        }
    };
    let ports = ports(&slice.ports, skipped)?;
    field::pairs("ports", ports.len(), (slice.endpoints.len(), "endpoints"), MOST_BACKENDS)?;
    Ok(Some(Slice {
        service: ObjectName { namespace: Arc::clone(&name.namespace), name: names::name(service) },
        ports: ports.into_boxed_slice(),
        endpoints: endpoints(&slice.endpoints, ipv4)?,
        triggered: slice
            .metadata
            .annotations
            .last_change_trigger_time
            .as_deref()
            .and_then(field::nanoseconds),
    }))
}

fn ports(ports: &[wire::EndpointPort], skipped: &mut Skipped) -> Result<Vec<SlicePort>, Invalid> {
    let mut found = Vec::with_capacity(ports.len());
    let mut known = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("ports[{i}].{field}");
        // endpointslicecache.go passes over these two with a warning.
        let Some(name) = port.name.as_deref() else {
            skipped.ports_without_name += 1;
            continue;
        };
        let Some(number) = port.port.filter(|number| number.0 != 0) else {
            skipped.ports_without_number += 1;
            continue;
        };
        if !name.is_empty() {
            Name::Label.check(&at("name"), name)?;
        }
        let number = field::port(&at("port"), number)?;
        match field::protocol(&at("protocol"), port.protocol.as_deref())? {
            Some(protocol) => {
                // As the API server has it, but for the protocol. Each would be a backend of every
                // endpoint: an object that fits into memory would stand for more than does.
                if !known.insert((name, protocol)) {
                    let problem = format!(
                        "{} is the name of an earlier {} port too: expected names that differ",
                        field::quote(name),
                        protocol.name(),
                    );
                    return Err(Invalid::new(at("name"), problem));
                }
                found.push(SlicePort { name: names::name(name), protocol, port: number });
            }
            None => skipped.sctp_ports += 1,
        }
    }
    Ok(found)
}

fn endpoints(endpoints: &[wire::Endpoint], ipv4: bool) -> Result<Endpoints, Invalid> {
    let mut converted = Vec::with_capacity(endpoints.len());
    for (i, endpoint) in endpoints.iter().enumerate() {
        converted.push((address(i, endpoint, ipv4)?, names::endpoint(endpoint)));
    }
    Ok(converted.into_iter().collect())
}

/// The address that is used of an endpoint: the first. It must be one that a pod can have, by the rule of
/// the API server (Kubernetes 1.37, pkg/apis/discovery/validation `validateEndpoints`, which asks
/// pkg/apis/core/validation `ValidateEndpointIP`): loopback and link-local addresses are a node's own,
/// such as those of what runs on the node and of a cloud's metadata.
fn address(i: usize, endpoint: &wire::Endpoint, ipv4: bool) -> Result<IpAddr, Invalid> {
    let wire::First(Some(text)) = &endpoint.addresses else {
        let problem = "missing: an endpoint needs an address";
        return Err(Invalid::new(format!("endpoints[{i}].addresses"), problem));
    };
    let in_field =
        |invalid: Invalid| Invalid { field: format!("endpoints[{i}].addresses[0]"), ..invalid };
    let address = field::address("", text).map_err(in_field)?;
    if address.is_ipv4() != ipv4 {
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        let problem = format!("{address} is not an {family} address, as addressType says");
        return Err(in_field(Invalid::new("", problem)));
    }
    if address.is_loopback() || field::is_link_local(&address) {
        let kind = if address.is_loopback() { "loopback" } else { "a link-local address" };
        let problem =
            format!("{address} is {kind}, which no pod has: expected the address of a pod");
        return Err(in_field(Invalid::new("", problem)));
    }
    Ok(address)
}
