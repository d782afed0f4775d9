//! Reports to the operator about rejected and ignored objects. Each is handed on once, however often its
//! object or file is read again.

use std::collections::BTreeMap;

/// The reports `R` that stand, by the object or file `K` that they are about.
#[derive(Debug)]
pub struct StandingReports<K, R> {
    all: BTreeMap<K, (Vec<R>, usize)>,
    /// The reports of `all` that were not handed on.
    fresh: BTreeMap<K, Vec<R>>,
    /// The sum of the rejects in `all`, and what it was when reports were last handed on.
    standing: usize,
    before: usize,
}

impl<K, R> Default for StandingReports<K, R> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), fresh: BTreeMap::new(), standing: 0, before: 0 }
    }
}

impl<K: Ord + Clone, R: PartialEq + Clone> StandingReports<K, R> {
    /// Replaces the reports about `key`, which count as so many rejects. Returns true when one of them is
    /// new.
    pub fn set(&mut self, key: K, reports: Vec<R>, standing: usize) -> bool {
        let pending = self.fresh.remove(&key).unwrap_or_default();
        let (known, stood) = self.all.remove(&key).unwrap_or_default();
        self.standing = self.standing - stood + standing;
        let is_new = |report: &&R| !known.contains(report);
        let has_new = reports.iter().any(|report| is_new(&report));
        let fresh = reports.iter().filter(|report| is_new(report) || pending.contains(report));
        let fresh: Vec<R> = fresh.cloned().collect();
        if !fresh.is_empty() {
            self.fresh.insert(key.clone(), fresh);
        }
        if !reports.is_empty() || standing > 0 {
            self.all.insert(key, (reports, standing));
        }
        has_new
    }

    /// Removes the reports about `key`.
    pub fn clear(&mut self, key: K) {
        self.set(key, Vec::new(), 0);
    }

    /// Returns the reports about `key`.
    pub fn get(&self, key: &K) -> &[R] {
        self.all.get(key).map_or(&[], |(reports, _)| reports)
    }

    /// Returns how many rejects stand.
    pub const fn standing(&self) -> usize {
        self.standing
    }

    /// Returns true when there are reports to hand on, or other rejects stand than when that was last done.
    pub fn has_changes(&self) -> bool {
        !self.fresh.is_empty() || self.standing != self.before
    }

    /// Takes the reports that were not handed on.
    pub fn take(&mut self) -> impl Iterator<Item = R> {
        self.before = self.standing;
        std::mem::take(&mut self.fresh).into_values().flatten()
    }
}
