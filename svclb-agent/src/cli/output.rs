//! Output of the reading commands: rows as a table for people, as JSON or YAML for scripts, or only their
//! names. The fields of the rows, which docs/commands.md lists, are a contract: they may be added to, not
//! changed. So are the names.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser as _, ValueParser};
use comfy_table::{Table, presets};
use schemars::JsonSchema;
use serde::Serialize;
use svclb_core::text;

use super::sources::SourceView;

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(super) enum OutputFormat {
    /// Columns for people
    #[default]
    Table,
    /// The same with all columns
    Wide,
    /// An array of objects
    Json,
    /// The same as YAML
    Yaml,
    /// One name a line
    Name,
}

impl OutputFormat {
    /// Returns the parser for a command whose output has no names.
    pub(super) fn without_names() -> ValueParser {
        let formats = Self::value_variants().iter().filter(|format| **format != Self::Name);
        let values = formats.filter_map(Self::to_possible_value);
        PossibleValuesParser::new(values).try_map(|value| Self::from_str(&value, false)).into()
    }
}

/// A column of a table: its heading, and the cell of a row.
pub(super) type Column<T> = (&'static str, fn(&T) -> String);

/// A row of a list.
pub(super) trait ListRow: Serialize + Sized + 'static {
    /// The table's columns.
    const COLUMNS: &'static [Column<Self>];
    /// The columns that follow in a wide table.
    const MORE_COLUMNS: &'static [Column<Self>] = &[];

    /// The name of what the row shows.
    fn name(&self) -> String;
}

/// A service: one port of a Service object. Sorted by its first fields.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Service")]
pub(super) struct ServiceView {
    /// Namespace of the Service object.
    pub(super) namespace: String,
    /// Name of the Service object.
    pub(super) name: String,
    /// Name of the port; empty where it has none.
    pub(super) port_name: String,
    /// `TCP` or `UDP`.
    pub(super) protocol: String,
    /// Its frontends: `address:port`, IPv6 in brackets.
    pub(super) frontends: Vec<SocketAddr>,
    /// The frontends of ClusterIPs.
    pub(super) internal: Vec<SocketAddr>,
    /// The frontends of external and load balancer IPs.
    pub(super) external: Vec<SocketAddr>,
    /// The node ports that the others are of: on the node's addresses and, for the host's clients, on
    /// loopback.
    pub(super) node_ports: Vec<u16>,
    /// `internalTrafficPolicy`: `Cluster` or `Local`.
    pub(super) internal_policy: String,
    /// `externalTrafficPolicy`: `Cluster` or `Local`.
    pub(super) external_policy: String,
    /// Session affinity in seconds; 0: none.
    pub(super) affinity_seconds: u32,
    /// Number of its backends now, in either set.
    pub(super) backends: usize,
    /// Parts of its objects that are not served, as docs/commands.md lists them.
    pub(super) notes: Vec<&'static str>,
    /// Its number in the maps; stays while it exists and is never used again.
    pub(super) id: u32,
}

impl ListRow for ServiceView {
    const COLUMNS: &'static [Column<Self>] = &[
        ("NAMESPACE", |row| row.namespace.clone()),
        ("NAME", |row| row.name.clone()),
        ("PORT", |row| row.port_name.clone()),
        ("PROTOCOL", |row| row.protocol.clone()),
        ("CLUSTER-IP", |row| joined(&row.internal)),
        ("EXTERNAL", |row| joined(&row.external)),
        ("NODE-PORT", |row| joined(&row.node_ports)),
        ("BACKENDS", |row| row.backends.to_string()),
        ("NOTES", |row| joined(&row.notes)),
        ("ID", |row| row.id.to_string()),
    ];
    const MORE_COLUMNS: &'static [Column<Self>] = &[
        ("INTERNAL-POLICY", |row| row.internal_policy.clone()),
        ("EXTERNAL-POLICY", |row| row.external_policy.clone()),
        ("AFFINITY-SECONDS", |row| row.affinity_seconds.to_string()),
        ("FRONTENDS", |row| joined(&row.frontends)),
    ];

    fn name(&self) -> String {
        let Self { namespace, name, port_name, protocol, .. } = self;
        format!("{namespace}/{name}:{port_name}/{protocol}")
    }
}

/// A backend of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Backend")]
pub(super) struct BackendView {
    /// Namespace of the Service object.
    pub(super) namespace: String,
    /// Name of the Service object.
    pub(super) service: String,
    /// Name of the port; empty where it has none.
    pub(super) port_name: String,
    /// `TCP` or `UDP`.
    pub(super) protocol: String,
    /// Address of the endpoint.
    pub(super) address: IpAddr,
    /// Port of the endpoint.
    pub(super) port: u16,
    /// `ready`; `terminating`: still serving and used because nothing is ready; `unknown`: written by
    /// another version.
    pub(super) state: &'static str,
    /// The sets of the service that it is in: `internal`, `external`.
    pub(super) sets: Vec<&'static str>,
    /// Its share of new connections, relative to the others'.
    pub(super) weight: u32,
    /// Number of live sockets of this node that were given it.
    pub(super) connections: usize,
}

impl ListRow for BackendView {
    const COLUMNS: &'static [Column<Self>] = &[
        ("NAMESPACE", |row| row.namespace.clone()),
        ("SERVICE", |row| row.service.clone()),
        ("PORT", |row| row.port_name.clone()),
        ("PROTOCOL", |row| row.protocol.clone()),
        ("BACKEND", Self::name),
        ("STATE", |row| row.state.to_owned()),
        ("SETS", |row| joined(&row.sets)),
        ("CONNECTIONS", |row| row.connections.to_string()),
    ];
    const MORE_COLUMNS: &'static [Column<Self>] = &[("WEIGHT", |row| row.weight.to_string())];

    fn name(&self) -> String {
        SocketAddr::new(self.address, self.port).to_string()
    }
}

/// A live socket that dialled a service: one row for each frontend that it has dialled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Socket")]
pub(super) struct SocketView {
    /// The socket's cookie, as `ss -e` shows it (`sk:`, there hexadecimal).
    pub(super) cookie: u64,
    /// `TCP` or `UDP`.
    pub(super) protocol: &'static str,
    /// The frontend that it dialled: `address:port`.
    pub(super) dialled: SocketAddr,
    /// The backend that it was given: `address:port`.
    pub(super) given: SocketAddr,
    /// The service that has this frontend now: `namespace/name:port name`; empty when none has.
    pub(super) service: String,
    /// It was connected; false: it sends without.
    pub(super) connected: bool,
    /// The backend still belongs to the service.
    pub(super) current: bool,
    /// The map with the record: `origins`, or `overflow` when the socket's place there was taken.
    pub(super) place: &'static str,
    /// Number of a process that holds it open, in this pid namespace; null where it is not known.
    pub(super) pid: Option<u32>,
    /// Name of that process, as it chose it (`/proc/PID/comm`); empty where it is not known.
    pub(super) command: String,
    /// The pod that the process is in: `namespace/name`, or the pod's UID where only that is known; empty where
    /// it is in none, or not known.
    pub(super) pod: String,
}

impl ListRow for SocketView {
    const COLUMNS: &'static [Column<Self>] = &[
        ("COOKIE", Self::name),
        ("PROTOCOL", |row| row.protocol.to_owned()),
        ("DIALLED", |row| row.dialled.to_string()),
        ("GIVEN", |row| row.given.to_string()),
        ("SERVICE", |row| row.service.clone()),
        ("CONNECTED", |row| yes(row.connected).to_owned()),
        ("CURRENT", |row| yes(row.current).to_owned()),
        ("PLACE", |row| row.place.to_owned()),
        ("PID", |row| row.pid.map_or_else(String::new, |pid| pid.to_string())),
        ("COMMAND", |row| row.command.clone()),
        ("POD", |row| row.pod.clone()),
    ];

    fn name(&self) -> String {
        self.cookie.to_string()
    }
}

/// The state of maps and hooks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub(super) struct StatusView {
    /// Folder of the pins.
    pub(super) pins: String,
    /// Version of the maps' layout.
    pub(super) layout: u32,
    /// Every source was heard and what it said is written.
    pub(super) synced: bool,
    /// Number of the agent's passes that changed something, restarts included.
    pub(super) passes: u64,
    /// Number of writes that failed and were tried again, restarts included.
    pub(super) failures: u64,
    /// Number of services that keep an earlier state because they do not fit into the maps.
    pub(super) short: u32,
    /// Number of Service objects that are not served because they exceed a budget.
    pub(super) refused: u32,
    /// Process id of the agent that wrote last, in its own pid namespace.
    pub(super) agent_pid: u32,
    /// A process of this number and name runs, as far as this pid namespace shows.
    pub(super) agent_running: bool,
    /// The agent's sources, when each was last heard and by which way.
    pub(super) sources: Vec<SourceView>,
    /// Number of services.
    pub(super) services: usize,
    /// Number of frontends.
    pub(super) frontends: usize,
    /// Number of backends; one of two services counts twice.
    pub(super) backends: usize,
    /// Number of services with parts that are not served, by reason.
    pub(super) notes: BTreeMap<&'static str, usize>,
    /// Number of live sockets that dialled a service.
    pub(super) sockets: usize,
    /// Number of live sockets with an entry in the overflow.
    pub(super) overflow_entries: usize,
    /// Lines of the index in use.
    pub(super) index_lines_used: usize,
    /// Lines of the index that a hash can name.
    pub(super) index_lines: u32,
    /// Slots in use.
    pub(super) slots_used: usize,
    /// Slots there are.
    pub(super) slots: u32,
    /// Places of the origins array.
    pub(super) origins: u32,
    /// Every hook and whether it is attached.
    pub(super) hooks: Vec<HookView>,
    /// Counters of the hooks since the maps were made (docs/maps.md, svclb_counters).
    pub(super) counters: BTreeMap<&'static str, u64>,
}

/// A hook.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Hook")]
pub(super) struct HookView {
    /// Its name, such as `connect4`.
    pub(super) name: &'static str,
    /// Its pinned link is attached.
    pub(super) attached: bool,
}

/// Prints a list.
pub(super) fn list<T: ListRow>(rows: &[T], format: OutputFormat) -> Result<()> {
    print(&render_list(rows, format)?)
}

/// Prints the status.
pub(super) fn one(status: &StatusView, format: OutputFormat) -> Result<()> {
    print(&render_status(status, format)?)
}

/// Prints one line.
pub(super) fn line(line: &str) -> Result<()> {
    print(&format!("{}\n", text::line(line)))
}

/// Prints a value for scripts, names, or lines for people. `lines` is given true for the wide form.
pub(super) fn report<T: Serialize + ?Sized>(
    value: &T,
    format: OutputFormat,
    lines: impl FnOnce(bool) -> Vec<String>,
    names: impl FnOnce() -> Vec<String>,
) -> Result<()> {
    let text = |lines: Vec<String>| lines.iter().map(|line| text::line(line) + "\n").collect();
    print(&match format {
        OutputFormat::Json => json(value)?,
        OutputFormat::Yaml => yaml(value)?,
        OutputFormat::Table => text(lines(false)),
        OutputFormat::Wide => text(lines(true)),
        OutputFormat::Name => text(names()),
    })
}

/// Reports on standard error what a command could not see. Its output is right, and not whole.
pub(super) fn warn(warning: &str) {
    eprintln!("svclb: {}", text::line(warning));
}

/// Prints a text as it is: one that svclb itself has made.
pub(super) fn print(text: &str) -> Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write to standard output")
}

fn render_list<T: ListRow>(rows: &[T], format: OutputFormat) -> Result<String> {
    let table = |more_columns: &[Column<T>]| {
        let all = || T::COLUMNS.iter().chain(more_columns);
        let headings = all().map(|(heading, _)| (*heading).to_owned()).collect();
        let cells = rows.iter().map(|row| all().map(|(_, cell)| cell(row)).collect());
        columns(std::iter::once(headings).chain(cells).collect())
    };
    match format {
        OutputFormat::Table => Ok(table(&[])),
        OutputFormat::Wide => Ok(table(T::MORE_COLUMNS)),
        OutputFormat::Json => json(rows),
        OutputFormat::Yaml => yaml(rows),
        OutputFormat::Name => Ok(rows.iter().map(|row| text::line(&row.name()) + "\n").collect()),
    }
}

fn render_status(status: &StatusView, format: OutputFormat) -> Result<String> {
    match format {
        OutputFormat::Table | OutputFormat::Wide => Ok(columns(status_rows(status))),
        OutputFormat::Json => json(status),
        OutputFormat::Yaml => yaml(status),
        OutputFormat::Name => {
            bail!("the status has no names: -o table, wide, json or yaml shows it")
        }
    }
}

fn status_rows(status: &StatusView) -> Vec<Vec<String>> {
    let of = |used: usize, size: u32| format!("{used} of {size}");
    let running = if status.agent_running { "running" } else { "not running" };
    let missing = unattached(&status.hooks);
    let attached =
        format!("{} of {} attached", status.hooks.len() - missing.len(), status.hooks.len());
    let hooks = if missing.is_empty() {
        attached
    } else {
        format!("{attached}, missing: {}", missing.join(" "))
    };
    let mut rows = vec![
        ("Pins", status.pins.clone()),
        ("Layout", status.layout.to_string()),
        ("Synced", yes(status.synced).to_owned()),
        ("Agent", format!("{running} (pid {})", status.agent_pid)),
        ("Passes", status.passes.to_string()),
        ("Failures", status.failures.to_string()),
        ("Short", status.short.to_string()),
        ("Over budget", status.refused.to_string()),
        ("Hooks", hooks),
        ("Sources", sources(&status.sources)),
        ("Services", status.services.to_string()),
        ("Frontends", status.frontends.to_string()),
        ("Backends", status.backends.to_string()),
        ("Notes", noted(&status.notes)),
        ("Index lines", of(status.index_lines_used, status.index_lines)),
        ("Slots", of(status.slots_used, status.slots)),
        ("Sockets", status.sockets.to_string()),
        ("Origins", format!("{} places, {} in overflow", status.origins, status.overflow_entries)),
    ];
    rows.extend(status.counters.iter().map(|(name, count)| (*name, count.to_string())));
    rows.into_iter().map(|(name, value)| vec![format!("{name}:"), value]).collect()
}

fn sources(sources: &[SourceView]) -> String {
    let each: Vec<String> =
        sources.iter().map(|source| format!("{} {}", source.name, source.words())).collect();
    if each.is_empty() { "not known".to_owned() } else { each.join("; ") }
}

fn noted(notes: &BTreeMap<&'static str, usize>) -> String {
    let some = notes.iter().filter(|(_, count)| **count > 0);
    let some: Vec<String> = some.map(|(name, count)| format!("{count} {name}")).collect();
    if some.is_empty() { "none".to_owned() } else { some.join(", ") }
}

pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    Ok(text::json(&serde_json::to_string_pretty(value)?) + "\n")
}

/// YAML has no escape outside of quotes, and what is hidden is no name of Kubernetes: it is shown as in a
/// table.
fn yaml<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    let mut value = serde_json::to_value(value)?;
    shown(&mut value);
    let text = serde_saphyr::to_string(&value).context("cannot write YAML")?;
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

fn shown(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) => *text = text::line(text),
        serde_json::Value::Array(values) => values.iter_mut().for_each(shown),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(shown),
        _ => {}
    }
}

/// Plain columns, two blanks between, nothing behind the last.
fn columns(rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for row in rows {
        table.add_row(row.iter().map(|cell| text::line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// The names of the hooks that are not attached.
pub(super) fn unattached(hooks: &[HookView]) -> Vec<&'static str> {
    hooks.iter().filter(|hook| !hook.attached).map(|hook| hook.name).collect()
}

fn joined(values: &[impl ToString]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub(super) const fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
