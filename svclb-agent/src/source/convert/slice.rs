//! discovery.k8s.io/v1 EndpointSlice to the model.

use std::collections::HashSet;
use std::sync::Arc;

use svclb_core::model::{Endpoint, ObjectName, Slice, SlicePort, Update};

use super::field::{self, Name};
use super::{Invalid, Kind, ObjectId, Skipped, object_name, wire};

/// Converts an EndpointSlice. One that belongs to no Service, is labelled headless or holds other
/// addresses than IPv4 or IPv6 is `None` in the update, counted, and not looked at further.
///
/// # Errors
/// The field that is wrong, with the object it belongs to as far as it has a name.
pub fn slice(slice: &wire::EndpointSlice) -> Result<(Update, Skipped), Invalid> {
    let name = object_name(&slice.metadata, Name::Subdomain)?;
    let mut skipped = Skipped::default();
    let converted = convert(slice, &name, &mut skipped).map_err(|invalid| {
        invalid.of(&ObjectId { kind: Kind::EndpointSlice, name: name.clone() })
    })?;
    Ok((Update::Slice(name, converted), skipped))
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
    Ok(Some(Slice {
        service: ObjectName { namespace: Arc::clone(&name.namespace), name: Arc::from(service) },
        ports: ports(&slice.ports, skipped)?,
        endpoints: endpoints(&slice.endpoints, ipv4)?,
    }))
}

fn ports(ports: &[wire::EndpointPort], skipped: &mut Skipped) -> Result<Vec<SlicePort>, Invalid> {
    let mut found = Vec::with_capacity(ports.len());
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
                found.push(SlicePort { name: Arc::from(name), protocol, port: number });
            }
            None => skipped.sctp_ports += 1,
        }
    }
    Ok(found)
}

fn endpoints(endpoints: &[wire::Endpoint], ipv4: bool) -> Result<Vec<Endpoint>, Invalid> {
    let mut names = Names::default();
    let mut found = Vec::with_capacity(endpoints.len());
    for (i, endpoint) in endpoints.iter().enumerate() {
        let Some(text) = endpoint.addresses.first() else {
            let problem = "missing: an endpoint needs an address";
            return Err(Invalid::new(format!("endpoints[{i}].addresses"), problem));
        };
        let field = format!("endpoints[{i}].addresses[0]");
        let address = field::address(&field, text)?;
        if address.is_ipv4() != ipv4 {
            let family = if ipv4 { "IPv4" } else { "IPv6" };
            let problem = format!("{address} is not an {family} address, as addressType says");
            return Err(Invalid::new(field, problem));
        }
        let conditions = endpoint.conditions;
        let mut hints =
            |hints: &[wire::Named]| hints.iter().map(|hint| names.one(&hint.name)).collect();
        let (node_hints, zone_hints) =
            (hints(&endpoint.hints.for_nodes), hints(&endpoint.hints.for_zones));
        found.push(Endpoint {
            address,
            ready: conditions.ready.unwrap_or(true),
            serving: conditions.serving.unwrap_or(true),
            terminating: conditions.terminating.unwrap_or(false),
            node: endpoint
                .node_name
                .as_deref()
                .filter(|node| !node.is_empty())
                .map(|node| names.one(node)),
            node_hints,
            zone_hints,
        });
    }
    Ok(found)
}

/// Nodes and zones repeat from endpoint to endpoint: each is kept once.
#[derive(Default)]
struct Names(HashSet<Arc<str>>);

impl Names {
    fn one(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(name);
        self.0.insert(Arc::clone(&new));
        new
    }
}
