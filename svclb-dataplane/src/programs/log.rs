//! The log that hooks write while `svclb agent --log-bpf` runs.

use anyhow::Result;
use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Passes the log of these hooks on to the agent's, until the agent ends or others take their place. Must be
/// called in a tokio runtime with I/O.
pub(crate) fn start_passing_on(object: &mut Ebpf) -> Result<()> {
    tokio::spawn(pass_on(EbpfLogger::init(object)?));
    Ok(())
}

async fn pass_on(logger: EbpfLogger<&'static dyn log::Log>) {
    // SAFETY: the logger owns its ring buffer's descriptor and never gives another one.
    let ring = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
    let Ok(mut ring) = ring else { return };
    while let Ok(mut guard) = ring.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}
