//! `svclb top`: services by new connections a second and live sockets.
//!
//! Both are counted from the records of live sockets at two moments, so that the hooks count nothing for it: a
//! new connection is a socket that has a record now and had none an interval ago. One that was closed within
//! the interval is not seen.
//!
//! * `screen`: the terminal.

mod screen;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::io::{self, IsTerminal as _};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Args, ValueEnum, value_parser};
use schemars::JsonSchema;
use serde::Serialize;
use svclb_common::cookie::SocketCookie;
use svclb_core::compile::name_of;
use svclb_core::table::{Dump, Table as _};
use svclb_dataplane::maps::Maps;
use svclb_dataplane::maps::sockets::Origins;
use svclb_dataplane::pins::Pins;
use svclb_dataplane::pins::places::Places;

use super::ListArgs;
use super::list::Owners;
use super::output::{self, Column, ListRow, OutputFormat};

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Time over which new connections are counted
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Print once, after one interval, instead of filling the terminal; so do other formats than the table, and
    /// a standard input or output that is no terminal
    #[arg(long)]
    once: bool,
    /// Order of the rows
    #[arg(long, value_enum, default_value_t)]
    sort: Sort,
    /// Show only services whose name, as `-o name` prints it, has this text
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    filter: String,
    #[command(flatten)]
    list: ListArgs,
}

/// The order of the rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum Sort {
    /// The most new connections first
    #[default]
    New,
    /// The most live sockets first
    Sockets,
    /// By name
    Name,
}

/// A service as `svclb top` shows it.
#[derive(Clone, PartialEq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "ServiceActivity")]
pub(super) struct TopView {
    /// Namespace of the Service object.
    pub(super) namespace: String,
    /// Name of the Service object.
    pub(super) name: String,
    /// Name of the port; empty where it has none.
    pub(super) port_name: String,
    /// `TCP` or `UDP`.
    pub(super) protocol: String,
    /// Sockets a second that dialled it within the interval and were open at its end.
    pub(super) new_per_second: f64,
    /// Number of live sockets of this node that dialled it.
    pub(super) sockets: usize,
    /// Number of its backends now, in either set.
    pub(super) backends: usize,
}

impl ListRow for TopView {
    const COLUMNS: &'static [Column<Self>] = &[
        ("NAMESPACE", |row| row.namespace.clone()),
        ("NAME", |row| row.name.clone()),
        ("PORT", |row| row.port_name.clone()),
        ("PROTOCOL", |row| row.protocol.clone()),
        ("NEW/S", |row| format!("{:.1}", row.new_per_second)),
        ("SOCKETS", |row| row.sockets.to_string()),
        ("BACKENDS", |row| row.backends.to_string()),
    ];

    fn name(&self) -> String {
        let Self { namespace, name, port_name, protocol, .. } = self;
        format!("{namespace}/{name}:{port_name}/{protocol}")
    }
}

/// `svclb top`.
pub(super) fn top(args: &TopArgs) -> Result<()> {
    let (pins, format) = (&args.list.pins.pins, args.list.output);
    let before = Sample::read(pins)?;
    let has_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !args.once && format == OutputFormat::Table && has_terminal {
        return screen::run(args, before);
    }
    thread::sleep(Duration::from_secs(args.interval));
    let mut rows = Sample::read(pins)?.rows(Some(&before));
    arrange(&mut rows, args.sort, &args.filter);
    output::list(&rows, format)
}

/// The live sockets at one moment.
struct Sample {
    at: Instant,
    /// By cookie and service: a socket may dial several.
    sockets: HashSet<(SocketCookie, u32)>,
    /// By service, without its counts of sockets.
    services: HashMap<u32, TopView>,
}

impl Sample {
    fn read(pins: &Pins) -> Result<Self> {
        let dump = Maps::read(pins)?.load()?;
        let origins = Origins::open(&Places::current(pins))?.read()?;
        let at = Instant::now();
        let owners = Owners::of(&dump);
        let dialled = |origin| Some((owners.frontend(origin)?.service, origin.cookie));
        let sockets = origins.iter().filter_map(dialled).map(|(service, it)| (it, service));
        Ok(Self { at, sockets: sockets.collect(), services: services(&dump) })
    }

    /// The services, with what changed since an earlier sample.
    fn rows(&self, before: Option<&Self>) -> Vec<TopView> {
        let mut counts: HashMap<u32, (usize, usize)> = HashMap::new();
        for socket in &self.sockets {
            let (live, new) = counts.entry(socket.1).or_default();
            *live += 1;
            *new += usize::from(before.is_some_and(|before| !before.sockets.contains(socket)));
        }
        let elapsed = before.map_or(Duration::ZERO, |before| self.at - before.at);
        let row = |(id, view): (&u32, &TopView)| {
            let (sockets, new) = counts.get(id).copied().unwrap_or_default();
            TopView { sockets, new_per_second: rate(new, elapsed), ..view.clone() }
        };
        self.services.iter().map(row).collect()
    }
}

fn services(dump: &Dump) -> HashMap<u32, TopView> {
    let mut services: HashMap<u32, TopView> = HashMap::new();
    for (id, row) in &dump.services {
        let view = TopView {
            namespace: name_of(&row.namespace),
            name: name_of(&row.name),
            port_name: name_of(&row.port_name),
            protocol: name_of(&row.protocol),
            new_per_second: 0.0,
            sockets: 0,
            backends: 0,
        };
        services.insert(*id, view);
    }
    for (key, _) in &dump.backends {
        if let Some(view) = services.get_mut(&key.service) {
            view.backends += 1;
        }
    }
    services
}

/// Returns how many a second, to one decimal.
#[expect(clippy::cast_precision_loss, reason = "there are fewer sockets than 2^53")]
fn rate(count: usize, elapsed: Duration) -> f64 {
    if elapsed.is_zero() {
        return 0.0;
    }
    (count as f64 / elapsed.as_secs_f64() * 10.0).round() / 10.0
}

/// Sorts rows, equal ones by name, and removes those that the filter does not name.
fn arrange(rows: &mut Vec<TopView>, sort: Sort, filter: &str) {
    rows.retain(|row| row.name().contains(filter));
    rows.sort_by_cached_key(TopView::name);
    match sort {
        Sort::New => rows.sort_by(|a, b| {
            b.new_per_second.total_cmp(&a.new_per_second).then(b.sockets.cmp(&a.sockets))
        }),
        Sort::Sockets => rows.sort_by_key(|row| Reverse(row.sockets)),
        Sort::Name => {}
    }
}
