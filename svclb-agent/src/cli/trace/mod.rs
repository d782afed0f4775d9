//! `svclb trace`: what a connection to an address or a Service would get now, and why. It reads the maps, which
//! decide, and the source, which has the reasons: by which rule each endpoint is used or not. It changes nothing,
//! and needs no agent.
//!
//! * `target`: the address or the Service that is asked about. `frontends`: what the maps give. `reasons`: what the
//!   source says. `client`: what one client gets. `view`: how all are printed.

mod client;
mod frontends;
mod reasons;
mod target;
mod view;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, value_parser};
use svclb_core::table::{Dump, Table};

use super::output::OutputFormat;
use super::snapshot::{Snapshot, SnapshotArgs, is_installed};
use super::{ListArgs, output};
use client::{ClientArgs, ClientTrace};
use reasons::Reasons;
use svclb_dataplane::maps::Maps;
use target::Target;
pub(super) use view::TraceView;

#[derive(Debug, Args)]
#[command(mut_arg("output", |output| output.value_parser(OutputFormat::without_names())))]
// --from is for the client's pod.
#[command(mut_arg("from", |from| from.long("source")))]
pub(super) struct TraceArgs {
    /// Address and port that a client dials; or a Service, one of its ports by number or name
    #[arg(value_name = "ADDRESS:PORT|NAMESPACE/NAME[:PORT]")]
    target: Target,
    /// Do not read the source: say only what the maps give
    #[arg(long)]
    maps_only: bool,
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    snapshot: SnapshotArgs,
    /// Time to wait for the source
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u64).range(1..))]
    timeout: u64,
    #[command(flatten)]
    list: ListArgs,
}

/// `svclb trace`. The exit code is 0 when a connection would be given a backend, and 1 when not.
pub(super) fn trace(args: &TraceArgs) -> Result<ExitCode> {
    let pins = &args.list.pins.pins;
    // The maps have an answer without the source too, so a fault of the source is a part of the answer.
    let snapshot = match args.maps_only {
        true => Err("not read (--maps-only)".to_owned()),
        false => args.snapshot.read(pins, Duration::from_secs(args.timeout)).map_err(text),
    };
    let client = args.client.pid()?;
    let mut maps = if is_installed(pins)? { Some(Maps::read(pins)?) } else { None };
    let dump = maps.as_mut().map(Table::load).transpose()?;
    let mut view = explain(&args.target, dump, snapshot);
    if let Some(pid) = client {
        view.client = Some(ClientTrace::new(pid, pins, maps.as_ref(), &view.dialled())?);
    }
    output::report(&view, args.list.output, |_| view.lines(), Vec::new)?;
    Ok(if view.is_given() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn explain(target: &Target, dump: Option<Dump>, snapshot: Result<Snapshot, String>) -> TraceView {
    let is_installed = dump.is_some();
    let (frontends, objects) =
        dump.as_ref().map(|dump| frontends::of(target, dump)).unwrap_or_default();
    let reasons = snapshot.and_then(|snapshot| {
        let rejects = snapshot.first.rejects.clone();
        let run = snapshot.run(dump).map_err(text)?;
        Ok(Reasons::new(target, objects, &run, &rejects))
    });
    TraceView::new(target, is_installed, frontends, reasons)
}

fn text(error: anyhow::Error) -> String {
    format!("{error:#}")
}
