//! Selects the backends that clients of this node may use now, and says by which rule each endpoint is used or not.

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

/// The rules for the candidates of one list: all the endpoints of one family that match a port of a Service.
///
/// They are kube-proxy's (pkg/proxy/topology.go, `CategorizeEndpoints`):
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
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    list: List,
    node: &'a Node,
    topology: Topology<'a>,
    /// The state of the candidates that are used.
    used: BackendState,
}

/// The ready candidates of [`List::Cluster`] that are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Topology<'a> {
    /// Only candidates whose node hints name this node.
    Node(&'a Arc<str>),
    /// Only candidates whose zone hints name this zone, the node's.
    Zone(&'a Arc<str>),
    /// All of them.
    All,
}

/// The verdict on one candidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Clients are given it. The state says why.
    Used(BackendState),
    /// Clients are not given it.
    Unused(Reason),
}

/// The first rule by which a candidate is not used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// It is not ready, nor does it serve while it terminates.
    NotReady,
    /// It is not of this node, and the list is [`List::Local`].
    OtherNode,
    /// It serves while it terminates, and others are ready.
    Terminating,
    /// Its node hints do not name this node.
    NodeHints,
    /// Its zone hints do not name this node's zone.
    ZoneHints,
}

impl Reason {
    /// Every reason, in the order in which the rules are tried.
    pub const ALL: [Self; 5] =
        [Self::NotReady, Self::OtherNode, Self::Terminating, Self::NodeHints, Self::ZoneHints];

    /// Its name in output for scripts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotReady => "not_ready",
            Self::OtherNode => "other_node",
            Self::Terminating => "terminating",
            Self::NodeHints => "node_hints",
            Self::ZoneHints => "zone_hints",
        }
    }

    /// The rule in words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NotReady => "not ready",
            Self::OtherNode => "not on this node, and the traffic policy is Local",
            Self::Terminating => "terminating, and others are ready",
            Self::NodeHints => "its hints name other nodes",
            Self::ZoneHints => "its hints name other zones",
        }
    }
}

impl<'a> Rules<'a> {
    /// The rules for these candidates.
    pub fn new(list: List, candidates: &[Candidate<'_>], node: &'a Node) -> Self {
        let topology = match list {
            List::Cluster => Topology::of(candidates, node),
            List::Local => Topology::All,
        };
        let ready = Self { list, node, topology, used: BackendState::Ready };
        let is_used = |it: &Candidate<'_>| matches!(ready.judge(it.endpoint), Verdict::Used(_));
        match candidates.iter().any(is_used) {
            true => ready,
            false => Self { used: BackendState::Terminating, ..ready },
        }
    }

    /// Judges a candidate.
    pub fn judge(&self, endpoint: &Endpoint) -> Verdict {
        let is_leaving = endpoint.serving && endpoint.terminating;
        let is_local = || endpoint.node.as_ref().is_some_and(|at| *at == self.node.name);
        if !(endpoint.ready || is_leaving) {
            return Verdict::Unused(Reason::NotReady);
        }
        if self.list == List::Local && !is_local() {
            return Verdict::Unused(Reason::OtherNode);
        }
        if self.used == BackendState::Terminating {
            // None is ready here, or all of these would be unused.
            return Verdict::Used(BackendState::Terminating);
        }
        if !endpoint.ready {
            return Verdict::Unused(Reason::Terminating);
        }
        match self.topology {
            Topology::Node(name) if !endpoint.node_hints.contains(name) => {
                Verdict::Unused(Reason::NodeHints)
            }
            Topology::Zone(zone) if !endpoint.zone_hints.contains(zone) => {
                Verdict::Unused(Reason::ZoneHints)
            }
            _ => Verdict::Used(BackendState::Ready),
        }
    }
}

/// The backends of a list, each with its state, in the order of `candidates`: those that [`Rules`] use.
pub fn select(list: List, candidates: &[Candidate<'_>], node: &Node) -> Vec<(usize, BackendState)> {
    let rules = Rules::new(list, candidates, node);
    // Mostly all of them.
    let mut selected = Vec::with_capacity(candidates.len());
    selected.extend(candidates.iter().enumerate().filter_map(|(at, candidate)| {
        match rules.judge(candidate.endpoint) {
            Verdict::Used(state) => Some((at, state)),
            Verdict::Unused(_) => None,
        }
    }));
    selected
}

impl<'a> Topology<'a> {
    fn of(candidates: &[Candidate<'_>], node: &'a Node) -> Self {
        let usable = |hints: fn(&Endpoint) -> &[Arc<str>], name: &Arc<str>| {
            let mut ready =
                candidates.iter().map(|it| it.endpoint).filter(|it| it.ready).peekable();
            ready.peek().is_some()
                && ready.clone().all(|endpoint| !hints(endpoint).is_empty())
                && ready.any(|endpoint| hints(endpoint).contains(name))
        };
        if usable(|endpoint| &endpoint.node_hints, &node.name) {
            return Self::Node(&node.name);
        }
        match &node.zone {
            Some(zone) if usable(|endpoint| &endpoint.zone_hints, zone) => Self::Zone(zone),
            _ => Self::All,
        }
    }
}

#[cfg(test)]
mod tests;
