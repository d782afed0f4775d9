//! Bounded waits. No test asserts a time; each wait has an end.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before it is a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
pub(crate) const STEP: Duration = Duration::from_millis(5);

/// Tries until `check` is content, for at most ten seconds.
///
/// # Panics
/// When it never is: with what it said last.
pub fn eventually<T>(what: &str, check: impl FnMut() -> Result<T, String>) -> T {
    match within(LIMIT, check) {
        Ok(found) => found,
        Err(last) => panic!("{what}: not so after {LIMIT:?}: {last}"),
    }
}

/// Looks for a while whether something stays as it is.
///
/// # Panics
/// As soon as `check` is not content.
pub fn holds_for(time: Duration, what: &str, mut check: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(found) = check() {
            panic!("{what}: no longer so after {:?}: {found}", start.elapsed());
        }
        thread::sleep(STEP);
    }
}

/// As [`eventually`], with a limit, and the last answer instead of a panic.
pub(crate) fn within<T>(
    limit: Duration,
    mut check: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let start = Instant::now();
    loop {
        match check() {
            Ok(found) => return Ok(found),
            Err(last) if start.elapsed() > limit => return Err(last),
            Err(_) => thread::sleep(STEP),
        }
    }
}
