//! A run: compares many worlds, several at a time, counts the results, and reduces the first world that
//! shows a difference.

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

/// Number of worlds that are compared at a time.
const AT_ONCE: usize = 16;

/// The counts of a run.
#[derive(Clone, Default, Debug)]
pub struct Summary {
    /// Compared worlds.
    pub worlds: usize,
    /// Compared frontends, each by the pod and by the host.
    pub frontends: usize,
    /// Compared frontends at which hosts answered.
    pub with_hosts: usize,
    /// Number of frontends to which each exception applied, by its name.
    pub exceptions: BTreeMap<&'static str, usize>,
    /// Duration of the run.
    pub time: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worlds, frontends, with_hosts, exceptions, time } = self;
        writeln!(f, "{worlds} worlds with {frontends} frontends in {:.1} s;", time.as_secs_f64())?;
        writeln!(f, "hosts answered at {with_hosts} of them. Required differences:")?;
        exceptions.iter().try_for_each(|(name, count)| writeln!(f, "{count:6}  {name}"))
    }
}

/// Compares the worlds of these seeds. The arguments are added to those of svclb's agent.
///
/// # Errors
/// Text with the differences of the first failing batch, and the first failing world reduced as far as
/// possible while it still fails.
pub fn compare(settings: Settings, arguments: &[&str]) -> Result<Summary, String> {
    // Two runs at once would slow each other down, as each uses the whole machine.
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
        let again = Settings::command_for(*seed);
        let _ = writeln!(text, "the world of seed {seed} differs (run it again by {again}):");
        for difference in &outcome.differences {
            let _ = writeln!(text, "  {difference}");
        }
    }
    let (seed, outcome) = failed[0];
    let smallest = shrink(&outcome.placed.world, |worlds| {
        stage.compare(worlds).iter().map(|outcome| !outcome.differences.is_empty()).collect()
    });
    let last = stage.compare(std::slice::from_ref(&smallest)).remove(0);
    let _ = writeln!(text, "the world of seed {seed}, reduced as far as possible:");
    for difference in &last.differences {
        let _ = writeln!(text, "  {difference}");
    }
    let yaml = |when| render::yaml(&smallest, last.placed.block, when);
    let (before, now) = (yaml(When::Before), yaml(When::Now));
    format!(
        "{text}# First these objects; once both proxies follow, the next ones:\n{before}# Next objects:\n{now}"
    )
}
