//! Whether what was heard at a frontend is right: both sides answer the same, or as an exception says.

use std::collections::HashSet;

use super::answers::{Answers, Heard, Side};
use super::dial::Answer;
use super::exceptions::EXCEPTIONS;
use super::frontend::{Dialler, Frontend, Kind, Placed};
use super::usable::Reach;
use super::world::{HOSTS, Service};

/// One frontend of a world, dialled from one place, with all that was heard.
#[derive(Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) placed: &'a Placed,
    pub(crate) answers: &'a Answers,
    pub(crate) dialler: Dialler,
    pub(crate) frontend: &'a Frontend,
}

/// What a side must answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Must {
    /// This, always.
    Be(Answer),
    /// What the same side answers there.
    Match(Frontend),
    /// One of these.
    BeOneOf(Vec<Must>),
    /// Hosts of this Service, whoever of them; always the same one, if so said.
    BeHostsOf {
        /// The Service, by its place.
        service: usize,
        /// Whether it has session affinity.
        is_one: bool,
    },
    /// One of kube-proxy's hosts, always the same one; and if a place is named, the one that answers
    /// there.
    BeOneHost(Option<Frontend>),
}

/// What both sides must answer.
pub(crate) struct Wanted {
    pub(crate) kube_proxy: Must,
    pub(crate) svclb: Must,
}

/// What somebody heard at a frontend: the exception that counts, and what is wrong, if anything is.
pub(crate) struct Verdict {
    pub(crate) exception: Option<&'static str>,
    pub(crate) problem: Option<String>,
}

impl Case<'_> {
    /// Judges it.
    pub(crate) fn judge(&self) -> Verdict {
        let found = EXCEPTIONS.iter().find_map(|it| Some((it.name, (it.applies)(self)?)));
        let Some((name, wanted)) = found else {
            return Verdict { exception: None, problem: self.compare().err() };
        };
        let problem = self
            .sound()
            .and_then(|()| self.check(Side::KubeProxy, &wanted.kube_proxy))
            .and_then(|()| self.check(Side::Svclb, &wanted.svclb));
        let problem = problem.err().map(|problem| format!("{name}: {problem}"));
        Verdict { exception: Some(name), problem }
    }

    /// Whether both sides answer the same, and what a proxy answers without an exception.
    fn compare(&self) -> Result<(), String> {
        self.sound()?;
        let [kube_proxy, svclb] = Side::ALL.map(|side| self.heard(side));
        if kube_proxy != svclb {
            return Err("the answers differ".to_owned());
        }
        match svclb.is_of_service() || svclb.is([Answer::Untouched]) {
            true => Ok(()),
            false => Err("both answer what no proxy should".to_owned()),
        }
    }

    /// Whether the answers are some that the sides can give at all: nobody's is a strange one, which
    /// may well be of a broken node, and svclb lets no client wait.
    fn sound(&self) -> Result<(), String> {
        for side in Side::ALL {
            let heard = self.heard(side);
            if heard.0.iter().any(|answer| matches!(answer, Answer::Other(_))) {
                return Err(format!("{side:?} answers what nobody should"));
            }
        }
        match self.heard(Side::Svclb).0.contains(&Answer::Silence) {
            true => Err("svclb leaves a client without an answer".to_owned()),
            false => Ok(()),
        }
    }

    fn check(&self, side: Side, must: &Must) -> Result<(), String> {
        if self.holds(side, must) { Ok(()) } else { Err(format!("{side:?} must {must:?}")) }
    }

    fn holds(&self, side: Side, must: &Must) -> bool {
        let heard = self.heard(side);
        let is_one = heard.0.len() == 1;
        match must {
            Must::Be(answer) => heard.is([answer.clone()]),
            Must::Match(place) => {
                heard != Heard::default() && heard == self.answers.of(side, self.dialler, place)
            }
            Must::BeOneOf(all) => all.iter().any(|must| self.holds(side, must)),
            Must::BeHostsOf { service, is_one: must_be_one } => {
                let family = self.frontend.family();
                let hosts = (0..HOSTS).map(|host| self.placed.lane.host(*service, host, family));
                let hosts: HashSet<_> = hosts.collect();
                let is_its = |answer: &Answer| matches!(answer, Answer::Host(address) if hosts.contains(&address.ip()));
                heard.is_of_hosts() && heard.0.iter().all(is_its) && (is_one || !must_be_one)
            }
            Must::BeOneHost(place) => {
                let of_kube_proxy = self.heard(Side::KubeProxy);
                let is_same = |place| heard == self.answers.of(side, self.dialler, place);
                heard.is_of_hosts()
                    && is_one
                    && heard.0.is_subset(&of_kube_proxy.0)
                    && place.as_ref().is_none_or(is_same)
            }
        }
    }

    /// What this side answered here.
    pub(crate) fn heard(&self, side: Side) -> Heard {
        self.answers.of(side, self.dialler, self.frontend)
    }

    /// Whose frontend it is.
    pub(crate) fn service(&self) -> &Service {
        self.placed.service(self.frontend)
    }

    /// Frontends on whose answers the judgement depends.
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

    /// Who answers here: the Service and its port. Who holds a shared address is not always whose
    /// frontend this is.
    pub(crate) fn holder(&self) -> Option<(usize, usize)> {
        match self.frontend.kind {
            Kind::SharedIp => self.placed.claimants(self.frontend).first().copied(),
            _ => Some((self.frontend.service, self.frontend.port)),
        }
    }

    /// What a side that gives this frontend to the Service must answer: what it answers at another
    /// frontend of the same, if there is one.
    pub(crate) fn as_at(&self, holder: (usize, usize), side: Side) -> Must {
        match self.placed.reference(holder, self.frontend.family()) {
            Some(place) => Must::Match(place),
            None => self.as_served(holder, side),
        }
    }

    /// The same, without a look at another frontend.
    pub(crate) fn as_served(&self, holder: (usize, usize), side: Side) -> Must {
        let service = &self.placed.world.services[holder.0];
        let has = |reach| service.has_usable(holder.1, self.frontend.family(), reach);
        let is_local = self.frontend.kind == Kind::ClusterIp && service.is_internal_local;
        if has(if is_local { Reach::Here } else { Reach::Anywhere }) {
            let is_one = side == Side::Svclb && service.affinity.is_some();
            return Must::BeHostsOf { service: holder.0, is_one };
        }
        let is_dropped = side == Side::KubeProxy && has(Reach::Anywhere);
        Must::Be(if is_dropped { Answer::Silence } else { Answer::Refused })
    }
}
