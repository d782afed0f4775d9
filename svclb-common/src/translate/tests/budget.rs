//! Lines of the mapped arrays and hash maps that each path of the datapath touches. Each line is a
//! cache line that may be far away, each hash map some more: these are the figures that do not depend on
//! a machine.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::vec::Vec;

use super::maps::{Client, MemoryMaps, PLACES, peer, socket};
use super::*;

/// Maps that note what is touched.
struct Noting<'a> {
    maps: &'a MemoryMaps,
    lines: RefCell<BTreeSet<(&'static str, u32)>>,
    hashes: RefCell<Vec<&'static str>>,
}

/// Numbers of lines of arrays, and of calls of hash maps.
type Touched = (usize, usize);

impl Noting<'_> {
    fn line_of(&self, map: &'static str, number: u32) {
        self.lines.borrow_mut().insert((map, number));
    }

    fn hash(&self, map: &'static str) {
        self.hashes.borrow_mut().push(map);
    }
}

/// Counts the lines and maps that a call touches.
fn touched<R>(maps: &MemoryMaps, call: impl FnOnce(&Noting<'_>) -> R) -> Touched {
    let noting = Noting { maps, lines: RefCell::default(), hashes: RefCell::default() };
    call(&noting);
    (noting.lines.borrow().len(), noting.hashes.borrow().len())
}

impl Lookup for Noting<'_> {
    fn seed(&self) -> u64 {
        self.maps.seed()
    }
    fn index_lines(&self) -> u32 {
        self.maps.index_lines()
    }
    fn origins(&self) -> u32 {
        self.maps.origins()
    }
    fn line(&self, number: u32) -> Option<Shared<'_, Line>> {
        self.line_of("svclb_index", number);
        self.maps.line(number)
    }
    fn slot(&self, number: u32) -> Option<Shared<'_, Slot>> {
        self.line_of("svclb_slots", number);
        self.maps.slot(number)
    }
    fn origin(&self, place: u32) -> Option<Shared<'_, Origin>> {
        self.line_of("svclb_origins", place);
        self.maps.origin(place)
    }
    fn backend(&self, key: &BackendKey) -> Option<BackendRow> {
        self.hash("svclb_backends");
        self.maps.backend(key)
    }
    fn overflow(&self, cookie: SocketCookie) -> Option<Shared<'_, Overflow>> {
        self.hash("svclb_overflow");
        self.maps.overflow(cookie)
    }
    fn add_overflow(&self, cookie: SocketCookie) -> bool {
        self.hash("svclb_overflow");
        self.maps.add_overflow(cookie)
    }
    fn remove_overflow(&self, cookie: SocketCookie) -> bool {
        self.hash("svclb_overflow");
        self.maps.remove_overflow(cookie)
    }
    fn overflow_capacity(&self) -> u32 {
        self.maps.overflow_capacity()
    }
    fn client(&self, key: u32) -> Option<Shared<'_, ClientRow>> {
        self.hash("svclb_clients");
        self.maps.client(key)
    }
    fn add_client(&self, key: u32) {
        self.hash("svclb_clients");
        self.maps.add_client(key);
    }
    fn affinity(&self, key: &AffinityKey) -> Option<Shared<'_, AffinityRow>> {
        self.hash("svclb_affinity");
        self.maps.affinity(key)
    }
    fn affinity_capacity(&self) -> u32 {
        self.maps.affinity_capacity()
    }
    fn store_affinity(&self, key: &AffinityKey, row: &AffinityRow, is_new: bool) -> bool {
        self.hash("svclb_affinity");
        self.maps.store_affinity(key, row, is_new)
    }
    fn host(&self) -> NetnsCookie {
        self.maps.host()
    }
    fn now(&self) -> u64 {
        self.maps.now()
    }
    fn random(&self) -> u32 {
        self.maps.random()
    }
    fn count(&self, what: Counter) {
        self.maps.count(what);
    }
}

#[test]
fn each_path_touches_no_more_than_it_must() {
    const SERVICE: &str = "10.96.0.10:80";
    const SECOND: &str = "10.96.0.11:80";
    const EMPTY: &str = "10.96.0.12:80";
    const KEPT: &str = "10.96.0.13:80";
    let maps = MemoryMaps::small();
    maps.service_of(1, Protocol::Udp, SERVICE, &["10.244.0.1:80", "10.244.0.2:80"]);
    maps.service_of(2, Protocol::Udp, SECOND, &["10.244.0.3:80"]);
    maps.service_of(3, Protocol::Udp, EMPTY, &[]);
    let (service, other) = (peer(SERVICE), peer("192.0.2.7:80"));
    let (second, empty) = (peer(SECOND), peer(EMPTY));
    let caller = |cookie| socket(cookie, Protocol::Udp);
    // One that has dialled the Service, and one that has sent to it.
    let Verdict::Rewrite(given) = connect(&maps, &caller(1), &service) else { panic!("refused") };
    let Verdict::Rewrite(sent) = sendmsg(&maps, &caller(2), &service) else { panic!("refused") };

    // The first Service of this one has its place of the origins, the second a record of the overflow.
    sendmsg(&maps, &caller(8), &service);
    let Verdict::Rewrite(further) = sendmsg(&maps, &caller(8), &second) else { panic!("refused") };
    let to_second = |it: &Noting<'_>| sendmsg(it, &caller(8), &second);

    // The place of this one is another's. Its client has entries in the overflow already.
    let taken = |it: &Noting<'_>| connect(it, &caller(8 + u64::from(PLACES)), &service);
    connect(&maps, &caller(8 + 2 * u64::from(PLACES)), &service);

    // One with affinity, and a client that has a backend there.
    let line = maps.service_of(4, Protocol::Udp, KEPT, &["10.244.0.4:80", "10.244.0.5:80"]);
    maps.line(line).unwrap().set_affinity_seconds(10);
    let (kept, of) = (peer(KEPT), |namespace, cookie| Client { namespace, socket: caller(cookie) });
    connect(&maps, &of(50, 12), &kept);
    let again = |it: &Noting<'_>| connect(it, &of(50, 13), &kept);
    connect(&maps, &of(51, 14), &service);
    let first = |it: &Noting<'_>| connect(it, &of(51, 15), &kept);

    let rows: [(&str, Touched, Touched); 16] = [
        // Index, slot, origin.
        ("connect to a Service", touched(&maps, |it| connect(it, &caller(3), &service)), (3, 0)),
        ("connect to what is none", touched(&maps, |it| connect(it, &caller(4), &other)), (1, 0)),
        (
            "connect to one without backends",
            touched(&maps, |it| connect(it, &caller(9), &empty)),
            (1, 0),
        ),
        ("connect to a backend", touched(&maps, |it| connect(it, &caller(5), &given)), (2, 0)),
        // Index, origin.
        ("send again", touched(&maps, |it| sendmsg(it, &caller(2), &service)), (2, 0)),
        // The overflow too: whether the socket is connected, and for the record.
        ("send again to a second Service", touched(&maps, to_second), (2, 2)),
        ("send to what is none", touched(&maps, |it| sendmsg(it, &caller(6), &other)), (1, 0)),
        // Origin.
        ("receive", touched(&maps, |it| recvmsg(it, 2, &sent)), (1, 0)),
        ("receive from a second Service", touched(&maps, |it| recvmsg(it, 8, &further)), (1, 1)),
        ("getpeername", touched(&maps, |it| getpeername(it, 1, &given)), (1, 0)),
        // The overflow: for an entry that is void, for one to write, to make it, for it. The client's
        // count and that of all clients.
        ("connect where the place is taken", touched(&maps, taken), (3, 6)),
        // The entry, its end, and both counts.
        (
            "release where the place was taken",
            touched(&maps, |it| release(it, 8 + u64::from(PLACES))),
            (1, 4),
        ),
        // Index, origin; the client's row of affinity.
        ("connect by affinity", touched(&maps, again), (2, 1)),
        // The row, the counts of this client (made for it) and of all, and the row is stored.
        ("first connect with affinity", touched(&maps, first), (3, 6)),
        ("release", touched(&maps, |it| release(it, 1)), (1, 0)),
        ("release of one that dialled none", touched(&maps, |it| release(it, 7)), (1, 0)),
    ];
    for (name, found, most) in rows {
        assert!(found.0 <= most.0 && found.1 <= most.1, "{name}: {found:?}, at most {most:?}");
    }
}
