//! `/metrics` in the OpenMetrics format: what the reconciler published, and what the maps know at a scrape.
//! docs/metrics.md lists every metric; a test compares.
//!
//! The values of every label are from a fixed list: no name, address or other text of a cluster is one.

mod maps;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use svclb_dataplane::pins::Pins;

use super::histogram::Histogram;
use super::serve::{Answer, Pages};
use super::{BUDGETS, ENDPOINTS, Moment, Observed, SERVICES};
use maps::Seen;

/// The beginning of each metric's name.
const PREFIX: &str = "svclb";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const MAPS_READABLE: &str =
    "1 if the maps in use could be read; otherwise the metrics that come from them are absent";

/// The page of metrics.
#[derive(Debug)]
pub struct MetricsPages(Registry);

impl MetricsPages {
    /// The metrics of this agent and of the maps in use at these pins.
    pub fn new(observed: Arc<Observed>, pins: Pins) -> Self {
        Self(registry(Scrape { observed, pins }))
    }
}

fn registry(collector: impl Collector) -> Registry {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(collector));
    registry
}

fn encode(registry: &Registry) -> Result<String, fmt::Error> {
    let mut body = String::new();
    text::encode(&mut body, registry)?;
    Ok(body)
}

impl Pages for MetricsPages {
    fn page(&self, path: &str) -> Option<Answer> {
        (path == "/metrics").then(|| {
            let (status, body) = match encode(&self.0) {
                Ok(body) => (StatusCode::OK, body),
                // Nothing of it can fail but writing to memory.
                Err(fmt::Error) => (StatusCode::INTERNAL_SERVER_ERROR, String::new()),
            };
            Answer { status, content_type: OPEN_METRICS, body }
        })
    }
}

/// What is read anew at each scrape.
#[derive(Debug)]
struct Scrape {
    observed: Arc<Observed>,
    pins: Pins,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        families.agent(&self.observed, SystemTime::now())?;
        let seen = Seen::read(&self.pins);
        if let Err(error) = &seen {
            // As before the first maps are made.
            tracing::debug!("metrics without those of the maps, which cannot be read: {error:#}");
        }
        families.gauge("maps_readable", MAPS_READABLE, u64::from(seen.is_ok()))?;
        seen.map_or(Ok(()), |seen| families.maps(&seen))
    }
}

/// Writes metrics, each with its description.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, unit, kind)
    }

    fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        let mut family = self.family(name, help, None, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, None, MetricType::Counter)?;
        rows.into_iter().try_for_each(|(labels, count)| {
            let mut row = family.encode_family(&labels)?;
            row.encode_counter::<NoLabelSet, _, u64>(&count, None)
        })
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut family = self.family(name, help, None, MetricType::Gauge)?;
        family.encode_gauge(&signed(value))
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, None, MetricType::Gauge)?;
        rows.into_iter().try_for_each(|(labels, value)| {
            family.encode_family(&labels)?.encode_gauge(&signed(value))
        })
    }

    /// A gauge of seconds.
    fn seconds(&mut self, name: &str, help: &str, seconds: f64) -> fmt::Result {
        let mut family = self.family(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        family.encode_gauge(&seconds)
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        let buckets = histogram.buckets();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let mut family = self.family(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        family.encode_histogram::<NoLabelSet>(histogram.sum(), count, &buckets, None)
    }

    /// The metrics of what the reconciler published.
    fn agent(&mut self, observed: &Observed, now: SystemTime) -> fmt::Result {
        let load = |count: &AtomicU64| count.load(Relaxed);
        // Seconds since the epoch; 0 where there is no such moment, as in kube-proxy's metrics.
        let at = |moment: &Moment| {
            let age = moment.age(observed.clock);
            age.map_or(0.0, |age| since_epoch(now.checked_sub(age).unwrap_or(UNIX_EPOCH)))
        };
        let mut build =
            self.family("build", "The version of the agent that answers", None, MetricType::Info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        let started = now.checked_sub(observed.clock.0.elapsed()).unwrap_or(UNIX_EPOCH);
        self.seconds(
            "start_time",
            "When this agent started; its changes are restarts",
            since_epoch(started),
        )?;
        self.gauge(
            "node_eligible",
            "0 if the Node is being deleted or the cluster autoscaler is about to remove it, else 1",
            u64::from(!observed.is_leaving.load(Relaxed)),
        )?;
        self.histogram(
            "sync_duration",
            "Time that a pass took which had an object to look at, all its parts together",
            &observed.syncs,
        )?;
        self.histogram(
            "network_programming_duration",
            "Time from a change of an endpoint (last-change-trigger-time) to its being in the maps",
            &observed.programmed,
        )?;
        self.seconds(
            "sync_last_timestamp",
            "When all changes were written last; 0: not yet",
            at(&observed.written),
        )?;
        self.seconds(
            "sync_last_queued_timestamp",
            "When a source reported a change of a Service or an EndpointSlice last; 0: not yet",
            at(&observed.queued),
        )?;
        let [services, endpoints] = [SERVICES, ENDPOINTS].map(|kind| &observed.changes[kind]);
        self.counter(
            "sync_service_changes",
            "Changes of Services that a source reported",
            load(&services.total),
        )?;
        self.gauge(
            "sync_service_changes_pending",
            "Changes of Services that are not written yet",
            load(&services.pending),
        )?;
        self.counter(
            "sync_endpoint_changes",
            "Changes of EndpointSlices that a source reported",
            load(&endpoints.total),
        )?;
        self.gauge(
            "sync_endpoint_changes_pending",
            "Changes of EndpointSlices that are not written yet",
            load(&endpoints.pending),
        )?;
        self.counter(
            "sync_steps",
            "Writes to the maps and removals from them by passes of this agent",
            load(&observed.steps),
        )?;
        self.counter(
            "audits",
            "Comparisons of the maps with the desired state",
            load(&observed.audits),
        )?;
        self.counter(
            "audit_repairs",
            "Steps that repaired what another program changed in the maps",
            load(&observed.repairs),
        )?;
        self.gauges(
            "services_over_budget",
            "Service objects that are not served because they exceed a budget, by the flag that sets it",
            BUDGETS.iter().zip(&observed.refused).map(|(flag, count)| {
                ([("budget", flag.trim_start_matches('-'))], load(count))
            }),
        )
    }
}

/// The value of a gauge, which is signed.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn since_epoch(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests;
