//! Bounds of the figures, most of them of ratios within one run. Those in seconds, bytes and percent of a
//! processor are for a machine like that of the stored run. docs/decisions/0015 has the original bounds, with
//! the reasons where they were changed.

use serde_json::{Value, json};

use crate::benches::churn;
use crate::book::{Book, Figure, Unit};
use crate::lane::Peer;
use crate::report::with_unit;

/// A target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Its name in tables.
    pub(crate) what: &'static str,
    /// The value that is compared with the bound.
    of: Of,
    /// The bound.
    bound: Bound,
}

/// A value that is computed from figures.
#[derive(Clone, Copy, Debug)]
enum Of {
    /// The ratio of two figures, percent.
    Share(Name, Name),
    /// The excess of one figure over another, percent of the latter.
    Added(Name, Name),
    /// The ratio of two figures.
    Times(Name, Name),
    /// The gain of a peer, the ratio of its two figures, by that of another, percent.
    Gain([Name; 2], [Name; 2]),
    /// The median of a figure.
    Itself(Name, Unit),
    /// The greatest value of a round.
    Worst(Name, Unit),
    /// A percentile of a figure.
    Percentile(Name, usize, Unit),
}

/// Bench, quantity and peer of a figure.
type Name = (&'static str, &'static str, Peer);

#[derive(Clone, Copy, Debug)]
enum Bound {
    Most(f64),
    Least(f64),
}

/// A direct UDP connect, with which most costs are compared.
const UDP: Name = ("connect", "UDP, to a Service", Peer::Direct);

const fn svclb(bench: &'static str, what: &'static str) -> Name {
    (bench, what, Peer::Svclb)
}

const fn target(what: &'static str, of: Of, bound: Bound) -> Target {
    Target { what, of, bound }
}

/// All targets.
pub(crate) const ALL: [Target; 24] = [
    target(
        "connect to a Service, net, of a direct UDP connect",
        Of::Share(svclb("connect", "net of a UDP connect to a Service"), UDP),
        Bound::Most(11.0),
    ),
    target(
        "TCP connect to a Service, p50, more than direct",
        Of::Added(
            svclb("connect", "TCP, to a Service"),
            ("connect", "TCP, to a Service", Peer::Direct),
        ),
        Bound::Most(2.0),
    ),
    target(
        "connect to a non-Service destination, net, of a direct UDP connect",
        Of::Share(svclb("connect", "net of a UDP connect to a non-Service destination"), UDP),
        Bound::Most(2.5),
    ),
    // An origin that the socket may have must be removed then: docs/decisions/0015.
    target(
        "connect straight to a backend of a Service, net, of a direct UDP connect",
        Of::Share(svclb("connect", "net of a UDP connect straight to a backend"), UDP),
        Bound::Most(5.0),
    ),
    target(
        "unconnected UDP, send and receive, net, of the direct pair",
        Of::Share(
            svclb("udp", "net of a send and a receive, one Service"),
            ("udp", "send and receive, one Service", Peer::Direct),
        ),
        Bound::Most(5.0),
    ),
    target(
        "the same with 8 Services on one socket",
        Of::Share(
            svclb("udp", "net of a send and a receive, 8 Services"),
            ("udp", "send and receive, 8 Services", Peer::Direct),
        ),
        Bound::Most(10.0),
    ),
    target(
        "getpeername, net, of a direct UDP connect",
        Of::Share(svclb("names", "net of a getpeername"), UDP),
        Bound::Most(3.0),
    ),
    target(
        "socket release after a Service, net, of a direct UDP connect",
        Of::Share(svclb("release", "net of a release, after a Service"), UDP),
        Bound::Most(4.0),
    ),
    target(
        "socket release after a non-Service destination, net, of a direct UDP connect",
        Of::Share(svclb("release", "net of a release, after a non-Service destination"), UDP),
        Bound::Most(4.0),
    ),
    target(
        "connect among 100,000 frontends with 1,000,000 backends, net, of a direct UDP connect",
        Of::Share(
            svclb("scale", "net, 100000 frontends, 1000000 backends"),
            ("scale", "direct", Peer::Direct),
        ),
        Bound::Most(50.0),
    ),
    // The gain by a second processor depends on the machine: docs/decisions/0015.
    target(
        "connects per second, two threads by one, of the same of direct",
        Of::Gain(
            [svclb("threads", "2 threads"), svclb("threads", "1 thread")],
            [("threads", "2 threads", Peer::Direct), ("threads", "1 thread", Peer::Direct)],
        ),
        Bound::Least(95.0),
    ),
    target(
        "bytes per second after the connection, of direct",
        Of::Share(
            svclb("throughput", "one TCP stream"),
            ("throughput", "one TCP stream", Peer::Direct),
        ),
        Bound::Least(95.0),
    ),
    target(
        "datagrams per second after the connection, of direct",
        Of::Share(
            svclb("throughput", "datagrams of a connected UDP socket"),
            ("throughput", "datagrams of a connected UDP socket", Peer::Direct),
        ),
        Bound::Least(95.0),
    ),
    target(
        "one byte and its echo after the connection, p50, more than direct",
        Of::Added(
            svclb("throughput", "one byte and its echo"),
            ("throughput", "one byte and its echo", Peer::Direct),
        ),
        Bound::Most(5.0),
    ),
    target(
        "5,000 Services, 250,000 endpoints: process start to all written",
        Of::Itself(svclb("sync", "start over nothing, from an API server"), Unit::Seconds),
        Bound::Most(1.2),
    ),
    // The original target was 30, based on a start of kube-proxy that is not as slow in these benches, where
    // 30 cannot be reached: docs/decisions/0015.
    target(
        "kube-proxy nftables' start, by svclb's",
        Of::Times(
            ("sync", "start over nothing, from an API server", Peer::Nftables),
            svclb("sync", "start over nothing, from an API server"),
        ),
        Bound::Least(5.0),
    ),
    target(
        "the same with the agent restarted over its pins",
        Of::Itself(svclb("sync", "start over its pins, from an API server"), Unit::Seconds),
        Bound::Most(1.0),
    ),
    target(
        "map rows written by that start",
        Of::Worst(svclb("sync", "rows written by a start over its pins"), Unit::Count),
        Bound::Most(0.0),
    ),
    target(
        "resident memory then",
        Of::Itself(svclb("sync", "resident, from an API server"), Unit::Bytes),
        Bound::Most(40_000_000.0),
    ),
    target(
        "one endpoint changes among those: watch event to map written, p50",
        Of::Percentile(svclb("churn", churn::EVENT), 50, Unit::Nanoseconds),
        Bound::Most(1_000_000.0),
    ),
    target(
        "the same, p99",
        Of::Percentile(svclb("churn", churn::EVENT), 99, Unit::Nanoseconds),
        Bound::Most(5_000_000.0),
    ),
    // The row with such slices without a Service shows the share of the API server.
    target(
        "one endpoint changes beside the largest Service: request to the first connect to the new backend, p50",
        Of::Percentile(svclb("churn", churn::BESIDE_LARGEST), 50, Unit::Nanoseconds),
        Bound::Most(20_000_000.0),
    ),
    target(
        "1,000 endpoint changes a second, by proportion, of one processor",
        Of::Itself(
            svclb("churn", "processor, for 1,000 changes a second by proportion"),
            Unit::Percent,
        ),
        Bound::Most(15.0),
    ),
    target(
        "growth of resident memory by minutes of them, after the first",
        Of::Itself(svclb("churn", "growth of resident memory in these minutes"), Unit::Bytes),
        Bound::Most(2_000_000.0),
    ),
];

impl Target {
    /// Computes the value. None if the run did not measure its figures.
    pub(crate) fn measured(&self, book: &Book) -> Option<f64> {
        let find = |name: Name| book.get(name.0, name.1, name.2);
        let by = |one: Name, other: Name| Some(find(one)?.ratio(find(other)?));
        Some(match self.of {
            Of::Share(part, whole) => 100.0 * by(part, whole)?,
            Of::Added(more, less) => 100.0 * (by(more, less)? - 1.0),
            Of::Times(one, other) => by(one, other)?,
            // Peers are measured side by side; one thread and two are not.
            Of::Gain([two, one], [direct_two, direct_one]) => {
                100.0 * by(two, direct_two)? / by(one, direct_one)?
            }
            Of::Itself(name, _) => find(name).map(Figure::median)?,
            Of::Worst(name, _) => find(name)?.spread().1,
            Of::Percentile(name, percent, _) => *find(name)?.percentiles.get(percent)?,
        })
    }

    /// True if this value is within the bound.
    pub(crate) fn is_met(&self, measured: f64) -> bool {
        match self.bound {
            Bound::Most(most) => measured <= most,
            Bound::Least(least) => measured >= least,
        }
    }

    /// Formats the bound.
    pub(crate) fn bound(&self) -> String {
        match self.bound {
            Bound::Most(most) => format!("at most {}", self.format(most)),
            Bound::Least(least) => format!("at least {}", self.format(least)),
        }
    }

    /// Formats a value.
    pub(crate) fn format(&self, value: f64) -> String {
        match self.of {
            Of::Itself(_, unit) | Of::Worst(_, unit) | Of::Percentile(_, _, unit) => {
                with_unit(value, unit)
            }
            Of::Share(..) | Of::Added(..) | Of::Gain(..) => with_unit(value, Unit::Percent),
            Of::Times(..) => format!("{} times", with_unit(value, Unit::Count)),
        }
    }
}

/// Returns all measured targets as JSON.
pub(crate) fn results(book: &Book) -> Value {
    let of = |target: &Target| {
        let measured = target.measured(book)?;
        let (what, bound, is_met) = (target.what, target.bound(), target.is_met(measured));
        Some(json!({ "what": what, "bound": bound, "measured": measured, "is_met": is_met }))
    };
    ALL.iter().filter_map(of).collect()
}

/// Describes the missed targets, a line each. With `is_all`, targets that were not measured are missed too.
pub(crate) fn missed(book: &Book, is_all: bool) -> Vec<String> {
    let line = |target: &Target| match target.measured(book) {
        Some(measured) if target.is_met(measured) => None,
        Some(measured) => {
            Some(format!("{}: {}, {}", target.what, target.format(measured), target.bound()))
        }
        None if is_all => Some(format!("{}: not measured, {}", target.what, target.bound())),
        None => None,
    };
    ALL.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::run::Run;

    #[test]
    fn missed_targets_are_described() {
        let mut book = Book::default();
        let mut add =
            |name: Name, value| book.add(name.0, name.1, name.2, Unit::Nanoseconds, value);
        add(UDP, 1_000.0);
        add(svclb("connect", "net of a UDP connect to a Service"), 110.0);
        add(svclb("names", "net of a getpeername"), 31.0);
        let expected = "getpeername, net, of a direct UDP connect: 3.1 %, at most 3 %";
        assert_eq!(missed(&book, false), [expected]);
        let all = missed(&book, true);
        assert_eq!(all.len(), ALL.len() - 1, "{all:?}");
        assert!(all.contains(&"the same, p99: not measured, at most 5 ms".to_owned()), "{all:?}");
    }

    #[test]
    fn the_stored_run_has_a_figure_for_every_target() {
        let docs = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"));
        let run = Run::read(&docs.join("performance.json")).unwrap();
        let missing = ALL.iter().find(|target| target.measured(&run.book).is_none());
        assert!(missing.is_none(), "{missing:?}");
    }

    #[test]
    fn a_round_that_was_slow_for_both_peers_changes_no_ratio() {
        let mut book = Book::default();
        for (direct, svclb) in [(100.0, 101.0), (300.0, 303.0), (100.0, 101.0), (300.0, 290.0)] {
            let what = "TCP, to a Service";
            book.add("connect", what, Peer::Direct, Unit::Nanoseconds, direct);
            book.add("connect", what, Peer::Svclb, Unit::Nanoseconds, svclb);
        }
        let target = ALL.iter().find(|target| target.what.starts_with("TCP connect")).unwrap();
        assert!((target.measured(&book).unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_gain_by_a_second_thread_is_compared_with_that_of_direct() {
        let mut book = Book::default();
        // The machine may be slower in a round, for both peers.
        for second in [200.0, 150.0] {
            for (what, svclb, direct) in [("1 thread", 90.0, 100.0), ("2 threads", 0.81, 1.0)] {
                let scale = if direct > 1.0 { 1.0 } else { second };
                book.add("threads", what, Peer::Svclb, Unit::PerSecond, svclb * scale);
                book.add("threads", what, Peer::Direct, Unit::PerSecond, direct * scale);
            }
        }
        let line =
            "connects per second, two threads by one, of the same of direct: 90 %, at least 95 %";
        assert_eq!(missed(&book, false), [line]);
    }

    #[test]
    fn one_round_with_a_row_too_many_misses_the_target() {
        let mut book = Book::default();
        for rows in [0.0, 2.0, 0.0] {
            let what = "rows written by a start over its pins";
            book.add("sync", what, Peer::Svclb, Unit::Count, rows);
        }
        assert_eq!(missed(&book, false), ["map rows written by that start: 2, at most 0"]);
    }
}
