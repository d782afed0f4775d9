//! The reasons in the source: the rule by which each endpoint is used or not, and why a Service is not served.

use std::collections::BTreeSet;

use svclb_common::layout::BackendState;
use svclb_core::compile::service_of;
use svclb_core::model::{ObjectName, ServiceKey};
use svclb_core::select::Verdict;
use svclb_sources::Reject;

use super::super::list;
use super::super::plan::compare;
use super::target::Target;
use super::view::{EndpointTrace, shown};
use crate::reconcile::DryRun;

/// The reasons in the source.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    pub(super) endpoints: Vec<EndpointTrace>,
    /// Reasons why a Service is not served as its object says.
    pub(super) findings: Vec<String>,
}

impl Reasons {
    /// The reasons for the target, and for the objects that have its frontends in the maps.
    pub(super) fn new(
        target: &Target,
        mut objects: BTreeSet<ObjectName>,
        run: &DryRun,
        rejects: &[Reject],
    ) -> Self {
        match target {
            Target::Service(object, _) => drop(objects.insert(object.clone())),
            Target::Address(_) => {
                let owners = target.keys();
                let owners = owners.iter().filter_map(|key| run.catalog.owner(key));
                objects.extend(owners.map(|owner| owner.object.clone()));
            }
        }
        let wanted = wanted(target, run);
        let mut reasons = Self::default();
        for object in &objects {
            reasons.add(object, &wanted, run, rejects);
        }
        reasons
    }

    fn add(
        &mut self,
        object: &ObjectName,
        wanted: &BTreeSet<ServiceKey>,
        run: &DryRun,
        rejects: &[Reject],
    ) {
        // Without a frontend that is asked about, all ports of the object are of interest.
        let has_wanted = wanted.iter().any(|service| service.object == *object);
        let explained = run.catalog.explain(object).into_iter();
        for explained in explained.filter(|it| !has_wanted || wanted.contains(&it.key)) {
            let endpoint = |(address, port, verdict)| {
                let (is_used, rule, words) = match verdict {
                    Verdict::Used(BackendState::Ready) => (true, "ready", "ready"),
                    Verdict::Used(BackendState::Terminating) => {
                        (true, "last_serving", "terminating, and none is ready")
                    }
                    Verdict::Unused(reason) => (false, reason.name(), reason.words()),
                };
                EndpointTrace {
                    service: explained.key.to_string(),
                    policy: list::policy(explained.policy),
                    endpoint: shown(address, port),
                    used: is_used,
                    rule,
                    words,
                }
            };
            self.endpoints.extend(explained.endpoints.iter().copied().map(endpoint));
        }
        if let Some((_, why)) = run.refused.iter().find(|(refused, _)| refused == object) {
            self.findings.push(format!("{object} is refused by a budget: {why}"));
        } else if !run.catalog.serves(object) {
            self.findings.push(format!(
                "the source has no Service {object} with frontends: it does not exist, is headless or an \
                 ExternalName, or belongs to another proxy"
            ));
        }
        let of_object = run.unplaced.iter().filter(|(service, _)| service.object == *object);
        self.findings
            .extend(of_object.map(|(service, why)| format!("{service} does not fit: {why}")));
        let of_object = rejects.iter().filter(|reject| reject.concerns(object));
        self.findings.extend(of_object.map(ToString::to_string));
        let differs = compare(run).keys().any(|service| service.object == *object);
        if run.is_installed && differs {
            self.findings.push(format!(
                "the maps are behind the source for {object}: `svclb diff` shows it, `svclb check` says why"
            ));
        }
    }
}

/// The services with a frontend that is asked about, as an agent would leave them.
fn wanted(target: &Target, run: &DryRun) -> BTreeSet<ServiceKey> {
    let keys = target.keys();
    let frontends = run.after.frontends.iter().filter_map(|(key, row)| {
        let service = service_of(run.after.services.get(&row.service)?)?;
        (keys.contains(key) || target.is_of(&service, key.port)).then_some(service)
    });
    frontends.collect()
}
