//! The metrics of a sample, and their list in docs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use svclb_common::layout::{
    Counters, Meta, SOURCES, ServiceNotes, ServiceRow, SourceKind, SourceRow, Text, WayKind,
};
use svclb_core::table::MapName;
use svclb_dataplane::hooks::HOOKS;
use svclb_dataplane::maps::usage::Usage;

use super::maps::Services;
use super::*;

const HEAD: &str = "\
# Metrics
`svclb agent` serves them at `/metrics` of `--metrics-address` (127.0.0.1:19249) in the OpenMetrics format. Written from the agent's own list (svclb-agent/src/observe/metrics.rs): after a change there, `cargo xtask check --bless` writes this page anew.

Labels have values from fixed lists, never names or addresses of a cluster. The metrics that come from the maps, which are all below `svclb_maps_readable`, outlive the agent with them; the others count from its start. `source` is `files` where files are the source.

| metric | type | unit | labels | meaning |
|---|---|---|---|---|
";

/// Services, maps and sources of every kind.
#[derive(Debug)]
struct Sample(Observed, Seen);

impl Collector for Sample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        families.agent(&self.0, SystemTime::now())?;
        families.gauge("maps_readable", MAPS_READABLE, 1)?;
        families.maps(&self.1)
    }
}

fn text<const N: usize>(text: &str) -> Text<N> {
    let mut bytes = [0; N];
    bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from.cast_signed());
    bytes
}

fn row(policies: [&str; 2], backends: [u32; 2], notes: u32) -> ServiceRow {
    ServiceRow {
        namespace: text("shop"),
        name: text("web"),
        port_name: text(""),
        protocol: text("TCP"),
        internal_policy: text(policies[0]),
        external_policy: text(policies[1]),
        frontends: 2,
        internal_backends: backends[0],
        external_backends: backends[1],
        notes,
    }
}

fn seen() -> Seen {
    let source = |kind: SourceKind, way: WayKind| SourceRow {
        heard: 1_000,
        kind: kind as u8,
        way: way as u8,
        rejected: 3,
        ..SourceRow::default()
    };
    let sources: [SourceRow; SOURCES] = [
        source(SourceKind::Services, WayKind::Endpoint),
        source(SourceKind::EndpointSlices, WayKind::Configuration),
        source(SourceKind::Nodes, WayKind::ApiServer),
    ];
    let counters = Counters { unrecorded: 7, over_share: 2, refused: 5, ..Counters::default() };
    let counted = [
        MapName::Index,
        MapName::Slots,
        MapName::Origins,
        MapName::Overflow,
        MapName::Frontends,
        MapName::Services,
        MapName::Affinity,
    ];
    let all = counted.into_iter().chain([MapName::Backends, MapName::Clients]);
    let usage = Usage {
        meta: Meta { synced: 1, passes: 9, sources, ..Meta::default() },
        counters,
        capacities: all.map(|map| (map, 64)).collect(),
        used: counted.map(|map| (map, 3)).into(),
    };
    let mut services = Services::default();
    services.add(&row(["Cluster", "Local"], [2, 0], ServiceNotes::RETAINED));
    Seen { usage, services, hooks: HOOKS.iter().map(|hook| (hook.name, true)).collect() }
}

fn page() -> String {
    let observed = Observed::default();
    observed.sync(Duration::from_millis(3));
    encode(&registry(Sample(observed, seen()))).unwrap()
}

#[test]
fn services_are_added_up_by_policy_and_note() {
    let mut services = Services::default();
    services.add(&row(["Cluster", "Cluster"], [0, 0], 0));
    services.add(&row(["Local", "Cluster"], [0, 4], ServiceNotes::CONFLICT));
    services.add(&row(["Local", "Local"], [1, 0], ServiceNotes::CONFLICT | ServiceNotes::SCTP));
    let expected = Services {
        all: 3,
        frontends: 6,
        backends: [1, 4],
        without_local: [1, 1],
        noted: [2, 0, 0, 1, 0, 0, 0],
    };
    assert_eq!(services, expected);
}

#[test]
fn values_are_where_they_belong() {
    let page = page();
    for line in [
        "svclb_build_info{version=\"0.1.0\"} 1",
        "svclb_connections_refused_total{reason=\"no_backend\"} 5",
        "svclb_origins_unrecorded_total{reason=\"full\"} 5",
        "svclb_origins_unrecorded_total{reason=\"share\"} 2",
        "svclb_sync_duration_seconds_count 1",
        "svclb_sync_duration_seconds_bucket{le=\"0.002\"} 0",
        "svclb_sync_duration_seconds_bucket{le=\"0.004\"} 1",
        "svclb_sync_duration_seconds_bucket{le=\"+Inf\"} 1",
        "svclb_sync_last_timestamp_seconds 0.0",
        "svclb_services_without_local_endpoints{traffic_policy=\"external\"} 1",
        "svclb_services_noted{note=\"retained\"} 1",
        "svclb_source_last_heard_timestamp_seconds{source=\"nodes\"} 1000.0",
        "svclb_source_way{source=\"services\",way=\"endpoint\"} 1",
        "svclb_source_way{source=\"services\",way=\"api-server\"} 0",
        "svclb_map_capacity{map=\"svclb_index\"} 64",
        "svclb_hook_attached{hook=\"connect4\"} 1",
        "svclb_services_over_budget{budget=\"all-memory\"} 0",
        "# EOF",
    ] {
        assert!(page.lines().any(|it| it == line), "{line}\n{page}");
    }
}

/// A metric as the page describes it.
#[derive(Debug, Default)]
struct Described {
    kind: String,
    unit: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// The metrics of a page in their order.
fn described(page: &str) -> Vec<(String, Described)> {
    let mut found: Vec<(String, Described)> = Vec::new();
    for line in page.lines().filter(|line| *line != "# EOF") {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            found.push((
                name.to_owned(),
                Described { help: help.to_owned(), ..Described::default() },
            ));
            continue;
        }
        let (name, last) = found.last_mut().expect("a description comes first");
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            last.kind = kind.split_once(' ').unwrap().1.to_owned();
        } else if let Some(unit) = line.strip_prefix("# UNIT ") {
            last.unit = unit.split_once(' ').unwrap().1.to_owned();
        } else {
            assert!(line.starts_with(&*name), "{line} is not of {name}");
            let labels = line.split_once('{').and_then(|(_, it)| it.split_once('}'));
            for label in labels.iter().flat_map(|(labels, _)| labels.split(',')) {
                let (key, value) = label.split_once('=').unwrap();
                let values = last.labels.entry(key.to_owned()).or_default();
                values.insert(value.trim_matches('"').to_owned());
            }
        }
    }
    found
}

#[test]
fn the_golden_list_in_docs_has_every_metric() {
    let mut expected = HEAD.to_owned();
    for (name, Described { kind, unit, help, labels }) in described(&page()) {
        let suffix = match &*kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let labels = labels.iter().filter(|(key, _)| *key != "le").map(|(key, values)| {
            // A version is not one of a list.
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            if key == "version" {
                format!("`{key}`")
            } else {
                format!("`{key}`: {}", values.join(", "))
            }
        });
        let labels: Vec<String> = labels.collect();
        writeln!(
            expected,
            "| `{name}{suffix}` | {kind} | {unit} | {} | {help} |",
            labels.join("; ")
        )
        .unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("SVCLB_BLESS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    assert_eq!(found, expected, "`cargo xtask check --bless` writes {}", path.display());
}

#[test]
fn names_have_base_units_and_there_is_no_unbounded_label() {
    let described = described(&page());
    let names: BTreeSet<&String> = described.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), described.len(), "each name is there once");
    for (name, metric) in &described {
        assert!(name.starts_with("svclb_"), "{name}");
        assert!(!metric.help.is_empty() && !metric.kind.is_empty(), "{name}: {metric:?}");
        let has_unit = name.ends_with("_seconds");
        assert_eq!(metric.unit, if has_unit { "seconds" } else { "" }, "{name}");
        let known = [
            "budget",
            "hook",
            "le",
            "map",
            "note",
            "reason",
            "source",
            "traffic_policy",
            "version",
            "way",
        ];
        assert!(metric.labels.keys().all(|key| known.contains(&&**key)), "{name}: {metric:?}");
    }
}

#[test]
fn without_maps_the_metrics_of_the_agent_are_there() {
    let pins = Pins::new(Path::new("/nowhere/svclb"));
    let pages = MetricsPages::new(Arc::default(), pins);
    let answer = pages.page("/metrics").unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.contains("\nsvclb_maps_readable 0\n"), "{}", answer.body);
    assert!(answer.body.contains("\nsvclb_audits_total 0\n"), "{}", answer.body);
    assert!(pages.page("/").is_none());
}
