//! What every address should answer, by version of the Services: a client is right when what it met was
//! so at some time between what the maps held for sure when it began and what was written when it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;
use svclb_tests::{Backend, Protocol, Socket, Tcp, Udp, World, at};

/// How many Services there are. The first of each protocol is never without a backend.
pub(crate) const SERVICES: usize = 6;
const PERMANENT: usize = 2;
/// One address of each protocol that passes from Service to Service.
const PASSED: [&str; 2] = ["10.96.1.1", "10.96.1.2"];

pub(crate) fn protocol(service: usize) -> Protocol {
    if service.is_multiple_of(2) { Tcp } else { Udp }
}

fn own_address(service: usize) -> String {
    format!("10.96.0.{}", service + 1)
}

/// All that is ever dialled.
pub(crate) fn addresses() -> Vec<(Protocol, String)> {
    let own = (0..SERVICES).flat_map(|service| {
        [80, 81].map(|port| (protocol(service), format!("{}:{port}", own_address(service))))
    });
    let passed = PASSED.iter().zip([Tcp, Udp]).map(|(ip, protocol)| (protocol, format!("{ip}:80")));
    own.chain(passed).collect()
}

/// A Service as its file says.
#[derive(Clone, PartialEq, Eq)]
struct Service {
    /// Which of its backends, by bits.
    backends: usize,
    has_second_port: bool,
    has_passed: bool,
}

/// What a client may meet at an address.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    backends: BTreeSet<String>,
    refuses: bool,
    is_nobodys: bool,
}

type Key = (Protocol, String);

/// The Services, and all that they ever were.
pub(crate) struct Chronicle<'a> {
    world: &'a World,
    pools: &'a [Vec<Backend>],
    services: Mutex<[Option<Service>; SERVICES]>,
    /// Each state with the version since which it is so.
    states: RwLock<BTreeMap<String, Vec<(u64, State)>>>,
    /// The latest version that may have been read from the files.
    version: AtomicU64,
    /// What the maps hold is at least of this version.
    written: AtomicU64,
}

impl<'a> Chronicle<'a> {
    pub(crate) fn new(world: &'a World, pools: &'a [Vec<Backend>]) -> Self {
        let chronicle = Self {
            world,
            pools,
            services: Mutex::default(),
            states: RwLock::default(),
            version: AtomicU64::new(0),
            written: AtomicU64::new(0),
        };
        for number in 0..SERVICES {
            let service =
                Service { backends: 0b0011, has_second_port: true, has_passed: number < PERMANENT };
            chronicle.put(number, Some(service));
        }
        chronicle
    }

    /// The version that the files have.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// An agent that began with this version has written all of it.
    pub(crate) fn written(&self, version: u64) {
        self.written.fetch_max(version, Ordering::AcqRel);
    }

    /// An agent is ready that began with the latest version.
    pub(crate) fn settled(&self) {
        self.written(self.version());
    }

    /// Brings what is between two owners to its end.
    pub(crate) fn end(&self) {
        for kind in 0..PASSED.len() {
            self.leave_to_one(kind);
        }
    }

    /// Some change.
    pub(crate) fn change(&self, random: &mut ChaCha8Rng) {
        let number = random.random_range(0..SERVICES);
        let old = self.services.lock().unwrap()[number].clone();
        let is_permanent = number < PERMANENT;
        let backends = match random.random_range(0..16) {
            0 if is_permanent => 0b1111,
            backends => backends,
        };
        let has_second_port = random.random_range(0..3) != 0;
        let Some(old) = old else {
            return self
                .put(number, Some(Service { backends, has_second_port, has_passed: false }));
        };
        match random.random_range(0..8) {
            0 if !is_permanent => self.put(number, None),
            // The address has two who ask for it; then the one who had it gives it up.
            1 | 2 if !old.has_passed => {
                self.leave_to_one(number % 2);
                self.put(number, Some(Service { has_passed: true, ..old }));
            }
            3 | 4 => self.leave_to_one(number % 2),
            5 => self.put(number, Some(Service { has_second_port, ..old })),
            _ => self.put(number, Some(Service { backends, ..old })),
        }
    }

    /// Takes the address that is passed from all but one of those who ask for it.
    fn leave_to_one(&self, kind: usize) {
        let services = self.services.lock().unwrap().clone();
        let of_kind = (kind..SERVICES).step_by(PASSED.len());
        let mut owners: Vec<usize> = of_kind
            .filter(|number| services[*number].as_ref().is_some_and(|it| it.has_passed))
            .collect();
        // Sometimes the elder, sometimes the younger: whoever has the even version.
        if self.version().is_multiple_of(2) {
            owners.reverse();
        }
        for number in owners.into_iter().skip(1) {
            let service = services[number].clone().map(|it| Service { has_passed: false, ..it });
            self.put(number, service);
        }
    }

    /// Notes a change, and then makes it.
    fn put(&self, number: usize, service: Option<Service>) {
        let mut services = self.services.lock().unwrap();
        let old = std::mem::replace(&mut services[number], service.clone());
        if old == service {
            return;
        }
        let version = self.version() + 1;
        let mut states = self.states.write().unwrap();
        for key in addresses() {
            let now = self.state(&services, &key);
            let known = states.entry(name(&key)).or_default();
            if known.last().is_none_or(|(_, last)| *last != now) {
                known.push((version, now));
            }
        }
        self.version.store(version, Ordering::Release);
        drop(states);
        match service {
            Some(service) => self.write(number, &service),
            None => self.world.remove(&format!("default/s{number}")),
        }
    }

    fn write(&self, number: usize, service: &Service) {
        let pool = self.pools[number].iter().enumerate();
        let backends: Vec<&Backend> =
            pool.filter(|(bit, _)| service.backends >> bit & 1 == 1).map(|(_, it)| it).collect();
        let mut builder = self.world.service(&format!("default/s{number}"));
        builder = builder.cluster_ip(&own_address(number));
        if service.has_passed {
            // Its second port is asked for there too, by nobody who dials.
            builder = builder.external_ip(PASSED[number % 2]);
        }
        builder = builder.port(80, protocol(number)).backends(backends.clone());
        if service.has_second_port {
            builder = builder.port(81, protocol(number)).backends(backends);
        }
        builder.write();
    }

    fn state(&self, services: &[Option<Service>; SERVICES], key: &Key) -> State {
        let mut state = State { backends: BTreeSet::new(), refuses: false, is_nobodys: true };
        for (number, service) in services.iter().enumerate() {
            let Some(service) = service.as_ref().filter(|_| protocol(number) == key.0) else {
                continue;
            };
            let own = own_address(number);
            let is_asked = key.1 == format!("{own}:80")
                || service.has_second_port && key.1 == format!("{own}:81")
                || service.has_passed && key.1 == format!("{}:80", PASSED[number % 2]);
            if !is_asked {
                continue;
            }
            state.is_nobodys = false;
            state.refuses |= service.backends == 0;
            let names = (0..4).filter(|bit| service.backends >> bit & 1 == 1);
            state.backends.extend(names.map(|bit| format!("s{number}-{bit}")));
        }
        state
    }

    /// A client begins.
    pub(crate) fn begin(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// A client that began there has met this.
    pub(crate) fn check(&self, window: u64, protocol: Protocol, to: &str, met: io::Result<String>) {
        let until = self.version();
        let states = self.states.read().unwrap();
        let known = &states[&name(&(protocol, to.to_owned()))];
        let first = known.partition_point(|(since, _)| *since <= window).saturating_sub(1);
        let known: Vec<_> = known[first..].iter().filter(|(since, _)| *since <= until).collect();
        let is_right = known.iter().any(|(_, state)| match &met {
            Ok(name) => state.backends.contains(name),
            Err(error) => match error.raw_os_error() {
                Some(libc::ECONNREFUSED) => state.refuses,
                // Left alone, and so prohibited by the route.
                Some(libc::EACCES) => state.is_nobodys,
                _ => false,
            },
        });
        assert!(
            is_right,
            "{to}/{} met {met:?}, with versions {window} to {until}: {known:#?}",
            protocol.name(),
        );
    }
}

/// Who answers a new connection, whose peer has the name that was dialled.
pub(crate) fn by_connect(world: &World, protocol: Protocol, to: &str) -> io::Result<String> {
    world.dial(protocol, to).and_then(|socket| {
        assert_eq!(socket.peer()?, at(to), "the peer's name");
        socket.request()
    })
}

/// Who answers a send of an unconnected socket, as what was dialled.
pub(crate) fn by_send(socket: &Socket, to: &str) -> io::Result<String> {
    socket.request_to(to).map(|answer| {
        assert_eq!(answer.from, at(to), "the source of {}'s reply", answer.backend);
        answer.backend
    })
}

fn name((protocol, address): &Key) -> String {
    format!("{address}/{}", protocol.name())
}
