//! Where worlds are compared: one API server, and a node for each of the proxies.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom as _;

use super::answers::{Answers, Heard, Side};
use super::dial::Answer;
use super::frontend::{Dialler, Frontend, Given, Kind, Placed};
use super::generate::LISTENING;
use super::judge::Case;
use super::lane::{Lane, NODE};
use super::render::{self, When};
use super::site::Site;
use super::world::{Family, HOSTS, World};
use crate::Protocol::Tcp;
use crate::cluster::{Client, ControlPlane, Reference};
use crate::harness::wait::within;

/// How long an answer may take at first. A refusal by a rule of the kernel to a process of the same
/// host comes with TCP's second try, after a second.
const PATIENCE: Duration = Duration::from_millis(1_700);
/// And how long before silence is believed against an expectation.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// How long the proxies may take to follow.
const SYNC: Duration = Duration::from_secs(150);
/// How improbable it must be that a host was missed, before a difference is one.
const DOUBT: f64 = 1e-9;
/// How many doubtful frontends are looked at twice: more are no accident.
const SECOND_LOOKS: usize = 60;

/// A frontend at which the sides do not answer as they must.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    dialler: Dialler,
    frontend: Frontend,
    kube_proxy: Heard,
    svclb: Heard,
    problem: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dialler, frontend, kube_proxy, svclb, problem } = self;
        write!(f, "{frontend} from the {dialler:?}: kube-proxy: {kube_proxy}; svclb: {svclb}")?;
        write!(f, " ({problem})")
    }
}

/// What came of a world.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) placed: Placed,
    pub(crate) differences: Vec<Difference>,
    /// How often each exception counted.
    pub(crate) exceptions: BTreeMap<&'static str, usize>,
    /// How many frontends were dialled, from all places together.
    pub(crate) frontends: usize,
    /// At how many of them svclb's clients were answered by hosts.
    pub(crate) with_hosts: usize,
}

/// The stage.
pub(crate) struct Stage {
    // In the order of their ends.
    sites: [Site; 2],
    plane: ControlPlane,
    lanes: u32,
    dice: ChaCha8Rng,
}

impl Stage {
    /// Starts everything: svclb with these arguments too.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let plane = ControlPlane::builder("oracle").without_controllers().start();
        plane.api().apply_all(&[render::node_object(false)]);
        let status = plane.api().patch_status(&Reference::node(NODE), &render::node_status());
        status.expect("the node's status can be written");
        let sites = Side::ALL.map(|side| Site::start(side, &plane, arguments));
        let mut stage = Self { sites, plane, lanes: 0, dice: ChaCha8Rng::seed_from_u64(0) };
        // kube-proxy 1.37 may miss the zone that the node has when it starts (its handler is registered
        // after the first event), but not a change.
        let fence = stage.settle(false);
        remove(stage.plane.api(), &fence.namespace());
        stage
    }

    /// Puts worlds, of nodes that are all in a zone or all in none, before both sides at once, and
    /// compares what each answers.
    pub(crate) fn compare(&mut self, worlds: &[World]) -> Vec<Outcome> {
        let has_zone = worlds.iter().any(|world| world.has_zone);
        assert!(worlds.iter().all(|world| world.has_zone == has_zone), "one node is in one zone");
        let lanes: Vec<Lane> = worlds.iter().map(|_| self.lane()).collect();
        let namespaces: Vec<_> = lanes.iter().map(|lane| render::namespace(*lane)).collect();
        self.plane.api().apply_all(&namespaces);
        self.plane.api().apply_all(&[render::node_object(!has_zone)]);
        self.place(worlds, &lanes, When::Before);
        let first_fence = self.settle(!has_zone);
        self.plane.api().apply_all(&[render::node_object(has_zone)]);
        let placed = self.place(worlds, &lanes, When::Now);
        let fence = self.settle(has_zone);
        let mut looks: Vec<Look> = placed.into_iter().map(Look::new).collect();
        self.look(&mut looks);
        for lane in lanes.into_iter().chain([first_fence, fence]) {
            remove(self.plane.api(), &lane.namespace());
        }
        looks.into_iter().map(Look::outcome).collect()
    }

    fn lane(&mut self) -> Lane {
        self.lanes += 1;
        Lane::new(self.lanes)
    }

    /// Writes what the worlds are at that time, and removes the slices that they no longer have.
    fn place(&self, worlds: &[World], lanes: &[Lane], when: When) -> Vec<Placed> {
        let api = self.plane.api();
        let each = || worlds.iter().zip(lanes);
        let objects: Vec<_> =
            each().map(|(world, lane)| render::objects(world, *lane, when)).collect();
        let services: Vec<_> = objects.iter().flat_map(|it| it.services.clone()).collect();
        let mut taken = api.apply_all(&services).into_iter();
        for objects in &objects {
            for (at, status) in &objects.statuses {
                let service = Reference::of(&objects.services[*at]);
                let patched = api.patch_status(&service, status);
                patched.unwrap_or_else(|error| panic!("the status of {service}: {error}"));
            }
        }
        let slices: Vec<_> = objects.iter().flat_map(|it| it.slices.clone()).collect();
        api.apply_all(&slices);
        if when == When::Before {
            return Vec::new();
        }
        let slices: HashSet<Reference> = slices.iter().map(Reference::of).collect();
        for (world, lane) in each() {
            let before = render::objects(world, *lane, When::Before).slices;
            for gone in before.iter().map(Reference::of).filter(|it| !slices.contains(it)) {
                let removed = api.delete(&gone, None);
                removed.unwrap_or_else(|error| panic!("cannot remove {gone}: {error}"));
            }
        }
        let placed = |(world, lane): (&World, &Lane)| {
            let each = world.services.iter().zip(taken.by_ref());
            let given =
                each.map(|(service, object)| Given::read(&object, &service.ports)).collect();
            Placed { world: world.clone(), lane: *lane, given }
        };
        each().map(placed).collect()
    }

    /// Writes a fence behind all that was written, and waits until both sides show it, of both
    /// families, and the node's zone.
    fn settle(&mut self, has_zone: bool) -> Lane {
        let (lane, port) = (self.lane(), 80);
        self.plane.api().apply_all(&render::fence(lane, port));
        for family in Family::ALL {
            let expected: Vec<Answer> = render::fence_hosts(lane, family)
                .into_iter()
                .take(if has_zone { 1 } else { 2 })
                .map(|host| Answer::Host(SocketAddr::new(host, LISTENING[0])))
                .collect();
            let address = SocketAddr::new(lane.cluster_ip(0, family), port);
            let kind = Kind::ClusterIp;
            let frontend = Frontend { service: 0, port: 0, kind, protocol: Tcp, address };
            for (site, side) in self.sites.iter().zip(Side::ALL) {
                let dice = &mut self.dice;
                let shown = within(SYNC, || {
                    let calls = [frontend; 24];
                    let answers = site.dial(Dialler::Pod, &calls, dice, PATIENCE);
                    let heard = Heard(answers.into_iter().collect());
                    if heard.0 == expected.iter().cloned().collect() {
                        return Ok(());
                    }
                    Err(format!("{address} answers {heard}, not {expected:?}"))
                });
                if let Err(last) = shown {
                    panic!("{side:?} does not follow the API server after {SYNC:?}: {last}");
                }
            }
        }
        lane
    }

    /// Hears everybody at everything, in two turns ([`Placed::is_first`]).
    fn look(&mut self, looks: &mut [Look]) {
        for turn in [Turn::First, Turn::Rest] {
            for look in looks.iter_mut() {
                look.turn = turn;
            }
            self.take_turn(looks);
        }
    }

    /// Dials what is due until nothing is in doubt.
    fn take_turn(&mut self, looks: &mut [Look]) {
        if looks.iter().all(|look| look.due().next().is_none()) {
            return;
        }
        self.top_up(looks, |_, _, _| 2, PATIENCE);
        self.top_up(looks, Look::enough, PATIENCE);
        let wanted = doubts(looks);
        self.top_up(looks, |look, dialler, it| wanted.of(look, dialler, it), PATIENCE);
        // What is still in doubt is forgotten and asked again, with all the time in the world.
        let wanted = doubts(looks);
        for look in looks.iter_mut() {
            let lane = look.placed.lane;
            for (_, dialler, frontend) in wanted.0.keys().filter(|it| it.0 == lane) {
                look.answers.forget(*dialler, frontend);
            }
        }
        self.top_up(looks, |look, dialler, it| wanted.of(look, dialler, it), LONG_PATIENCE);
    }

    /// Dials each frontend until it was dialled as often as said.
    fn top_up(
        &mut self,
        looks: &mut [Look],
        wanted: impl Fn(&Look, Dialler, &Frontend) -> usize,
        patience: Duration,
    ) {
        let mut orders = Vec::new();
        for (site, side) in self.sites.iter().zip(Side::ALL) {
            for dialler in Dialler::ALL {
                let mut calls = Vec::new();
                for (at, look) in looks.iter().enumerate() {
                    for frontend in look.due() {
                        let done = look.answers.count(side, dialler, frontend);
                        let more = wanted(look, dialler, frontend).saturating_sub(done);
                        calls.extend(std::iter::repeat_n((at, *frontend), more));
                    }
                }
                calls.shuffle(&mut self.dice);
                let dice = ChaCha8Rng::from_rng(&mut self.dice);
                orders.push(Order { site, side, dialler, calls, dice });
            }
        }
        let heard: Vec<_> = thread::scope(|scope| {
            let mut threads = Vec::new();
            for mut order in orders {
                threads.push(scope.spawn(move || {
                    let answers = order.dial(patience);
                    (order.side, order.dialler, order.calls, answers)
                }));
            }
            threads.into_iter().map(|it| it.join().expect("it has said why")).collect()
        });
        for (side, dialler, calls, answers) in heard {
            for ((at, frontend), answer) in calls.into_iter().zip(answers) {
                looks[at].answers.add(side, dialler, frontend, answer);
            }
        }
    }
}

/// Calls of one dialler on one side.
struct Order<'a> {
    site: &'a Site,
    side: Side,
    dialler: Dialler,
    /// Of the looks by their places.
    calls: Vec<(usize, Frontend)>,
    dice: ChaCha8Rng,
}

impl Order<'_> {
    fn dial(&mut self, patience: Duration) -> Vec<Answer> {
        let frontends: Vec<Frontend> = self.calls.iter().map(|call| call.1).collect();
        self.site.dial(self.dialler, &frontends, &mut self.dice, patience)
    }
}

/// What is dialled now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// What has to be dialled first.
    First,
    /// Everything else.
    Rest,
}

/// A world while it is looked at.
struct Look {
    placed: Placed,
    frontends: Vec<Frontend>,
    answers: Answers,
    turn: Turn,
}

impl Look {
    fn new(placed: Placed) -> Self {
        let frontends = placed.frontends();
        Self { placed, frontends, answers: Answers::default(), turn: Turn::First }
    }

    /// Whether it is dialled in this turn.
    fn is_due(&self, frontend: &Frontend) -> bool {
        self.placed.is_first(frontend) == (self.turn == Turn::First)
    }

    /// What is dialled in this turn.
    fn due(&self) -> impl Iterator<Item = &Frontend> {
        self.frontends.iter().filter(|frontend| self.is_due(frontend))
    }

    fn cases(&self) -> impl Iterator<Item = Case<'_>> {
        let both = Dialler::ALL.into_iter();
        both.flat_map(move |dialler| {
            self.frontends.iter().map(move |frontend| Case {
                placed: &self.placed,
                answers: &self.answers,
                dialler,
                frontend,
            })
        })
    }

    /// How many hosts may answer.
    fn hosts(&self, frontend: &Frontend) -> usize {
        match frontend.kind {
            Kind::SharedIp => HOSTS,
            _ => {
                let service = self.placed.service(frontend);
                let before = service.before().map_or(0, |before| before.hosts.len());
                service.hosts.len().max(before).max(1)
            }
        }
    }

    /// How often to dial before a difference would probably have shown.
    fn enough(&self, dialler: Dialler, frontend: &Frontend) -> usize {
        let answers = Side::ALL.map(|side| self.answers.of(side, dialler, frontend));
        let has_hosts = answers.iter().any(Heard::has_hosts);
        if has_hosts { 4 * self.hosts(frontend) + 4 } else { 0 }
    }

    /// How often to dial before nobody can have been missed.
    fn certain(&self, dialler: Dialler, frontend: &Frontend) -> usize {
        let answers = Side::ALL.map(|side| self.answers.of(side, dialler, frontend));
        if !answers.iter().any(Heard::has_hosts) {
            return 4;
        }
        let hosts = f64::from(u32::try_from(self.hosts(frontend)).expect("a world is small"));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few hundred"
        )]
        let times = (hosts * (hosts / DOUBT).ln()).ceil() as usize;
        times
    }

    fn outcome(self) -> Outcome {
        let mut differences = Vec::new();
        let mut exceptions = BTreeMap::new();
        let (mut frontends, mut with_hosts) = (0, 0);
        for case in self.cases() {
            let of = |side| self.answers.of(side, case.dialler, case.frontend);
            let verdict = case.judge();
            frontends += 1;
            with_hosts += usize::from(of(Side::Svclb).has_hosts());
            if let Some(name) = verdict.exception {
                *exceptions.entry(name).or_default() += 1;
            }
            if let Some(problem) = verdict.problem {
                differences.push(Difference {
                    dialler: case.dialler,
                    frontend: *case.frontend,
                    kube_proxy: of(Side::KubeProxy),
                    svclb: of(Side::Svclb),
                    problem,
                });
            }
        }
        Outcome { placed: self.placed, differences, exceptions, frontends, with_hosts }
    }
}

/// How often something in doubt has to be dialled to be certain.
struct Doubts(HashMap<(Lane, Dialler, Frontend), usize>);

impl Doubts {
    fn of(&self, look: &Look, dialler: Dialler, frontend: &Frontend) -> usize {
        self.0.get(&(look.placed.lane, dialler, *frontend)).copied().unwrap_or_default()
    }
}

/// The frontends of this turn at which something is wrong so far, and those on which that depends.
fn doubts(looks: &[Look]) -> Doubts {
    let mut found = HashMap::new();
    let cases = looks.iter().flat_map(|look| look.cases().map(move |case| (look, case)));
    let due = cases.filter(|(look, case)| look.is_due(case.frontend));
    for (look, case) in due.filter(|(_, case)| case.judge().problem.is_some()).take(SECOND_LOOKS) {
        let places = [vec![*case.frontend], case.depends_on()].concat();
        for place in places.into_iter().filter(|place| look.is_due(place)) {
            let times = look.certain(case.dialler, &place);
            found.insert((look.placed.lane, case.dialler, place), times);
        }
    }
    Doubts(found)
}

fn remove(api: &Client, namespace: &str) {
    for (version, kind) in [("discovery.k8s.io/v1", "EndpointSlice"), ("v1", "Service")] {
        let removed = api.delete_all(version, kind, namespace, "");
        removed.unwrap_or_else(|error| panic!("cannot remove {kind}s of {namespace}: {error}"));
    }
}
