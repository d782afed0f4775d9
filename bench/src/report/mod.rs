//! Shows a run: [`table`]s in a terminal, [`plots`], and the [`page`] in docs/.

pub(crate) mod page;
pub(crate) mod plots;
pub(crate) mod table;

use crate::book::Unit;

/// Formats a value with its unit.
pub(crate) fn with_unit(value: f64, unit: Unit) -> String {
    let scaled = |steps: &[&str], by: f64| {
        let mut value = value;
        let mut steps = steps.iter();
        let mut step = steps.next().copied().unwrap_or_default();
        while value.abs() >= by
            && let Some(next) = steps.next()
        {
            (value, step) = (value / by, next);
        }
        format!("{} {step}", digits(value))
    };
    match unit {
        Unit::Nanoseconds => scaled(&["ns", "µs", "ms", "s"], 1_000.0),
        Unit::Milliseconds => scaled(&["ms", "s"], 1_000.0),
        Unit::Seconds => scaled(&["s"], 1_000.0),
        Unit::PerSecond => scaled(&["/s", "thousand/s", "million/s"], 1_000.0),
        Unit::BytesPerSecond => scaled(&["B/s", "kB/s", "MB/s", "GB/s"], 1_000.0),
        Unit::Bytes => scaled(&["B", "kB", "MB", "GB"], 1_000.0),
        Unit::Percent => scaled(&["%"], 1_000.0),
        Unit::Count => digits(value),
    }
}

/// Formats three significant digits, or all digits before the point.
fn digits(value: f64) -> String {
    let after: usize = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.after$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        let rows = [
            (93.4, Unit::Nanoseconds, "93.4 ns"),
            (14_942.0, Unit::Nanoseconds, "14.9 µs"),
            (0.0, Unit::Count, "0"),
            (39_500.0, Unit::Milliseconds, "39.5 s"),
            (1_204_500.0, Unit::PerSecond, "1.2 million/s"),
            (413_000_000.0, Unit::Bytes, "413 MB"),
            (100.0, Unit::Percent, "100 %"),
        ];
        for (value, unit, expected) in rows {
            assert_eq!(with_unit(value, unit), expected);
        }
    }
}
