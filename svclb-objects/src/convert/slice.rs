//! discovery.k8s.io/v1 EndpointSlice to the model.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use svclb_core::budget::SLICE_BACKENDS;
use svclb_core::model::{Endpoints, ObjectName, ServiceNotes, Slice, SlicePort, Update};

use super::field::{self, Name};
use super::{Invalid, Kind, LeftOut, ObjectId, names, object_name, wire};

/// Converts an EndpointSlice. One that belongs to no Service, is labelled headless or holds other
/// addresses than IPv4 or IPv6 is `None` in the update, counted, and not looked at further.
///
/// # Errors
/// The field that is wrong, with the object it belongs to as far as it has a name.
pub fn slice(slice: &wire::EndpointSlice) -> Result<(Update, LeftOut), Invalid> {
    let name = object_name(&slice.metadata, Name::Subdomain)?;
    let mut left_out = LeftOut::default();
    let converted = convert(slice, &name, &mut left_out).map_err(|invalid| {
        let service = slice.metadata.labels.service_name.as_deref();
        let service = service.and_then(|service| named(&name, service));
        Invalid { service, ..invalid }
            .of(&ObjectId { kind: Kind::EndpointSlice, name: name.clone() })
    })?;
    Ok((Update::Slice(name, converted), left_out))
}

/// Returns the Service that a slice's label names.
pub(super) fn named(slice: &ObjectName, service: &str) -> Option<Box<ObjectName>> {
    let name = names::name(Name::Label.check("", service).ok()?);
    Some(Box::new(ObjectName { namespace: Arc::clone(&slice.namespace), name }))
}

fn convert(
    slice: &wire::EndpointSlice,
    name: &ObjectName,
    left_out: &mut LeftOut,
) -> Result<Option<Slice>, Invalid> {
    let labels = &slice.metadata.labels;
    if labels.headless {
        left_out.counts.slices_headless += 1;
        return Ok(None);
    }
    // A label may hold a text that is no name of a Service; then it names none.
    let service = labels.service_name.as_deref();
    let Some(service) = service.filter(|service| Name::Label.check("", service).is_ok()) else {
        left_out.counts.slices_without_service += 1;
        return Ok(None);
    };
    let ipv4 = match slice.address_type.as_deref() {
        Some("IPv4") => true,
        Some("IPv6") => false,
        None | Some("") => {
            let problem = "missing: expected IPv4 or IPv6";
            return Err(Invalid::new("addressType", problem));
        }
        Some(_) => {
            left_out.counts.slices_of_other_addresses += 1;
            return Ok(None);
        }
    };
    let ports = ports(&slice.ports, left_out)?;
    field::pairs("ports", ports.len(), (slice.endpoints.len(), "endpoints"), SLICE_BACKENDS)?;
    let endpoints = endpoints(&slice.endpoints, ipv4, left_out)?;
    let triggered = slice.metadata.annotations.last_change_trigger_time.as_deref();
    let mut notes = 0;
    if left_out.counts.unusable_endpoints > 0 {
        notes |= ServiceNotes::UNUSABLE_ENDPOINTS;
    }
    if left_out.counts.ports_without_number > 0 {
        notes |= ServiceNotes::PORTS_WITHOUT_NUMBER;
    }
    Ok(Some(Slice {
        service: ObjectName { namespace: Arc::clone(&name.namespace), name: names::name(service) },
        ports: ports.into_boxed_slice(),
        endpoints,
        notes,
        triggered: triggered.and_then(field::nanoseconds),
        omitted: None,
    }))
}

fn ports(ports: &[wire::EndpointPort], left_out: &mut LeftOut) -> Result<Vec<SlicePort>, Invalid> {
    let mut found = Vec::with_capacity(ports.len());
    let mut known = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = |field: &str| format!("ports[{i}].{field}");
        // As the API server has it (pkg/apis/discovery/v1/defaults.go).
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            Name::Label.check(&at("name"), name)?;
        }
        match field::protocol(&at("protocol"), port.protocol.as_deref())? {
            Some(protocol) => {
                // The API server checks this, too, without regard to the protocol. Each repeated name would
                // be a backend of every endpoint, more of them than fit into memory.
                if !known.insert((name, protocol)) {
                    return Err(field::repeated_name(at("name"), name, protocol));
                }
                // The API server takes any number, also none; endpointslicecache.go passes over nil and 0.
                let number = port.port.filter(|number| number.0 != 0);
                let number = number.map(|number| field::port("", number)).transpose();
                let problem = match number {
                    Ok(Some(port)) => {
                        found.push(SlicePort { name: names::name(name), protocol, port });
                        continue;
                    }
                    Ok(None) => "missing".to_owned(),
                    Err(wrong) => wrong.problem,
                };
                left_out.counts.ports_without_number += 1;
                left_out.ignore(|| at("port"), problem, "port");
            }
            None => left_out.counts.sctp_ports += 1,
        }
    }
    Ok(found)
}

fn endpoints(
    endpoints: &[wire::Endpoint],
    ipv4: bool,
    left_out: &mut LeftOut,
) -> Result<Endpoints, Invalid> {
    let mut converted = Vec::with_capacity(endpoints.len());
    for (i, endpoint) in endpoints.iter().enumerate() {
        let address = address(i, endpoint)?;
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        let why = match field::unusable(&address) {
            None if address.is_ipv4() == ipv4 => {
                converted.push((address, names::endpoint(endpoint)));
                continue;
            }
            None => format!("{address} is not an {family} address, as addressType says"),
            Some(why) => format!("{address} {why}, which no pod has"),
        };
        left_out.counts.unusable_endpoints += 1;
        left_out.ignore(|| format!("endpoints[{i}].addresses[0]"), why, "endpoint");
    }
    Ok(converted.into_iter().collect())
}

/// Returns the address of an endpoint that is used: the first.
fn address(i: usize, endpoint: &wire::Endpoint) -> Result<IpAddr, Invalid> {
    let wire::First(Some(text)) = &endpoint.addresses else {
        let problem = "missing: an endpoint needs an address";
        return Err(Invalid::new(format!("endpoints[{i}].addresses"), problem));
    };
    let in_field =
        |invalid: Invalid| Invalid { field: format!("endpoints[{i}].addresses[0]"), ..invalid };
    field::address("", text).map_err(in_field)
}
