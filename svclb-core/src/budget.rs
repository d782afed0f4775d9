//! Budgets: the part of every node that the objects of a cluster may take. All limits of that kind are here.
//!
//! * One Service with its slices: what one pass can look at in good time (docs/decisions/0023).
//! * All Services of a namespace, and all of the cluster: what the maps and the agent may take of a node's
//!   memory. The memory limit in the manifest follows from these.
//! * What no API server lets through ([`OBJECT_FRONTENDS`], [`SLICE_BACKENDS`]): such an object is rejected
//!   when it is read.

pub mod memory;

use std::fmt;

/// The most frontends that a Service may name to be read at all: its addresses times its ports. A longer
/// list of each fits into an object than fits into the memory of a node when both are multiplied.
pub const OBJECT_FRONTENDS: usize = 65_536;

/// The most backends that an EndpointSlice may name to be read at all: its ports times its endpoints. The
/// API documents 1,000 endpoints and 100 ports as the most of a slice.
pub const SLICE_BACKENDS: usize = 100_000;

/// A counted resource.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Resource {
    /// Pairs of an address and a port that clients dial.
    Frontends,
    /// Addresses of a Service: ClusterIPs, external IPs and load balancer IPs.
    Addresses,
    /// Endpoints in the slices of a Service.
    Endpoints,
    /// Endpoints times the ports of their slice.
    Backends,
    /// Bytes of the agent's memory for the objects themselves, about.
    Memory,
}

impl Resource {
    /// All, in the order in which they are compared.
    pub const ALL: [Self; COUNT] =
        [Self::Frontends, Self::Addresses, Self::Endpoints, Self::Backends, Self::Memory];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frontends => "frontends",
            Self::Addresses => "addresses",
            Self::Endpoints => "endpoints",
            Self::Backends => "backends",
            Self::Memory => "bytes of memory",
        }
    }
}

/// The number of resources.
const COUNT: usize = 5;

/// An amount of each resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amount([usize; COUNT]);

impl Amount {
    /// These amounts.
    pub const fn new(
        frontends: usize,
        addresses: usize,
        endpoints: usize,
        backends: usize,
        memory: usize,
    ) -> Self {
        Self([frontends, addresses, endpoints, backends, memory])
    }

    /// As much as there can be.
    pub const fn unlimited() -> Self {
        Self([usize::MAX; COUNT])
    }

    /// The amount of one resource.
    pub const fn of(&self, resource: Resource) -> usize {
        self.0[resource as usize]
    }

    /// The same with another amount of one resource.
    #[must_use]
    pub const fn with(mut self, resource: Resource, amount: usize) -> Self {
        self.0[resource as usize] = amount;
        self
    }

    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        for (amount, other) in self.0.iter_mut().zip(other.0) {
            *amount = amount.saturating_add(other);
        }
        self
    }

    /// The difference of both.
    #[must_use]
    pub fn minus(mut self, other: Self) -> Self {
        for (amount, other) in self.0.iter_mut().zip(other.0) {
            *amount = amount.saturating_sub(other);
        }
        self
    }

    /// This percentage of it.
    #[must_use]
    pub fn percent(mut self, percent: usize) -> Self {
        for amount in &mut self.0 {
            *amount = amount.checked_mul(percent).map_or(*amount, |part| part / 100);
        }
        self
    }

    /// The first resource of which this is more than a limit.
    pub fn above(&self, limit: &Self) -> Option<Resource> {
        Resource::ALL.into_iter().find(|resource| self.of(*resource) > limit.of(*resource))
    }
}

/// The objects that share a budget.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum BudgetScope {
    /// One Service object with its slices.
    Service,
    /// All Services of a namespace.
    Namespace,
    /// All Services of the cluster.
    Cluster,
    /// All objects of a namespace, also those that are not served: what a source keeps of them
    /// ([`crate::model::Omission`]).
    Objects,
}

/// The budgets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// The limits of one Service object with its slices.
    pub service: Amount,
    /// The limits of all Services of a namespace together.
    pub namespace: Amount,
    /// The limits of all Services of the cluster together.
    pub cluster: Amount,
}

/// The most of one Service: a pass over each of its ports, and over its endpoints for one port, takes some
/// milliseconds.
const SERVICE: Amount = Amount::new(10_000, 1_000, 25_000, usize::MAX, 16 << 20);
/// The most of a cluster: more than the largest of which there are figures (docs/performance.md: 100,000
/// frontends with 1,000,000 backends).
const CLUSTER: Amount = Amount::new(131_072, usize::MAX, usize::MAX, 1_048_576, 384 << 20);
/// Percent of the cluster's budget that one namespace may take.
pub const NAMESPACE_PERCENT: usize = 50;

impl Default for Budget {
    /// No limits: for simulations and measurements.
    fn default() -> Self {
        Self::UNLIMITED
    }
}

impl Budget {
    /// The default budgets of an agent.
    pub fn of_agent() -> Self {
        let namespace = CLUSTER.percent(NAMESPACE_PERCENT);
        Self { service: SERVICE, namespace, cluster: CLUSTER }
    }

    /// No limits.
    pub const UNLIMITED: Self = Self {
        service: Amount::unlimited(),
        namespace: Amount::unlimited(),
        cluster: Amount::unlimited(),
    };
}

/// The reason for not serving a Service: it exceeds a budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The objects that share the budget.
    pub scope: BudgetScope,
    /// The resource that is used up.
    pub resource: Resource,
    /// The needs of the Service with its slices.
    pub needs: usize,
    /// The use of older Services in that scope.
    pub used: usize,
    /// The budget.
    pub limit: usize,
}

impl Refusal {
    /// The flag of `svclb agent` that sets this budget.
    pub const fn flag(&self) -> &'static str {
        match (self.scope, self.resource) {
            (BudgetScope::Service, Resource::Frontends) => "--service-frontends",
            (BudgetScope::Service, Resource::Addresses) => "--service-addresses",
            (BudgetScope::Service, Resource::Endpoints) => "--service-endpoints",
            (BudgetScope::Service, _) => "--service-memory",
            (BudgetScope::Namespace, _) => "--namespace-share",
            (BudgetScope::Cluster, Resource::Frontends) => "--all-frontends",
            (
                BudgetScope::Cluster,
                Resource::Addresses | Resource::Endpoints | Resource::Backends,
            ) => "--all-backends",
            (BudgetScope::Cluster, Resource::Memory) | (BudgetScope::Objects, _) => "--all-memory",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, resource, needs, used, limit } = self;
        let resource = resource.name();
        match scope {
            BudgetScope::Service => {
                write!(f, "it has {needs} {resource}, and one Service may have {limit}")?;
            }
            BudgetScope::Namespace => write!(
                f,
                "it needs {needs} {resource}, older Services of its namespace use {used}, and all of a \
                 namespace may use {limit}"
            )?,
            BudgetScope::Cluster => write!(
                f,
                "it needs {needs} {resource}, older Services use {used}, and all together may use {limit}"
            )?,
            BudgetScope::Objects => write!(
                f,
                "one of its objects needs {needs} {resource}, the objects of its namespace take {used}, and \
                 may take {limit}, their share of what is free"
            )?,
        }
        write!(f, " ({})", self.flag())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_hold_the_largest_cluster_that_was_measured_and_a_namespace_holds_a_large_one() {
        let Budget { namespace, cluster, .. } = Budget::of_agent();
        let measured = Amount::new(100_000, 0, 0, 1_000_000, 0);
        assert_eq!(measured.above(&cluster), None);
        let large = Amount::new(10_000, 0, 0, 500_000, 0);
        assert_eq!(large.above(&namespace), None);
        assert_eq!(cluster.above(&namespace), Some(Resource::Frontends));
    }

    #[test]
    fn a_refusal_says_what_is_needed_what_there_is_and_the_flag() {
        let refusal = Refusal {
            scope: BudgetScope::Namespace,
            resource: Resource::Backends,
            needs: 7,
            used: 5,
            limit: 10,
        };
        let expected = "it needs 7 backends, older Services of its namespace use 5, and all of a \
                        namespace may use 10 (--namespace-share)";
        assert_eq!(refusal.to_string(), expected);
    }
}
