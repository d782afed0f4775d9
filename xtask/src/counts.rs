//! Sums of the test results that test binaries print.

/// Tests by outcome.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed, and binaries that ended without a result.
    pub(crate) failed: u64,
    /// Tests marked `#[ignore]`.
    pub(crate) ignored: u64,
}

impl Counts {
    /// Parses a test binary's result line: `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix("test result: ")?;
        let (_verdict, numbers) = rest.split_once(". ")?;
        let number = |name: &str| {
            numbers.split("; ").find_map(|part| part.strip_suffix(name)?.trim().parse().ok())
        };
        Some(Self {
            passed: number("passed")?,
            failed: number("failed")?,
            ignored: number("ignored")?,
        })
    }

    /// Adds the counts of another binary.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// Scripts parse this line.
impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runners_last_line_is_read() {
        let rest = "0 measured; 2 filtered out; finished in 0.00s";
        let counts = |passed, failed, ignored| Some(Counts { passed, failed, ignored });
        let rows = [
            (
                "ok",
                format!("test result: ok. 12 passed; 0 failed; 3 ignored; {rest}"),
                counts(12, 0, 3),
            ),
            (
                "failed",
                format!("test result: FAILED. 1 passed; 2 failed; 0 ignored; {rest}"),
                counts(1, 2, 0),
            ),
            ("another line", "test layout::holds ... ok".to_owned(), None),
            ("a test that prints", "3 passed; 0 failed; 1 ignored".to_owned(), None),
            ("cut off", "test result: ok. 12 passed; 0 fai".to_owned(), None),
            ("no number", "test result: ok. many passed; 0 failed; 0 ignored".to_owned(), None),
            ("empty", String::new(), None),
        ];
        for (row, line, expected) in rows {
            assert_eq!(Counts::parse(&line), expected, "{row}");
        }
    }

    #[test]
    fn the_total_is_the_sum_in_the_form_that_scripts_read() {
        let mut total = Counts::default();
        total.add(Counts { passed: 3, failed: 0, ignored: 1 });
        total.add(Counts { passed: 40, failed: 2, ignored: 0 });
        assert_eq!(total.to_string(), "43 passed, 2 failed");
        assert_eq!(total.ignored, 1);
    }
}
