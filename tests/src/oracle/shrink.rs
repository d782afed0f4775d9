//! Reduces a failing world as long as it still fails.

use super::world::{
    Addresses, Endpoint, Family, Host, Past, Service, Slice, Transport, Type, World,
};

/// Number of smaller worlds tried at a time: as many as one comparison can take.
const AT_ONCE: usize = 24;
/// Maximum number of comparisons.
const ROUNDS: usize = 60;

/// Returns the smallest world found for which `fail` returns true. `fail` is given several worlds at a
/// time and returns a result for each, in their order.
pub(crate) fn shrink(world: &World, mut fail: impl FnMut(&[World]) -> Vec<bool>) -> World {
    let mut smallest = world.clone();
    let mut rounds = 0;
    'again: loop {
        for some in smaller(&smallest).chunks(AT_ONCE) {
            rounds += 1;
            if rounds > ROUNDS {
                return smallest;
            }
            if let Some(at) = fail(some).iter().position(|failed| *failed) {
                smallest = some[at].clone();
                continue 'again;
            }
        }
        return smallest;
    }
}

/// Worlds that are a little smaller; those that lack most come first.
fn smaller(world: &World) -> Vec<World> {
    let mut found = Vec::new();
    let count = world.services.len();
    let with = |services: Vec<Service>| World { services, ..world.clone() };
    // First, several parts that are often not needed are removed at once, because each step towards that
    // would take a comparison of its own.
    for service in &world.services {
        found.extend(barer(service).into_iter().map(|service| with(vec![service])));
    }
    if count > 1 {
        found.extend(world.services.iter().map(|service| with(vec![service.clone()])));
    }
    if count > 2 {
        found.extend((0..count).map(|at| with(without(&world.services, at))));
    }
    for (at, service) in world.services.iter().enumerate() {
        let mut pasts = Vec::new();
        if let Past::Other(before) = &service.past {
            let same = Service { past: Past::Same, ..service.clone() };
            let shorter = smaller_services(before).into_iter();
            pasts = shorter
                .map(|before| Service { past: Past::Other(Box::new(before)), ..service.clone() })
                .collect();
            pasts.insert(0, same);
        } else if service.past == Past::Absent {
            pasts.push(Service { past: Past::Same, ..service.clone() });
        }
        let can = |it: &Service| it.before().is_none_or(|before| before.can_become(it));
        for service in pasts.into_iter().chain(smaller_services(service)).filter(can) {
            let mut services = world.services.clone();
            services[at] = service;
            found.push(with(services));
        }
    }
    found
}

/// The Service with hardly any features left, and with a few more.
fn barer(service: &Service) -> Vec<Service> {
    let mut found = Vec::new();
    let mut plain = Service {
        is_internal_local: false,
        is_external_local: false,
        affinity: None,
        publishes_not_ready: false,
        label: None,
        past: Past::Same,
        ..service.clone()
    };
    plain.families.truncate(1);
    plain.ports.truncate(1);
    plain.ranges.clear();
    let one_slice =
        Service { slices: plain.slices.iter().take(1).cloned().collect(), ..plain.clone() };
    let no_slice = Service { slices: Vec::new(), hosts: Vec::new(), ..plain.clone() };
    let alone = |it: &Service| Service { external: Vec::new(), ingress: Vec::new(), ..it.clone() };
    for bare in [alone(&no_slice), no_slice, alone(&one_slice), one_slice] {
        if bare != *service && !found.contains(&bare) {
            found.push(bare);
        }
    }
    found
}

fn without<T: Clone>(all: &[T], at: usize) -> Vec<T> {
    let mut rest = all.to_vec();
    rest.remove(at);
    rest
}

/// The list without one element, for each of its elements.
fn shorter<T: Clone>(all: &[T]) -> impl Iterator<Item = Vec<T>> {
    (0..all.len()).map(|at| without(all, at))
}

/// Services that are a little smaller, with the same past.
pub(crate) fn smaller_services(service: &Service) -> Vec<Service> {
    let mut found = Vec::new();
    let mut try_with = |change: &dyn Fn(&mut Service)| {
        let mut changed = service.clone();
        change(&mut changed);
        if changed != *service {
            found.push(changed);
        }
    };
    for slices in shorter(&service.slices) {
        try_with(&|it| it.slices.clone_from(&slices));
    }
    if service.ports.len() > 1 {
        for ports in shorter(&service.ports) {
            try_with(&|it| it.ports.clone_from(&ports));
        }
    }
    for external in shorter(&service.external) {
        try_with(&|it| it.external.clone_from(&external));
    }
    for ingress in shorter(&service.ingress) {
        try_with(&|it| it.ingress.clone_from(&ingress));
    }
    for ranges in shorter(&service.ranges) {
        try_with(&|it| it.ranges.clone_from(&ranges));
    }
    if service.families.len() > 1 {
        for families in shorter(&service.families) {
            try_with(&|it| it.families.clone_from(&families));
        }
    }
    if matches!(service.kind, Type::NodePort | Type::LoadBalancer) {
        try_with(&|it| {
            it.kind = Type::Cluster;
            it.ingress.clear();
            it.ranges.clear();
        });
    }
    try_with(&|it| it.is_internal_local = false);
    try_with(&|it| it.is_external_local = false);
    try_with(&|it| it.affinity = None);
    try_with(&|it| it.publishes_not_ready = false);
    try_with(&|it| it.label = None);
    try_with(&|it| it.has_node_ports = false);
    // A host's index determines its address, so only the last host can be removed, if no slice refers to
    // it.
    let is_last_idle = service.hosts.len().checked_sub(1).is_some_and(|last| {
        let mut host_refs = service.slices.iter().flat_map(|slice| &slice.endpoints);
        host_refs.all(|host_ref| host_ref.host != last)
    });
    if is_last_idle {
        try_with(&|it| drop(it.hosts.pop()));
    }
    for (at, slice) in service.slices.iter().enumerate() {
        for slice in smaller_slices(slice, service) {
            try_with(&|it| it.slices[at] = slice.clone());
        }
    }
    for (at, host) in service.hosts.iter().enumerate() {
        for alive in plainer(&host.alive) {
            try_with(&|it| it.hosts[at] = Host { alive: alive.clone(), ..host.clone() });
        }
        for dying in plainer(&host.dying) {
            try_with(&|it| it.hosts[at] = Host { dying: dying.clone(), ..host.clone() });
        }
    }
    found
}

fn smaller_slices(slice: &Slice, service: &Service) -> Vec<Slice> {
    let mut found = Vec::new();
    let mut try_with = |change: &dyn Fn(&mut Slice)| {
        let mut changed = slice.clone();
        change(&mut changed);
        if changed != *slice {
            found.push(changed);
        }
    };
    for endpoints in shorter(&slice.endpoints) {
        try_with(&|it| it.endpoints.clone_from(&endpoints));
    }
    for ports in shorter(&slice.ports) {
        try_with(&|it| it.ports.clone_from(&ports));
    }
    try_with(&|it| it.is_owned = true);
    try_with(&|it| it.is_headless = false);
    if slice.addresses == Addresses::Names {
        try_with(&|it| it.addresses = Addresses::Of(Family::V4));
    }
    for (at, host_ref) in slice.endpoints.iter().enumerate() {
        if host_ref.is_dying {
            try_with(&|it| it.endpoints[at].is_dying = false);
        }
        if host_ref.has_second {
            try_with(&|it| it.endpoints[at].has_second = false);
        }
    }
    for (at, port) in slice.ports.iter().enumerate() {
        let its = service.ports.iter().find(|own| port.name.unwrap_or_default() == own.name);
        if let Some(protocol) = its.map(|its| its.protocol) {
            try_with(&|it| it.ports[at].protocol = protocol);
        }
        if port.protocol != Transport::Sctp {
            try_with(&|it| it.ports[at].number = Some(super::generate::LISTENING[0]));
        }
    }
    found
}

/// Endpoints with fewer fields set.
fn plainer(endpoint: &Endpoint) -> Vec<Endpoint> {
    let usual = Endpoint { terminating: endpoint.terminating, ..Endpoint::default() };
    let changes: [fn(&mut Endpoint); 6] = [
        |it| it.ready = None,
        |it| it.serving = None,
        |it| it.terminating = it.terminating.filter(|is| *is),
        |it| it.node = None,
        |it| it.node_hints.clear(),
        |it| it.zone_hints.clear(),
    ];
    let changed = changes.into_iter().map(|change| {
        let mut less = endpoint.clone();
        change(&mut less);
        less
    });
    std::iter::once(usual).chain(changed).filter(|less| less != endpoint).collect()
}

#[cfg(test)]
mod tests;
