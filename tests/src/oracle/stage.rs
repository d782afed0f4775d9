//! Comparison of worlds: one API server, and a node for each of the proxies.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom as _;

use super::address_block::{AddressBlock, NODE};
use super::answers::{AnswerSet, Answers, Side};
use super::dial::Answer;
use super::frontend::{Allocated, Client, Frontend, Kind, Placed};
use super::generate::LISTENING;
use super::judge::Case;
use super::render::{self, When};
use super::site::Site;
use super::world::{Family, HOSTS, World};
use crate::Protocol::Tcp;
use crate::cluster::{Client as ApiClient, ControlPlane, Reference};
use crate::harness::wait::within;

/// Limit for an answer at first. If a rule of the kernel refuses a process of the same host, the answer
/// comes with TCP's first retransmission, after a second.
const PATIENCE: Duration = Duration::from_millis(1_700);
/// Limit for an answer before an unexpected silence counts.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// Limit for the proxies to follow the API server.
const SYNC: Duration = Duration::from_secs(150);
/// Probability of having missed a host, below which a difference counts.
const DOUBT: f64 = 1e-9;
/// Maximum number of frontends that are dialled again because of a doubt. More are no accident.
const SECOND_LOOKS: usize = 60;

/// A frontend at which the sides do not answer as required.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    client: Client,
    frontend: Frontend,
    kube_proxy: AnswerSet,
    svclb: AnswerSet,
    problem: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, frontend, kube_proxy, svclb, problem } = self;
        write!(f, "{frontend} from the {client:?}: kube-proxy: {kube_proxy}; svclb: {svclb}")?;
        write!(f, " ({problem})")
    }
}

/// The result of comparing one world.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) placed: Placed,
    pub(crate) differences: Vec<Difference>,
    /// Number of frontends to which each exception applied.
    pub(crate) exceptions: BTreeMap<&'static str, usize>,
    /// Number of dialled frontends, of all clients together.
    pub(crate) frontends: usize,
    /// Number of those at which hosts answered svclb's clients.
    pub(crate) with_hosts: usize,
}

/// The API server and both nodes.
pub(crate) struct Stage {
    // Fields are dropped in this batch.
    sites: [Site; 2],
    plane: ControlPlane,
    blocks: u32,
    dice: ChaCha8Rng,
}

impl Stage {
    /// Starts all components. The arguments are added to those of svclb's agent.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let plane = ControlPlane::builder("oracle").without_controllers().start();
        plane.api().apply_all(&[render::node_object(false)]);
        let status = plane.api().patch_status(&Reference::node(NODE), &render::node_status());
        status.expect("the node's status can be written");
        let sites = Side::ALL.map(|side| Site::start(side, &plane, arguments));
        let mut stage = Self { sites, plane, blocks: 0, dice: ChaCha8Rng::seed_from_u64(0) };
        // kube-proxy 1.37 may miss the zone that the node has at its start (its handler is registered
        // after the first event), but it does not miss a change.
        let marker = stage.settle(false);
        remove(stage.plane.api(), &marker.namespace());
        stage
    }

    /// Writes worlds for both sides at once and compares the answers of each. Their nodes are either all
    /// in a zone or all in none.
    pub(crate) fn compare(&mut self, worlds: &[World]) -> Vec<Outcome> {
        let has_zone = worlds.iter().any(|world| world.has_zone);
        assert!(
            worlds.iter().all(|world| world.has_zone == has_zone),
            "all worlds of a batch must have the same zone"
        );
        let blocks: Vec<AddressBlock> = worlds.iter().map(|_| self.next_block()).collect();
        let namespaces: Vec<_> = blocks.iter().map(|block| render::namespace(*block)).collect();
        self.plane.api().apply_all(&namespaces);
        self.plane.api().apply_all(&[render::node_object(!has_zone)]);
        self.write(worlds, &blocks, When::Before);
        let first_marker = self.settle(!has_zone);
        self.plane.api().apply_all(&[render::node_object(has_zone)]);
        let placed = self.write(worlds, &blocks, When::Now);
        let marker = self.settle(has_zone);
        let mut observations: Vec<Observation> = placed.into_iter().map(Observation::new).collect();
        self.observe(&mut observations);
        for block in blocks.into_iter().chain([first_marker, marker]) {
            remove(self.plane.api(), &block.namespace());
        }
        observations.into_iter().map(Observation::outcome).collect()
    }

    fn next_block(&mut self) -> AddressBlock {
        self.blocks += 1;
        AddressBlock::new(self.blocks)
    }

    /// Writes the objects of the worlds at that time, and removes the slices that they no longer have.
    fn write(&self, worlds: &[World], blocks: &[AddressBlock], when: When) -> Vec<Placed> {
        let api = self.plane.api();
        let each = || worlds.iter().zip(blocks);
        let objects: Vec<_> =
            each().map(|(world, block)| render::objects(world, *block, when)).collect();
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
        for (world, block) in each() {
            let before = render::objects(world, *block, When::Before).slices;
            for removed_slice in before.iter().map(Reference::of).filter(|it| !slices.contains(it))
            {
                let removed = api.delete(&removed_slice, None);
                removed.unwrap_or_else(|error| panic!("cannot remove {removed_slice}: {error}"));
            }
        }
        let placed = |(world, block): (&World, &AddressBlock)| {
            let each = world.services.iter().zip(taken.by_ref());
            let allocated =
                each.map(|(service, object)| Allocated::read(&object, &service.ports)).collect();
            Placed { world: world.clone(), block: *block, allocated }
        };
        each().map(placed).collect()
    }

    /// Writes a marker after everything else, and waits until both sides serve it over both families and
    /// have seen the node's zone.
    fn settle(&mut self, has_zone: bool) -> AddressBlock {
        let (block, port) = (self.next_block(), 80);
        self.plane.api().apply_all(&render::marker_objects(block, port));
        for family in Family::ALL {
            let expected: Vec<Answer> = render::marker_hosts(block, family)
                .into_iter()
                .take(if has_zone { 1 } else { 2 })
                .map(|host| Answer::Host(SocketAddr::new(host, LISTENING[0])))
                .collect();
            let address = SocketAddr::new(block.cluster_ip(0, family), port);
            let kind = Kind::ClusterIp;
            let frontend = Frontend { service: 0, port: 0, kind, protocol: Tcp, address };
            for (site, side) in self.sites.iter().zip(Side::ALL) {
                let dice = &mut self.dice;
                let shown = within(SYNC, || {
                    let calls = [frontend; 24];
                    let answers = site.dial(Client::Pod, &calls, dice, PATIENCE);
                    let found = AnswerSet(answers.into_iter().collect());
                    if found.0 == expected.iter().cloned().collect() {
                        return Ok(());
                    }
                    Err(format!("{address} answers {found}, expected {expected:?}"))
                });
                if let Err(last) = shown {
                    panic!("{side:?} must follow the API server within {SYNC:?}: {last}");
                }
            }
        }
        block
    }

    /// Dials every frontend by every client on both sides, in two rounds ([`Placed::is_first`]).
    fn observe(&mut self, observations: &mut [Observation]) {
        for round in [Round::First, Round::Rest] {
            for observation in observations.iter_mut() {
                observation.round = round;
            }
            self.run_round(observations);
        }
    }

    /// Dials the frontends of this round until no answer is in doubt.
    fn run_round(&mut self, observations: &mut [Observation]) {
        if observations.iter().all(|observation| observation.due().next().is_none()) {
            return;
        }
        self.top_up(observations, |_, _, _| 2, PATIENCE);
        self.top_up(observations, Observation::probable_calls, PATIENCE);
        let wanted = doubtful_frontends(observations);
        self.top_up(
            observations,
            |observation, client, it| wanted.of(observation, client, it),
            PATIENCE,
        );
        // Answers that are still in doubt are discarded, and the frontends are dialled again with a long
        // limit.
        let wanted = doubtful_frontends(observations);
        for observation in observations.iter_mut() {
            let block = observation.placed.block;
            for (_, client, frontend) in wanted.0.keys().filter(|it| it.0 == block) {
                observation.answers.forget(*client, frontend);
            }
        }
        self.top_up(
            observations,
            |observation, client, it| wanted.of(observation, client, it),
            LONG_PATIENCE,
        );
    }

    /// Dials each frontend as often as is still missing to the wanted number of calls.
    fn top_up(
        &mut self,
        observations: &mut [Observation],
        wanted: impl Fn(&Observation, Client, &Frontend) -> usize,
        patience: Duration,
    ) {
        let mut batches = Vec::new();
        for (site, side) in self.sites.iter().zip(Side::ALL) {
            for client in Client::ALL {
                let mut calls = Vec::new();
                for (at, observation) in observations.iter().enumerate() {
                    for frontend in observation.due() {
                        let done = observation.answers.count(side, client, frontend);
                        let more = wanted(observation, client, frontend).saturating_sub(done);
                        calls.extend(std::iter::repeat_n((at, *frontend), more));
                    }
                }
                calls.shuffle(&mut self.dice);
                let dice = ChaCha8Rng::from_rng(&mut self.dice);
                batches.push(DialBatch { site, side, client, calls, dice });
            }
        }
        let found: Vec<_> = thread::scope(|scope| {
            let mut threads = Vec::new();
            for mut batch in batches {
                threads.push(scope.spawn(move || {
                    let answers = batch.dial(patience);
                    (batch.side, batch.client, batch.calls, answers)
                }));
            }
            threads.into_iter().map(|it| it.join().expect("the thread did not panic")).collect()
        });
        for (side, client, calls, answers) in found {
            for ((at, frontend), answer) in calls.into_iter().zip(answers) {
                observations[at].answers.add(side, client, frontend, answer);
            }
        }
    }
}

/// Calls of one client on one side.
struct DialBatch<'a> {
    site: &'a Site,
    side: Side,
    client: Client,
    /// Each frontend with the index of its observation.
    calls: Vec<(usize, Frontend)>,
    dice: ChaCha8Rng,
}

impl DialBatch<'_> {
    fn dial(&mut self, patience: Duration) -> Vec<Answer> {
        let frontends: Vec<Frontend> = self.calls.iter().map(|call| call.1).collect();
        self.site.dial(self.client, &frontends, &mut self.dice, patience)
    }
}

/// The round of an observation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Round {
    /// Frontends that have to be dialled first.
    First,
    /// All other frontends.
    Rest,
}

/// A world that is being observed.
struct Observation {
    placed: Placed,
    frontends: Vec<Frontend>,
    answers: Answers,
    round: Round,
}

impl Observation {
    fn new(placed: Placed) -> Self {
        let frontends = placed.frontends();
        Self { placed, frontends, answers: Answers::default(), round: Round::First }
    }

    /// Returns true if the frontend is dialled in this round.
    fn is_due(&self, frontend: &Frontend) -> bool {
        self.placed.is_first(frontend) == (self.round == Round::First)
    }

    /// The frontends of this round.
    fn due(&self) -> impl Iterator<Item = &Frontend> {
        self.frontends.iter().filter(|frontend| self.is_due(frontend))
    }

    fn cases(&self) -> impl Iterator<Item = Case<'_>> {
        let both = Client::ALL.into_iter();
        both.flat_map(move |client| {
            self.frontends.iter().map(move |frontend| Case {
                placed: &self.placed,
                answers: &self.answers,
                client,
                frontend,
            })
        })
    }

    /// Maximum number of hosts that may answer.
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

    /// Number of calls after which a difference would probably have shown.
    fn probable_calls(&self, client: Client, frontend: &Frontend) -> usize {
        let answers = Side::ALL.map(|side| self.answers.of(side, client, frontend));
        let has_hosts = answers.iter().any(AnswerSet::has_hosts);
        if has_hosts { 4 * self.hosts(frontend) + 4 } else { 0 }
    }

    /// Number of calls after which a host has been missed with a probability of less than DOUBT.
    fn certain_calls(&self, client: Client, frontend: &Frontend) -> usize {
        let answers = Side::ALL.map(|side| self.answers.of(side, client, frontend));
        if !answers.iter().any(AnswerSet::has_hosts) {
            return 4;
        }
        let hosts = f64::from(u32::try_from(self.hosts(frontend)).expect("few hosts"));
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
            let of = |side| self.answers.of(side, case.client, case.frontend);
            let verdict = case.judge();
            frontends += 1;
            with_hosts += usize::from(of(Side::Svclb).has_hosts());
            if let Some(name) = verdict.exception {
                *exceptions.entry(name).or_default() += 1;
            }
            if let Some(problem) = verdict.problem {
                differences.push(Difference {
                    client: case.client,
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

/// The number of calls that each doubtful frontend needs for certainty.
struct Rechecks(HashMap<(AddressBlock, Client, Frontend), usize>);

impl Rechecks {
    fn of(&self, observation: &Observation, client: Client, frontend: &Frontend) -> usize {
        self.0.get(&(observation.placed.block, client, *frontend)).copied().unwrap_or_default()
    }
}

/// The frontends of this round that have a problem so far, and those on which their judgement depends.
fn doubtful_frontends(observations: &[Observation]) -> Rechecks {
    let mut found = HashMap::new();
    let cases = observations
        .iter()
        .flat_map(|observation| observation.cases().map(move |case| (observation, case)));
    let due = cases.filter(|(observation, case)| observation.is_due(case.frontend));
    for (observation, case) in
        due.filter(|(_, case)| case.judge().problem.is_some()).take(SECOND_LOOKS)
    {
        let places = [vec![*case.frontend], case.depends_on()].concat();
        for place in places.into_iter().filter(|place| observation.is_due(place)) {
            let times = observation.certain_calls(case.client, &place);
            found.insert((observation.placed.block, case.client, place), times);
        }
    }
    Rechecks(found)
}

fn remove(api: &ApiClient, namespace: &str) {
    for (version, kind) in [("discovery.k8s.io/v1", "EndpointSlice"), ("v1", "Service")] {
        let removed = api.delete_all(version, kind, namespace, "");
        removed.unwrap_or_else(|error| panic!("cannot remove {kind}s of {namespace}: {error}"));
    }
}
