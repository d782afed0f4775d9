//! The answers that each address may give, by version of the Services. A client's answer is right if it
//! was valid at some version between the one that the maps held for certain when the client began and
//! the one that was written when it ended.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;
use svclb_tests::{Backend, Protocol, Socket, Tcp, Udp, World, at};

/// Number of Services. The first one of each protocol always has a backend.
pub(crate) const SERVICES: usize = 6;
const PERMANENT: usize = 2;
/// Two addresses, one per protocol, that move between Services.
const MOVING: [&str; 2] = ["10.96.1.1", "10.96.1.2"];

pub(crate) fn protocol(service: usize) -> Protocol {
    if service.is_multiple_of(2) { Tcp } else { Udp }
}

fn own_address(service: usize) -> String {
    format!("10.96.0.{}", service + 1)
}

/// All addresses that are ever dialled.
pub(crate) fn addresses() -> Vec<(Protocol, String)> {
    let own = (0..SERVICES).flat_map(|service| {
        [80, 81].map(|port| (protocol(service), format!("{}:{port}", own_address(service))))
    });
    let moving = MOVING.iter().zip([Tcp, Udp]).map(|(ip, protocol)| (protocol, format!("{ip}:80")));
    own.chain(moving).collect()
}

/// A Service as in its file.
#[derive(Clone, PartialEq, Eq)]
struct Service {
    /// Bit mask of its backends.
    backends: usize,
    has_second_port: bool,
    has_moving_address: bool,
}

/// The answers that are valid at an address.
#[derive(Clone, PartialEq, Eq, Debug)]
struct State {
    backends: BTreeSet<String>,
    refuses: bool,
    is_left_alone: bool,
}

type Key = (Protocol, String);

/// The Services and their history.
pub(crate) struct Chronicle<'a> {
    world: &'a World,
    pools: &'a [Vec<Backend>],
    services: Mutex<[Option<Service>; SERVICES]>,
    /// For each address, its states and the version since which each holds.
    states: RwLock<BTreeMap<String, Vec<(u64, State)>>>,
    /// The latest version that an agent may have read from the files.
    version: AtomicU64,
    /// The maps hold at least this version.
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
            let service = Service {
                backends: 0b0011,
                has_second_port: true,
                has_moving_address: number < PERMANENT,
            };
            chronicle.put(number, Some(service));
        }
        chronicle
    }

    /// The version of the files.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Records that an agent which began with this version has written all of it.
    pub(crate) fn mark_written(&self, version: u64) {
        self.written.fetch_max(version, Ordering::AcqRel);
    }

    /// Records that an agent which began with the latest version is ready.
    pub(crate) fn mark_settled(&self) {
        self.mark_written(self.version());
    }

    /// Ends the moves of both addresses.
    pub(crate) fn end(&self) {
        for kind in 0..MOVING.len() {
            self.leave_to_one_claimant(kind);
        }
    }

    /// Makes a random change.
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
            return self.put(
                number,
                Some(Service { backends, has_second_port, has_moving_address: false }),
            );
        };
        match random.random_range(0..8) {
            0 if !is_permanent => self.put(number, None),
            // Another Service claims the address too; then the previous owner gives it up.
            1 | 2 if !old.has_moving_address => {
                self.leave_to_one_claimant(number % 2);
                self.put(number, Some(Service { has_moving_address: true, ..old }));
            }
            3 | 4 => self.leave_to_one_claimant(number % 2),
            5 => self.put(number, Some(Service { has_second_port, ..old })),
            _ => self.put(number, Some(Service { backends, ..old })),
        }
    }

    /// Removes the claims to the moving address from all Services but one.
    fn leave_to_one_claimant(&self, kind: usize) {
        let services = self.services.lock().unwrap().clone();
        let of_kind = (kind..SERVICES).step_by(MOVING.len());
        let mut owners: Vec<usize> = of_kind
            .filter(|number| services[*number].as_ref().is_some_and(|it| it.has_moving_address))
            .collect();
        // The version decides whether the older or the younger Service keeps it.
        if self.version().is_multiple_of(2) {
            owners.reverse();
        }
        for number in owners.into_iter().skip(1) {
            let service =
                services[number].clone().map(|it| Service { has_moving_address: false, ..it });
            self.put(number, service);
        }
    }

    /// Records a change and then makes it.
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
        if service.has_moving_address {
            // Its second port is also served there, but no client dials it.
            builder = builder.external_ip(MOVING[number % 2]);
        }
        builder = builder.port(80, protocol(number)).backends(backends.clone());
        if service.has_second_port {
            builder = builder.port(81, protocol(number)).backends(backends);
        }
        builder.write();
    }

    fn state(&self, services: &[Option<Service>; SERVICES], key: &Key) -> State {
        let mut state = State { backends: BTreeSet::new(), refuses: false, is_left_alone: true };
        for (number, service) in services.iter().enumerate() {
            let Some(service) = service.as_ref().filter(|_| protocol(number) == key.0) else {
                continue;
            };
            let own = own_address(number);
            let is_served = key.1 == format!("{own}:80")
                || service.has_second_port && key.1 == format!("{own}:81")
                || service.has_moving_address && key.1 == format!("{}:80", MOVING[number % 2]);
            if !is_served {
                continue;
            }
            state.is_left_alone = false;
            state.refuses |= service.backends == 0;
            let names = (0..4).filter(|bit| service.backends >> bit & 1 == 1);
            state.backends.extend(names.map(|bit| format!("s{number}-{bit}")));
        }
        state
    }

    /// Returns the version that the maps hold for certain, when a client begins.
    pub(crate) fn begin(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Checks the answer that a client which began at version `window` has got.
    pub(crate) fn check(
        &self,
        window: u64,
        protocol: Protocol,
        to: &str,
        answer: io::Result<String>,
    ) {
        let until = self.version();
        let states = self.states.read().unwrap();
        let known = &states[&name(&(protocol, to.to_owned()))];
        let first = known.partition_point(|(since, _)| *since <= window).saturating_sub(1);
        let known: Vec<_> = known[first..].iter().filter(|(since, _)| *since <= until).collect();
        let is_right = known.iter().any(|(_, state)| match &answer {
            Ok(name) => state.backends.contains(name),
            Err(error) => match error.raw_os_error() {
                Some(libc::ECONNREFUSED) => state.refuses,
                // Left alone, and so prohibited by the route.
                Some(libc::EACCES) => state.is_left_alone,
                _ => false,
            },
        });
        assert!(
            is_right,
            "{to}/{} gave {answer:?}, expected an answer of versions {window} to {until}: {known:#?}",
            protocol.name(),
        );
    }
}

/// Connects, checks the peer's address, and returns the name of the backend.
pub(crate) fn by_connect(world: &World, protocol: Protocol, to: &str) -> io::Result<String> {
    world.dial(protocol, to).and_then(|socket| {
        assert_eq!(socket.peer()?, at(to), "the peer's name");
        socket.request()
    })
}

/// Sends a request from an unconnected socket, checks the source address of the response, and returns
/// the name of the backend.
pub(crate) fn by_send(socket: &Socket, to: &str) -> io::Result<String> {
    socket.request_to(to).map(|answer| {
        assert_eq!(answer.from, at(to), "the source of {}'s reply", answer.backend);
        answer.backend
    })
}

fn name((protocol, address): &Key) -> String {
    format!("{address}/{}", protocol.name())
}
