//! The agent's log.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IsTerminal as _, Write};

use clap::{Args, ValueEnum};
use svclb_core::text;
use tracing::Dispatch;
use tracing::field::{Field, Visit};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::{MakeVisitor as _, RecordFields, VisitOutput as _};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, DefaultVisitor, Writer};
use tracing_subscriber::util::SubscriberInitExt as _;

/// The filter without RUST_LOG. The watches log their own problems when something changes; the crates beneath
/// would log each attempt.
const DEFAULT: &str = "info,kube_client=off,hyper_util=error,tower=error";

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// How to write the log
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// Log every decision of the hooks (slow; for debugging)
    #[arg(long)]
    pub(super) log_bpf: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl LogArgs {
    /// Sends the log to standard error from here on.
    pub(super) fn start(&self) {
        // The hooks log at debug, under the name of their program, `svclb`.
        let hooks = if self.log_bpf { ",svclb=debug" } else { "" };
        let filter = EnvFilter::try_from_default_env()
            .unwrap_or_else(|_| EnvFilter::new(format!("{DEFAULT}{hooks}")));
        let no_color = std::env::var_os("NO_COLOR");
        let ansi = is_coloured(io::stderr().is_terminal(), no_color.as_deref());
        log(self.log_format, ansi, filter, io::stderr).init();
    }
}

/// Returns true if the log may have colours: on a terminal, unless `NO_COLOR` has a value
/// (<https://no-color.org>).
fn is_coloured(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

/// The log: its events go to what `stream` gives. `ansi` is whether it may have colours.
fn log<W: Write + 'static>(
    format: LogFormat,
    ansi: bool,
    filter: EnvFilter,
    stream: impl Fn() -> W + Send + Sync + 'static,
) -> Dispatch {
    let writer = move || Clean { format, ansi, stream: stream() };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(writer);
    match format {
        LogFormat::Text => log.fmt_fields(Fields).finish().into(),
        LogFormat::Json => log.json().flatten_event(true).finish().into(),
    }
}

/// Writes fields as the default does, with their values escaped. The default escapes only some, and where
/// colours are allowed, escape sequences of a value could not be told from its own.
struct Fields;

impl<'a> FormatFields<'a> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'a>, fields: R) -> fmt::Result {
        let mut values = Values(DefaultFields::new().make_visitor(writer));
        fields.record(&mut values);
        values.0.finish()
    }
}

/// Hands values on, escaped.
struct Values<'a>(DefaultVisitor<'a>);

impl Visit for Values<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.record_debug(field, &format_args!("{}", text::line(&format!("{value:?}"))));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.record_debug(field, &format_args!("{value}")),
            _ => self.record_debug(field, &value),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut words = value.to_string();
        let mut cause = value.source();
        while let Some(error) = cause {
            words += &format!(": {error}");
            cause = error.source();
        }
        self.record_debug(field, &format_args!("{words}"));
    }
}

/// Escapes what goes to the log. Names, labels, file names and errors of others are in it, by ways too
/// many to look after: each event passes here, whole, as one write.
struct Clean<W> {
    format: LogFormat,
    ansi: bool,
    stream: W,
}

impl<W: Write> Write for Clean<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let clean = match self.format {
            LogFormat::Text => text::event(&text, self.ansi),
            LogFormat::Json => text::json(&text),
        };
        self.stream.write_all(clean.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// The written bytes.
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

    /// An error with a cause, both of which say this.
    #[derive(Debug)]
    struct Failed(&'static str, Option<Box<Failed>>);

    impl fmt::Display for Failed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Failed {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &(dyn Error + 'static))
        }
    }

    /// The log of some events with this text in a message, in fields of each kind and of a span.
    fn said(format: LogFormat, ansi: bool, hostile: &'static str) -> String {
        let written = Written::default();
        let stream = written.clone();
        let log = log(format, ansi, EnvFilter::new("info"), move || stream.clone());
        tracing::dispatcher::with_default(&log, || {
            tracing::warn!("{hostile}");
            tracing::warn!(name = hostile, shown = %hostile, debug = ?hostile, "said");
            let error = Failed(hostile, Some(Box::new(Failed(hostile, None))));
            tracing::warn!(error = &error as &(dyn Error + 'static), text = format!("{error:#}"));
            tracing::warn!(message = hostile, log.line = 7);
            let span = tracing::info_span!("span", shown = %hostile, later = tracing::field::Empty);
            span.record("later", tracing::field::display(hostile));
            span.in_scope(|| tracing::info!("inside"));
        });
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    /// Number of these events.
    const EVENTS: usize = 5;
    /// Sequences that a terminal obeys (clear, title, hide, colours), and characters that hide or turn text.
    const HOSTILE: &str = "a\u{1b}[2J\u{1b}]0;x\u{7}\r\nERROR all is lost\u{9b}31m\u{202e}b\u{2028}\u{200b}\0\
        \u{1b}[8m\u{1b}[31mc\u{1b}[0m\u{1b}[m\u{1b}[1;31md";

    #[test]
    fn colours_are_for_terminals_and_no_color_turns_them_off() {
        let rows = [
            ("a terminal", true, None, true),
            ("a file", false, None, false),
            ("turned off", true, Some("1"), false),
            ("turned off by any value", true, Some("0"), false),
            ("an empty value", true, Some(""), true),
        ];
        for (row, is_terminal, no_color, expected) in rows {
            assert_eq!(is_coloured(is_terminal, no_color.map(OsStr::new)), expected, "{row}");
        }
    }

    #[test]
    fn an_event_is_one_line_without_a_character_that_a_terminal_obeys() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let log = said(format, false, HOSTILE);
            assert_eq!(log.lines().count(), EVENTS, "{log:?}");
            for line in log.lines() {
                assert_eq!(text::line(line), line, "{format:?}");
            }
        }
    }

    #[test]
    fn an_event_says_what_it_is_told() {
        let log = said(LogFormat::Text, false, "a \"b\" \\ größer\u{1b}[8m");
        let expected = [
            r#"WARN svclb_agent::cli::agent::log::tests: a "b" \ größer\u{1b}[8m"#,
            r#": said name="a \"b\" \\ größer\u{1b}[8m" shown=a "b" \ größer\u{1b}[8m debug="a \"b\" \\"#,
            r#": error=a "b" \ größer\u{1b}[8m: a "b" \ größer\u{1b}[8m text="a \"b\""#,
            r#": a "b" \ größer\u{1b}[8m"#,
            r#"span{shown=a "b" \ größer\u{1b}[8m later=a "b" \ größer\u{1b}[8m}: "#,
        ];
        assert_eq!(log.lines().count(), expected.len());
        for (line, expected) in log.lines().zip(expected) {
            assert!(line.contains(expected), "{line} has no {expected}");
        }
    }

    #[test]
    fn json_says_what_was_said() {
        let log = said(LogFormat::Json, false, HOSTILE);
        let events: Vec<serde_json::Value> =
            log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&events[0]["message"], &events[1]["name"]), (&HOSTILE.into(), &HOSTILE.into()));
    }

    #[test]
    fn a_coloured_event_has_colours_of_the_log_only() {
        let usual = said(LogFormat::Text, true, "a");
        let colours = |log: &str| {
            let parts = log.split('\u{1b}').skip(1);
            parts
                .map(|part| part.split_inclusive('m').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert!(colours(&usual).iter().any(|colour| colour == "[33m"), "{usual:?}");
        let hostile = said(LogFormat::Text, true, HOSTILE);
        assert_eq!(colours(&hostile), colours(&usual), "{hostile:?}");
        assert!(!hostile.contains(['\u{202e}', '\u{9b}', '\r']), "{hostile:?}");
        assert_eq!(hostile.lines().count(), EVENTS);
    }
}
