//! What the operator was told: each trouble when it comes, not as long as it stands.

use std::collections::BTreeSet;
use std::io;

use svclb_core::catalog::Conflict;
use svclb_core::model::{ObjectName, ServiceKey};
use svclb_core::plan::{Failed, Pass, Why};

use crate::source::convert::Skipped;

/// What was told, and stands.
#[derive(Debug, Default)]
pub(super) struct Told {
    skipped: Skipped,
    failed: BTreeSet<String>,
    rejected: BTreeSet<(ServiceKey, String)>,
    /// Who waits for whom.
    conflicts: BTreeSet<(ObjectName, ObjectName)>,
    /// Waiting for running programs fails.
    no_rest: bool,
}

impl Told {
    /// What a source leaves out on purpose, where that changed.
    pub(super) fn skipped(&mut self, now: Skipped) {
        let before = self.skipped.counts();
        for ((what, count), (_, before)) in now.counts().into_iter().zip(before) {
            if count != before {
                tracing::info!(count, before, "left out: {what}");
            }
        }
        self.skipped = now;
    }

    /// Steps that failed.
    pub(super) fn failed(&mut self, done: &Pass) {
        let shown = |failed: &Failed| match &failed.object {
            Some(object) => format!("{object}: {}", failed.error),
            None => failed.error.to_string(),
        };
        let now: BTreeSet<String> = done.failed.iter().map(shown).collect();
        for failed in now.difference(&self.failed) {
            tracing::error!(
                "a step failed, and is tried again; what was served stays served: {failed}"
            );
        }
        if done.stopped && self.failed.is_empty() {
            tracing::error!(steps = done.steps, "too many steps failed: the pass ended there");
        }
        self.failed = now;
    }

    /// Services that keep their previous state. `all` says that the pass looked at each that did so
    /// before it; otherwise one that it did not look at still does.
    pub(super) fn rejected(&mut self, done: &Pass, all: bool) {
        let mut now = BTreeSet::new();
        let mut waits = BTreeSet::new();
        for rejected in &done.rejected {
            match rejected.why {
                Why::WaitsForRest => drop(waits.insert(&rejected.service)),
                _ => drop(now.insert((rejected.service.clone(), rejected.why.to_string()))),
            }
        }
        for (service, why) in now.difference(&self.rejected) {
            tracing::error!(%service, "keeps its previous state: {why}");
        }
        if all {
            self.rejected.retain(|(service, _)| waits.contains(service));
        }
        self.rejected.extend(now);
    }

    /// Services that keep their previous state.
    pub(super) fn standing(&self) -> impl Iterator<Item = &ServiceKey> {
        self.rejected.iter().map(|(service, _)| service)
    }

    /// Services that ask for the same frontends: one line for two of them, however many those are.
    pub(super) fn conflicts(&mut self, now: &[Conflict]) {
        let pair = |conflict: &Conflict| (conflict.holder.clone(), conflict.waits.clone());
        for conflict in now.iter().filter(|conflict| !self.conflicts.contains(&pair(conflict))) {
            tracing::warn!(
                address = %conflict.frontend.address, port = conflict.frontend.port,
                frontends = conflict.count,
                holder = %conflict.holder, waits = %conflict.waits,
                "two services ask for one frontend; the older has it",
            );
        }
        self.conflicts = now.iter().map(pair).collect();
    }

    /// Whether the kernel lets us wait for running programs.
    pub(super) fn rest<T>(&mut self, waited: &io::Result<T>) {
        match waited {
            Ok(_) if self.no_rest => tracing::info!("freed room can be used again"),
            Err(error) if !self.no_rest => tracing::error!(
                %error,
                "cannot wait for running programs, it is tried again; freed room stays unused",
            ),
            _ => {}
        }
        self.no_rest = waited.is_err();
    }
}

#[cfg(test)]
mod tests {
    use svclb_core::model::{ObjectName, Protocol};
    use svclb_core::plan::Rejected;

    use super::*;

    #[test]
    fn a_service_that_does_not_fit_stands_until_it_was_looked_at_and_fits() {
        let key = |name: &str| ServiceKey {
            object: ObjectName::new("default", name),
            port_name: "".into(),
            protocol: Protocol::Tcp,
        };
        let pass = |rejected: &[(&str, Why)]| Pass {
            rejected: rejected
                .iter()
                .map(|(name, why)| Rejected { service: key(name), why: *why })
                .collect(),
            ..Pass::default()
        };
        let standing = |told: &Told| {
            told.standing().map(|service| service.object.name.to_string()).collect::<Vec<_>>()
        };
        let mut told = Told::default();
        told.rejected(&pass(&[("a", Why::NoSlots), ("b", Why::NoSlots)]), false);
        assert_eq!(standing(&told), ["a", "b"]);
        // Others were looked at.
        told.rejected(&pass(&[("c", Why::WaitsForRest)]), false);
        assert_eq!(standing(&told), ["a", "b"]);
        // All were: b is about to fit, and was told of already; a fits.
        told.rejected(&pass(&[("b", Why::WaitsForRest)]), true);
        assert_eq!(standing(&told), ["b"]);
        told.rejected(&pass(&[]), true);
        assert!(standing(&told).is_empty());
    }
}
