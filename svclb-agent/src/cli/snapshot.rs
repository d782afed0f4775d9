//! The source at one moment, for commands that compare it with the maps.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use svclb_core::catalog::Catalog;
use svclb_core::model::Node;
use svclb_core::table::Dump;

use super::agent::{api_servers, budget::BudgetArgs, source::SourceArgs};
use super::config::FileArgs;
use super::runtime;
use crate::reconcile::DryRun;
use svclb_dataplane::pins::Pins;
use svclb_sources::Batch;

/// The flags of `svclb agent` for its source and budgets.
#[derive(Debug, Args)]
pub(super) struct SnapshotArgs {
    #[command(flatten)]
    _file: FileArgs,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    budget: BudgetArgs,
}

/// All that the source holds, as an agent that starts reads it.
pub(super) struct Snapshot {
    catalog: Catalog,
    pub(super) first: Batch,
}

impl SnapshotArgs {
    /// Reads the source.
    ///
    /// # Errors
    /// When it cannot be read, or does not answer in time.
    pub(super) fn read(&self, pins: &Pins, timeout: Duration) -> Result<Snapshot> {
        let node = self.source.node()?;
        let runtime = runtime()?;
        let first = runtime.block_on(self.first_batch(&node, pins, timeout));
        // A credential plugin that hangs must not hold up the end.
        runtime.shutdown_background();
        let node = Node { name: node.as_str().into(), ..Node::default() };
        let catalog = Catalog::new(node).with_budget(self.budget.budget());
        Ok(Snapshot { catalog, first: first? })
    }

    /// Waits for all that the source holds.
    async fn first_batch(&self, node: &str, pins: &Pins, timeout: Duration) -> Result<Batch> {
        let mut source = self.source.open(node, self.budget.budget()).await?;
        if source.is_kube() && is_installed(pins)? {
            source.remember(api_servers(pins).await);
        }
        let answer = tokio::time::timeout(timeout, source.next()).await;
        answer.map_err(|_| {
            let (seconds, missing) = (timeout.as_secs(), source.missing());
            anyhow!("the source did not answer within {seconds} s (--timeout): {missing}")
        })
    }
}

impl Snapshot {
    /// Runs an agent that starts over a dump of the maps, where they are installed.
    ///
    /// # Errors
    /// When its start would fail.
    pub(super) fn run(self, installed: Option<Dump>) -> Result<DryRun> {
        DryRun::new(self.catalog, installed, self.first)
    }
}

/// Returns true if maps are installed.
pub(super) fn is_installed(pins: &Pins) -> Result<bool> {
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
