//! Judges the answers at a frontend: both sides must answer the same, or as an exception requires.

use std::collections::HashSet;

use super::answers::{AnswerSet, Answers, Side};
use super::dial::Answer;
use super::exceptions::EXCEPTIONS;
use super::frontend::{Client, Frontend, Kind, Placed};
use super::usable::Reach;
use super::world::{HOSTS, Service};

/// One frontend of a world, dialled by one client, with all answers of the world.
#[derive(Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) placed: &'a Placed,
    pub(crate) answers: &'a Answers,
    pub(crate) client: Client,
    pub(crate) frontend: &'a Frontend,
}

/// A required answer of a side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Must {
    /// Always this answer.
    Be(Answer),
    /// The same answers as those of the same side at this frontend.
    Match(Frontend),
    /// As one of these requires.
    BeOneOf(Vec<Must>),
    /// Any hosts of this Service, or always the same one.
    BeHostsOf {
        /// Index of the Service.
        service: usize,
        /// If true, always the same host: the Service has session affinity.
        is_one: bool,
    },
    /// Always the same one of kube-proxy's hosts, which must be the one that answers at the given
    /// frontend, if any.
    BeOneHost(Option<Frontend>),
}

/// The required answers of both sides.
pub(crate) struct Expected {
    pub(crate) kube_proxy: Must,
    pub(crate) svclb: Must,
}

/// The judgement of the answers at a frontend: the exception that applied, and the problem, if any.
pub(crate) struct Verdict {
    pub(crate) exception: Option<&'static str>,
    pub(crate) problem: Option<String>,
}

impl Case<'_> {
    /// Judges the answers.
    pub(crate) fn judge(&self) -> Verdict {
        let found = EXCEPTIONS.iter().find_map(|it| Some((it.name, (it.applies)(self)?)));
        let Some((name, wanted)) = found else {
            return Verdict { exception: None, problem: self.compare().err() };
        };
        let problem = self
            .check_possible()
            .and_then(|()| self.check(Side::KubeProxy, &wanted.kube_proxy))
            .and_then(|()| self.check(Side::Svclb, &wanted.svclb));
        let problem = problem.err().map(|problem| format!("{name}: {problem}"));
        Verdict { exception: Some(name), problem }
    }

    /// Checks that both sides answer the same, and as a proxy does without an exception.
    fn compare(&self) -> Result<(), String> {
        self.check_possible()?;
        let [kube_proxy, svclb] = Side::ALL.map(|side| self.answers_of(side));
        if kube_proxy != svclb {
            return Err("the answers differ".to_owned());
        }
        match svclb.is_of_service() || svclb.is([Answer::Untouched]) {
            true => Ok(()),
            false => Err("both sides give an answer that no proxy gives".to_owned()),
        }
    }

    /// Checks that the answers are possible at all: an unknown answer may well come from a broken node,
    /// and svclb never lets a client wait.
    fn check_possible(&self) -> Result<(), String> {
        for side in Side::ALL {
            let answers = self.answers_of(side);
            if answers.0.iter().any(|answer| matches!(answer, Answer::Other(_))) {
                return Err(format!("{side:?} gives an answer that no proxy gives"));
            }
        }
        match self.answers_of(Side::Svclb).0.contains(&Answer::Silence) {
            true => Err("svclb let a client wait without an answer".to_owned()),
            false => Ok(()),
        }
    }

    fn check(&self, side: Side, must: &Must) -> Result<(), String> {
        if self.is_met(side, must) { Ok(()) } else { Err(format!("{side:?} must {must:?}")) }
    }

    fn is_met(&self, side: Side, must: &Must) -> bool {
        let answers = self.answers_of(side);
        let is_one = answers.0.len() == 1;
        match must {
            Must::Be(answer) => answers.is([answer.clone()]),
            Must::Match(place) => {
                answers != AnswerSet::default()
                    && answers == self.answers.of(side, self.client, place)
            }
            Must::BeOneOf(all) => all.iter().any(|must| self.is_met(side, must)),
            Must::BeHostsOf { service, is_one: requires_one } => {
                let family = self.frontend.family();
                let hosts = (0..HOSTS).map(|host| self.placed.block.host(*service, host, family));
                let hosts: HashSet<_> = hosts.collect();
                let is_its = |answer: &Answer| matches!(answer, Answer::Host(address) if hosts.contains(&address.ip()));
                answers.is_of_hosts() && answers.0.iter().all(is_its) && (is_one || !requires_one)
            }
            Must::BeOneHost(place) => {
                let of_kube_proxy = self.answers_of(Side::KubeProxy);
                let is_same = |place| answers == self.answers.of(side, self.client, place);
                answers.is_of_hosts()
                    && is_one
                    && answers.0.is_subset(&of_kube_proxy.0)
                    && place.as_ref().is_none_or(is_same)
            }
        }
    }

    /// The answers of this side.
    pub(crate) fn answers_of(&self, side: Side) -> AnswerSet {
        self.answers.of(side, self.client, self.frontend)
    }

    /// The Service of the frontend.
    pub(crate) fn service(&self) -> &Service {
        self.placed.service(self.frontend)
    }

    /// The frontends whose answers the judgement depends on.
    pub(crate) fn depends_on(&self) -> Vec<Frontend> {
        fn places(must: Must) -> Vec<Frontend> {
            match must {
                Must::Match(place) | Must::BeOneHost(Some(place)) => vec![place],
                Must::BeOneOf(all) => all.into_iter().flat_map(places).collect(),
                _ => Vec::new(),
            }
        }
        let found = EXCEPTIONS.iter().find_map(|it| (it.applies)(self));
        let all = found.map(|wanted| [places(wanted.kube_proxy), places(wanted.svclb)].concat());
        all.unwrap_or_default()
    }

    /// The Service and port that must answer here. A shared address is not always owned by the
    /// frontend's Service.
    pub(crate) fn owner(&self) -> Option<(usize, usize)> {
        match self.frontend.kind {
            Kind::SharedIp => self.placed.claimants(self.frontend).first().copied(),
            _ => Some((self.frontend.service, self.frontend.port)),
        }
    }

    /// The answer required of a side if this Service owns the frontend: that at another frontend of the
    /// Service, if there is one.
    pub(crate) fn as_at(&self, owner: (usize, usize), side: Side) -> Must {
        match self.placed.reference(owner, self.frontend.family()) {
            Some(place) => Must::Match(place),
            None => self.as_served(owner, side),
        }
    }

    /// As [`Self::as_at`], without another frontend.
    pub(crate) fn as_served(&self, owner: (usize, usize), side: Side) -> Must {
        let service = &self.placed.world.services[owner.0];
        let has = |reach| service.has_usable(owner.1, self.frontend.family(), reach);
        let is_local = self.frontend.kind == Kind::ClusterIp && service.is_internal_local;
        if has(if is_local { Reach::Here } else { Reach::Anywhere }) {
            let is_one = side == Side::Svclb && service.affinity.is_some();
            return Must::BeHostsOf { service: owner.0, is_one };
        }
        let is_dropped = side == Side::KubeProxy && has(Reach::Anywhere);
        Must::Be(if is_dropped { Answer::Silence } else { Answer::Refused })
    }
}
