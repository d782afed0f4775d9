//! Where svclb has to answer otherwise than kube-proxy does: each difference with its name, when it
//! applies, and what each side must answer then. Everywhere else the answers are equal.
//!
//! The list is in the documentation too (docs/oracle.md).

use super::answers::Side;
use super::dial::Answer;
use super::frontend::{Dialler, Kind, restricted};
use super::judge::{Case, Must, Wanted};
use super::lane::{host_source, pod_source};
use super::usable::Reach;
use super::world::{External, Label, Service, Transport};

/// A difference.
pub(crate) struct Exception {
    pub(crate) name: &'static str,
    pub(crate) applies: fn(&Case<'_>) -> Option<Wanted>,
}

/// All of them; the first that applies counts.
pub(crate) const EXCEPTIONS: [Exception; 9] = [
    Exception { name: "the ClusterIP of a Service that is another proxy's", applies: foreign },
    Exception { name: "a port that the Service has not", applies: absent_port },
    Exception {
        name: "a Service labelled headless that has a ClusterIP",
        applies: labelled_headless,
    },
    Exception { name: "one external IP of two Services", applies: contested },
    Exception { name: "a load balancer with source ranges", applies: ranges },
    Exception { name: "a node port on loopback", applies: loopback },
    Exception { name: "internalTrafficPolicy Local without local endpoints", applies: none_local },
    Exception { name: "session affinity", applies: affinity },
    Exception {
        name: "session affinity with two lists of backends",
        applies: affinity_of_two_lists,
    },
];

/// kube-proxy drops what goes to a ClusterIP of the cluster's range that is nobody's it knows.
fn foreign(case: &Case<'_>) -> Option<Wanted> {
    let is_cluster_ip = matches!(case.frontend.kind, Kind::ClusterIp | Kind::AbsentPort);
    (is_cluster_ip && case.service().label == Some(Label::ProxyName)).then_some(Wanted {
        kube_proxy: Must::Be(Answer::Silence),
        svclb: Must::Be(Answer::Untouched),
    })
}

/// svclb knows frontends, not addresses: what is no frontend is left alone. Beside kube-proxy, that
/// refuses it.
fn absent_port(case: &Case<'_>) -> Option<Wanted> {
    (case.frontend.kind == Kind::AbsentPort).then_some(Wanted {
        kube_proxy: Must::Be(Answer::Refused),
        svclb: Must::Be(Answer::Untouched),
    })
}

/// SEMANTICS: the label takes a Service away, as it does a slice. kube-proxy 1.37 looks for it on slices
/// only, and goes by `clusterIP: None` for Services.
fn labelled_headless(case: &Case<'_>) -> Option<Wanted> {
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
            // In kube-proxy they claim the address as others do.
            let labelled: Vec<_> = labelled.map(|it| case.as_served(it, Side::KubeProxy)).collect();
            let others = case.placed.claimants(frontend);
            let others: Vec<_> =
                others.into_iter().map(|it| case.as_at(it, Side::KubeProxy)).collect();
            let svclb = match case.holder() {
                None => Must::Be(Answer::Untouched),
                Some(holder) => case.as_at(holder, Side::Svclb),
            };
            (!labelled.is_empty())
                .then(|| Wanted { kube_proxy: Must::BeOneOf([labelled, others].concat()), svclb })
        }
        Kind::ClusterIp | Kind::ExternalIp | Kind::Balancer | Kind::NodePort => {
            let kube_proxy = match is_let_in(case) {
                Some(false) => Must::Be(Answer::Silence),
                _ => case.as_served(own, Side::KubeProxy),
            };
            served(case.service())
                .then_some(Wanted { kube_proxy, svclb: Must::Be(Answer::Untouched) })
        }
        _ => None,
    }
}

/// In kube-proxy whoever comes last in a hash map; here the older one.
fn contested(case: &Case<'_>) -> Option<Wanted> {
    if case.frontend.kind != Kind::SharedIp {
        return None;
    }
    let claimants = case.placed.claimants(case.frontend);
    (claimants.len() > 1).then(|| Wanted {
        svclb: case.as_at(claimants[0], Side::Svclb),
        kube_proxy: Must::BeOneOf(
            claimants.into_iter().map(|it| case.as_at(it, Side::KubeProxy)).collect(),
        ),
    })
}

/// Who comes from where is not known before the connection, so it is left to kube-proxy.
fn ranges(case: &Case<'_>) -> Option<Wanted> {
    let frontend = case.frontend;
    let is_let_in = is_let_in(case).filter(|_| case.placed.is_served(frontend))?;
    let kube_proxy = match is_let_in {
        true => case.as_at((frontend.service, frontend.port), Side::KubeProxy),
        false => Must::Be(Answer::Silence),
    };
    Some(Wanted { kube_proxy, svclb: Must::Be(Answer::Untouched) })
}

/// Whether the source ranges of this load balancer's address let in who dials, if there are some that
/// keep anybody out.
fn is_let_in(case: &Case<'_>) -> Option<bool> {
    let family = case.frontend.family();
    let is_balancer = case.frontend.kind == Kind::Balancer;
    let allowed = restricted(&case.service().ranges, family).filter(|_| is_balancer)?;
    let source = match case.dialler {
        Dialler::Pod => pod_source(family, 9),
        Dialler::Host => host_source(family, 9),
    };
    Some(allowed.iter().any(|range| range.contains(&source)))
}

/// kube-proxy's nftables mode serves no node ports there.
fn loopback(case: &Case<'_>) -> Option<Wanted> {
    let frontend = case.frontend;
    let is_one = frontend.kind == Kind::Loopback && case.dialler == Dialler::Host;
    if !is_one || !case.placed.is_served(frontend) || case.service().label.is_some() {
        return None;
    }
    let mut all = case.placed.frontends().into_iter();
    let same = all.find(|it| {
        it.kind == Kind::NodePort
            && (it.service, it.port, it.family())
                == (frontend.service, frontend.port, frontend.family())
    });
    Some(Wanted { kube_proxy: Must::Be(Answer::Untouched), svclb: Must::Match(same?) })
}

/// kube-proxy drops, so that the client waits. svclb refuses. Where nobody is usable on other nodes
/// either, both refuse.
fn none_local(case: &Case<'_>) -> Option<Wanted> {
    let (frontend, service) = (case.frontend, case.service());
    let is_local = frontend.kind == Kind::ClusterIp && service.is_internal_local;
    let has = |reach| service.has_usable(frontend.port, frontend.family(), reach);
    (is_local && has(Reach::Anywhere) && !has(Reach::Here)).then_some(Wanted {
        kube_proxy: Must::Be(Answer::Silence),
        svclb: Must::Be(Answer::Refused),
    })
}

/// Whose client stays with a host, if somebody's does here.
fn stays_with(case: &Case<'_>) -> Option<(usize, usize)> {
    let holder = case.holder()?;
    let has = case.placed.world.services[holder.0].affinity.is_some();
    (has && case.heard(Side::KubeProxy).has_hosts()).then_some(holder)
}

/// Whether clients from outside and from inside the cluster get hosts of lists of their own.
fn has_two_lists(case: &Case<'_>, holder: (usize, usize)) -> bool {
    case.placed.world.services[holder.0].is_internal_local
        && !case.placed.externals(holder, case.frontend.family()).is_empty()
}

/// A client of kube-proxy's is an address, and here many addresses dial; svclb's is a namespace. All
/// its connections to a port of a Service go to one host, by whatever frontend.
fn affinity(case: &Case<'_>) -> Option<Wanted> {
    let holder = stays_with(case).filter(|holder| !has_two_lists(case, *holder))?;
    let cluster_ip = case.placed.cluster_ip(holder, case.frontend.family())?;
    let place = Some(cluster_ip).filter(|it| it != case.frontend);
    let kube_proxy = Must::BeHostsOf { service: holder.0, is_one: false };
    Some(Wanted { kube_proxy, svclb: Must::BeOneHost(place) })
}

/// A client stays with its host for as long as that is in the list of the frontend that it dials, and
/// otherwise draws another, once. It has dialled the ClusterIP first ([`Placed::is_first`]).
///
/// [`Placed::is_first`]: super::frontend::Placed::is_first
fn affinity_of_two_lists(case: &Case<'_>) -> Option<Wanted> {
    let holder = stays_with(case).filter(|holder| has_two_lists(case, *holder))?;
    let family = case.frontend.family();
    let cluster_ip = case.placed.cluster_ip(holder, family)?;
    let first = case.answers.of(Side::Svclb, case.dialler, &cluster_ip);
    let is_in_both = first.is_of_hosts() && first.0.is_subset(&case.heard(Side::KubeProxy).0);
    let same = if is_in_both {
        Some(cluster_ip)
    } else {
        case.placed.externals(holder, family).first().copied()
    };
    let place = same.filter(|it| *case.frontend != cluster_ip && it != case.frontend);
    let kube_proxy = Must::BeHostsOf { service: holder.0, is_one: false };
    Some(Wanted { kube_proxy, svclb: Must::BeOneHost(place) })
}

#[cfg(test)]
mod tests;
