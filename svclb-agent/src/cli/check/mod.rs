//! `svclb check`: reports what is wrong on this node, and what to do. It reads pins and node, changes nothing,
//! and needs no agent. A check is ok only if it was seen to be; one that could not be looked at says why.

mod hooks;
mod installed;
mod node;
mod translation;

use anyhow::{Result, ensure};
use schemars::JsonSchema;
use serde::Serialize;

use super::ListArgs;
use super::output::{self, Column, ListRow};

/// The verdict of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
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

/// The outcome of a check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
struct Verdict {
    /// The verdict.
    state: CheckState,
    /// The finding, or the reason why it was not looked at.
    found: String,
    /// Advice; empty where nothing is to be done.
    advice: String,
}

impl Verdict {
    fn new(state: CheckState, found: impl Into<String>) -> Self {
        Self { state, found: found.into(), advice: String::new() }
    }

    fn ok(found: impl Into<String>) -> Self {
        Self::new(CheckState::Ok, found)
    }

    fn warning(found: impl Into<String>) -> Self {
        Self::new(CheckState::Warning, found)
    }

    fn error(found: impl Into<String>) -> Self {
        Self::new(CheckState::Error, found)
    }

    fn not_looked_at(why: impl std::fmt::Display) -> Self {
        Self::new(CheckState::NotLookedAt, format!("because {why:#}"))
    }

    fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub(super) struct Finding {
    /// The check: one of the words in docs/commands.md.
    check: &'static str,
    /// One of several subjects, such as a hook's name; empty where there is one.
    subject: &'static str,
    #[serde(flatten)]
    verdict: Verdict,
}

impl Finding {
    /// The finding of a check with one subject. An error says why it could not be looked at.
    fn of(check: &'static str, looked: Result<Verdict>) -> Self {
        let verdict = looked.unwrap_or_else(Verdict::not_looked_at);
        Self { check, subject: "", verdict }
    }

    /// The findings of a check with several subjects. An error says why none could be looked at.
    fn each(
        check: &'static str,
        looked: Result<impl IntoIterator<Item = (&'static str, Verdict)>>,
    ) -> Vec<Self> {
        match looked {
            Ok(found) => {
                let of = |(subject, verdict)| Self { check, subject, verdict };
                found.into_iter().map(of).collect()
            }
            Err(why) => vec![Self::of(check, Err(why))],
        }
    }
}

impl ListRow for Finding {
    const COLUMNS: &'static [Column<Self>] = &[
        ("STATE", |row| row.verdict.state.words().to_owned()),
        ("CHECK", |row| [row.check, row.subject].join(" ").trim_end().to_owned()),
        ("FOUND", |Self { verdict: Verdict { found, advice, .. }, .. }| match advice.as_str() {
            "" => found.clone(),
            advice => format!("{found}; {advice}"),
        }),
    ];

    fn name(&self) -> String {
        [self.check, self.subject].join("/").trim_end_matches('/').to_owned()
    }
}

/// `svclb check`.
///
/// # Errors
/// When something is wrong, after all that was looked at is printed.
pub(super) fn check(args: &ListArgs) -> Result<()> {
    let pins = &args.pins.pins;
    let mut findings = vec![
        Finding::of("kernel", Ok(node::kernel())),
        Finding::of("capabilities", node::capabilities()),
        Finding::of("pins", Ok(installed::folders(pins))),
        Finding::of("maps", installed::maps(pins)),
    ];
    let cgroup = hooks::findings(pins, &mut findings);
    findings.extend(node::processes(cgroup.as_deref()));
    findings.push(Finding::of("agent", installed::agent(pins)));
    findings.extend(Finding::each("source", installed::sources(pins)));
    findings.push(Finding::of("translation", translation::verdict(pins, cgroup.as_deref())));
    findings.extend(Finding::each("feature", node::features()));
    output::list(&findings, args.output)?;
    let wrong =
        findings.iter().filter(|finding| finding.verdict.state == CheckState::Error).count();
    ensure!(wrong == 0, "{wrong} of {} checks found something wrong", findings.len());
    Ok(())
}
