//! How long calls took, and how often something was done.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a call took, each time it was made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Times {
    /// Percentiles from 0 to 100, nanoseconds.
    pub(crate) percentiles: Vec<u64>,
}

impl Times {
    /// Sums up what was measured, in nanoseconds.
    ///
    /// A percentile is the least of them that so many percent are not above (the nearest rank): of fewer
    /// than a hundred, the 99th is the slowest.
    pub(crate) fn of(mut measured: Vec<u64>) -> Self {
        measured.sort_unstable();
        let at = |percent: usize| {
            let rank = (measured.len() * percent).div_ceil(100);
            measured.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { percentiles: (0..=100).map(at).collect() }
    }

    /// That of these whose median is in the middle.
    pub(crate) fn middle(mut all: Vec<Self>) -> Self {
        all.sort_by(|one, other| one.median().total_cmp(&other.median()));
        let middle = all.len() / 2;
        if all.is_empty() { Self::of(Vec::new()) } else { all.swap_remove(middle) }
    }

    /// The median.
    pub(crate) fn median(&self) -> f64 {
        nanoseconds(self.percentiles.get(50).copied().unwrap_or_default())
    }
}

/// A time as it is measured, nanoseconds.
pub(crate) fn of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// As figures are kept.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52, which are 52 days")]
pub(crate) const fn nanoseconds(time: u64) -> f64 {
    time as f64
}

/// How often in a second.
pub(crate) fn rate(count: u64, seconds: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = count as f64 / seconds;
    rate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let times = Times::of((0..=1_000).rev().collect());
        assert_eq!(times.percentiles.len(), 101);
        assert_eq!(
            (times.percentiles[0], times.percentiles[50], times.percentiles[99]),
            (0, 500, 990)
        );
        assert_eq!(times.percentiles[100], 1_000);
        let few = Times::of(vec![5_000_000_000, 1]);
        assert_eq!(
            (few.percentiles[0], few.percentiles[50], few.percentiles[99]),
            (1, 1, 5_000_000_000)
        );
    }
}
