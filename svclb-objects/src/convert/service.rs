//! v1 Service to the model.

use std::collections::HashSet;
use std::net::IpAddr;

use svclb_core::budget::OBJECT_FRONTENDS;
use svclb_core::model::{Families, Service, ServiceNotes, ServicePort, Update};

use super::field::{self, Name};
use super::{Invalid, Kind, LeftOut, ObjectId, Skipped, object_name, wire};

/// kube-proxy's and the API server's default, seconds.
const AFFINITY_SECONDS: u32 = 10_800;
/// The longest that the API server takes: a day.
const LONGEST_AFFINITY: i64 = 86_400;

/// Converts a Service. One without frontends here (headless, ExternalName, another proxy's) is `None` in the
/// update, whatever its other fields.
///
/// # Errors
/// The field that is wrong, with the object it belongs to as far as it has a name.
pub fn service(service: &wire::Service) -> Result<(Update, LeftOut), Invalid> {
    let name = object_name(&service.metadata, Name::Label)?;
    let mut left_out = LeftOut::default();
    let labels = &service.metadata.labels;
    if labels.proxy_name {
        left_out.counts.services_of_others += 1;
        return Ok((Update::Service(name, None), left_out));
    }
    if labels.headless || !has_cluster_ip(&service.spec) {
        return Ok((Update::Service(name, None), left_out));
    }
    let converted = convert(service, &mut left_out)
        .map_err(|invalid| invalid.of(&ObjectId { kind: Kind::Service, name: name.clone() }))?;
    Ok((Update::Service(name, Some(converted)), left_out))
}

/// serviceport.go: ExternalName and Services without a ClusterIP (`None`, empty) are not served. The
/// API server keeps `clusterIP` and `clusterIPs[0]` equal; a file may give either alone.
fn has_cluster_ip(spec: &wire::ServiceSpec) -> bool {
    let first = spec.cluster_ips.first().map(AsRef::as_ref);
    let given = [spec.cluster_ip.as_deref(), first];
    let none = given.contains(&Some("None"));
    let some = given.iter().flatten().any(|ip| !ip.is_empty());
    spec.kind.as_deref() != Some("ExternalName") && some && !none
}

fn convert(service: &wire::Service, left_out: &mut LeftOut) -> Result<Service, Invalid> {
    let spec = &service.spec;
    let created = match service.metadata.creation_timestamp.as_deref() {
        None | Some("") => None,
        Some(text) => Some(field::time("metadata.creationTimestamp", text)?),
    };
    let internal = spec.internal_traffic_policy.as_deref();
    let external = spec.external_traffic_policy.as_deref();
    let cluster_ips = cluster_ips(spec, left_out)?;
    let ports = ports(spec, &mut left_out.counts)?;
    if ports.is_empty() {
        left_out.counts.services_of_sctp += 1;
    }
    let families = Families::of(&cluster_ips);
    let external_ips = external_ips(spec, families, left_out)?;
    let load_balancer_ips = load_balancer_ips(&service.status, families, left_out)?;
    let addresses = cluster_ips.len() + external_ips.len() + load_balancer_ips.len();
    field::pairs("spec.ports", ports.len(), (addresses, "addresses"), OBJECT_FRONTENDS)?;
    let mut notes = 0;
    if left_out.counts.sctp_ports > 0 {
        notes |= ServiceNotes::SCTP;
    }
    if left_out.counts.unusable_addresses > 0 {
        notes |= ServiceNotes::UNUSABLE_ADDRESSES;
    }
    Ok(Service {
        created,
        cluster_ips,
        external_ips,
        load_balancer_ips,
        source_ranges: source_ranges(spec)?,
        internal_policy: field::policy("spec.internalTrafficPolicy", internal)?,
        external_policy: field::policy("spec.externalTrafficPolicy", external)?,
        affinity_seconds: affinity(spec)?,
        notes,
        omitted: None,
        ports,
    })
}

fn cluster_ips(spec: &wire::ServiceSpec, left_out: &mut LeftOut) -> Result<Vec<IpAddr>, Invalid> {
    let alone = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty());
    let alone = alone.map(|ip| field::address("spec.clusterIP", ip)).transpose()?;
    if spec.cluster_ips.is_empty() {
        let usable = alone.and_then(|ip| left_out.usable(|| "spec.clusterIP".to_owned(), ip));
        return Ok(usable.into_iter().collect());
    }
    let mut found: Vec<IpAddr> = Vec::with_capacity(2);
    for (i, text) in spec.cluster_ips.iter().enumerate() {
        let field = format!("spec.clusterIPs[{i}]");
        let address = field::address(&field, text)?;
        if found.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            let problem = format!("{address}: expected at most one address of each family");
            return Err(Invalid::new(field, problem));
        }
        found.push(address);
    }
    if let (Some(alone), Some(first)) = (alone, found.first())
        && alone != *first
    {
        let problem = format!("{first} is not spec.clusterIP ({alone}): expected the same address");
        return Err(Invalid::new("spec.clusterIPs[0]", problem));
    }
    let mut at = 0..;
    found.retain(|ip| {
        let i = at.next().unwrap_or_default();
        left_out.usable(|| format!("spec.clusterIPs[{i}]"), *ip).is_some()
    });
    Ok(found)
}

/// Returns the external IPs. Empty ones are ignored, as utils.go's `MapIPsByIPFamily` does: old API servers
/// accepted them.
fn external_ips(
    spec: &wire::ServiceSpec,
    families: Families,
    left_out: &mut LeftOut,
) -> Result<Vec<IpAddr>, Invalid> {
    let texts = spec.external_ips.iter().enumerate().filter(|(_, text)| !text.trim().is_empty());
    let texts = texts.map(|(i, text)| (format!("spec.externalIPs[{i}]"), &**text));
    addresses_beside(texts, families, left_out)
}

/// Returns the load balancer addresses that are served at the node: those of ipMode VIP, which is the default
/// (KEP-1860). With another mode, or only a host name, clients must reach the load balancer itself.
fn load_balancer_ips(
    status: &wire::ServiceStatus,
    families: Families,
    left_out: &mut LeftOut,
) -> Result<Vec<IpAddr>, Invalid> {
    let texts = status.load_balancer.ingress.iter().enumerate().filter_map(|(i, ingress)| {
        let vip = matches!(ingress.ip_mode.as_deref(), None | Some("" | "VIP"));
        let text = ingress.ip.as_deref().filter(|ip| vip && !ip.is_empty())?;
        Some((format!("status.loadBalancer.ingress[{i}].ip"), text))
    });
    addresses_beside(texts, families, left_out)
}

/// Reads addresses beside the ClusterIPs, given with their fields. Returns the usable ones in their order, each
/// once.
fn addresses_beside<'a>(
    texts: impl Iterator<Item = (String, &'a str)>,
    families: Families,
    left_out: &mut LeftOut,
) -> Result<Vec<IpAddr>, Invalid> {
    let (mut found, mut known) = (Vec::new(), HashSet::new());
    for (field, text) in texts {
        let address = field::address(&field, text)?;
        let usable = left_out.usable_in(families, || field.clone(), address);
        found.extend(usable.filter(|address| known.insert(*address)));
    }
    Ok(found)
}

/// Returns the families in which source ranges restrict clients: those with ranges, but without a range of
/// all addresses among them (serviceport.go). Blank ranges are ignored.
fn source_ranges(spec: &wire::ServiceSpec) -> Result<Families, Invalid> {
    let (mut given, mut open) = (Vec::new(), Vec::new());
    for (i, text) in spec.load_balancer_source_ranges.iter().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        let (address, length) = field::range(&format!("spec.loadBalancerSourceRanges[{i}]"), text)?;
        given.push(address);
        if length == 0 {
            open.push(address);
        }
    }
    let (given, open) = (Families::of(&given), Families::of(&open));
    Ok(Families { v4: given.v4 && !open.v4, v6: given.v6 && !open.v6 })
}

fn affinity(spec: &wire::ServiceSpec) -> Result<Option<u32>, Invalid> {
    let choices = [("None", false), ("ClientIP", true)];
    let text = spec.session_affinity.as_deref();
    if !field::choice("spec.sessionAffinity", text, "a session affinity", choices)? {
        return Ok(None);
    }
    let Some(seconds) = spec.session_affinity_config.client_ip.timeout_seconds else {
        return Ok(Some(AFFINITY_SECONDS));
    };
    let allowed = 1..=LONGEST_AFFINITY;
    match u32::try_from(seconds.0) {
        Ok(value) if allowed.contains(&seconds.0) => Ok(Some(value)),
        _ => Err(Invalid::new(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("{} is not a timeout (1 to {LONGEST_AFFINITY} seconds)", seconds.0),
        )),
    }
}

fn ports(spec: &wire::ServiceSpec, skipped: &mut Skipped) -> Result<Vec<ServicePort>, Invalid> {
    if spec.ports.is_empty() {
        let problem = "missing: a Service with a ClusterIP needs at least one port";
        return Err(Invalid::new("spec.ports", problem));
    }
    let mut found: Vec<ServicePort> = Vec::with_capacity(spec.ports.len());
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (i, port) in spec.ports.iter().enumerate() {
        let at = |field: &str| format!("spec.ports[{i}].{field}");
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            Name::Label.check(&at("name"), name)?;
        }
        let Some(number) = port.port else {
            return Err(Invalid::new(at("port"), "missing: expected a port (1 to 65535)"));
        };
        let number = field::port(&at("port"), number)?;
        let node_port = match port.node_port {
            None | Some(wire::Number(0)) => None,
            Some(port) => Some(field::port(&at("nodePort"), port)?),
        };
        let Some(protocol) = field::protocol(&at("protocol"), port.protocol.as_deref())? else {
            skipped.sctp_ports += 1;
            continue;
        };
        // Endpoints are matched by name and protocol; clients dial the number.
        if !names.insert((name, protocol)) {
            return Err(field::repeated_name(at("name"), name, protocol));
        }
        if !numbers.insert((number, protocol)) {
            let problem =
                format!("{number} is an earlier {} port too: expected it once", protocol.name());
            return Err(Invalid::new(at("port"), problem));
        }
        found.push(ServicePort {
            name: super::names::name(name),
            protocol,
            port: number,
            node_port,
        });
    }
    Ok(found)
}
