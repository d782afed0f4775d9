//! `svclb plan` and `svclb diff`: what an agent that starts would change. Both show one comparison: `plan` for
//! each service, with what would not be served, and `diff` row by row, with an exit code for scripts.
//!
//! They read the source once, and the maps through their pins. They write nothing and take no lock, so they work
//! beside an agent and without one.
//!
//! * `difference`: the rows that differ. `view`: how they are printed.

mod difference;
#[cfg(test)]
mod tests;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, value_parser};
use svclb_core::table::Table as _;

use super::snapshot::{SnapshotArgs, is_installed};
use super::{ListArgs, is_broken_pipe, output};
use crate::reconcile::DryRun;
pub(super) use difference::compare;
use svclb_dataplane::maps::Maps;
use view::RowView;
pub(super) use view::{PlanView, RowView as DiffView};

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Time to wait for the source
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = value_parser!(u64).range(1..))]
    timeout: u64,
    #[command(flatten)]
    list: ListArgs,
}

/// `svclb plan`.
pub(super) fn plan(args: &PlanArgs) -> Result<()> {
    let (run, rejects) = dry_run(args)?;
    let view = PlanView::new(&args.list.pins.pins, &run, rejects);
    output::report(&view, args.list.output, |wide| view.lines(wide), || view.names())
}

/// `svclb diff`. The exit code is 0 when nothing differs, and 1 when something does.
pub(super) fn diff(args: &PlanArgs) -> Result<ExitCode> {
    let (run, _) = dry_run(args)?;
    let rows = RowView::all(&compare(&run), &run);
    let lines = |_| rows.iter().map(RowView::line).collect();
    let printed = output::report(&rows, args.list.output, lines, || RowView::names(&rows));
    match printed {
        // A reader that went away has seen that there are differences.
        Err(error) if !is_broken_pipe(&error) => Err(error),
        _ => Ok(if rows.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}

/// Returns the dry run, and a line for each object that the source rejected or ignored in part.
fn dry_run(args: &PlanArgs) -> Result<(DryRun, Vec<String>)> {
    let pins = &args.list.pins.pins;
    let snapshot = args.snapshot.read(pins, Duration::from_secs(args.timeout))?;
    let rejects = snapshot.first.rejects.iter().map(ToString::to_string).collect();
    // The maps are read last, so that a slow source does not make them old.
    let installed = if is_installed(pins)? { Some(Maps::read(pins)?.load()?) } else { None };
    Ok((snapshot.run(installed)?, rejects))
}
