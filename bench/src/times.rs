//! Durations of calls, and rates.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Durations of calls of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Times {
    /// Percentiles from 0 to 100, nanoseconds.
    pub(crate) percentiles: Vec<u64>,
}

impl Times {
    /// Summarizes durations, in nanoseconds.
    ///
    /// Percentiles are those of the nearest rank: of fewer than a hundred durations, the 99th is the longest.
    pub(crate) fn of(mut measured: Vec<u64>) -> Self {
        measured.sort_unstable();
        let at = |percent: usize| {
            let rank = (measured.len() * percent).div_ceil(100);
            measured.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { percentiles: (0..=100).map(at).collect() }
    }

    /// Returns the element with the middle one of all medians.
    pub(crate) fn middle(mut all: Vec<Self>) -> Self {
        all.sort_by(|one, other| one.median().total_cmp(&other.median()));
        let middle = all.len() / 2;
        if all.is_empty() { Self::of(Vec::new()) } else { all.swap_remove(middle) }
    }

    /// Returns the median.
    pub(crate) fn median(&self) -> f64 {
        nanoseconds(self.percentiles.get(50).copied().unwrap_or_default())
    }
}

/// Converts a duration to nanoseconds.
pub(crate) fn of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Converts nanoseconds to the type of figures.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52, which are 52 days")]
pub(crate) const fn nanoseconds(time: u64) -> f64 {
    time as f64
}

/// Returns the number per second.
pub(crate) fn rate(count: u64, seconds: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let rate = count as f64 / seconds;
    rate
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_have_the_nearest_rank() {
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
