//! Waits with a limit. No test asserts a duration.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// Limit for most waits.
pub const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const STEP: Duration = Duration::from_millis(5);

/// Factor for all limits on a slow machine, such as an emulated one.
const VARIABLE: &str = "SVCLB_PATIENCE";

/// The limit on this machine.
///
/// # Panics
/// If SVCLB_PATIENCE is not a whole number.
pub(crate) fn patient(limit: Duration) -> Duration {
    limit * factor()
}

/// The minimum number of operations that a client must have completed, scaled for a slow machine; at
/// least two.
pub fn at_least(count: u32) -> u32 {
    (count / factor()).max(2)
}

fn factor() -> u32 {
    static TIMES: OnceLock<u32> = OnceLock::new();
    *TIMES.get_or_init(|| match std::env::var(VARIABLE) {
        Ok(factor) => factor.parse().unwrap_or_else(|error| panic!("{VARIABLE}={factor}: {error}")),
        Err(_) => 1,
    })
}

/// Repeats `check` until it succeeds, for at most [`LIMIT`].
///
/// # Panics
/// If it does not succeed within the limit, with its last error.
pub fn eventually<T>(what: &str, check: impl FnMut() -> Result<T, String>) -> T {
    match within(LIMIT, check) {
        Ok(found) => found,
        Err(last) => panic!("{what}: expected within {LIMIT:?}, but: {last}"),
    }
}

/// Asserts for a while that `check` keeps succeeding.
///
/// # Panics
/// As soon as `check` fails.
pub fn holds_for(time: Duration, what: &str, mut check: impl FnMut() -> Result<(), String>) {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(found) = check() {
            panic!("{what}: held for {:?} only: {found}", start.elapsed());
        }
        thread::sleep(STEP);
    }
}

/// As [`eventually`], with a limit of its own (scaled for a slow machine), and returning the last error
/// instead of panicking.
///
/// # Errors
/// The last error of `check`.
pub fn within<T>(
    limit: Duration,
    mut check: impl FnMut() -> Result<T, String>,
) -> Result<T, String> {
    let (start, limit) = (Instant::now(), patient(limit));
    loop {
        match check() {
            Ok(found) => return Ok(found),
            Err(last) if start.elapsed() > limit => return Err(last),
            Err(_) => thread::sleep(STEP),
        }
    }
}
