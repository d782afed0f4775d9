//! The terminal of `svclb top`. However the program ends, but by SIGKILL, the terminal is as it was before.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Color, Style};
use ratatui::text::Text;
use ratatui::widgets::{Paragraph, Row, Table};
use ratatui::{DefaultTerminal, Frame};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use svclb_core::text;

use super::{Sample, Sort, TopArgs, TopView, arrange};

/// The longest wait for a key, after which signals are looked at.
const TURN: Duration = Duration::from_millis(200);
const KEYS: &str = "q quit  n/s/a order by new, sockets, name  / filter  up/down scroll";

/// Shows services until a key or a signal ends it.
pub(super) fn run(args: &TopArgs, mut before: Sample) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&stop)).context("cannot take signals")?;
    }
    let pins = &args.list.pins.pins;
    let interval = Duration::from_secs(args.interval);
    let mut view = View::new(args, before.rows(None));
    let mut terminal = RestoredTerminal::enter()?;
    let mut due = Instant::now() + interval;
    loop {
        terminal.0.draw(|frame| view.draw(frame)).context("cannot write to the terminal")?;
        let wait = due.saturating_duration_since(Instant::now()).min(TURN);
        let has_event = event::poll(wait).context("cannot read the terminal")?;
        let event = has_event.then(event::read).transpose().context("cannot read the terminal")?;
        let ends = matches!(event, Some(Event::Key(key)) if view.ends_with(key));
        if ends || stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        if Instant::now() >= due {
            // Maps may be gone for a moment, while they are replaced.
            match Sample::read(pins) {
                Ok(now) => {
                    view.update(now.rows(Some(&before)));
                    before = now;
                }
                Err(error) => view.fault = Some(format!("{error:#}")),
            }
            due = Instant::now() + interval;
        }
    }
}

/// The terminal, without echo and on a screen of its own, until this is dropped. After a panic ratatui's hook
/// restores it before the message is printed.
struct RestoredTerminal(DefaultTerminal);

impl RestoredTerminal {
    fn enter() -> Result<Self> {
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore());
        terminal.map(Self).context("cannot use the terminal: --once prints without")
    }
}

impl Drop for RestoredTerminal {
    fn drop(&mut self) {
        if !thread::panicking() {
            // A terminal that has been closed cannot be restored.
            let _ = ratatui::try_restore();
        }
    }
}

/// What is shown, and how.
struct View {
    rows: Vec<TopView>,
    shown: Vec<TopView>,
    /// An interval is over, so that rates are known.
    has_rates: bool,
    interval: u64,
    sort: Sort,
    filter: String,
    edits_filter: bool,
    /// Number of rows above the first that is shown.
    offset: usize,
    /// The reason why the maps could not be read last.
    fault: Option<String>,
    heading: Style,
}

impl View {
    fn new(args: &TopArgs, rows: Vec<TopView>) -> Self {
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let heading = Style::new().bold();
        let mut view = Self {
            rows,
            shown: Vec::new(),
            has_rates: false,
            interval: args.interval,
            sort: args.sort,
            filter: args.filter.clone(),
            edits_filter: false,
            offset: 0,
            fault: None,
            heading: if no_colour { heading } else { heading.fg(Color::Cyan) },
        };
        view.select();
        view
    }

    fn update(&mut self, rows: Vec<TopView>) {
        (self.rows, self.has_rates, self.fault) = (rows, true, None);
        self.select();
    }

    fn select(&mut self) {
        self.shown.clone_from(&self.rows);
        arrange(&mut self.shown, self.sort, &self.filter);
        self.offset = self.offset.min(self.shown.len().saturating_sub(1));
    }

    /// Does what a key means. Returns true for one that ends the program.
    fn ends_with(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            // Without echo the terminal makes no signal of it.
            KeyCode::Char('c') if has_control => return true,
            KeyCode::Enter | KeyCode::Esc if self.edits_filter => self.edits_filter = false,
            KeyCode::Backspace if self.edits_filter => drop(self.filter.pop()),
            KeyCode::Char(letter) if self.edits_filter => self.filter.push(letter),
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('n') => self.sort = Sort::New,
            KeyCode::Char('s') => self.sort = Sort::Sockets,
            KeyCode::Char('a') => self.sort = Sort::Name,
            KeyCode::Char('/') => self.edits_filter = true,
            KeyCode::Down => self.offset += 1,
            KeyCode::Up => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown => self.offset += 10,
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(10),
            KeyCode::Home => self.offset = 0,
            _ => {}
        }
        self.select();
        false
    }

    fn draw(&self, frame: &mut Frame) {
        let layout =
            Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]);
        let [title, table, footer] = layout.areas(frame.area());
        frame.render_widget(Paragraph::new(self.title()), title);
        let headings =
            ["NAMESPACE", "NAME", "PORT", "PROTOCOL", "NEW/S", "SOCKETS", "BACKENDS"].map(cell);
        let fields = |row: &TopView| {
            let rate =
                if self.has_rates { format!("{:.1}", row.new_per_second) } else { "-".into() };
            let names = [&row.namespace, &row.name, &row.port_name, &row.protocol];
            let [namespace, name, port_name, protocol] = names.map(|it| text::line(it));
            let (sockets, backends) = (row.sockets.to_string(), row.backends.to_string());
            Row::new([
                Text::raw(namespace),
                Text::raw(name),
                Text::raw(port_name),
                Text::raw(protocol),
                Text::raw(rate).alignment(Alignment::Right),
                Text::raw(sockets).alignment(Alignment::Right),
                Text::raw(backends).alignment(Alignment::Right),
            ])
        };
        let rows = self.shown.iter().skip(self.offset).take(table.height.into()).map(fields);
        let widths = [
            Constraint::Fill(2),
            Constraint::Fill(3),
            Constraint::Fill(1),
            Constraint::Length(8),
            Constraint::Length(10),
            Constraint::Length(8),
            Constraint::Length(8),
        ];
        let header = Row::new(headings).style(self.heading);
        frame.render_widget(Table::new(rows, widths).header(header).column_spacing(2), table);
        frame.render_widget(Paragraph::new(self.footer()), footer);
    }

    fn title(&self) -> String {
        let sockets: usize = self.rows.iter().map(|row| row.sockets).sum();
        let rate: f64 = self.rows.iter().map(|row| row.new_per_second).sum();
        let rate = if self.has_rates { format!("{rate:.1}") } else { "-".to_owned() };
        let (services, interval) = (self.rows.len(), self.interval);
        format!("{services} services, {sockets} sockets, {rate} new/s over {interval} s")
    }

    fn footer(&self) -> String {
        match &self.fault {
            Some(fault) => text::line(fault),
            None if self.edits_filter => format!("filter: {}_", text::line(&self.filter)),
            None if self.filter.is_empty() => KEYS.to_owned(),
            None => format!("filter: {}  {KEYS}", text::line(&self.filter)),
        }
    }
}

/// A heading: those of numbers stand at the right, as the numbers do.
fn cell(heading: &'static str) -> Text<'static> {
    let is_number = matches!(heading, "NEW/S" | "SOCKETS" | "BACKENDS");
    Text::raw(heading).alignment(if is_number { Alignment::Right } else { Alignment::Left })
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
