//! How the agent tells what it does.

use std::io::{self, IsTerminal as _, Write};

use aya::Ebpf;
use aya_log::EbpfLogger;
use clap::{Args, ValueEnum};
use svclb_objects::text;
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
        let format = self.log_format;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(io::stderr().is_terminal())
            .with_writer(move || Clean { format, stream: io::stderr() });
        match self.log_format {
            Format::Text => log.init(),
            Format::Json => log.json().flatten_event(true).init(),
        }
    }
}

/// Escapes what goes to the log. Names, labels, file names and errors of others are in it, by ways too
/// many to look after: each event passes here, whole, as one write.
struct Clean<W> {
    format: Format,
    stream: W,
}

impl<W: Write> Write for Clean<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let clean = match self.format {
            Format::Text => text::event(&text),
            Format::Json => text::json(&text),
        };
        self.stream.write_all(clean.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Passes the log of these hooks on from now, until the agent ends or others take their place.
pub(super) fn start_passing_on(object: &mut Ebpf) -> anyhow::Result<()> {
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The log of some events with this text in a message and in fields of each kind.
    fn log(format: Format, ansi: bool, hostile: &str) -> String {
        let written = Written::default();
        let stream = written.clone();
        let log = tracing_subscriber::fmt()
            .with_ansi(ansi)
            .with_writer(move || Clean { format, stream: stream.clone() });
        let tell = || {
            tracing::warn!("{hostile}");
            tracing::warn!(name = hostile, shown = %hostile, debug = ?hostile, "said");
        };
        match format {
            Format::Text => tracing::subscriber::with_default(log.finish(), tell),
            Format::Json => {
                tracing::subscriber::with_default(log.json().flatten_event(true).finish(), tell);
            }
        }
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    const HOSTILE: &str =
        "a\u{1b}[2J\u{1b}]0;x\u{7}\r\nERROR all is lost\u{9b}31m\u{202e}b\u{2028}\u{200b}\0";

    #[test]
    fn an_event_is_one_line_without_a_character_that_a_terminal_obeys() {
        for format in [Format::Text, Format::Json] {
            let log = log(format, false, HOSTILE);
            assert_eq!(log.lines().count(), 2, "{log:?}");
            for line in log.lines() {
                assert_eq!(text::line(line), line, "{format:?}");
            }
        }
    }

    #[test]
    fn json_says_what_was_said() {
        let log = log(Format::Json, false, HOSTILE);
        let events: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&events[0]["message"], &events[1]["name"]), (&HOSTILE.into(), &HOSTILE.into()));
    }

    #[test]
    fn a_coloured_event_has_colours_of_the_log_only() {
        let (hostile, usual) = (log(Format::Text, true, HOSTILE), log(Format::Text, true, "a"));
        let colours = |log: &str| log.matches('\u{1b}').count();
        assert!(colours(&usual) > 0);
        assert_eq!(colours(&hostile), colours(&usual));
        assert!(!hostile.contains(['\u{202e}', '\u{9b}', '\r']) && hostile.lines().count() == 2);
    }
}
