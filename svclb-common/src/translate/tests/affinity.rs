//! Session affinity: who keeps which backend, for how long, and what a stranger's row does.

use super::maps::{Client, HOST, MemoryMaps, peer};
use super::*;
use crate::layout::AffinityRow;
use crate::translate::affinity::seal;
use std::collections::HashSet;
use std::format;
use std::string::String;

const SECOND: u64 = 1_000_000_000;
const VIP: &str = "10.96.0.10:80";

/// Addresses of this many backends of one service.
fn pods(count: u8) -> Vec<String> {
    (1..=count).map(|n| format!("10.244.0.{n}:8080")).collect()
}

/// Maps with a service of id 1 at [`VIP`], its backends and timeout; and its line.
fn world(backends: u8, seconds: u32) -> (MemoryMaps, u32) {
    let maps = MemoryMaps::small();
    let line = add(&maps, 1, VIP, backends, seconds);
    (maps, line)
}

fn add(maps: &MemoryMaps, id: u32, frontend: &str, backends: u8, seconds: u32) -> u32 {
    let pods = pods(backends);
    let line = maps.service(id, frontend, &pods.iter().map(String::as_str).collect::<Vec<_>>());
    maps.line(line).unwrap().set_affinity_seconds(seconds);
    line
}

fn flip(maps: &MemoryMaps, line: u32, backends: &[Peer]) {
    let text = |peer: &Peer| format!("{}:{}", Address::from_words(peer.address), peer.port);
    let texts: Vec<String> = backends.iter().map(text).collect();
    maps.flip(line, &texts.iter().map(String::as_str).collect::<Vec<_>>());
}

fn client(namespace: u64, cookie: u64) -> Client {
    Client { namespace, socket: Socket { cookie: SocketCookie(cookie), protocol: Protocol::Tcp } }
}

/// A new connection, closed again.
fn dial(maps: &MemoryMaps, namespace: u64, to: &str) -> Peer {
    let verdict = connect(maps, &client(namespace, 1), &peer(to));
    release(maps, 1);
    match verdict {
        Verdict::Rewrite(given) => given,
        other => panic!("{other:?}"),
    }
}

fn after(maps: &MemoryMaps, nanoseconds: u64) {
    maps.clock.set(maps.clock.get() + nanoseconds);
}

#[test]
fn each_client_keeps_its_own_backend_and_all_backends_have_clients() {
    let (maps, _) = world(8, 10);
    let first: Vec<Peer> = (0..200).map(|client| dial(&maps, client, VIP)).collect();
    for _ in 0..5 {
        for (client, backend) in (0..).zip(&first) {
            assert_eq!(dial(&maps, client, VIP), *backend, "client {client}");
        }
    }
    assert_eq!(first.iter().map(|it| it.address).collect::<HashSet<_>>().len(), 8);
    assert_eq!((maps.counted(Counter::Translated), maps.counted(Counter::Affine)), (200, 1000));
}

#[test]
fn without_affinity_nothing_is_kept_and_no_namespace_is_asked_for() {
    struct Nameless(Socket);
    impl Caller for Nameless {
        fn protocol(&self) -> Protocol {
            self.0.protocol
        }
        fn cookie(&self) -> SocketCookie {
            self.0.cookie
        }
        fn client(&self) -> NetnsCookie {
            panic!("asked for the client")
        }
        fn client_key(&self) -> u32 {
            panic!("asked for the client")
        }
        fn is_released(&self) -> bool {
            true
        }
        fn is_connected_to(&self, _: &Peer) -> bool {
            false
        }
        fn is_on_loopback(&self) -> bool {
            false
        }
    }
    let (maps, _) = world(8, 0);
    for _ in 0..50 {
        let verdict = connect(&maps, &Nameless(client(1, 1).socket), &peer(VIP));
        assert!(matches!(verdict, Verdict::Rewrite(_)), "{verdict:?}");
    }
    assert_eq!((maps.affinities().len(), maps.counted(Counter::Affine)), (0, 0));
}

#[test]
fn the_timeout_is_exact_and_counts_from_the_latest_new_connection() {
    let rows = [
        ("at once", 0, true),
        ("the last nanosecond", 10 * SECOND - 1, true),
        ("the timeout itself", 10 * SECOND, false),
        ("long after", 1000 * SECOND, false),
    ];
    for (row, pause, is_kept) in rows {
        let (maps, _) = world(8, 10);
        let clients = 0..200;
        let first: Vec<Peer> = clients.clone().map(|client| dial(&maps, client, VIP)).collect();
        after(&maps, pause);
        let second: Vec<Peer> = clients.map(|client| dial(&maps, client, VIP)).collect();
        let same = first.iter().zip(&second).filter(|(one, two)| one == two).count();
        assert_eq!(maps.counted(Counter::Affine), if is_kept { 200 } else { 0 }, "{row}");
        assert_eq!(same == 200, is_kept, "{row}: {same} of 200");
        // A draw hits the old backend in one of eight cases.
        assert!(is_kept || same < 60, "{row}: {same} of 200");
    }
    let (maps, _) = world(8, 10);
    let first = dial(&maps, 7, VIP);
    for round in 0..100 {
        after(&maps, 10 * SECOND - 1);
        assert_eq!(dial(&maps, 7, VIP), first, "round {round}: each connection begins it anew");
    }
}

#[test]
fn the_longest_timeout_of_kubernetes_and_any_other_number_are_just_times() {
    for seconds in [86_400_u32, u32::MAX] {
        let (maps, _) = world(8, seconds);
        let first = dial(&maps, 7, VIP);
        after(&maps, u64::from(seconds) * SECOND - 1);
        assert_eq!(dial(&maps, 7, VIP), first, "{seconds}");
        after(&maps, u64::from(seconds) * SECOND);
        dial(&maps, 7, VIP);
        assert_eq!(maps.counted(Counter::Affine), 1, "{seconds}");
    }
}

#[test]
fn a_backend_that_goes_gives_its_clients_to_all_others_and_those_that_stay_keep_theirs() {
    let (maps, line) = world(8, 10);
    let first: Vec<Peer> = (0..400).map(|client| dial(&maps, client, VIP)).collect();
    let gone = first[0];
    let left: Vec<Peer> = pods(8).iter().map(|it| peer(it)).filter(|it| *it != gone).collect();
    flip(&maps, line, &left);
    let mut moved = HashSet::new();
    for round in 0..3 {
        for (client, backend) in (0..).zip(&first) {
            let now = dial(&maps, client, VIP);
            if *backend == gone {
                assert!(left.contains(&now), "client {client}, round {round}");
                moved.insert((client, now.address));
            } else {
                assert_eq!(now, *backend, "client {client}, round {round}");
            }
        }
    }
    let clients: HashSet<u64> = moved.iter().map(|(client, _)| *client).collect();
    let backends: HashSet<[u64; 2]> = moved.iter().map(|(_, backend)| *backend).collect();
    assert_eq!(moved.len(), clients.len(), "each of them moved once");
    assert_eq!(backends.len(), 7, "and to all that are left");
}

#[test]
fn a_backend_that_stays_is_current_again_after_one_look_at_the_members() {
    let (maps, line) = world(2, 10);
    let first = dial(&maps, 7, VIP);
    let pods: Vec<Peer> = pods(2).iter().map(|it| peer(it)).collect();
    flip(&maps, line, &pods);
    assert_eq!(dial(&maps, 7, VIP), first);
    let [(key, row)] = maps.affinities()[..] else { panic!() };
    assert_eq!(row.generation, maps.line(line).unwrap().generation());
    assert_eq!(row.seal, seal(&key, &row));
}

#[test]
fn another_frontends_generation_says_nothing_of_the_one_that_was_dialled_first() {
    let (maps, _) = world(2, 10);
    let other = add(&maps, 1, "192.0.2.1:80", 2, 10);
    let first = dial(&maps, 7, VIP);
    let (_, before) = maps.affinities()[0];
    maps.line(other).unwrap().set_generation(before.generation + 5);
    assert_eq!(dial(&maps, 7, "192.0.2.1:80"), first);
    assert_eq!(maps.affinities()[0].1, before, "no time has passed, so nothing is different");
}

#[test]
fn all_frontends_of_a_service_share_a_clients_backend_and_each_family_has_its_own() {
    let maps = MemoryMaps::small();
    let v6 = ["[fd00:244::1]:8080", "[fd00:244::2]:8080"];
    add(&maps, 1, VIP, 8, 10);
    add(&maps, 1, "192.0.2.1:80", 8, 10);
    add(&maps, 1, "127.0.0.1:30080", 8, 10);
    // Both families' backends are the service's: a flip of a test's knows one family.
    let line = maps.service(2, "[fd00:96::10]:80", &v6);
    maps.line(line).unwrap().set_service(1);
    for at in 0..2 {
        maps.slot(maps.line(line).unwrap().set().first + at).unwrap().set_owner(1);
    }
    maps.line(line).unwrap().set_affinity_seconds(10);
    for client in 0..20 {
        let first = dial(&maps, client, VIP);
        let on_loopback = ["127.0.0.1:30080", "127.9.9.9:30080"].into_iter();
        let on_loopback = on_loopback.filter(|_| client == HOST);
        for other in on_loopback.chain(["192.0.2.1:80", VIP]) {
            assert_eq!(dial(&maps, client, other), first, "{other}");
        }
        let other = dial(&maps, client, "[fd00:96::10]:80");
        assert!(v6.iter().any(|it| peer(it) == other), "{other:?}");
        assert_eq!(dial(&maps, client, VIP), first);
    }
    assert_eq!(maps.affinities().len(), 40, "a row for each client and family");
}

#[test]
fn two_first_connections_at_once_get_one_backend() {
    for namespace in 0..50 {
        // A row that another processor stores between this one's look and store.
        let (there, _) = world(8, 10);
        let theirs = dial(&there, namespace, VIP);
        let rival = there.affinities()[0];
        let (maps, _) = world(8, 10);
        // Another draw than theirs.
        maps.random();
        maps.rival.set(Some(rival));
        assert_eq!(dial(&maps, namespace, VIP), theirs, "the first has its own");
        assert_eq!(dial(&maps, namespace, VIP), theirs, "and so has who comes later");
    }
}

#[test]
fn two_connections_at_once_after_the_timeout_draw_the_same() {
    let mut drawn = HashSet::new();
    for namespace in 0..50 {
        let (maps, _) = world(8, 10);
        dial(&maps, namespace, VIP);
        let (key, old) = maps.affinities()[0];
        after(&maps, 20 * SECOND);
        let one = dial(&maps, namespace, VIP);
        // The other one had found the old entry too.
        maps.reuse_affinity(&key, old);
        assert_eq!(dial(&maps, namespace, VIP), one);
        drawn.insert(one.address);
    }
    assert!(drawn.len() > 5, "different clients draw differently: {}", drawn.len());
}

#[test]
fn a_row_of_another_key_or_torn_between_two_is_never_believed() {
    type Spoil = fn(&mut AffinityRow);
    let rows: [(&str, Spoil); 8] = [
        ("another network of IPv6", |row| row.address.bytes[0] = 0xfd),
        ("another address", |row| row.address = Address::from_v4([10, 9, 9, 9])),
        ("another port", |row| row.port += 1),
        ("another line", |row| row.line += 1),
        ("another generation", |row| row.generation += 1),
        ("another seal", |row| row.seal ^= 1),
        ("nothing", |row| *row = AffinityRow { used: row.used, ..AffinityRow::default() }),
        ("another client's", |row| {
            let key = AffinityKey { client: 8, service: 1, family: 4 };
            row.seal = seal(&key, row);
        }),
    ];
    for (name, spoil) in rows {
        let (maps, _) = world(8, 10);
        dial(&maps, 7, VIP);
        let (key, mut row) = maps.affinities()[0];
        spoil(&mut row);
        maps.reuse_affinity(&key, row);
        let given = dial(&maps, 7, VIP);
        assert!(pods(8).iter().any(|it| peer(it) == given), "{name}: {given:?}");
        assert_eq!(maps.counted(Counter::Affine), 0, "{name}");
        assert_eq!(dial(&maps, 7, VIP), given, "{name}: it heals");
    }
}

#[test]
fn a_whole_row_of_another_service_gives_nothing() {
    let (maps, _) = world(8, 10);
    let other = maps.service(2, "10.96.0.11:80", &["10.9.9.9:80"]);
    maps.line(other).unwrap().set_affinity_seconds(10);
    dial(&maps, 7, VIP);
    dial(&maps, 7, "10.96.0.11:80");
    let rows = maps.affinities();
    let of = |service: u32| *rows.iter().find(|(key, _)| key.service == service).unwrap();
    maps.reuse_affinity(&of(1).0, of(2).1);
    assert_ne!(dial(&maps, 7, VIP), peer("10.9.9.9:80"));
}

#[test]
fn a_full_map_translates_without_affinity() {
    let (maps, _) = world(8, 10);
    maps.limit(|limits| limits.affinity_rows = 1);
    let kept = dial(&maps, 1, VIP);
    let met: HashSet<[u64; 2]> = (0..200).map(|_| dial(&maps, 2, VIP).address).collect();
    assert_eq!(met.len(), 8, "nothing is kept for the second client");
    assert_eq!(dial(&maps, 1, VIP), kept, "the first keeps its own");
}

#[test]
fn a_service_without_backends_refuses_its_old_clients_too() {
    let (maps, line) = world(2, 10);
    dial(&maps, 7, VIP);
    maps.flip(line, &[]);
    for namespace in [7, 8] {
        let verdict = connect(&maps, &client(namespace, 1), &peer(VIP));
        assert_eq!(verdict, Verdict::Refuse, "client {namespace}");
    }
    assert_eq!(maps.affinities().len(), 1, "a refusal stores nothing");
}

#[test]
fn a_frontend_that_passes_to_another_service_draws_for_its_clients_anew() {
    let (maps, line) = world(2, 10);
    let heirs = maps.service(2, "10.96.0.99:80", &["10.9.9.9:80"]);
    let first = dial(&maps, 7, VIP);
    let (line, heirs) = (maps.line(line).unwrap(), maps.line(heirs).unwrap());
    line.set_heir(2);
    line.set_set_word(heirs.set_word());
    assert_eq!(dial(&maps, 7, VIP), first, "the old owner's client, until it has another owner");
    line.set_service(2);
    assert_eq!(dial(&maps, 7, VIP), peer("10.9.9.9:80"));
    line.set_generation(line.generation() + 1);
    line.set_heir(0);
    assert_eq!(dial(&maps, 7, VIP), peer("10.9.9.9:80"));
}

#[test]
fn first_sends_are_new_connections_and_kept_sends_are_none() {
    let maps = MemoryMaps::small();
    let pods = pods(8);
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    let line = maps.service_of(1, Protocol::Udp, VIP, &pods);
    maps.line(line).unwrap().set_affinity_seconds(10);
    let udp = |cookie| Client {
        namespace: 7,
        socket: Socket { cookie: SocketCookie(cookie), protocol: Protocol::Udp },
    };
    let first = sendmsg(&maps, &udp(1), &peer(VIP));
    let begun = maps.affinities()[0].1.used;
    after(&maps, 9 * SECOND);
    assert_eq!(sendmsg(&maps, &udp(1), &peer(VIP)), first);
    assert_eq!(maps.affinities()[0].1.used, begun, "a kept send is no new connection");
    assert_eq!(sendmsg(&maps, &udp(2), &peer(VIP)), first);
    assert_eq!(maps.affinities()[0].1.used, begun + 9 * SECOND, "a first send is");
    assert_eq!(connect(&maps, &udp(3), &peer(VIP)), first);
    assert_eq!((maps.counted(Counter::Kept), maps.counted(Counter::Affine)), (1, 2));
}

#[test]
fn one_socket_to_two_services_hears_from_each_though_affinity_gives_both_one_backend() {
    let maps = MemoryMaps::small();
    for (id, vip) in [(1, "10.96.0.1:53"), (2, "10.96.0.2:53")] {
        let line = maps.service_of(id, Protocol::Udp, vip, &["10.244.0.1:53", "10.244.0.2:53"]);
        maps.line(line).unwrap().set_affinity_seconds(10);
    }
    let mut shared = 0;
    for namespace in 0..40 {
        let client = Client {
            namespace,
            socket: Socket { cookie: SocketCookie(namespace + 1), protocol: Protocol::Udp },
        };
        let mut given = Vec::new();
        for vip in ["10.96.0.1:53", "10.96.0.2:53"] {
            let Verdict::Rewrite(pod) = sendmsg(&maps, &client, &peer(vip)) else { panic!() };
            assert_eq!(recvmsg(&maps, client.socket.cookie.0, &pod), Some(peer(vip)), "{vip}");
            given.push(pod);
        }
        shared += u32::from(given[0] == given[1]);
        release(&maps, client.socket.cookie.0);
    }
    assert!((5..35).contains(&shared), "the draws are not apart: {shared} of 40 share");
}
