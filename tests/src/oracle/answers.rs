//! The answers of a comparison: for each side, each client and each frontend, the set of answers.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::dial::Answer;
use super::frontend::{Client, Frontend};

/// A proxy whose answers are compared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Side {
    /// kube-proxy on its node.
    KubeProxy,
    /// svclb on its node.
    Svclb,
}

impl Side {
    /// Both sides.
    pub(crate) const ALL: [Self; 2] = [Self::KubeProxy, Self::Svclb];
}

/// The distinct answers at one frontend.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct AnswerSet(pub(crate) BTreeSet<Answer>);

impl AnswerSet {
    /// Returns true if these are exactly the answers.
    pub(crate) fn is<const N: usize>(&self, answers: [Answer; N]) -> bool {
        self.0 == BTreeSet::from(answers)
    }

    /// Returns true if there are answers and all are of hosts.
    pub(crate) fn is_of_hosts(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|answer| matches!(answer, Answer::Host(_)))
    }

    /// Returns true if a host answered.
    pub(crate) fn has_hosts(&self) -> bool {
        self.0.iter().any(|answer| matches!(answer, Answer::Host(_)))
    }

    /// Returns true if the answers are those of a Service: only hosts, or only a refusal.
    pub(crate) fn is_of_service(&self) -> bool {
        self.is_of_hosts() || self.is([Answer::Refused])
    }
}

impl fmt::Display for AnswerSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<String> = self.0.iter().map(Answer::to_string).collect();
        f.write_str(if each.is_empty() { "not dialled" } else { "" })?;
        f.write_str(&each.join(", "))
    }
}

/// All answers of a world, with the number of calls.
#[derive(Clone, Default, Debug)]
pub(crate) struct Answers {
    sets: HashMap<(Side, Client, Frontend), (AnswerSet, usize)>,
}

impl Answers {
    /// Adds one answer.
    pub(crate) fn add(&mut self, side: Side, client: Client, frontend: Frontend, answer: Answer) {
        let (sets, count) = self.sets.entry((side, client, frontend)).or_default();
        sets.0.insert(answer);
        *count += 1;
    }

    /// The answers of one side to one client at one frontend.
    pub(crate) fn of(&self, side: Side, client: Client, frontend: &Frontend) -> AnswerSet {
        self.sets.get(&(side, client, *frontend)).map(|it| it.0.clone()).unwrap_or_default()
    }

    /// The number of calls to that frontend.
    pub(crate) fn count(&self, side: Side, client: Client, frontend: &Frontend) -> usize {
        self.sets.get(&(side, client, *frontend)).map_or(0, |it| it.1)
    }

    /// Removes the answers to one client at one frontend, of both sides.
    pub(crate) fn forget(&mut self, client: Client, frontend: &Frontend) {
        for side in Side::ALL {
            self.sets.remove(&(side, client, *frontend));
        }
    }
}
