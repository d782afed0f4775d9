//! The answer of the connect hook to a client, found by running the hook's own code over the maps in use. Nothing
//! is written to a map: what the hook would write goes to copies of the rows, which are dropped.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::time::{ClockId, clock_gettime};
use svclb_common::cookie::{NetnsCookie, SocketCookie};
use svclb_common::layout::{
    Address, AffinityKey, AffinityRow, BackendKey, BackendRow, ClientRow, Line, Origin, Overflow,
    Protocol, Slot,
};
use svclb_common::shared::Shared;
use svclb_common::translate::{self, Caller, Counter, Lookup, Peer, Verdict};
use svclb_core::table::{MapName, TableError};

use super::{Maps, Rows};
use crate::pins::Pins;
use crate::pins::places::Places;

/// The most looks at a set that the agent replaces meanwhile.
const TRIES: usize = 3;

/// A client whose connect is rehearsed: a new socket that no process of the agent made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client {
    /// Cookie of its network namespace.
    pub netns: NetnsCookie,
    /// Cookie of the host's network namespace, as the programs know it.
    pub host: NetnsCookie,
}

/// What a connect would get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is left alone.
    LeftAlone,
    /// It is refused.
    Refused,
    /// It gets one of the set's backends at random. This one was drawn.
    Drawn(SocketAddr),
    /// It gets the backend that the client keeps by session affinity, last used so long ago.
    Kept(SocketAddr, Duration),
}

/// The maps, for rehearsals.
pub struct Rehearsal<'a> {
    maps: &'a Maps,
    affinity: Rows<AffinityKey, AffinityRow>,
}

impl<'a> Rehearsal<'a> {
    /// Opens what is needed beside `maps`, which are those in use.
    ///
    /// # Errors
    /// When a map cannot be opened.
    pub fn open(pins: &Pins, maps: &'a Maps) -> Result<Self> {
        let affinity = Rows::open(MapName::Affinity, &Places::current(pins))?;
        Ok(Self { maps, affinity })
    }

    /// Rehearses a connect.
    ///
    /// # Errors
    /// When a map cannot be read, or changes faster than it is read.
    pub fn connect(
        &self,
        client: Client,
        protocol: Protocol,
        dialled: SocketAddr,
    ) -> Result<Answer> {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(io::Error::from)?);
        for random in (1..=TRIES).map(|at| u32::MAX / u32::try_from(at).unwrap_or(1)) {
            let run = Run {
                with: self,
                host: client.host,
                now,
                random,
                slots: RefCell::default(),
                kept: RefCell::default(),
                used: Cell::default(),
                is_affine: Cell::default(),
                is_torn: Cell::default(),
                failed: RefCell::default(),
            };
            let address = Address::from(dialled.ip()).words();
            let dialled = Peer { address, port: dialled.port() };
            let verdict = translate::connect(&run, &Dialler { client, protocol }, &dialled);
            if let Some(error) = run.failed.take() {
                return Err(error.into());
            }
            if !run.is_torn.get() {
                return Ok(run.answer(verdict));
            }
        }
        bail!("the backends change faster than they are read")
    }
}

/// The socket of a client.
struct Dialler {
    client: Client,
    protocol: Protocol,
}

impl Caller for Dialler {
    fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// No socket has it.
    fn cookie(&self) -> SocketCookie {
        SocketCookie(0)
    }

    fn client(&self) -> NetnsCookie {
        self.client.netns
    }

    fn client_key(&self) -> u32 {
        0
    }

    /// So no record is made.
    fn is_released(&self) -> bool {
        false
    }

    fn is_connected_to(&self, _: &Peer) -> bool {
        false
    }

    fn is_on_loopback(&self) -> bool {
        false
    }
}

/// One connect: the maps as it meets them.
struct Run<'a> {
    with: &'a Rehearsal<'a>,
    host: NetnsCookie,
    now: Duration,
    random: u32,
    /// Copies of the rows that were read. Boxed, since the translation goes on reading one while it reads others.
    slots: Copies<Slot>,
    kept: Copies<AffinityRow>,
    /// When the client's row of affinity was used last, nanoseconds of the monotonic clock.
    used: Cell<u64>,
    is_affine: Cell<bool>,
    is_torn: Cell<bool>,
    failed: RefCell<Option<TableError>>,
}

type Copies<T> = RefCell<Vec<Box<UnsafeCell<T>>>>;

impl Run<'_> {
    fn answer(&self, verdict: Verdict) -> Answer {
        match verdict {
            Verdict::Leave => Answer::LeftAlone,
            Verdict::Refuse => Answer::Refused,
            Verdict::Rewrite(Peer { address, port }) => {
                let given = SocketAddr::new(Address::from_words(address).ip(), port);
                if self.is_affine.get() {
                    let used = Duration::from_nanos(self.used.get());
                    Answer::Kept(given, self.now.saturating_sub(used))
                } else {
                    Answer::Drawn(given)
                }
            }
        }
    }

    /// A row; none where there is none, or where it cannot be read, which is noted.
    fn read<T>(&self, read: Result<Option<T>, TableError>) -> Option<T> {
        read.unwrap_or_else(|error| {
            *self.failed.borrow_mut() = Some(error);
            None
        })
    }
}

/// Keeps a row, and hands it out.
fn keep<T>(copies: &Copies<T>, row: T) -> Shared<'_, T> {
    let row = Box::new(UnsafeCell::new(row));
    let at = row.get();
    copies.borrow_mut().push(row);
    // SAFETY: the row is boxed and stays as long as `copies`, and only `Shared` accesses it.
    unsafe { Shared::new(at) }
}

impl Lookup for Run<'_> {
    fn seed(&self) -> u64 {
        self.with.maps.geometry.seed
    }

    fn index_lines(&self) -> u32 {
        self.with.maps.geometry.index_lines
    }

    fn origins(&self) -> u32 {
        self.with.maps.geometry.origins
    }

    /// A line as it is in the map: a connect does not write it.
    fn line(&self, number: u32) -> Option<Shared<'_, Line>> {
        self.with.maps.index.get(number)
    }

    fn slot(&self, number: u32) -> Option<Shared<'_, Slot>> {
        let slot = self.read(self.with.maps.slots.get(&number))?;
        Some(keep(&self.slots, slot))
    }

    /// A new socket has no origin.
    fn origin(&self, _: u32) -> Option<Shared<'_, Origin>> {
        None
    }

    fn backend(&self, key: &BackendKey) -> Option<BackendRow> {
        self.read(self.with.maps.backends.get(key))
    }

    fn overflow(&self, _: SocketCookie) -> Option<Shared<'_, Overflow>> {
        None
    }

    fn add_overflow(&self, _: SocketCookie) -> bool {
        false
    }

    fn remove_overflow(&self, _: SocketCookie) -> bool {
        false
    }

    fn overflow_capacity(&self) -> u32 {
        0
    }

    /// Nothing is counted for a client. Without a row it gets no share of affinity, which changes no answer.
    fn client(&self, _: u32) -> Option<Shared<'_, ClientRow>> {
        None
    }

    fn add_client(&self, _: u32) {}

    fn affinity(&self, key: &AffinityKey) -> Option<Shared<'_, AffinityRow>> {
        let row = self.read(self.with.affinity.get(key))?;
        self.used.set(row.used);
        Some(keep(&self.kept, row))
    }

    fn affinity_capacity(&self) -> u32 {
        self.with.affinity.capacity
    }

    /// Stores nothing, and says that it did: the connect goes on as after a store.
    fn store_affinity(&self, _: &AffinityKey, _: &AffinityRow, _: bool) -> bool {
        true
    }

    fn host(&self) -> NetnsCookie {
        self.host
    }

    fn now(&self) -> u64 {
        u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX)
    }

    fn random(&self) -> u32 {
        self.random
    }

    fn count(&self, what: Counter) {
        match what {
            Counter::Affine => self.is_affine.set(true),
            Counter::Torn => self.is_torn.set(true),
            _ => {}
        }
    }
}
