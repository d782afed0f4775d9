//! A histogram of durations to which one thread adds without waiting for those that read it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Durations by upper bounds in seconds.
#[derive(Debug)]
pub(super) struct Histogram {
    /// Each bound with the number of durations up to it and beyond the one before. The last is
    /// [`f64::MAX`], which stands for infinity.
    buckets: Box<[(f64, AtomicU64)]>,
    nanoseconds: AtomicU64,
}

/// The bounds of kube-proxy's `sync_proxy_rules_duration_seconds` (pkg/proxy/metrics/metrics.go).
pub(super) fn sync_bounds() -> impl Iterator<Item = f64> {
    (0..15).map(|power| 0.001 * f64::from(1 << power))
}

/// The bounds of kube-proxy's `network_programming_duration_seconds` (the same file).
pub(super) fn programming_bounds() -> impl Iterator<Item = f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from))
}

impl Histogram {
    /// No durations yet.
    pub(super) fn new(bounds: impl Iterator<Item = f64>) -> Self {
        let bounds = bounds.chain([f64::MAX]);
        let buckets = bounds.map(|bound| (bound, AtomicU64::default())).collect();
        Self { buckets, nanoseconds: AtomicU64::default() }
    }

    pub(super) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.buckets.partition_point(|(bound, _)| *bound < seconds);
        if let Some((_, count)) = self.buckets.get(bucket) {
            count.fetch_add(1, Relaxed);
        }
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// The durations of each bucket by itself.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        self.buckets.iter().map(|(bound, count)| (*bound, count.load(Relaxed))).collect()
    }

    /// All durations together, in seconds.
    pub(super) fn sum(&self) -> f64 {
        Duration::from_nanos(self.nanoseconds.load(Relaxed)).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::new([0.25, 1.0].into_iter());
        for milliseconds in [0, 250, 251, 1_000, 1_001, 90_000] {
            histogram.observe(Duration::from_millis(milliseconds));
        }
        assert_eq!(histogram.buckets(), [(0.25, 2), (1.0, 2), (f64::MAX, 2)]);
        assert!((histogram.sum() - 92.502).abs() < 1e-9, "{}", histogram.sum());
    }

    #[test]
    fn bounds_are_those_of_kube_proxy() {
        let bounds: Vec<f64> = sync_bounds().collect();
        assert_eq!((bounds.len(), bounds[0], bounds[14]), (15, 0.001, 16.384));
        let bounds: Vec<f64> = programming_bounds().collect();
        assert_eq!(bounds.len(), 2 + 59 + 12 + 7);
        assert_eq!(bounds[..4], [0.25, 0.5, 1.0, 2.0]);
        assert_eq!(bounds[59..64], [58.0, 59.0, 60.0, 65.0, 70.0]);
        assert_eq!(bounds[71..], [110.0, 115.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0]);
        assert!(bounds.is_sorted_by(|one, next| one < next));
    }
}
