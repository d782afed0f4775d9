//! Plots of a run, as SVG: figures against size, and distributions of the calls of a bench.

use std::ops::Range;

use anyhow::anyhow;
use plotters::prelude::*;

use crate::benches::churn;
use crate::book::{Book, Figure, Unit};
use crate::lane::Peer;
use crate::report::with_unit;

/// Width and height, pixels.
const SIZE: (u32, u32) = (760, 420);
const FONT: (&str, u32) = ("sans-serif", 14);

/// A plot.
pub(crate) struct Plot {
    /// Its bench.
    pub(crate) bench: String,
    /// Name of its file.
    pub(crate) file: String,
    /// Its title.
    pub(crate) title: String,
    /// Content of its file.
    pub(crate) svg: String,
}

/// Draws all plots for which there are figures.
///
/// # Errors
/// One cannot be drawn.
pub(crate) fn all(book: &Book) -> anyhow::Result<Vec<Plot>> {
    let mut plots = Vec::new();
    plots.extend(against_size(book)?);
    for (bench, what, file) in [
        ("connect", "UDP, to a Service", "connect-udp"),
        ("connect", "TCP, to a Service", "connect-tcp"),
        ("udp", "send and receive, one Service", "udp"),
        ("churn", churn::EVENT, "churn"),
        ("churn", churn::AMONG_FEW, "churn-among-100"),
        ("churn", churn::AMONG_MANY, "churn-among"),
    ] {
        plots.extend(distribution(book, bench, what, file)?);
    }
    Ok(plots)
}

fn colour(peer: Peer) -> RGBColor {
    match peer {
        Peer::Direct => RGBColor(90, 90, 90),
        Peer::Empty => RGBColor(170, 170, 170),
        Peer::Svclb => RGBColor(20, 110, 200),
        Peer::Nftables => RGBColor(210, 110, 20),
        Peer::Iptables => RGBColor(180, 40, 60),
    }
}

/// Plots the net time of a connect against the number of frontends.
fn against_size(book: &Book) -> anyhow::Result<Option<Plot>> {
    let points: Vec<(f64, f64)> = book
        .figures()
        .iter()
        .filter(|figure| figure.bench == "scale" && figure.what.starts_with("net, "))
        .filter_map(|figure| {
            let size = figure.what.trim_start_matches("net, ").split(' ').next()?;
            Some((size.parse::<f64>().ok()?, figure.median()))
        })
        .collect();
    let Some(direct) = book.get("scale", "direct", Peer::Direct).map(Figure::median) else {
        return Ok(None);
    };
    if points.is_empty() {
        return Ok(None);
    }
    let title = "Net time of a connect, by the number of frontends".to_owned();
    let most = points.iter().fold(direct, |most, point| most.max(point.1));
    let x = 8.0..130_000.0;
    let level = vec![(x.start, direct), (x.end, direct)];
    let lines = vec![
        Line { name: "a direct UDP connect", peer: Peer::Direct, points: level, has_dots: false },
        Line { name: "svclb's program", peer: Peer::Svclb, points, has_dots: true },
    ];
    let chart = Chart {
        x,
        y: 0.0..most * 1.1,
        names: ["frontends", "nanoseconds"],
        mark: |size| format!("{size:.0}"),
        legend: SeriesLabelPosition::UpperLeft,
    };
    let svg = chart.draw(&title, lines)?;
    Ok(Some(Plot { bench: "scale".to_owned(), file: "scale.svg".to_owned(), title, svg }))
}

/// Plots the share of the calls against their duration.
fn distribution(book: &Book, bench: &str, what: &str, file: &str) -> anyhow::Result<Option<Plot>> {
    let is_one = |figure: &&Figure| {
        figure.bench == bench && figure.what == what && !figure.percentiles.is_empty()
    };
    let figures: Vec<&Figure> = book.figures().iter().filter(is_one).collect();
    if figures.is_empty() {
        return Ok(None);
    }
    let title = format!("{bench}: {what}");
    // With the slowest call in it, the plot would have no room for the others.
    let at = |figure: &&Figure, percent: usize| figure.percentiles.get(percent).copied();
    let most = figures.iter().filter_map(|figure| at(figure, 99)).fold(0.0, f64::max);
    // A logarithmic axis has no 0.
    let times = figures.iter().flat_map(|figure| &figure.percentiles).copied();
    let least = times.filter(|time| *time > 0.0).fold(most, f64::min);
    let line = |figure: &&Figure| {
        let points = figure.percentiles.iter().take(100).zip(0_u32..);
        let points = points.map(|(time, percent)| (time.max(least), f64::from(percent)));
        let name = figure.peer.name();
        Line { name, peer: figure.peer, points: points.collect(), has_dots: false }
    };
    let chart = Chart {
        x: least * 0.9..most * 1.1,
        y: 0.0..100.0,
        names: ["duration", "percent of calls up to it"],
        mark: |time| with_unit(time, Unit::Nanoseconds),
        legend: SeriesLabelPosition::LowerRight,
    };
    let svg = chart.draw(&title, figures.iter().map(line).collect())?;
    Ok(Some(Plot { bench: bench.to_owned(), file: format!("{file}.svg"), title, svg }))
}

/// The axes and the legend of a plot. The first axis is logarithmic.
struct Chart {
    x: Range<f64>,
    y: Range<f64>,
    /// Names of the axes.
    names: [&'static str; 2],
    /// Formats a mark of the first axis.
    mark: fn(f64) -> String,
    legend: SeriesLabelPosition,
}

/// A line of a plot.
struct Line {
    name: &'static str,
    peer: Peer,
    points: Vec<(f64, f64)>,
    has_dots: bool,
}

impl Chart {
    fn draw(self, title: &str, lines: Vec<Line>) -> anyhow::Result<String> {
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            area.fill(&WHITE).map_err(drawing)?;
            let mut chart = ChartBuilder::on(&area)
                .caption(title, FONT)
                .margin(12)
                .x_label_area_size(40)
                .y_label_area_size(60)
                .build_cartesian_2d(self.x.log_scale(), self.y)
                .map_err(drawing)?;
            let x = |value: &f64| (self.mark)(*value);
            let y = |value: &f64| format!("{value:.0}");
            let mut mesh = chart.configure_mesh();
            mesh.x_desc(self.names[0]).y_desc(self.names[1]);
            mesh.x_label_formatter(&x).y_label_formatter(&y).draw().map_err(drawing)?;
            for Line { name, peer, points, has_dots } in lines {
                let style = colour(peer).stroke_width(2);
                if has_dots {
                    let dot = |point: &_| Circle::new(*point, 3, colour(peer).filled());
                    chart.draw_series(points.iter().map(dot)).map_err(drawing)?;
                }
                let drawn = chart.draw_series(LineSeries::new(points, style)).map_err(drawing)?;
                let sign = move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style);
                drawn.label(name).legend(sign);
            }
            let mut legend = chart.configure_series_labels();
            legend.position(self.legend).background_style(WHITE);
            legend.border_style(BLACK.mix(0.3)).draw().map_err(drawing)?;
            area.present().map_err(drawing)?;
        }
        Ok(svg)
    }
}

fn drawing(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}").context("cannot draw a plot")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::times::Times;

    #[test]
    fn plots_are_drawn_of_measured_figures() {
        let mut book = Book::default();
        assert_eq!(all(&book).unwrap().len(), 0);
        book.add_times("connect", "UDP, to a Service", Peer::Direct, &Times::of(vec![900, 1_000]));
        book.add_times("scale", "direct", Peer::Direct, &Times::of(vec![1_000]));
        for (size, value) in [("10", 93.0), ("100000", 500.0)] {
            let what = format!("net, {size} frontends");
            book.add("scale", &what, Peer::Svclb, Unit::Nanoseconds, value);
        }
        let plots = all(&book).unwrap();
        let files: Vec<&str> = plots.iter().map(|plot| plot.file.as_str()).collect();
        assert_eq!(files, ["scale.svg", "connect-udp.svg"]);
        for plot in plots {
            assert!(plot.svg.contains("<svg") && plot.svg.contains("polyline"), "{}", plot.title);
        }
    }
}
