//! Reports to the operator: each problem is logged once when it begins, and not while it lasts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use svclb_common::layout::ServiceRow;
use svclb_core::budget::Refusal;
use svclb_core::catalog::{Catalog, Conflict};
use svclb_core::compile::service_of;
use svclb_core::model::{ObjectName, ServiceKey};
use svclb_core::plan::{Pass, Unplaced};

use super::rejects::{Rate, RejectLog};
use svclb_objects::convert::Skipped;

/// Failed steps that are logged at once. The others are logged at the next tries, so that a fault of the maps
/// as a whole does not flood the log.
const LOGGED_AT_ONCE: usize = 20;

/// Services that one line names.
const NAMED: usize = 20;

/// Some services by name, and how many more there are.
pub(super) fn names<'a>(mut services: impl Iterator<Item = &'a ServiceKey>) -> String {
    let named: Vec<String> = services.by_ref().take(NAMED).map(ToString::to_string).collect();
    let more = match services.count() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    named.join(", ") + &more
}

/// The problems that were logged and last.
#[derive(Debug, Default)]
pub(super) struct Reports {
    skipped: Skipped,
    failed: BTreeSet<String>,
    rejected: BTreeSet<(ServiceKey, String)>,
    /// Service objects that exceed a budget.
    refused: BTreeMap<ObjectName, Refusal>,
    /// Services whose state from an earlier agent is retained.
    retained: BTreeSet<ServiceKey>,
    pub(super) rejects: RejectLog,
    /// Rate of the lines about objects that come and go, which may happen all the time.
    rate: Rate,
    /// The last reports that may not be logged yet.
    unlogged: Unlogged,
    /// Claimants and the owners of their frontends.
    conflicts: BTreeSet<(ObjectName, ObjectName)>,
    /// Waiting for running programs fails.
    grace_period_fails: bool,
}

/// Reports that wait for the rate.
#[derive(Debug, Default)]
struct Unlogged {
    skipped: Option<Skipped>,
    refusals: Option<Vec<(ObjectName, Refusal)>>,
    conflicts: Option<Vec<Conflict>>,
}

impl Reports {
    /// Logs what waits, as far as the rates allow.
    pub(super) fn log_due(&mut self) {
        self.rejects.log_due();
        let Unlogged { skipped, refusals, conflicts } = std::mem::take(&mut self.unlogged);
        skipped.into_iter().for_each(|skipped| self.skipped(skipped));
        refusals.into_iter().for_each(|refusals| self.refused(refusals));
        conflicts.into_iter().for_each(|conflicts| self.conflicts(&conflicts));
    }

    /// Logs what a source leaves out on purpose, if that changed.
    pub(super) fn skipped(&mut self, now: Skipped) {
        let before = self.skipped.counts();
        self.unlogged.skipped = None;
        if self.skipped == now {
            return;
        }
        if self.rate.take(1, Instant::now()) == 0 {
            self.unlogged.skipped = Some(now);
            return;
        }
        for ((what, count), (_, before)) in now.counts().into_iter().zip(before) {
            if count != before {
                tracing::info!(count, before, "left out: {what}");
            }
        }
        self.skipped = now;
    }

    /// Logs the steps of a pass that failed so far, each with its object and why.
    pub(super) fn failed(&mut self, now: &[String]) {
        let now: BTreeSet<String> = now.iter().cloned().collect();
        self.failed.retain(|failed| now.contains(failed));
        let mut news = now.difference(&self.failed).cloned().collect::<Vec<_>>().into_iter();
        for failed in news.by_ref().take(LOGGED_AT_ONCE) {
            tracing::error!(
                "a step failed, and is tried again; what was served stays served: {failed}"
            );
            self.failed.insert(failed);
        }
        if news.len() > 0 {
            tracing::error!(
                more = news.len(),
                "more steps failed; they are logged at the next tries"
            );
        }
    }

    /// Logs services that keep their previous state. At the end of a pass those that fit now, by `is_short`,
    /// are forgotten.
    pub(super) fn rejected(
        &mut self,
        done: &Pass,
        is_at_end: bool,
        is_short: impl Fn(&ServiceKey) -> bool,
    ) {
        let unplaced = done.unplaced.iter().filter(|it| it.why != Unplaced::Quarantined);
        let now: BTreeSet<_> =
            unplaced.map(|it| (it.service.clone(), it.why.to_string())).collect();
        for (service, why) in now.difference(&self.rejected) {
            tracing::error!(%service, "keeps its previous state: {why}");
        }
        self.rejected.extend(now);
        if is_at_end {
            self.rejected.retain(|(service, _)| is_short(service));
        }
    }

    /// Logs the services whose state of an earlier agent is retained. `now` has all of them.
    pub(super) fn retained<'a>(&mut self, now: impl Iterator<Item = &'a ServiceKey>) {
        let now: BTreeSet<ServiceKey> = now.cloned().collect();
        let mut news = now.difference(&self.retained).peekable();
        if news.peek().is_some() {
            tracing::warn!(
                services = names(news),
                "retaining the previous agent's state of services because one of their objects was \
                 rejected, or may have been; fix or delete what was rejected"
            );
        }
        if now.is_empty() && !self.retained.is_empty() {
            tracing::info!("no state of the previous agent is retained any longer");
        }
        self.retained = now;
    }

    /// Logs which of these services would be retained if the maps that hold them could be used.
    pub(super) fn lost(&self, ids: &[(u32, ServiceRow)], catalog: &Catalog) {
        let services = ids.iter().filter_map(|(_, row)| service_of(row));
        let lost: Vec<ServiceKey> = services.filter(|service| catalog.misses(service)).collect();
        if !lost.is_empty() {
            tracing::warn!(
                services = names(lost.iter()),
                "cannot retain the previous agent's state of services of which an object was rejected, or \
                 may have been: its maps cannot be used; what is lacking is not served until what was \
                 rejected is fixed"
            );
        }
    }

    /// Logs Services that exceed a budget, and those that no longer do.
    pub(super) fn refused(&mut self, now: Vec<(ObjectName, Refusal)>) {
        if self.rate.take(1, Instant::now()) == 0 {
            self.unlogged.refusals = Some(now);
            return;
        }
        self.unlogged.refusals = None;
        let now: BTreeMap<ObjectName, Refusal> = now.into_iter().collect();
        let mut new = now.iter().filter(|(object, _)| !self.refused.contains_key(*object));
        for (object, why) in new.by_ref().take(LOGGED_AT_ONCE) {
            tracing::error!(
                service = %object,
                "refused by a budget: {why}; its addresses are left to whatever else serves them"
            );
        }
        let more = new.count();
        if more > 0 {
            tracing::error!(services = more, "more Services are refused by a budget");
        }
        let fitting = self.refused.keys().filter(|object| !now.contains_key(object));
        for object in fitting.take(LOGGED_AT_ONCE) {
            tracing::info!(service = %object, "no longer refused by a budget");
        }
        self.refused = now;
    }

    /// Services that keep their previous state.
    pub(super) fn standing(&self) -> impl Iterator<Item = &ServiceKey> {
        self.rejected.iter().map(|(service, _)| service)
    }

    /// Services that keep their previous state, and why.
    pub(super) fn into_unplaced(self) -> impl Iterator<Item = (ServiceKey, String)> {
        self.rejected.into_iter()
    }

    /// Logs Services that claim the same frontends: one line for two Services, however many frontends they share.
    pub(super) fn conflicts(&mut self, now: &[Conflict]) {
        let pair = |conflict: &Conflict| (conflict.owner.clone(), conflict.claimant.clone());
        let is_new = |conflict: &&Conflict| !self.conflicts.contains(&pair(conflict));
        let new: Vec<&Conflict> = now.iter().filter(is_new).collect();
        let logged = self.rate.take(new.len(), Instant::now());
        for conflict in &new[..logged] {
            tracing::warn!(
                address = %conflict.frontend.address, port = conflict.frontend.port,
                frontends = conflict.count,
                owner = %conflict.owner, claimant = %conflict.claimant,
                "conflict: two Services claim one frontend; a ClusterIP goes before a node port, a load \
                 balancer IP and an external IP, then the older Service goes first",
            );
        }
        self.unlogged.conflicts = (logged < new.len()).then(|| now.to_vec());
        let waiting: BTreeSet<_> = new[logged..].iter().map(|conflict| pair(conflict)).collect();
        self.conflicts = now.iter().map(pair).filter(|pair| !waiting.contains(pair)).collect();
    }

    /// Logs once that a grace period failed.
    pub(super) fn grace_period<T>(&mut self, waited: &io::Result<T>) {
        match waited {
            Ok(_) if self.grace_period_fails => tracing::info!("freed room can be used again"),
            Err(error) if !self.grace_period_fails => tracing::error!(
                %error,
                "cannot wait for running programs, it is tried again; freed room stays unused",
            ),
            _ => {}
        }
        self.grace_period_fails = waited.is_err();
    }
}

#[cfg(test)]
mod tests {
    use svclb_core::model::{ObjectName, Protocol};
    use svclb_core::plan::UnplacedService;

    use super::*;

    fn key(name: &str) -> ServiceKey {
        ServiceKey {
            object: ObjectName::new("default", name),
            port_name: "".into(),
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn many_failed_steps_are_logged_a_few_at_a_time() {
        let failed = |numbers: std::ops::Range<usize>| -> Vec<String> {
            numbers
                .map(|number| format!("default/s{number}: svclb_services has no such row"))
                .collect()
        };
        let mut reports = Reports::default();
        for expected in [LOGGED_AT_ONCE, 2 * LOGGED_AT_ONCE, 2 * LOGGED_AT_ONCE + 1] {
            reports.failed(&failed(0..2 * LOGGED_AT_ONCE + 1));
            assert_eq!(reports.failed.len(), expected);
        }
        // A problem that ended is forgotten, and logged again should it come back.
        reports.failed(&failed(0..1));
        assert_eq!(reports.failed.len(), 1);
    }

    #[test]
    fn changes_that_come_and_go_all_the_time_are_logged_at_a_rate_and_the_last_one_in_the_end() {
        let refusal = Refusal {
            scope: svclb_core::budget::BudgetScope::Service,
            resource: svclb_core::budget::Resource::Frontends,
            needs: 2,
            used: 0,
            limit: 1,
        };
        let mut reports = Reports::default();
        for turn in 0..3 * LOGGED_AT_ONCE {
            let refused = turn % 2 == 1;
            reports.refused(
                refused.then(|| (ObjectName::new("shop", "web"), refusal)).into_iter().collect(),
            );
        }
        assert!(reports.unlogged.refusals.is_some(), "not all were logged");
        // Seconds later.
        reports.rate = Rate::default();
        reports.log_due();
        assert!(reports.unlogged.refusals.is_none());
        assert!(reports.refused.contains_key(&ObjectName::new("shop", "web")));
    }

    #[test]
    fn a_line_names_some_services_and_counts_the_others() {
        let all: Vec<ServiceKey> = (0..NAMED + 2).map(|number| key(&number.to_string())).collect();
        assert_eq!(names(all[..2].iter()), "default/0:/TCP, default/1:/TCP");
        assert!(names(all.iter()).ends_with(" and 2 more"), "{}", names(all.iter()));
    }

    #[test]
    fn a_service_that_does_not_fit_stands_until_it_was_looked_at_and_fits() {
        let pass = |rejected: &[(&str, Unplaced)]| Pass {
            unplaced: rejected
                .iter()
                .map(|(name, why)| UnplacedService { service: key(name), why: *why })
                .collect(),
            ..Pass::default()
        };
        let standing = |reports: &Reports| {
            reports.standing().map(|service| service.object.name.to_string()).collect::<Vec<_>>()
        };
        let mut reports = Reports::default();
        let mut hear = |rejected: &[(&str, Unplaced)], is_at_end, short: &[&str]| {
            reports.rejected(&pass(rejected), is_at_end, |it| short.contains(&&*it.object.name));
            standing(&reports)
        };
        assert_eq!(
            hear(&[("a", Unplaced::NoSlots), ("b", Unplaced::NoSlots)], true, &["a", "b"]),
            ["a", "b"]
        );
        // Others were looked at.
        assert_eq!(hear(&[("c", Unplaced::Quarantined)], true, &["a", "b", "c"]), ["a", "b"]);
        // b is about to fit, and was logged already; a fits, which counts at the end of the pass.
        assert_eq!(hear(&[("b", Unplaced::Quarantined)], false, &["b"]), ["a", "b"]);
        assert_eq!(hear(&[], true, &["b"]), ["b"]);
        assert!(hear(&[], true, &[]).is_empty());
    }
}
