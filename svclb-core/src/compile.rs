//! Compiles a Service and its slices into the desired rows of its services.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use svclb_common::layout::{
    Address, BackendRow, BackendState, FrontendKey, LineFlags, Policy, Protocol, ServiceNotes,
    ServiceRow, Slot, Text,
};

use crate::frontends::FrontendKind;
use crate::model::{
    Endpoints, Families, Node, ObjectName, Service, ServiceKey, ServicePort, Slice,
};
use crate::retained::Retained;
use crate::select::{Candidate, List, Rules, Verdict, select};

/// The Service of the API server itself, which API servers maintain.
const API_SERVER: (&str, &str) = ("default", "kubernetes");

/// Returns whether this is the Service of the API server itself.
pub fn is_api_server(object: &ObjectName) -> bool {
    (&*object.namespace, &*object.name) == API_SERVER
}

/// The desired rows of one service. Ids, lines and ranges are chosen by the planner.
#[derive(Clone, PartialEq, Debug)]
pub struct Desired {
    /// The service.
    pub key: ServiceKey,
    /// Its row.
    pub row: ServiceRow,
    /// Its members, by address and port.
    pub members: Vec<(Address, u16, BackendRow)>,
    /// Its sets; the slots' owner is 0 here. An empty one refuses.
    pub sets: Vec<Vec<Slot>>,
    /// Its frontends, by key.
    pub frontends: Vec<DesiredFrontend>,
}

/// A frontend as it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DesiredFrontend {
    /// The address and port that clients dial.
    pub key: FrontendKey,
    /// [`LineFlags`].
    pub flags: u16,
    /// Session affinity, 0 for none.
    pub affinity_seconds: u32,
    /// Its set, a number in [`Desired::sets`].
    pub set: usize,
}

/// Notes on why a service has fewer frontends than its object names, as far as they depend on the object.
fn notes(service: &Service) -> u32 {
    let families = Families::of(&service.cluster_ips);
    let is_left_alone =
        |address: &IpAddr| families.have(address) && service.source_ranges.have(address);
    let mut notes = service.notes;
    if service.load_balancer_ips.iter().any(is_left_alone) {
        notes |= ServiceNotes::SOURCE_RANGES;
    }
    notes
}

/// The endpoints in the slices of a Service, by name and protocol of a port: found without a walk over all
/// ports, of which an object may have thousands.
#[derive(Debug)]
pub struct Offers<'a> {
    by_port: HashMap<(&'a str, Protocol), Vec<(u16, &'a Endpoints)>>,
    /// Notes on the slices.
    notes: u32,
    /// Retained state, used for a port while the slices have no endpoint for it.
    retained: &'a [Retained],
}

impl<'a> Offers<'a> {
    /// The offers of these slices.
    pub fn of(slices: impl IntoIterator<Item = &'a Slice>) -> Self {
        let (mut by_port, mut notes): (HashMap<_, Vec<_>>, _) = (HashMap::new(), 0);
        for slice in slices {
            notes |= slice.notes;
            for port in &slice.ports {
                let offer = (port.port, &slice.endpoints);
                by_port.entry((&*port.name, port.protocol)).or_default().push(offer);
            }
        }
        Self { by_port, notes, retained: &[] }
    }

    /// The same with retained state for ports without an endpoint in the slices.
    #[must_use]
    pub fn or(self, retained: &'a [Retained]) -> Self {
        Self { retained, ..self }
    }

    /// The retained members of a port.
    fn retained(&self, port: &ServicePort) -> &'a [(Address, u16, BackendRow)] {
        let retained = self.retained.iter().find(|retained| retained.key.is_port(port));
        retained.map_or(&[], |retained| &retained.members)
    }

    /// The number of a port's backends of both families.
    pub fn count(&self, port: &ServicePort) -> usize {
        self.at(port).iter().map(|(_, endpoints)| endpoints.len()).sum()
    }

    /// The backend ports of a Service port, each with the endpoints that have it.
    fn at<'s>(&'s self, port: &'s ServicePort) -> &'s [(u16, &'a Endpoints)] {
        self.by_port.get(&(&*port.name, port.protocol)).map_or(&[], Vec::as_slice)
    }
}

/// Compiles one port of a Service, which claims the frontends `claimed` and owns those for which `is_owned` is
/// true.
pub fn compile(
    object: &ObjectName,
    service: &Service,
    port: &ServicePort,
    claimed: Vec<(FrontendKey, FrontendKind)>,
    offers: &Offers<'_>,
    node: &Node,
    is_owned: impl Fn(&FrontendKey) -> bool,
) -> Desired {
    let uses: BTreeSet<(Policy, bool)> =
        claimed.iter().map(|(key, kind)| (kind.policy(), key.address.is_v4())).collect();
    let mut notes = notes(service) | offers.notes;
    let count = claimed.len();
    let mut owned = claimed;
    owned.retain(|(key, _)| is_owned(key));
    if owned.len() < count {
        notes |= ServiceNotes::CONFLICT;
    }
    let mut compiled = Sets { port, offers, node, found: BTreeMap::new() };
    let retained = offers.retained(port);
    if !retained.is_empty() && compiled.retain(retained, service, &uses) {
        notes |= ServiceNotes::RETAINED;
    }
    let mut counts = [0_u32; 2];
    let mut members: Vec<(Address, u16, BackendRow)> = Vec::new();
    for (policy, v4) in uses {
        let list = List::of(policy, service);
        let backends = compiled.backends(list, v4);
        counts[policy as usize] += u32::try_from(backends.len()).unwrap_or(u32::MAX);
        members.extend(backends.iter().map(|(address, backend_port, state)| {
            let row = BackendRow { sets: policy.bit(), state: *state as u8, _pad: 0, weight: 1 };
            (*address, *backend_port, row)
        }));
    }
    // Each list has its order; mostly there is one.
    members.sort_by_key(|(address, port, _)| (*address, *port));
    members.dedup_by(|(address, port, row), (first, first_port, first_row)| {
        let is_same = (&*address, &*port) == (&*first, &*first_port);
        if is_same {
            first_row.sets |= row.sets;
        }
        is_same
    });
    let mut numbers: BTreeMap<(List, bool), usize> = BTreeMap::new();
    let mut sets = Vec::new();
    let mut chosen = Vec::new();
    let own_flags = if is_api_server(object) { LineFlags::API_SERVER } else { 0 };
    for (key, kind) in owned {
        let policy = kind.policy();
        let list = (List::of(policy, service), key.address.is_v4());
        let set = *numbers.entry(list).or_insert_with(|| {
            sets.push(slots(compiled.backends(list.0, list.1)));
            sets.len() - 1
        });
        chosen.push(DesiredFrontend {
            key,
            flags: own_flags | if policy == Policy::External { LineFlags::EXTERNAL } else { 0 },
            affinity_seconds: service.affinity_seconds.unwrap_or(0),
            set,
        });
    }
    Desired {
        row: ServiceRow { notes, ..row(object, service, port, chosen.len(), counts) },
        key: key(object, port),
        members,
        sets,
        frontends: chosen,
    }
}

/// The endpoints of one family that the slices offer for a service, judged for clients of its frontends under
/// one policy. Retained state is none of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The service.
    pub key: ServiceKey,
    /// The policy of the frontends.
    pub policy: Policy,
    /// The family is IPv4.
    pub is_v4: bool,
    /// Each address and port once, in order.
    pub endpoints: Vec<(Address, u16, Verdict)>,
}

/// Explains by which rule each endpoint of one port of a Service is used or not: for each policy and family of the
/// frontends that the port claims.
pub(crate) fn explain(
    object: &ObjectName,
    service: &Service,
    port: &ServicePort,
    claimed: &[(FrontendKey, FrontendKind)],
    offers: &Offers<'_>,
    node: &Node,
) -> Vec<Explanation> {
    let uses: BTreeSet<(Policy, bool)> =
        claimed.iter().map(|(key, kind)| (kind.policy(), key.address.is_v4())).collect();
    let explained = uses.into_iter().map(|(policy, is_v4)| {
        let candidates = merge(port, offers, is_v4);
        let rules = Rules::new(List::of(policy, service), &candidates, node);
        let judged = |it: &Candidate<'_>| (it.address.into(), it.port, rules.judge(it.endpoint));
        let endpoints = candidates.iter().map(judged).collect();
        Explanation { key: key(object, port), policy, is_v4, endpoints }
    });
    explained.collect()
}

fn key(object: &ObjectName, port: &ServicePort) -> ServiceKey {
    ServiceKey { object: object.clone(), port_name: port.name.clone(), protocol: port.protocol }
}

type Backend = (Address, u16, BackendState);

/// The lists of one port, each compiled once.
struct Sets<'a> {
    port: &'a ServicePort,
    offers: &'a Offers<'a>,
    node: &'a Node,
    found: BTreeMap<(List, bool), Vec<Backend>>,
}

impl Sets<'_> {
    /// Puts these members into the lists, unless one of those has a backend. True when it did.
    fn retain(
        &mut self,
        members: &[(Address, u16, BackendRow)],
        service: &Service,
        uses: &BTreeSet<(Policy, bool)>,
    ) -> bool {
        for (policy, v4) in uses {
            if !self.backends(List::of(*policy, service), *v4).is_empty() {
                return false;
            }
        }
        for (policy, v4) in uses {
            let of_set = members
                .iter()
                .filter(|(address, _, row)| address.is_v4() == *v4 && row.sets & policy.bit() != 0);
            let list = self.found.entry((List::of(*policy, service), *v4)).or_default();
            list.extend(of_set.filter_map(|(address, port, row)| {
                Some((*address, *port, BackendState::from_number(row.state)?))
            }));
            list.sort_by_key(|(address, port, _)| (*address, *port));
            list.dedup_by_key(|(address, port, _)| (*address, *port));
        }
        true
    }

    fn backends(&mut self, list: List, v4: bool) -> &[Backend] {
        let (port, offers, node) = (self.port, self.offers, self.node);
        self.found.entry((list, v4)).or_insert_with(|| {
            let candidates = merge(port, offers, v4);
            let selected = select(list, &candidates, node).into_iter();
            let backend = |(at, state): (usize, BackendState)| {
                (candidates[at].address.into(), candidates[at].port, state)
            };
            let mut backends: Vec<Backend> = selected.map(backend).collect();
            // An order of their own, so that a restart finds what it would write.
            backends.sort_by_key(|(address, port, _)| (*address, *port));
            backends
        })
    }
}

/// The endpoints of one family that match a port by name and protocol, from all slices, each address
/// and port once: one that is not terminating wins over one that is.
fn merge<'a>(port: &ServicePort, offers: &Offers<'a>, v4: bool) -> Vec<Candidate<'a>> {
    let mut found: Vec<Candidate<'a>> = Vec::with_capacity(offers.count(port));
    for &(port, endpoints) in offers.at(port) {
        let of_family = endpoints.iter().filter(|(address, _)| address.is_ipv4() == v4);
        found.extend(of_family.map(|(address, endpoint)| Candidate { address, port, endpoint }));
    }
    found.sort_by_key(|it| (it.address, it.port, it.endpoint.terminating));
    found.dedup_by_key(|it| (it.address, it.port));
    found
}

fn slots(backends: &[Backend]) -> Vec<Slot> {
    let weights = vec![1; backends.len()];
    let drawn = alias(&weights).into_iter();
    let slot = |((address, port, _), (threshold, alias)): (&Backend, (u32, u32))| Slot {
        address: *address,
        port: *port,
        flags: 0,
        owner: 0,
        threshold,
        alias,
    };
    backends.iter().zip(drawn).map(slot).collect()
}

/// The thresholds and aliases of a weighted draw, by Vose's method, in exact integers.
///
/// A slot is taken itself when the draw's fraction, in units of 2^-32, is at most its threshold, and
/// its alias (a number from 0) otherwise. Rounding costs each weight less than 2^-32 of a place.
pub fn alias(weights: &[u32]) -> Vec<(u32, u32)> {
    let count = weights.len() as u64;
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    // A place has `total` units; a backend has `weight * count` of them in all.
    let mut left: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) * count).collect();
    let mut drawn: Vec<(u32, u32)> = (0..).take(weights.len()).map(|at| (u32::MAX, at)).collect();
    let mut small: Vec<usize> = (0..weights.len()).filter(|at| left[*at] < total).collect();
    if small.is_empty() {
        // All weigh the same, so each is taken itself.
        return drawn;
    }
    let mut large: Vec<usize> = (0..weights.len()).filter(|at| left[*at] >= total).collect();
    while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
        drawn[less] = (threshold(left[less], total), drawn[more].1);
        // `more` gives what the place of `less` lacks.
        left[more] -= total - left[less];
        if left[more] < total {
            large.pop();
            small.push(more);
        }
    }
    drawn
}

/// The largest fraction below `part` of `total`.
fn threshold(part: u64, total: u64) -> u32 {
    let scaled = (u128::from(part) << 32) / u128::from(total.max(1));
    u32::try_from(scaled.saturating_sub(1)).unwrap_or(u32::MAX)
}

fn row(
    object: &ObjectName,
    service: &Service,
    port: &ServicePort,
    frontends: usize,
    [internal_backends, external_backends]: [u32; 2],
) -> ServiceRow {
    ServiceRow {
        namespace: text(&object.namespace),
        name: text(&object.name),
        port_name: text(&port.name),
        protocol: text(port.protocol.name()),
        internal_policy: text(service.internal_policy.name()),
        external_policy: text(service.external_policy.name()),
        frontends: u32::try_from(frontends).unwrap_or(u32::MAX),
        internal_backends,
        external_backends,
        notes: 0,
    }
}

/// A name as a map has it. Kubernetes' names are shorter than the field; a longer one is cut.
pub fn text<const N: usize>(name: &str) -> Text<N> {
    let mut text = [0; N];
    for (at, byte) in name.bytes().take(N - 1).enumerate() {
        text[at] = byte.cast_signed();
    }
    text
}

/// The name that a map has.
pub fn name_of(text: &[i8]) -> String {
    let bytes: Vec<u8> =
        text.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The service that a row names; none when it names none.
pub fn service_of(row: &ServiceRow) -> Option<ServiceKey> {
    let protocol = match name_of(&row.protocol).as_str() {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    let (namespace, name) = (name_of(&row.namespace), name_of(&row.name));
    if namespace.is_empty() || name.is_empty() {
        return None;
    }
    let object = ObjectName::new(&namespace, &name);
    Some(ServiceKey { object, port_name: name_of(&row.port_name).into(), protocol })
}

#[cfg(test)]
mod flags_tests;
#[cfg(test)]
mod tests;
