//! How the agent tells what it does.

use std::io::IsTerminal as _;

use aya_log::EbpfLogger;
use clap::{Args, ValueEnum};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing_subscriber::EnvFilter;

/// What is told unless RUST_LOG says otherwise. The watches tell of their troubles themselves, when
/// something changes; the crates beneath would at each attempt.
const DEFAULT: &str = "info,kube_client=off,kube_runtime=error,hyper_util=error,tower=error";

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// How to write the log
    #[arg(long, value_enum, default_value_t)]
    log_format: Format,
    /// Log every decision of the hooks (slow; for debugging)
    #[arg(long)]
    pub(super) log_bpf: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl LogArgs {
    /// Sends the log to standard error from here on.
    pub(super) fn start(&self) {
        // What the hooks say comes at debug, under the name of their program, `svclb`.
        let hooks = if self.log_bpf { ",svclb=debug" } else { "" };
        let filter = EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new(format!("{DEFAULT}{hooks}")));
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        match self.log_format {
            Format::Text => log.init(),
            Format::Json => log.json().flatten_event(true).init(),
        }
    }
}

/// Passes the hooks' log on until the agent ends.
pub(super) async fn pass_on(logger: EbpfLogger<&'static dyn log::Log>) {
    // SAFETY: the logger owns its ring buffer's descriptor and never gives another one.
    let ring = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let Ok(mut ring) = ring else { return };
    while let Ok(mut guard) = ring.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}
