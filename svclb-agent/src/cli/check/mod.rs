//! `svclb check`: is everything as it should be, and if not, what is wrong and what to do. It reads pins
//! and node, changes nothing, and needs no agent. What it could not look at it says, and why: only what
//! was seen is ok.

mod hooks;
mod installed;
mod node;
mod translation;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::ListArgs;
use super::output::{self, Column, ListRow};

/// The verdict of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum CheckState {
    /// It was seen to be as it should be.
    Ok,
    /// It may be wanted, and clients may notice.
    Warning,
    /// Something is wrong.
    Error,
    /// It could not be looked at.
    NotLookedAt,
}

impl CheckState {
    const fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::NotLookedAt => "not looked at",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Finding {
    /// The check: one of the words in docs/commands.md.
    check: &'static str,
    /// One of several subjects, such as a hook's name; empty where there is one.
    subject: String,
    /// The verdict.
    state: CheckState,
    /// The finding, or the reason why it was not looked at.
    found: String,
    /// Advice; empty where nothing is to be done.
    advice: String,
}

impl Finding {
    fn new(check: &'static str, state: CheckState, found: impl Into<String>) -> Self {
        let (subject, advice) = (String::new(), String::new());
        Self { check, subject, state, found: found.into(), advice }
    }

    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, CheckState::Ok, found)
    }

    fn warning(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, CheckState::Warning, found)
    }

    fn error(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, CheckState::Error, found)
    }

    fn not_looked_at(check: &'static str, why: impl std::fmt::Display) -> Self {
        Self::new(check, CheckState::NotLookedAt, format!("because {why:#}"))
    }

    fn of(mut self, subject: impl Into<String>) -> Self {
        self.subject = subject.into();
        self
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }
}

impl ListRow for Finding {
    const COLUMNS: &'static [Column<Self>] = &[
        ("STATE", |row| row.state.words().to_owned()),
        ("CHECK", |row| [row.check, &row.subject].join(" ").trim_end().to_owned()),
        ("FOUND", |row| match row.advice.as_str() {
            "" => row.found.clone(),
            advice => format!("{}; {advice}", row.found),
        }),
    ];
}

/// `svclb check`.
///
/// # Errors
/// When something is wrong, after all that was looked at is printed.
pub(super) fn check(args: &ListArgs) -> Result<()> {
    let pins = &args.pins.pins;
    let mut findings = vec![node::kernel(), node::capabilities()];
    findings.extend(installed::findings(pins));
    let cgroup = hooks::findings(pins, &mut findings);
    findings.extend(node::processes(cgroup.as_deref()));
    findings.push(installed::agent(pins));
    findings.extend(installed::sources(pins));
    findings.push(translation::finding(pins, cgroup.as_deref()));
    findings.extend(node::features());
    output::list(&findings, args.output)?;
    let wrong = findings.iter().filter(|finding| finding.state == CheckState::Error).count();
    ensure!(wrong == 0, "{wrong} of {} checks found something wrong", findings.len());
    Ok(())
}
