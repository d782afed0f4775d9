//! A run: so many worlds, a number of them at a time; what was counted; and the smallest world that
//! shows a difference, if there is one.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::exceptions::EXCEPTIONS;
use super::generate;
use super::render::{self, When};
use super::settings::Settings;
use super::shrink::shrink;
use super::stage::{Outcome, Stage};

/// How many worlds are put before both sides at a time.
const AT_ONCE: usize = 16;

/// What a run counted.
#[derive(Clone, Default, Debug)]
pub struct Summary {
    /// Worlds that were compared.
    pub worlds: usize,
    /// Frontends, each from the pod and from the host.
    pub frontends: usize,
    /// Those of them that hosts answered.
    pub with_hosts: usize,
    /// How often each exception counted, by its name.
    pub exceptions: BTreeMap<&'static str, usize>,
    /// How long it took.
    pub time: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worlds, frontends, with_hosts, exceptions, time } = self;
        writeln!(f, "{worlds} worlds with {frontends} frontends in {:.1} s;", time.as_secs_f64())?;
        writeln!(f, "hosts answered at {with_hosts} of them. Wanted differences:")?;
        exceptions.iter().try_for_each(|(name, count)| writeln!(f, "{count:6}  {name}"))
    }
}

/// Compares the worlds of these seeds. svclb's agent gets these arguments besides the usual ones.
///
/// # Errors
/// A text: the first difference, with what is left of its world after it was made as small as it can
/// be while it still shows one.
pub fn compare(settings: Settings, arguments: &[&str]) -> Result<Summary, String> {
    // Two would be in each other's way: each takes what the machine has.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let start = Instant::now();
    let mut stage = Stage::start(arguments);
    let mut summary = Summary {
        exceptions: EXCEPTIONS.iter().map(|exception| (exception.name, 0)).collect(),
        ..Summary::default()
    };
    // All worlds of a batch are in the same zone, or in none.
    let (with, without): (Vec<_>, Vec<_>) = settings
        .seeds()
        .map(|seed| (seed, generate::world(seed)))
        .partition(|(_, world)| world.has_zone);
    for batch in with.chunks(AT_ONCE).chain(without.chunks(AT_ONCE)) {
        let worlds: Vec<_> = batch.iter().map(|(_, world)| world.clone()).collect();
        let outcomes = stage.compare(&worlds);
        let failed: Vec<_> = batch
            .iter()
            .zip(&outcomes)
            .filter(|(_, outcome)| !outcome.differences.is_empty())
            .map(|((seed, _), outcome)| (*seed, outcome))
            .collect();
        if !failed.is_empty() {
            return Err(explain(&mut stage, &failed));
        }
        for outcome in outcomes {
            summary.worlds += 1;
            summary.frontends += outcome.frontends;
            summary.with_hosts += outcome.with_hosts;
            for (name, count) in outcome.exceptions {
                *summary.exceptions.entry(name).or_default() += count;
            }
        }
    }
    summary.time = start.elapsed();
    Ok(summary)
}

fn explain(stage: &mut Stage, failed: &[(u64, &Outcome)]) -> String {
    let mut text = String::new();
    for (seed, outcome) in failed {
        let again = Settings::again(*seed);
        let _ = writeln!(text, "the world of seed {seed} differs (again: {again}):");
        for difference in &outcome.differences {
            let _ = writeln!(text, "  {difference}");
        }
    }
    let (seed, outcome) = failed[0];
    let smallest = shrink(&outcome.placed.world, |worlds| {
        stage.compare(worlds).iter().map(|outcome| !outcome.differences.is_empty()).collect()
    });
    let last = stage.compare(std::slice::from_ref(&smallest)).remove(0);
    let _ = writeln!(text, "what is left of seed {seed}, made as small as it can be:");
    for difference in &last.differences {
        let _ = writeln!(text, "  {difference}");
    }
    let yaml = |when| render::yaml(&smallest, last.placed.lane, when);
    let (before, now) = (yaml(When::Before), yaml(When::Now));
    format!("{text}# First, and a moment later the rest:\n{before}# The rest:\n{now}")
}
