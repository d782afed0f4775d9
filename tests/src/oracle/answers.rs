//! What was heard: of each side, for each frontend and each who dialled it, the set of answers.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::dial::Answer;
use super::frontend::{Dialler, Frontend};

/// Whose answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Side {
    /// kube-proxy's.
    KubeProxy,
    /// svclb's.
    Svclb,
}

impl Side {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::KubeProxy, Self::Svclb];
}

/// The answers that were heard at least once.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Heard(pub(crate) BTreeSet<Answer>);

impl Heard {
    /// Whether these are all of it.
    pub(crate) fn is<const N: usize>(&self, answers: [Answer; N]) -> bool {
        self.0 == BTreeSet::from(answers)
    }

    /// Whether hosts answered, and nobody else.
    pub(crate) fn is_of_hosts(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|answer| matches!(answer, Answer::Host(_)))
    }

    /// Whether a host answered.
    pub(crate) fn has_hosts(&self) -> bool {
        self.0.iter().any(|answer| matches!(answer, Answer::Host(_)))
    }

    /// Whether a Service answered: its hosts, or a refusal.
    pub(crate) fn is_of_service(&self) -> bool {
        self.is_of_hosts() || self.is([Answer::Refused])
    }
}

impl fmt::Display for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<String> = self.0.iter().map(Answer::to_string).collect();
        f.write_str(if each.is_empty() { "nothing dialled" } else { "" })?;
        f.write_str(&each.join(", "))
    }
}

/// All that was heard of a world.
#[derive(Clone, Default, Debug)]
pub(crate) struct Answers {
    heard: HashMap<(Side, Dialler, Frontend), (Heard, usize)>,
}

impl Answers {
    /// Adds an answer.
    pub(crate) fn add(&mut self, side: Side, dialler: Dialler, frontend: Frontend, answer: Answer) {
        let (heard, count) = self.heard.entry((side, dialler, frontend)).or_default();
        heard.0.insert(answer);
        *count += 1;
    }

    /// What was heard there.
    pub(crate) fn of(&self, side: Side, dialler: Dialler, frontend: &Frontend) -> Heard {
        self.heard.get(&(side, dialler, *frontend)).map(|it| it.0.clone()).unwrap_or_default()
    }

    /// How often it was dialled.
    pub(crate) fn count(&self, side: Side, dialler: Dialler, frontend: &Frontend) -> usize {
        self.heard.get(&(side, dialler, *frontend)).map_or(0, |it| it.1)
    }

    /// Forgets what was heard there, on both sides.
    pub(crate) fn forget(&mut self, dialler: Dialler, frontend: &Frontend) {
        for side in Side::ALL {
            self.heard.remove(&(side, dialler, *frontend));
        }
    }
}
