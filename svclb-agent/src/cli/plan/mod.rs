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

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, value_parser};
use svclb_core::catalog::Catalog;
use svclb_core::model::Node;
use svclb_core::table::Table as _;

use super::agent::{api_servers, budget::BudgetArgs, source::SourceArgs};
use super::config::FileArgs;
use super::{ListArgs, is_broken_pipe, output, runtime};
use crate::reconcile::DryRun;
use difference::compare;
use svclb_dataplane::maps::Maps;
use svclb_dataplane::pins::Pins;
use svclb_sources::Batch;
use view::RowView;
pub(super) use view::{PlanView, RowView as DiffView};

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    _file: FileArgs,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    budget: BudgetArgs,
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
    let is_installed = is_installed(pins)?;
    let node = args.source.node()?;
    let runtime = runtime()?;
    let first = runtime.block_on(first_batch(args, &node, is_installed));
    // A credential plugin that hangs must not hold up the end.
    runtime.shutdown_background();
    let first = first?;
    let rejects = first.rejects.iter().map(ToString::to_string).collect();
    // The maps are read last, so that a slow source does not make them old.
    let installed = if is_installed { Some(Maps::read(pins)?.load()?) } else { None };
    let node = Node { name: node.as_str().into(), ..Node::default() };
    let catalog = Catalog::new(node).with_budget(args.budget.budget());
    Ok((DryRun::new(catalog, installed, first)?, rejects))
}

/// Returns true if maps are installed.
fn is_installed(pins: &Pins) -> Result<bool> {
    let folder = pins.current();
    let path = folder.path();
    match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // Maps that this user may not see are not missing.
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look at {}", path.display()));
        }
        Ok(_) => {}
    }
    pins.is_readable()
}

/// Waits for all that the source holds.
async fn first_batch(args: &PlanArgs, node: &str, is_installed: bool) -> Result<Batch> {
    let mut source = args.source.open(node, args.budget.budget()).await?;
    if is_installed && source.is_kube() {
        source.remember(api_servers(&args.list.pins.pins).await);
    }
    let answer = tokio::time::timeout(Duration::from_secs(args.timeout), source.next()).await;
    answer.map_err(|_| {
        let missing = source.missing();
        anyhow!("the source did not answer within {} s (--timeout): {missing}", args.timeout)
    })
}
