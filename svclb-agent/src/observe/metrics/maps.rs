//! The metrics of what the maps and hooks know, read anew at each scrape.

use std::fmt;
use std::time::Duration;

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use svclb_common::layout::{ServiceRow, SourceKind, WayKind};
use svclb_core::compile::name_of;
use svclb_core::model::TrafficPolicy;
use svclb_dataplane::hooks::HOOKS;
use svclb_dataplane::maps::usage::Usage;
use svclb_dataplane::pins::Pins;
use svclb_dataplane::programs::attach;

use super::Families;
use crate::cli::NOTES;

const WAYS: [WayKind; 3] = [WayKind::Configuration, WayKind::Endpoint, WayKind::ApiServer];

/// What the maps and hooks are at a scrape.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) usage: Usage,
    pub(super) services: Services,
    pub(super) hooks: Vec<(&'static str, bool)>,
}

/// Counts of services, added up from their rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Services {
    pub(super) all: u64,
    pub(super) frontends: u64,
    /// Backends of the internal sets, and of the external ones.
    pub(super) backends: [u64; 2],
    /// Those whose internal, or external, policy is `Local` and whose set of it has no backend.
    pub(super) without_local: [u64; 2],
    pub(super) noted: [u64; NOTES.len()],
}

/// The names of the policies, in the order of the arrays above.
const POLICIES: [&str; 2] = ["internal", "external"];

impl Services {
    pub(super) fn add(&mut self, row: &ServiceRow) {
        self.all += 1;
        self.frontends += u64::from(row.frontends);
        let of_policy = [
            (&row.internal_policy, row.internal_backends),
            (&row.external_policy, row.external_backends),
        ];
        for (at, (policy, backends)) in of_policy.into_iter().enumerate() {
            self.backends[at] += u64::from(backends);
            let is_local = name_of(policy) == TrafficPolicy::Local.name();
            self.without_local[at] += u64::from(is_local && backends == 0);
        }
        for (noted, (_, bit)) in self.noted.iter_mut().zip(NOTES) {
            *noted += u64::from(row.notes & bit != 0);
        }
    }
}

impl Seen {
    pub(super) fn read(pins: &Pins) -> anyhow::Result<Self> {
        let mut services = Services::default();
        let usage = Usage::read(pins, &mut |row| services.add(row))?;
        let hooks = HOOKS.iter().map(|hook| Ok((hook.name, attach::is_attached(pins, hook)?)));
        Ok(Self { usage, services, hooks: hooks.collect::<anyhow::Result<_>>()? })
    }
}

impl Families<'_> {
    /// The metrics of what the maps know.
    pub(super) fn maps(&mut self, seen: &Seen) -> fmt::Result {
        self.connections(seen)?;
        self.contents(seen)?;
        self.sources(seen)?;
        self.gauges(
            "hook_attached",
            "1 if the hook's link is attached",
            seen.hooks
                .iter()
                .map(|(name, is_attached)| ([("hook", *name)], u64::from(*is_attached))),
        )
    }

    /// The counts of the hooks, which go on while no agent runs.
    fn connections(&mut self, seen: &Seen) -> fmt::Result {
        let counters = &seen.usage.counters;
        self.counter(
            "connections_translated",
            "Connects and first sends to a frontend that were given a backend by a draw",
            counters.translated,
        )?;
        self.counter(
            "connections_affinity",
            "Connects and first sends that kept the backend of their client by session affinity",
            counters.affine,
        )?;
        self.counters(
            "connections_refused",
            "Connects and sends that were refused: the service has no usable backend, or every draw met \
             slots of other services, which is a fault worth a report",
            [
                ([("reason", "no_backend")], counters.refused),
                ([("reason", "torn")], counters.torn),
            ],
        )?;
        self.counter(
            "connections_not_service",
            "Connects and sends to a destination that is no frontend, which were left alone",
            counters.not_service,
        )?;
        self.counter(
            "sends_kept",
            "Sends on unconnected sockets that kept their backend",
            counters.kept,
        )?;
        self.counter(
            "replies",
            "Replies whose source was put back to the address that was dialled",
            counters.replies,
        )?;
        self.counter(
            "peer_names",
            "Names of peers that were put back to the address that was dialled",
            counters.names,
        )?;
        self.counter(
            "origins_overflowed",
            "Origins that found no place of their own and went to svclb_overflow",
            counters.overflowed,
        )?;
        // What exceeds a share is counted in both.
        let unrecorded_when_full = counters.unrecorded.saturating_sub(counters.over_share);
        self.counters(
            "origins_unrecorded",
            "Connections translated without an origin: svclb_overflow is full, or their client has its \
             share of it",
            [
                ([("reason", "full")], unrecorded_when_full),
                ([("reason", "share")], counters.over_share),
            ],
        )?;
        self.counter(
            "affinity_unrecorded",
            "Connections of services with session affinity whose backend was not remembered: \
             svclb_affinity is full, or their client has its share of it",
            counters.affinity_unrecorded,
        )?;
        self.counter(
            "draws_repeated",
            "Draws that were repeated because a slot had another owner",
            counters.redrawn,
        )
    }

    /// What the maps hold, and how full they are.
    fn contents(&mut self, seen: &Seen) -> fmt::Result {
        let Seen { usage: Usage { meta, capacities, used, .. }, services, .. } = seen;
        self.gauge("synced", "1 if the maps hold what the sources say", u64::from(meta.synced))?;
        self.gauge(
            "proved",
            "1 if the agent has seen a connection of its own translated since it started",
            u64::from(meta.proved),
        )?;
        self.counter("passes", "Passes that changed something, restarts included", meta.passes)?;
        self.counter(
            "failures",
            "Writes, and reads of an audit, that failed and were tried again, restarts included",
            meta.failures,
        )?;
        self.gauge("services", "Services: ports of Service objects", services.all)?;
        self.gauge("frontends", "Frontends", services.frontends)?;
        let by_policy = |counts: [u64; 2]| {
            POLICIES
                .into_iter()
                .zip(counts)
                .map(|(policy, count)| ([("traffic_policy", policy)], count))
        };
        self.gauges(
            "backends",
            "Backends in the sets of each policy; one of two services counts twice",
            by_policy(services.backends),
        )?;
        self.gauges(
            "services_without_local_endpoints",
            "Services whose policy is Local and that have no endpoint on this node for it",
            by_policy(services.without_local),
        )?;
        self.gauge(
            "services_unplaced",
            "Services that keep an earlier state because they do not fit the maps",
            u64::from(meta.short),
        )?;
        self.gauges(
            "services_noted",
            "Services that are not served just as their objects say, by the notes of svclb services",
            NOTES.into_iter().zip(services.noted).map(|((note, _), count)| ([("note", note)], count)),
        )?;
        self.gauges(
            "map_entries",
            "Entries of a map that are in use",
            used.iter().map(|(map, used)| ([("map", map.as_str())], *used)),
        )?;
        self.gauges(
            "map_capacity",
            "Entries that a map can have",
            capacities.iter().map(|(map, entries)| ([("map", map.as_str())], u64::from(*entries))),
        )
    }

    /// The sources, as the agent writes them into svclb_meta every ten seconds, and when they change.
    fn sources(&mut self, seen: &Seen) -> fmt::Result {
        let sources = seen.usage.meta.sources;
        let known = || {
            let kind = |number| SourceKind::from_number(number).map(SourceKind::name);
            sources.iter().filter_map(move |source| Some((kind(source.kind)?, source)))
        };
        let mut family = self.family(
            "source_last_heard_timestamp",
            "When a source of the agent was last heard from; 0: not since it started",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for (name, source) in known() {
            let heard = Duration::from_secs(source.heard).as_secs_f64();
            family.encode_family(&[("source", name)])?.encode_gauge(&heard)?;
        }
        self.gauges(
            "source_way",
            "1 for the way to the API server over which a source was last heard from",
            known().filter(|(name, _)| *name != SourceKind::Files.name()).flat_map(
                |(name, source)| {
                    WAYS.map(|way| {
                        let is_this = u64::from(source.way == way as u8);
                        ([("source", name), ("way", way.name())], is_this)
                    })
                },
            ),
        )?;
        self.gauges(
            "source_rejected",
            "Objects of a source that are rejected now; of files, whatever in them is",
            known().map(|(name, source)| ([("source", name)], u64::from(source.rejected))),
        )
    }
}
