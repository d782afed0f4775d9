//! Formats a run as tables: medians, the spread of the rounds, and ratios to direct.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{ContentArrangement, Table};

use super::with_unit;
use crate::book::{Book, Figure};
use crate::lane::Peer;
use crate::run::Run;
use crate::targets;

/// Formats all figures and targets for a terminal.
pub(crate) fn all(run: &Run) -> String {
    let mut text = String::new();
    for bench in benches(&run.book) {
        text.push_str(&format!("{bench}\n{}\n\n", figures(&run.book, bench)));
    }
    text.push_str(&format!("targets\n{}", targets(&run.book)));
    text
}

/// Returns the benches of a book, in the order in which they ran.
pub(crate) fn benches(book: &Book) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for figure in book.figures() {
        if !names.contains(&figure.bench.as_str()) {
            names.push(&figure.bench);
        }
    }
    names
}

fn markdown(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    table
}

/// Formats the figures of a bench.
pub(crate) fn figures(book: &Book, bench: &str) -> String {
    let mut table = markdown(&["what", "peer", "median", "range of rounds", "p99", "of direct"]);
    for figure in book.figures().iter().filter(|figure| figure.bench == bench) {
        let (least, most) = figure.spread();
        let range = match figure.rounds.len() {
            1 => "one".to_owned(),
            _ => format!("{} to {}", with_unit(least, figure.unit), with_unit(most, figure.unit)),
        };
        let median = with_unit(figure.median(), figure.unit);
        let slow =
            figure.percentiles.get(99).map(|it| with_unit(*it, figure.unit)).unwrap_or_default();
        let ratio = ratio(book, figure);
        table.add_row([&figure.what, figure.peer.name(), &median, &range, &slow, &ratio]);
    }
    table.to_string()
}

/// Formats the ratio of a figure to the same figure of the direct peer.
fn ratio(book: &Book, figure: &Figure) -> String {
    let of = |what| book.get(&figure.bench, what, Peer::Direct);
    // `scale` has one direct figure for all sizes.
    let direct = of(&figure.what).or_else(|| of("direct"));
    match direct {
        Some(direct) if direct.median() > 0.0 && figure.peer != Peer::Direct => {
            match figure.ratio(direct) {
                many if many >= 10.0 => format!("{many:.0} times"),
                share => format!("{:.1} %", 100.0 * share),
            }
        }
        _ => String::new(),
    }
}

/// Formats the targets whose figures were measured.
pub(crate) fn targets(book: &Book) -> String {
    let mut table = markdown(&["target", "bound", "measured", ""]);
    for target in &targets::ALL {
        let Some(measured) = target.measured(book) else { continue };
        let verdict = if target.is_met(measured) { "met" } else { "not met" };
        table.add_row([target.what, &target.bound(), &target.format(measured), verdict]);
    }
    table.to_string()
}
