//! Flags that set budgets.

use std::num::NonZeroUsize;

use clap::{Args, value_parser};
use svclb_core::budget::{Amount, Budget, Resource};

/// Bytes of a mebibyte.
const MEBIBYTE: NonZeroUsize = NonZeroUsize::new(1 << 20).expect("it is not 0");

#[derive(Debug, Args)]
pub(in crate::cli) struct BudgetArgs {
    /// The most frontends of one Service: its addresses times its ports [default: 10000]
    #[arg(long, value_name = "N")]
    service_frontends: Option<NonZeroUsize>,
    /// The most addresses of one Service: ClusterIPs, external IPs and load balancer IPs [default: 1000]
    #[arg(long, value_name = "N")]
    service_addresses: Option<NonZeroUsize>,
    /// The most endpoints of one Service [default: 25000]
    #[arg(long, value_name = "N")]
    service_endpoints: Option<NonZeroUsize>,
    /// The most memory for one Service with its slices, in MiB [default: 16]
    #[arg(long, value_name = "MIB")]
    service_memory: Option<NonZeroUsize>,
    /// The most frontends of all Services [default: 131072]
    #[arg(long, value_name = "N")]
    all_frontends: Option<NonZeroUsize>,
    /// The most backends of all Services: their endpoints times their ports [default: 1048576]
    #[arg(long, value_name = "N")]
    all_backends: Option<NonZeroUsize>,
    /// The most memory for all Services with their slices, in MiB [default: 384]
    #[arg(long, value_name = "MIB")]
    all_memory: Option<NonZeroUsize>,
    /// Percentage of --all-frontends, --all-backends and --all-memory that one namespace may use
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = value_parser!(u8).range(1..=100))]
    namespace_share: u8,
}

impl BudgetArgs {
    /// Returns the defaults, with the amounts that the flags set.
    pub(in crate::cli) fn budget(&self) -> Budget {
        let Budget { mut service, mut cluster, .. } = Budget::of_agent();
        let bytes = |mebibytes: Option<NonZeroUsize>| Some(mebibytes?.saturating_mul(MEBIBYTE));
        set(&mut service, Resource::Frontends, self.service_frontends);
        set(&mut service, Resource::Addresses, self.service_addresses);
        set(&mut service, Resource::Endpoints, self.service_endpoints);
        set(&mut service, Resource::Memory, bytes(self.service_memory));
        set(&mut cluster, Resource::Frontends, self.all_frontends);
        set(&mut cluster, Resource::Backends, self.all_backends);
        set(&mut cluster, Resource::Memory, bytes(self.all_memory));
        let namespace = cluster.percent(usize::from(self.namespace_share));
        Budget { service, namespace, cluster }
    }
}

fn set(amounts: &mut Amount, resource: Resource, given: Option<NonZeroUsize>) {
    if let Some(given) = given {
        *amounts = amounts.with(resource, given.get());
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use svclb_core::budget::NAMESPACE_PERCENT;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        budget: BudgetArgs,
    }

    fn budget(args: &[&str]) -> Budget {
        let args = ["svclb"].iter().chain(args);
        Command::parse_from(args).budget.budget()
    }

    #[test]
    fn without_flags_the_budgets_are_the_defaults_and_each_flag_sets_its_own() {
        assert_eq!(NAMESPACE_PERCENT, 50);
        assert_eq!(budget(&[]), Budget::of_agent());
        let given =
            budget(&["--service-frontends", "7", "--all-memory", "2", "--namespace-share", "25"]);
        assert_eq!(given.service.of(Resource::Frontends), 7);
        assert_eq!(given.cluster.of(Resource::Memory), 2 << 20);
        assert_eq!(given.namespace.of(Resource::Memory), 1 << 19);
        assert!(Command::try_parse_from(["svclb", "--all-frontends", "0"]).is_err());
    }
}
