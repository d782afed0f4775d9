//! Bounded waits. No test asserts a time; each wait has an end.

use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take before it is a failure.
pub const LIMIT: Duration = Duration::from_secs(30);
pub(crate) const STEP: Duration = Duration::from_millis(5);

/// How many times as long as usual a slow machine, such as an emulated one, may take.
const VARIABLE: &str = "SVCLB_PATIENCE";

/// A limit as it is on this machine.
///
/// # Panics
/// When the environment names no number of times.
pub(crate) fn patient(limit: Duration) -> Duration {
    limit * times()
}

/// How often a client must have got something done meanwhile, on this machine; twice at least.
pub fn at_least(often: u32) -> u32 {
    (often / times()).max(2)
}

fn times() -> u32 {
    static TIMES: OnceLock<u32> = OnceLock::new();
    *TIMES.get_or_init(|| match std::env::var(VARIABLE) {
        Ok(times) => times.parse().unwrap_or_else(|error| panic!("{VARIABLE}={times}: {error}")),
        Err(_) => 1,
    })
}

/// Tries until `check` is content, for at most half a minute.
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

/// As [`eventually`], with a limit (on a usual machine), and the last answer instead of a panic.
///
/// # Errors
/// What `check` said last.
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
