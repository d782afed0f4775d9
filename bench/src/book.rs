//! Collects the figures: a value of each peer in each round, and their medians and ratios.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::lane::Peer;
use crate::times::{Times, nanoseconds};

/// Unit of a figure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Unit {
    /// Nanoseconds: less is better.
    Nanoseconds,
    /// Milliseconds: less is better.
    Milliseconds,
    /// Seconds: less is better.
    Seconds,
    /// Number per second: more is better.
    PerSecond,
    /// Bytes per second: more is better.
    BytesPerSecond,
    /// Bytes of memory: less is better.
    Bytes,
    /// Percent of one processor: less is better.
    Percent,
    /// A count: less is better.
    Count,
}

/// One measured quantity of one peer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// The bench.
    pub(crate) bench: String,
    /// The quantity, as it is named in tables.
    pub(crate) what: String,
    /// The peer.
    pub(crate) peer: Peer,
    /// The unit.
    pub(crate) unit: Unit,
    /// The value of each round.
    pub(crate) rounds: Vec<f64>,
    /// Percentiles from 0 to 100 of the single measurements, of each the median over the rounds. Empty if a
    /// round is one measurement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) percentiles: Vec<f64>,
}

impl Figure {
    /// Returns the median of the rounds.
    pub(crate) fn median(&self) -> f64 {
        median(&self.rounds)
    }

    /// Divides this figure by another: returns the median of the ratios of the rounds. Two figures of one round
    /// were subject to the same disturbances.
    pub(crate) fn ratio(&self, other: &Self) -> f64 {
        median(&self.ratios(other))
    }

    /// Returns the ratio of each round, or of the medians if the figures have different numbers of rounds.
    pub(crate) fn ratios(&self, other: &Self) -> Vec<f64> {
        if self.rounds.len() != other.rounds.len() {
            return vec![self.median() / other.median()];
        }
        self.rounds.iter().zip(&other.rounds).map(|(one, other)| one / other).collect()
    }

    /// Returns the least and the greatest value of the rounds.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let least = self.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.rounds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (least, most)
    }
}

/// Returns the median, which is 0 for an empty slice.
pub(crate) fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// All figures measured so far.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Book {
    figures: Vec<Figure>,
    /// Percentiles of each round, by the index of the figure.
    #[serde(skip)]
    distributions: BTreeMap<usize, Vec<Vec<u64>>>,
    /// Values of the turns of each round, by the index of the figure.
    #[serde(skip)]
    turns: BTreeMap<usize, Vec<Vec<f64>>>,
}

impl Book {
    /// Adds the value of a round.
    pub(crate) fn add(&mut self, bench: &str, what: &str, peer: Peer, unit: Unit, value: f64) {
        let at = self.index(bench, what, peer, unit);
        self.figures[at].rounds.push(value);
    }

    /// Adds the durations of the calls of a round, whose value is their median.
    pub(crate) fn add_times(&mut self, bench: &str, what: &str, peer: Peer, times: &Times) {
        let at = self.index(bench, what, peer, Unit::Nanoseconds);
        self.figures[at].rounds.push(times.median());
        let rounds = self.distributions.entry(at).or_default();
        rounds.push(times.percentiles.clone());
        let percentiles = (0..=100).map(|percent| {
            let of = rounds.iter().filter_map(|it| it.get(percent)).map(|it| nanoseconds(*it));
            median(&of.collect::<Vec<_>>())
        });
        self.figures[at].percentiles = percentiles.collect();
    }

    /// Adds the durations of calls in several turns of a round, whose value is that of the middle turn.
    pub(crate) fn add_timed_turns(&mut self, bench: &str, what: &str, peer: Peer, all: Vec<Times>) {
        let medians = all.iter().map(Times::median).collect();
        self.add_times(bench, what, peer, &Times::middle(all));
        let at = self.index(bench, what, peer, Unit::Nanoseconds);
        self.turns.entry(at).or_default().push(medians);
    }

    /// Adds the values of the turns of a round, whose value is their median.
    pub(crate) fn add_turns(
        &mut self,
        bench: &str,
        what: &str,
        peer: Peer,
        unit: Unit,
        turns: Vec<f64>,
    ) {
        let at = self.index(bench, what, peer, unit);
        self.figures[at].rounds.push(median(&turns));
        self.turns.entry(at).or_default().push(turns);
    }

    /// Returns the values of the turns of each round, in the unit of their figure.
    pub(crate) fn turns(&self) -> Value {
        self.of_rounds(&self.turns)
    }

    /// Returns the percentiles from 0 to 100 of the measurements of each round, nanoseconds.
    pub(crate) fn distributions(&self) -> Value {
        self.of_rounds(&self.distributions)
    }

    fn of_rounds<T: Serialize>(&self, all: &BTreeMap<usize, Vec<Vec<T>>>) -> Value {
        let of = |(at, rounds): (&usize, &Vec<Vec<T>>)| {
            let Figure { bench, what, peer, .. } = &self.figures[*at];
            json!({ "bench": bench, "what": what, "peer": peer, "rounds": rounds })
        };
        all.iter().map(of).collect()
    }

    /// Returns the index of a figure, which is added if it does not exist.
    fn index(&mut self, bench: &str, what: &str, peer: Peer, unit: Unit) -> usize {
        let is_it = |it: &Figure| it.bench == bench && it.what == what && it.peer == peer;
        self.figures.iter().position(is_it).unwrap_or_else(|| {
            let (bench, what) = (bench.to_owned(), what.to_owned());
            let figure =
                Figure { bench, what, peer, unit, rounds: Vec::new(), percentiles: Vec::new() };
            self.figures.push(figure);
            self.figures.len() - 1
        })
    }

    /// Returns all figures, in the order in which they were first added.
    pub(crate) fn figures(&self) -> &[Figure] {
        &self.figures
    }

    /// Returns a figure.
    pub(crate) fn get(&self, bench: &str, what: &str, peer: Peer) -> Option<&Figure> {
        let is_it = |it: &&Figure| it.bench == bench && it.what == what && it.peer == peer;
        self.figures.iter().find(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn percentiles_of_each_round_are_kept() {
        let mut book = Book::default();
        for measured in [vec![10, 20, 30], vec![40]] {
            book.add_times("connect", "udp", Peer::Direct, &Times::of(measured));
        }
        let raw = book.distributions();
        assert_eq!((&raw[0]["what"], &raw[0]["peer"]), (&json!("udp"), &json!("direct")));
        assert_eq!(raw[0]["rounds"][0][100], 30);
        assert_eq!(raw[0]["rounds"][1][0], 40);
    }

    #[test]
    fn rounds_of_one_figure_are_collected() {
        let mut book = Book::default();
        for value in [3.0, 1.0, 2.0] {
            book.add("connect", "udp", Peer::Direct, Unit::Nanoseconds, value);
            book.add("connect", "udp", Peer::Svclb, Unit::Nanoseconds, value + 1.0);
        }
        assert_eq!(book.figures().len(), 2);
        let svclb = book.get("connect", "udp", Peer::Svclb).unwrap();
        assert_eq!((svclb.median(), svclb.spread()), (3.0, (2.0, 4.0)));
        assert_eq!(book.get("connect", "tcp", Peer::Svclb), None);
    }
}
