//! A scenario file: read, run, and written with its generated sections.

use crate::cluster::{Cluster, Settings};

/// An event before a pass.
enum Action {
    /// A batch of changes from the source.
    Objects,
    /// Another agent adopts the maps, and its source has these objects.
    Restart,
    /// Every program that was running has ended, so that what was freed may be used again.
    GracePeriod,
    /// Nothing.
    Pass,
}

impl Action {
    fn named(heading: &str) -> Option<Self> {
        Some(match heading {
            "objects" => Self::Objects,
            "restart" => Self::Restart,
            "grace period" => Self::GracePeriod,
            "pass" => Self::Pass,
            _ => return None,
        })
    }
}

/// A section that is written by hand, and a pass follows.
struct Block<'a> {
    action: Action,
    heading: &'a str,
    body: &'a str,
}

/// A scenario.
pub(crate) struct Scenario<'a> {
    comment: &'a str,
    settings: Option<&'a str>,
    blocks: Vec<Block<'a>>,
}

const MARK: &str = "## ";

impl<'a> Scenario<'a> {
    /// Reads what is written by hand.
    pub(crate) fn parse(text: &'a str) -> Result<Self, String> {
        let mut sections = sections(text).into_iter();
        let comment = sections.next().map_or("", |(_, body)| body);
        if !comment.starts_with("# ") {
            return Err("a scenario has to begin with a comment that names its rule".to_owned());
        }
        let mut scenario = Self { comment, settings: None, blocks: Vec::new() };
        for (heading, body) in sections {
            match (heading, Action::named(heading)) {
                ("settings", _) => scenario.settings = Some(body),
                // Generated.
                ("steps" | "maps", _) => {}
                (_, Some(action)) => scenario.blocks.push(Block { action, heading, body }),
                _ => return Err(format!("unknown section {heading:?}")),
            }
        }
        if scenario.blocks.is_empty() {
            return Err("a scenario without a pass: no objects".to_owned());
        }
        Ok(scenario)
    }

    /// Runs it, and writes it with its generated sections.
    pub(crate) fn render(&self) -> Result<String, String> {
        let settings = Settings::parse(self.settings.unwrap_or_default())?;
        let mut cluster = Cluster::new(&settings);
        let mut text = format!("{}\n", self.comment);
        if let Some(settings) = self.settings {
            text.push_str(&format!("\n{MARK}settings\n{settings}\n"));
        }
        for Block { action, heading, body } in &self.blocks {
            match action {
                Action::Objects => cluster.ingest(body)?,
                Action::Restart => cluster.restart(body)?,
                Action::GracePeriod => cluster.end_quarantine(),
                Action::Pass => {}
            }
            text.push_str(&format!("\n{MARK}{heading}\n"));
            if !body.is_empty() {
                text.push_str(&format!("{body}\n"));
            }
            let steps = cluster.pass();
            text.push_str(&format!("\n{MARK}steps\n{steps}\n{MARK}maps\n{}", cluster.maps()));
        }
        Ok(text)
    }
}

/// Each heading with what is below it; the first has none.
fn sections(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    let (mut heading, mut start, mut at) = ("", 0, 0);
    for line in text.split_inclusive('\n') {
        if let Some(next) = line.strip_prefix(MARK) {
            found.push((heading, text[start..at].trim()));
            (heading, start) = (next.trim(), at + line.len());
        }
        at += line.len();
    }
    found.push((heading, text[start..].trim()));
    found
}
