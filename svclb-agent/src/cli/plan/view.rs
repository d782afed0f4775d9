//! How `svclb plan` and `svclb diff` print differences. The fields, which docs/commands.md lists, are a contract.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;
use svclb_core::budget::Refusal;
use svclb_core::model::{ObjectName, ServiceKey};
use svclb_core::size::Sizes;
use svclb_dataplane::pins::Pins;

use super::difference::{Change, Difference, Differences, Kind, compare};
use crate::reconcile::DryRun;

/// The most frontends, and backends, of one service that a line of `svclb plan` names unless it is wide.
const NAMED: usize = 10;

/// The outcome of `svclb plan`.
#[derive(Debug, Serialize, JsonSchema)]
pub(in crate::cli) struct PlanView {
    /// Folder of the pins.
    pins: String,
    /// Maps are installed there.
    installed: bool,
    /// The services that would change.
    services: Vec<ChangedView>,
    /// A line for each object, or part of one, that the source rejects or ignores.
    rejected: Vec<String>,
    /// Services that would not be served because they exceed a budget.
    refused: Vec<RefusedView>,
    /// Services that would keep their state because they do not fit the maps.
    unplaced: Vec<UnplacedView>,
    /// Number of steps.
    steps: usize,
    /// The sizes of the maps that would be made; null when the maps stay.
    maps: Option<SizesView>,
}

/// A service that would change.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Changed")]
struct ChangedView {
    /// The way in which it would change.
    change: Change,
    #[serde(flatten)]
    service: NameView,
    /// Its differences.
    differences: Vec<Difference>,
}

/// The name of a service; empty for rows that belong to none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, JsonSchema)]
pub(super) struct NameView {
    /// Namespace of the Service object.
    namespace: String,
    /// Name of the Service object.
    name: String,
    /// Name of the port; empty where it has none.
    port_name: String,
    /// `TCP` or `UDP`; empty for rows that belong to no service.
    protocol: &'static str,
}

/// A Service that exceeds a budget.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Refused")]
struct RefusedView {
    /// Namespace of the Service object.
    namespace: String,
    /// Name of the Service object.
    name: String,
    /// The budget, and what the Service needs.
    why: String,
}

/// A service that does not fit the maps.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Unplaced")]
struct UnplacedView {
    #[serde(flatten)]
    service: NameView,
    /// The map that has no room.
    why: String,
}

/// Sizes of maps.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Sizes")]
struct SizesView {
    /// Lines of the index that a hash can name.
    index_lines: u32,
    /// Slots.
    slots: u32,
}

/// A line of `svclb diff`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Row")]
pub(in crate::cli) struct RowView {
    #[serde(flatten)]
    service: NameView,
    #[serde(flatten)]
    difference: Difference,
}

impl From<&ServiceKey> for NameView {
    fn from(service: &ServiceKey) -> Self {
        Self {
            namespace: service.object.namespace.to_string(),
            name: service.object.name.to_string(),
            port_name: service.port_name.to_string(),
            protocol: service.protocol.name(),
        }
    }
}

impl NameView {
    /// The name as in the log.
    fn shown(&self) -> String {
        let Self { namespace, name, port_name, protocol } = self;
        format!("{namespace}/{name}:{port_name}/{protocol}")
    }
}

impl PlanView {
    pub(super) fn new(pins: &Pins, run: &DryRun, rejected: Vec<String>) -> Self {
        let refused = |(object, why): &(ObjectName, Refusal)| RefusedView {
            namespace: object.namespace.to_string(),
            name: object.name.to_string(),
            why: why.to_string(),
        };
        let unplaced = |(service, why): &(ServiceKey, String)| UnplacedView {
            service: service.into(),
            why: why.clone(),
        };
        let sizes =
            |sizes: &Sizes| SizesView { index_lines: sizes.index_lines, slots: sizes.slots };
        Self {
            pins: pins.root().display().to_string(),
            installed: run.is_installed,
            services: ChangedView::all(compare(run)),
            rejected,
            refused: run.refused.iter().map(refused).collect(),
            unplaced: run.unplaced.iter().map(unplaced).collect(),
            steps: run.steps,
            maps: run.made.as_ref().map(sizes),
        }
    }

    /// The plan for people: a line for each service, then what would not be served, then a summary.
    pub(super) fn lines(&self, wide: bool) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.installed {
            lines.push(format!(
                "no maps are installed in {}: everything would be added to new ones",
                self.pins
            ));
        }
        lines.extend(self.services.iter().map(|it| it.line(wide)));
        lines.extend(self.rejected.clone());
        for RefusedView { namespace, name, why } in &self.refused {
            lines.push(format!(
                "refused by a budget: {namespace}/{name}: {why}; its addresses are left to whatever else \
                 serves them"
            ));
        }
        for UnplacedView { service, why } in &self.unplaced {
            lines.push(format!("does not fit: {}: {why}; it keeps its state", service.shown()));
        }
        lines.push(self.summary());
        lines
    }

    /// The services that would change.
    pub(super) fn names(&self) -> Vec<String> {
        self.services.iter().map(|it| it.service.shown()).collect()
    }

    fn summary(&self) -> String {
        let count = |change| self.services.iter().filter(|it| it.change == change).count();
        let mut line = match (self.services.len(), self.steps) {
            (0, 0) => "nothing to change: the maps hold what the source says".to_owned(),
            (0, steps) => format!("no service changes; {steps} steps repair or renew rows"),
            (_, steps) => format!(
                "services: {} added, {} changed, {} removed; steps: {steps}",
                count(Change::Added),
                count(Change::Changed),
                count(Change::Removed),
            ),
        };
        if let Some(SizesView { index_lines, slots }) = &self.maps {
            let verb =
                if self.installed { "maps of other sizes take their place" } else { "new maps" };
            // Writing to a String cannot fail.
            let _ = write!(line, "; {verb}: {index_lines} lines of the index, {slots} slots");
        }
        line
    }
}

impl ChangedView {
    fn all(differences: Differences) -> Vec<Self> {
        let view = |(service, differences): (ServiceKey, Vec<Difference>)| {
            let whole = differences.iter().find(|it| it.kind == Kind::Service);
            let change = whole.map_or(Change::Changed, |it| it.change);
            Self { change, service: (&service).into(), differences }
        };
        differences.into_iter().map(view).collect()
    }

    fn line(&self, wide: bool) -> String {
        let most = if wide { usize::MAX } else { NAMED };
        let of = |kind: Kind| {
            let mut all = self.differences.iter().filter(move |it| it.kind == kind);
            let named: Vec<String> = all.by_ref().take(most).map(short).collect();
            let more = match all.count() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            named.join(" ") + &more
        };
        let lists = [("frontends", of(Kind::Frontend)), ("backends", of(Kind::Backend))];
        let lists = lists.into_iter().filter(|(_, named)| !named.is_empty());
        let mut parts: Vec<String> = lists.map(|(what, named)| format!("{what} {named}")).collect();
        parts.extend(self.differences.iter().filter_map(setting));
        let parts =
            if parts.is_empty() { String::new() } else { ": ".to_owned() + &parts.join("; ") };
        let change = match self.change {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Changed => "changed",
        };
        format!("{change} {}{parts}", self.service.shown())
    }
}

impl RowView {
    /// Every difference, by service; one for the maps, where rows are written that are in no difference of a
    /// service.
    pub(super) fn all(differences: &Differences, run: &DryRun) -> Vec<Self> {
        let rows = differences.iter().flat_map(|(service, differences)| {
            let service = NameView::from(service);
            differences
                .iter()
                .map(move |it| Self { service: service.clone(), difference: it.clone() })
        });
        let mut rows: Vec<Self> = rows.collect();
        if rows.is_empty() && run.steps > 0 {
            let difference = Difference {
                change: Change::Changed,
                kind: Kind::Maps,
                subject: String::new(),
                actual: String::new(),
                desired: format!("{} steps repair or renew rows", run.steps),
            };
            rows.push(Self { service: NameView::default(), difference });
        }
        rows
    }

    /// The services that differ, each once.
    pub(super) fn names(rows: &[Self]) -> Vec<String> {
        let of_services = rows.iter().filter(|row| row.difference.kind != Kind::Maps);
        let mut names: Vec<String> = of_services.map(|row| row.service.shown()).collect();
        names.dedup();
        names
    }

    /// The line that people read.
    pub(super) fn line(&self) -> String {
        let Self { service, difference } = self;
        let sign = sign(difference.change);
        let (service, Difference { actual, desired, .. }) = (service.shown(), difference);
        match difference.kind {
            Kind::Service => format!("{sign} {service}"),
            Kind::Frontend => format!("{sign} {service} frontend {}", named(difference)),
            Kind::Backend => {
                let state = match difference.change {
                    Change::Added => desired.clone(),
                    Change::Removed => actual.clone(),
                    Change::Changed => format!("{actual} -> {desired}"),
                };
                format!("{sign} {service} backend {}: {state}", difference.subject)
            }
            Kind::Maps => format!("{sign} maps: {desired}"),
            _ => {
                setting(difference).map_or_else(String::new, |it| format!("{sign} {service} {it}"))
            }
        }
    }
}

const fn sign(change: Change) -> char {
    match change {
        Change::Added => '+',
        Change::Removed => '-',
        Change::Changed => '~',
    }
}

/// A frontend or a backend with its sign.
fn short(difference: &Difference) -> String {
    format!("{}{}", sign(difference.change), named(difference))
}

/// A frontend with the service that it is taken from or goes to; a backend.
fn named(difference: &Difference) -> String {
    let Difference { change, kind, subject, actual, desired } = difference;
    match (kind, change) {
        (Kind::Frontend, Change::Added) if !actual.is_empty() => {
            format!("{subject} (from {actual})")
        }
        (Kind::Frontend, Change::Removed) if !desired.is_empty() => {
            format!("{subject} (to {desired})")
        }
        (Kind::Frontend, Change::Changed) => format!("{subject} (renewed)"),
        _ => subject.clone(),
    }
}

/// The change of a setting; none for other kinds.
fn setting(difference: &Difference) -> Option<String> {
    let shown = |value: &str| if value.is_empty() { "none".to_owned() } else { value.to_owned() };
    let name = match difference.kind {
        Kind::InternalPolicy => "internal_policy",
        Kind::ExternalPolicy => "external_policy",
        Kind::AffinitySeconds => "affinity_seconds",
        Kind::Notes => "notes",
        Kind::Service | Kind::Frontend | Kind::Backend | Kind::Maps => return None,
    };
    let (actual, desired) = (shown(&difference.actual), shown(&difference.desired));
    Some(format!("{name} {actual} -> {desired}"))
}
