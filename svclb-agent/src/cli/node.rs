//! Commands with which a cluster's manifests prepare and clean a node: uninstall everything, and mount a
//! bpffs. The image has no shell to do it with.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use svclb_dataplane::pins::bpffs;
use svclb_dataplane::pins::lock::Lock;

use super::{PinsArgs, output, runtime, stop_signals};

#[derive(Debug, Args)]
pub(super) struct UninstallArgs {
    #[command(flatten)]
    pins: PinsArgs,
    /// Then wait to be stopped: a DaemonSet's pod must not end
    #[arg(long)]
    stay: bool,
}

#[derive(Debug, Args)]
pub(super) struct MountBpffsArgs {
    /// An existing folder
    #[arg(value_name = "PATH", default_value = "/sys/fs/bpf")]
    folder: PathBuf,
}

/// `svclb uninstall`.
pub(super) fn uninstall(args: &UninstallArgs) -> Result<()> {
    let pins = &args.pins.pins;
    // An agent would put it back.
    let lock = Lock::of(pins)?;
    let (removed, left) = if lock.is_some() { pins.uninstall()? } else { Default::default() };
    if removed.is_empty() {
        output::line(&format!("nothing of svclb's is in {}", pins.root().display()))?;
    }
    for path in removed {
        output::line(&format!("removed {}", path.display()))?;
    }
    for path in left {
        output::line(&format!("left {} alone: it is not svclb's", path.display()))?;
    }
    drop(lock);
    if args.stay { wait_for_end() } else { Ok(()) }
}

/// As a container's first process it is sent only the signals that it asks for.
fn wait_for_end() -> Result<()> {
    runtime()?.block_on(async {
        let stopped = stop_signals()?;
        // A reader of this line may end this process at once.
        output::line("nothing is left; waiting to be stopped")?;
        stopped.await;
        Ok(())
    })
}

/// `svclb mount-bpffs`.
pub(super) fn mount_bpffs(args: &MountBpffsArgs) -> Result<()> {
    let folder = args.folder.display();
    if bpffs::mount(&args.folder)? {
        output::line(&format!("mounted a bpffs at {folder}"))
    } else {
        output::line(&format!("{folder} is on a bpffs already"))
    }
}
