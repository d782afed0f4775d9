//! The cases in which svclb must answer differently from kube-proxy: each has a name, a condition, and
//! the answers required of each side. In all other cases the answers must be equal.
//!
//! docs/oracle.md documents the list.

use super::address_block::{host_source, pod_source};
use super::answers::Side;
use super::dial::Answer;
use super::frontend::{Client, Kind, restricted};
use super::judge::{Case, Expected, Must};
use super::usable::Reach;
use super::world::{External, Label, Service, Transport};

/// A required difference.
pub(crate) struct Exception {
    pub(crate) name: &'static str,
    pub(crate) applies: fn(&Case<'_>) -> Option<Expected>,
}

/// All exceptions. The first one that applies counts.
pub(crate) const EXCEPTIONS: [Exception; 9] = [
    Exception { name: "the ClusterIP of a Service that is another proxy's", applies: foreign },
    Exception { name: "a port that the Service has not", applies: absent_port },
    Exception {
        name: "a Service labelled headless that has a ClusterIP",
        applies: labelled_headless,
    },
    Exception { name: "one external IP of two Services", applies: shared_external_ip },
    Exception { name: "a load balancer with source ranges", applies: ranges },
    Exception { name: "a node port on loopback", applies: loopback },
    Exception {
        name: "internalTrafficPolicy Local without local endpoints",
        applies: no_local_endpoints,
    },
    Exception { name: "session affinity", applies: affinity },
    Exception {
        name: "session affinity with two lists of backends",
        applies: affinity_of_two_lists,
    },
];

/// kube-proxy drops packets to an address of the ClusterIP range that belongs to no Service it knows.
fn foreign(case: &Case<'_>) -> Option<Expected> {
    let is_cluster_ip = matches!(case.frontend.kind, Kind::ClusterIp | Kind::AbsentPort);
    (is_cluster_ip && case.service().label == Some(Label::ProxyName)).then_some(Expected {
        kube_proxy: Must::Be(Answer::Silence),
        svclb: Must::Be(Answer::Untouched),
    })
}

/// svclb knows frontends, not addresses: it leaves other ports of a ClusterIP alone, and kube-proxy
/// refuses them.
fn absent_port(case: &Case<'_>) -> Option<Expected> {
    (case.frontend.kind == Kind::AbsentPort).then_some(Expected {
        kube_proxy: Must::Be(Answer::Refused),
        svclb: Must::Be(Answer::Untouched),
    })
}

/// The label withdraws a Service from the proxies, as it does a slice. kube-proxy 1.37 looks
/// at the label of slices only, and at `clusterIP: None` of Services.
fn labelled_headless(case: &Case<'_>) -> Option<Expected> {
    let (frontend, family) = (case.frontend, case.frontend.family());
    let served = |service: &Service| {
        service.label == Some(Label::Headless)
            && service.has_cluster_ip()
            && service.families.contains(&family)
    };
    let own = (frontend.service, frontend.port);
    match frontend.kind {
        Kind::SharedIp => {
            let each = case.placed.world.services.iter().enumerate();
            let labelled = each.filter(|(_, service)| {
                served(service) && service.external.contains(&External { family, is_shared: true })
            });
            let labelled = labelled.flat_map(|(at, service)| {
                let ports = service.ports.iter().enumerate().filter(|(_, port)| {
                    port.number == frontend.address.port()
                        && port.protocol == Transport::Of(frontend.protocol)
                });
                ports.map(move |(port, _)| (at, port))
            });
            // For kube-proxy, labelled Services claim the address like any other.
            let labelled: Vec<_> = labelled.map(|it| case.as_served(it, Side::KubeProxy)).collect();
            let others = case.placed.claimants(frontend);
            let others: Vec<_> =
                others.into_iter().map(|it| case.as_at(it, Side::KubeProxy)).collect();
            let svclb = match case.owner() {
                None => Must::Be(Answer::Untouched),
                Some(owner) => case.as_at(owner, Side::Svclb),
            };
            (!labelled.is_empty())
                .then(|| Expected { kube_proxy: Must::BeOneOf([labelled, others].concat()), svclb })
        }
        Kind::ClusterIp | Kind::ExternalIp | Kind::Balancer | Kind::NodePort => {
            let kube_proxy = match is_source_allowed(case) {
                Some(false) => Must::Be(Answer::Silence),
                _ => case.as_served(own, Side::KubeProxy),
            };
            served(case.service())
                .then_some(Expected { kube_proxy, svclb: Must::Be(Answer::Untouched) })
        }
        _ => None,
    }
}

/// In kube-proxy the owner is the last Service in the order of a hash map; in svclb it is the oldest.
fn shared_external_ip(case: &Case<'_>) -> Option<Expected> {
    if case.frontend.kind != Kind::SharedIp {
        return None;
    }
    let claimants = case.placed.claimants(case.frontend);
    (claimants.len() > 1).then(|| Expected {
        svclb: case.as_at(claimants[0], Side::Svclb),
        kube_proxy: Must::BeOneOf(
            claimants.into_iter().map(|it| case.as_at(it, Side::KubeProxy)).collect(),
        ),
    })
}

/// svclb cannot evaluate source ranges before a connection has a source address, so it leaves the
/// frontend to kube-proxy.
fn ranges(case: &Case<'_>) -> Option<Expected> {
    let frontend = case.frontend;
    let is_source_allowed = is_source_allowed(case).filter(|_| case.placed.is_served(frontend))?;
    let kube_proxy = match is_source_allowed {
        true => case.as_at((frontend.service, frontend.port), Side::KubeProxy),
        false => Must::Be(Answer::Silence),
    };
    Some(Expected { kube_proxy, svclb: Must::Be(Answer::Untouched) })
}

/// Returns whether the source ranges of a load balancer's address include the client, or `None` if the
/// ranges exclude no source.
fn is_source_allowed(case: &Case<'_>) -> Option<bool> {
    let family = case.frontend.family();
    let is_balancer = case.frontend.kind == Kind::Balancer;
    let allowed = restricted(&case.service().ranges, family).filter(|_| is_balancer)?;
    let source = match case.client {
        Client::Pod => pod_source(family, 9),
        Client::Host => host_source(family, 9),
    };
    Some(allowed.iter().any(|range| range.contains(&source)))
}

/// In nftables mode, kube-proxy does not serve node ports on loopback.
fn loopback(case: &Case<'_>) -> Option<Expected> {
    let frontend = case.frontend;
    let is_one = frontend.kind == Kind::Loopback && case.client == Client::Host;
    if !is_one || !case.placed.is_served(frontend) || case.service().label.is_some() {
        return None;
    }
    let mut all = case.placed.frontends().into_iter();
    let same = all.find(|it| {
        it.kind == Kind::NodePort
            && (it.service, it.port, it.family())
                == (frontend.service, frontend.port, frontend.family())
    });
    Some(Expected { kube_proxy: Must::Be(Answer::Untouched), svclb: Must::Match(same?) })
}

/// kube-proxy drops, so the client waits; svclb refuses. If no endpoint is usable on other nodes either,
/// both refuse.
fn no_local_endpoints(case: &Case<'_>) -> Option<Expected> {
    let (frontend, service) = (case.frontend, case.service());
    let is_local = frontend.kind == Kind::ClusterIp && service.is_internal_local;
    let has = |reach| service.has_usable(frontend.port, frontend.family(), reach);
    (is_local && has(Reach::Anywhere) && !has(Reach::Here)).then_some(Expected {
        kube_proxy: Must::Be(Answer::Silence),
        svclb: Must::Be(Answer::Refused),
    })
}

/// Returns the port with session affinity that answers here, if its hosts do.
fn sticky_owner(case: &Case<'_>) -> Option<(usize, usize)> {
    let owner = case.owner()?;
    let has = case.placed.world.services[owner.0].affinity.is_some();
    (has && case.answers_of(Side::KubeProxy).has_hosts()).then_some(owner)
}

/// Returns true if clients from outside and from inside the cluster are given different lists of hosts.
fn has_two_lists(case: &Case<'_>, owner: (usize, usize)) -> bool {
    case.placed.world.services[owner.0].is_internal_local
        && !case.placed.externals(owner, case.frontend.family()).is_empty()
}

/// For kube-proxy a client is an address, and here many addresses dial; for svclb it is a network
/// namespace. All connections of one client to a port of a Service go to one host, through any frontend.
fn affinity(case: &Case<'_>) -> Option<Expected> {
    let owner = sticky_owner(case).filter(|owner| !has_two_lists(case, *owner))?;
    let cluster_ip = case.placed.cluster_ip(owner, case.frontend.family())?;
    let place = Some(cluster_ip).filter(|it| it != case.frontend);
    let kube_proxy = Must::BeHostsOf { service: owner.0, is_one: false };
    Some(Expected { kube_proxy, svclb: Must::BeOneHost(place) })
}

/// A client keeps its host as long as the host is in the list of the frontend that it dials, and
/// otherwise draws another one, once. It has dialled the ClusterIP first ([`Placed::is_first`]).
///
/// [`Placed::is_first`]: super::frontend::Placed::is_first
fn affinity_of_two_lists(case: &Case<'_>) -> Option<Expected> {
    let owner = sticky_owner(case).filter(|owner| has_two_lists(case, *owner))?;
    let family = case.frontend.family();
    let cluster_ip = case.placed.cluster_ip(owner, family)?;
    let first = case.answers.of(Side::Svclb, case.client, &cluster_ip);
    let is_in_both = first.is_of_hosts() && first.0.is_subset(&case.answers_of(Side::KubeProxy).0);
    let same = if is_in_both {
        Some(cluster_ip)
    } else {
        case.placed.externals(owner, family).first().copied()
    };
    let place = same.filter(|it| *case.frontend != cluster_ip && it != case.frontend);
    let kube_proxy = Must::BeHostsOf { service: owner.0, is_one: false };
    Some(Expected { kube_proxy, svclb: Must::BeOneHost(place) })
}

#[cfg(test)]
mod tests;
