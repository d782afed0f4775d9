//! Selects the backends that clients of this node may use now: one pure function.

use std::net::IpAddr;
use std::sync::Arc;

use svclb_common::layout::{BackendState, Policy};

use crate::model::{Endpoint, Node, Service, TrafficPolicy};

/// A list of backends that a frontend uses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum List {
    /// Endpoints anywhere, as topology hints say.
    Cluster,
    /// Endpoints of this node.
    Local,
}

impl List {
    /// The list for clients on this node, by the policy that a frontend is under.
    ///
    /// | frontend | list |
    /// |---|---|
    /// | ClusterIP | `Local` with internalTrafficPolicy Local, else `Cluster` |
    /// | node port, external IP, load balancer IP | `Cluster`, also with externalTrafficPolicy Local: that policy is for clients from outside, and kube-proxy sends those on the node past it ("short circuit", pkg/proxy/serviceport.go, `UsesClusterEndpoints`) |
    pub const fn of(policy: Policy, service: &Service) -> Self {
        match (policy, service.internal_policy) {
            (Policy::Internal, TrafficPolicy::Local) => Self::Local,
            (Policy::Internal, TrafficPolicy::Cluster) | (Policy::External, _) => Self::Cluster,
        }
    }
}

/// One endpoint of one service, of one family, after the slices were merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate<'a> {
    /// Its address.
    pub address: IpAddr,
    /// The backend port.
    pub port: u16,
    /// Its conditions, node and hints.
    pub endpoint: &'a Endpoint,
}

/// The backends of a list, each with why it is in it, in the order of `candidates`, which are all the
/// endpoints of one family that match a port of a Service.
///
/// The rules, as kube-proxy has them (pkg/proxy/topology.go, `CategorizeEndpoints`):
///
/// 1. [`List::Cluster`]: every ready candidate that matches the topology mode. When nothing is ready:
///    every candidate that serves while it terminates, anywhere, hints ignored.
/// 2. [`List::Local`]: every ready candidate of this node. When that is none: those of this node that
///    serve while they terminate. When that is none: none. Hints never matter, and what is ready
///    elsewhere does not either.
/// 3. A candidate that serves but is neither ready nor terminating is never used, nor is one that
///    terminates without serving. A ready one is always used.
///
/// The topology mode is decided over the ready candidates, those of other nodes too:
///
/// * When each has node hints and at least one names this node: those that name it.
/// * Otherwise, when each has zone hints, this node's zone is known, and at least one names it: those
///   that name it. Their node hints do not matter then.
/// * Otherwise all. So hints never leave a client without a backend that it would have without them.
///
/// A candidate is of this node when it names this node; one that names none is of no node.
pub fn select(list: List, candidates: &[Candidate<'_>], node: &Node) -> Vec<(usize, BackendState)> {
    let is_local = |endpoint: &Endpoint| endpoint.node.as_ref().is_some_and(|at| *at == node.name);
    let topology = match list {
        List::Cluster => topology(candidates, node),
        List::Local => Topology::All,
    };
    let here = |endpoint: &Endpoint| list == List::Cluster || is_local(endpoint);
    let ready: Vec<_> = pick(candidates, BackendState::Ready, |endpoint| {
        endpoint.ready && here(endpoint) && topology.matches(endpoint)
    });
    if !ready.is_empty() {
        return ready;
    }
    pick(candidates, BackendState::Terminating, |endpoint| {
        endpoint.serving && endpoint.terminating && here(endpoint)
    })
}

fn pick(
    candidates: &[Candidate<'_>],
    state: BackendState,
    keep: impl Fn(&Endpoint) -> bool,
) -> Vec<(usize, BackendState)> {
    let kept = candidates.iter().enumerate().filter(|(_, candidate)| keep(candidate.endpoint));
    // Mostly all of them.
    let mut picked = Vec::with_capacity(candidates.len());
    picked.extend(kept.map(|(at, _)| (at, state)));
    picked
}

enum Topology<'a> {
    Node(&'a Arc<str>),
    Zone(&'a Arc<str>),
    All,
}

impl Topology<'_> {
    fn matches(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Node(name) => endpoint.node_hints.contains(name),
            Self::Zone(zone) => endpoint.zone_hints.contains(zone),
            Self::All => true,
        }
    }
}

fn topology<'a>(candidates: &[Candidate<'_>], node: &'a Node) -> Topology<'a> {
    let usable = |hints: fn(&Endpoint) -> &[Arc<str>], name: &Arc<str>| {
        let mut ready = candidates.iter().map(|it| it.endpoint).filter(|it| it.ready).peekable();
        ready.peek().is_some()
            && ready.clone().all(|endpoint| !hints(endpoint).is_empty())
            && ready.any(|endpoint| hints(endpoint).contains(name))
    };
    if usable(|endpoint| &endpoint.node_hints, &node.name) {
        return Topology::Node(&node.name);
    }
    match &node.zone {
        Some(zone) if usable(|endpoint| &endpoint.zone_hints, zone) => Topology::Zone(zone),
        _ => Topology::All,
    }
}

#[cfg(test)]
mod tests;
