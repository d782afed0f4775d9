//! Parses a guest's console, to which tests/src/bin/guest.rs writes.

use std::time::Duration;

use crate::counts::Counts;

/// Start of the lines of the first process.
const PREFIX: &str = "svclb-guest: ";
/// Part of the line in which a kernel reports a panic.
const PANIC: &str = "Kernel panic - not syncing";

/// Results in the lines read so far.
#[derive(Default, Debug)]
pub(super) struct Console {
    /// The kernel's release.
    pub(super) release: String,
    /// Features of the kernel, as the tests detect them.
    pub(super) features: Vec<(String, bool)>,
    /// Tests that ended.
    pub(super) counts: Counts,
    /// Names of tests that failed, and of binaries that ended with an error.
    pub(super) failures: Vec<String>,
    /// The binary that runs, and the number of its tests that failed.
    running: Option<(String, u64)>,
    is_done: bool,
    panic: Option<String>,
}

/// The end of a guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It ran all tests.
    Whole,
    /// The kernel or the emulator failed before that, for this reason.
    Broken(String),
}

impl Console {
    /// Reads a line.
    pub(super) fn line(&mut self, line: &str) {
        let line = line.trim_end_matches('\r');
        // The line may begin with text of the kernel.
        if let Some((_, message)) = line.split_once(PREFIX) {
            self.message(message);
        } else if let Some(counts) = Counts::parse(line) {
            self.counts.add(counts);
            if let Some((_, failed)) = &mut self.running {
                *failed += counts.failed;
            }
        } else if line.contains(PANIC) {
            self.panic = Some(line.trim().to_owned());
        } else if let Some(test) = failed_test(line) {
            let binary = self.running.as_ref().map_or("", |(name, _)| name);
            self.failures.push(format!("{binary}: {test}"));
        }
    }

    /// Reads a line of the first process.
    fn message(&mut self, message: &str) {
        let words: Vec<&str> = message.split(' ').collect();
        match words[..] {
            ["kernel", release] => release.clone_into(&mut self.release),
            ["feature", name, answer] => self.features.push((name.to_owned(), answer == "yes")),
            ["begin", name] => self.running = Some((name.to_owned(), 0)),
            ["end", name, _seconds, ref how @ ..] => {
                let failed = self.running.take().map_or(0, |(_, failed)| failed);
                if how.first() != Some(&"well") && failed == 0 {
                    self.counts.failed += 1;
                    self.failures.push(format!("{name} ended {}", how.join(" ")));
                }
            }
            ["done"] => self.is_done = true,
            _ => {}
        }
    }

    /// Counts the running test as failed, as the guest has reached its time limit.
    pub(super) fn time_out(&mut self, after: Duration) {
        let at = self.running.take().map_or_else(String::new, |(name, _)| format!(", in {name}"));
        self.failures.push(format!("not done after {after:?}{at}"));
        self.counts.failed += 1;
        self.is_done = true;
    }

    /// Returns how the guest ended, after the last line. `stopped` is the reason if the guest was killed.
    pub(super) fn end(&self, stopped: Option<&str>) -> End {
        if self.is_done {
            return End::Whole;
        }
        let at = match &self.running {
            Some((name, _)) => format!("in {name}"),
            None if self.release.is_empty() => "at its boot".to_owned(),
            None => "between two test binaries".to_owned(),
        };
        let why = match (&self.panic, stopped) {
            (Some(panic), _) => panic.clone(),
            (None, Some(stopped)) => stopped.to_owned(),
            (None, None) => "it was switched off".to_owned(),
        };
        End::Broken(format!("{why}, {at}"))
    }
}

/// Returns the name in a line about a failed test.
fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULT: &str = "0 ignored; 0 measured; 0 filtered out; finished in 1.00s";

    fn read(lines: &[&str]) -> Console {
        let mut console = Console::default();
        lines.iter().for_each(|line| console.line(line));
        console
    }

    #[test]
    fn a_whole_run_is_counted() {
        let ok = format!("test result: ok. 3 passed; 0 failed; {RESULT}\r");
        let failed = format!("test result: FAILED. 1 passed; 2 failed; {RESULT}\r");
        let console = read(&[
            "svclb-guest: kernel 5.10.0-46-cloud-amd64\r",
            "svclb-guest: feature set_retval no\r",
            "svclb-guest: begin tcp\r",
            &ok,
            "svclb-guest: end tcp 12 well\r",
            "[    9.1] something svclb-guest: begin udp\r",
            "test it_works ... FAILED",
            &failed,
            "svclb-guest: end udp 7 badly: exit status: 101\r",
            "svclb-guest: begin agent\r",
            "svclb-guest: end agent 300 badly: stopped after 300s\r",
            "svclb-guest: done\r",
        ]);
        assert_eq!(console.end(None), End::Whole);
        assert_eq!(console.counts, Counts { passed: 4, failed: 3, ignored: 0 });
        assert_eq!(console.release, "5.10.0-46-cloud-amd64");
        assert_eq!(console.features, [("set_retval".to_owned(), false)]);
        assert_eq!(console.failures, ["udp: it_works", "agent ended badly: stopped after 300s"]);
    }

    #[test]
    fn tests_that_do_not_end_in_time_have_failed() {
        let mut console = read(&["svclb-guest: kernel 6.1.0", "svclb-guest: begin tcp"]);
        console.time_out(Duration::from_secs(60));
        assert_eq!(console.end(Some("not done after 60s")), End::Whole);
        assert_eq!(console.counts.failed, 1);
        assert_eq!(console.failures, ["not done after 60s, in tcp"]);
    }

    #[test]
    fn a_broken_machine_is_distinguished_from_a_failed_test() {
        let begun = ["svclb-guest: kernel 6.1.0", "svclb-guest: begin tcp"];
        let panic = "[    3.2] Kernel panic - not syncing: Fatal exception";
        let rows: [(&str, &[&str], Option<&str>, &str); 4] = [
            ("no boot", &[], Some("silent for 60s"), "silent for 60s, at its boot"),
            (
                "panic",
                &[begun[0], begun[1], panic],
                None,
                "[    3.2] Kernel panic - not syncing: Fatal exception, in tcp",
            ),
            ("gone", &begun, None, "it was switched off, in tcp"),
            ("hangs", &begun, Some("silent for 60s"), "silent for 60s, in tcp"),
        ];
        for (row, lines, stopped, expected) in rows {
            assert_eq!(read(lines).end(stopped), End::Broken(expected.to_owned()), "{row}");
        }
    }
}
