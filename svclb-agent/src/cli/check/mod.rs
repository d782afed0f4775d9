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
use super::output::{self, ListRow};

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
    const HEADINGS: &'static [&'static str] = &["STATE", "CHECK", "FOUND"];

    fn cells(&self) -> Vec<String> {
        let state = match self.state {
            CheckState::Ok => "ok",
            CheckState::Warning => "warning",
            CheckState::Error => "error",
            CheckState::NotLookedAt => "not looked at",
        };
        let what = [self.check, &self.subject].join(" ");
        let found = match self.advice.as_str() {
            "" => self.found.clone(),
            advice => format!("{}; {advice}", self.found),
        };
        vec![state.to_owned(), what.trim_end().to_owned(), found]
    }
}

/// `svclb check`.
///
/// # Errors
/// When something is wrong, after all that was looked at is printed.
pub(super) fn check(args: &ListArgs) -> Result<()> {
    let pins = args.pins();
    let mut findings = vec![node::kernel(), node::capabilities()];
    findings.extend(installed::findings(&pins));
    let cgroup = hooks::findings(&pins, &mut findings);
    findings.extend(node::processes(cgroup.as_deref()));
    findings.push(installed::agent(&pins));
    findings.extend(installed::sources(&pins));
    findings.push(translation::finding(&pins, cgroup.as_deref()));
    findings.extend(node::features());
    output::list(&findings, args.output)?;
    let wrong = findings.iter().filter(|finding| finding.state == CheckState::Error).count();
    ensure!(wrong == 0, "{wrong} of {} checks found something wrong", findings.len());
    Ok(())
}
