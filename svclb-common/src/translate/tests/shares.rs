//! Shares of the overflow: what one client does never takes another client's records.

use std::collections::HashMap;
use std::format;
use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;

use super::maps::{Client, MemoryMaps, PLACES, peer, socket};
use super::*;
use crate::layout::ClientKey;

const VIP: &str = "10.96.0.10:53";
const SECOND: &str = "10.96.0.11:53";

/// Maps with two Services of several backends each, and an overflow of so many entries.
fn maps(entries: u32) -> MemoryMaps {
    let maps = MemoryMaps::small();
    let backends = ["10.244.0.1:53", "10.244.0.2:53", "10.244.0.3:53", "10.244.0.4:53"];
    maps.service_of(1, Protocol::Udp, VIP, &backends);
    maps.service_of(2, Protocol::Udp, SECOND, &["10.244.1.1:53", "10.244.1.2:53"]);
    maps.limit(|limits| {
        (limits.overflow_entries, limits.overflow_capacity) = (entries as usize, entries);
    });
    maps
}

fn client(namespace: u64, cookie: u64) -> Client {
    Client { namespace, socket: socket(cookie, Protocol::Udp) }
}

fn given(verdict: Verdict) -> Peer {
    let Verdict::Rewrite(given) = verdict else { panic!("{verdict:?}") };
    given
}

#[test]
fn a_client_that_takes_all_it_can_leaves_room_for_others_and_they_keep_names_and_backends() {
    const GREEDY: u64 = 10;
    const ENTRIES: u32 = 900;
    let maps = maps(ENTRIES);
    // Far more sockets than places and entries together, each with two Services.
    for cookie in 1..=5_000 {
        given(sendmsg(&maps, &client(GREEDY, cookie), &peer(VIP)));
        given(sendmsg(&maps, &client(GREEDY, cookie), &peer(SECOND)));
    }
    assert_eq!(maps.held_places(), PLACES as usize);
    // A ninth of all: as many as an eighth of what is left.
    assert_eq!(maps.overflow_entries(), 100);
    assert!(maps.counted(Counter::OverShare) > 0);
    for cookie in 10_000..10_050 {
        let sends = client(20, cookie);
        let kept = given(sendmsg(&maps, &sends, &peer(VIP)));
        assert_eq!(given(sendmsg(&maps, &sends, &peer(VIP))), kept, "socket {cookie}");
        assert_eq!(recvmsg(&maps, cookie, &kept), Some(peer(VIP)), "socket {cookie}");
    }
    for cookie in 20_000..20_020 {
        let kept = given(connect(&maps, &client(30, cookie), &peer(VIP)));
        assert_eq!(getpeername(&maps, cookie, &kept), Some(peer(VIP)), "socket {cookie}");
    }
    for cookie in (1..=5_000).chain(10_000..10_050).chain(20_000..20_020) {
        release(&maps, cookie);
    }
    assert_eq!((maps.overflow_entries(), maps.spilled_sockets()), (0, 0));
    assert_eq!(maps.counted_clients(0), []);
}

#[test]
fn connected_sockets_leave_a_part_of_the_overflow_to_unconnected_ones() {
    let maps = maps(80);
    // Enough clients that no share is left.
    for number in 0..2_000 {
        given(connect(&maps, &client(100 + number / 10, number), &peer(VIP)));
    }
    assert!(maps.overflow_entries() <= 60, "{}", maps.overflow_entries());
    let sends = client(20, 10_000);
    let kept = given(sendmsg(&maps, &sends, &peer(VIP)));
    assert_eq!(recvmsg(&maps, 10_000, &kept), Some(peer(VIP)));
}

#[test]
fn a_socket_within_its_clients_share_takes_further_frontends_without_another_claim() {
    let maps = maps(900);
    given(sendmsg(&maps, &client(10, 1), &peer(VIP)));
    given(sendmsg(&maps, &client(10, 1), &peer(SECOND)));
    given(sendmsg(&maps, &client(10, 1), &peer(SECOND)));
    // A connect makes all that the socket had void.
    given(connect(&maps, &client(10, 1), &peer(VIP)));
    assert_eq!(maps.counted_clients(0), []);
    given(sendmsg(&maps, &client(10, 1), &peer(SECOND)));
    let mut counted = maps.counted_clients(0);
    counted.sort_unstable();
    assert_eq!(counted, [(ClientKey::ALL, 1), (ClientKey::of_namespace(NetnsCookie(10)), 1)]);
}

#[test]
fn an_entry_that_does_not_fit_or_has_no_client_is_counted_for_none() {
    let maps = maps(900);
    maps.limit(|limits| (limits.overflow_entries, limits.overflow_capacity) = (0, 900));
    for cookie in 1..=2 * u64::from(PLACES) {
        given(connect(&maps, &client(10, cookie), &peer(VIP)));
    }
    assert_eq!(maps.counted_clients(0), []);
    assert_eq!((maps.counted(Counter::OverShare), maps.spilled_sockets()), (0, 0));
    // One that another party made.
    maps.limit(|limits| (limits.overflow_entries, limits.overflow_capacity) = (1, 900));
    maps.add_overflow(SocketCookie(1));
    maps.origin(1 % PLACES).unwrap().spill();
    release(&maps, 1);
    assert_eq!((maps.counted_clients(0), maps.overflow_entries()), (Vec::new(), 0));
}

#[derive(Clone, Debug)]
enum Deed {
    /// One of the greedy clients opens many sockets, connected or not.
    Flood(u64, bool),
    /// It closes most of what it has.
    Ebb(u64),
    /// The modest client's socket of this number connects, sends or is closed.
    Connect(u64),
    Send(u64),
    Close(u64),
}

const GREEDY: u64 = 3;
const MODEST: u64 = 99;
const MODEST_SOCKETS: u64 = 8;

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        4 => (0..GREEDY, any::<bool>()).prop_map(|(client, is)| Deed::Flood(client, is)),
        1 => (0..GREEDY).prop_map(Deed::Ebb),
        3 => (0..MODEST_SOCKETS).prop_map(Deed::Connect),
        4 => (0..MODEST_SOCKETS).prop_map(Deed::Send),
        1 => (0..MODEST_SOCKETS).prop_map(Deed::Close),
    ]
}

proptest! {
    #[test]
    fn whatever_greedy_clients_do_a_modest_one_keeps_every_name_and_backend(
        deeds in proptest::collection::vec(deed(), 1..60),
    ) {
        // Three greedy clients leave 150 of them and more.
        let maps = maps(216);
        let mut next_cookie = 1_000;
        let mut floods: HashMap<u64, Vec<u64>> = HashMap::new();
        // The modest client's sockets: cookie, what was given, and whether by a connect.
        let mut own: HashMap<u64, (u64, Option<(Peer, bool)>)> = HashMap::new();
        for deed in deeds {
            match deed {
                Deed::Flood(greedy, is_connected) => for _ in 0..50 {
                    let it = client(greedy, next_cookie);
                    if is_connected {
                        given(connect(&maps, &it, &peer(VIP)));
                    } else {
                        given(sendmsg(&maps, &it, &peer(VIP)));
                        given(sendmsg(&maps, &it, &peer(SECOND)));
                    }
                    floods.entry(greedy).or_default().push(next_cookie);
                    next_cookie += 1;
                },
                Deed::Ebb(greedy) => {
                    let open = floods.entry(greedy).or_default();
                    let few = open.len() / 8;
                    open.drain(few..).for_each(|cookie| release(&maps, cookie));
                }
                Deed::Connect(number) | Deed::Send(number) => {
                    let (cookie, known) = own.entry(number).or_insert_with(|| {
                        next_cookie += 1;
                        (next_cookie - 1, None)
                    });
                    let it = client(MODEST, *cookie);
                    if matches!(deed, Deed::Connect(_)) {
                        *known = Some((given(connect(&maps, &it, &peer(VIP))), true));
                    } else {
                        let sent = given(sendmsg(&maps, &it, &peer(VIP)));
                        match known {
                            Some((kept, _)) => prop_assert_eq!(sent, *kept),
                            None => *known = Some((sent, false)),
                        }
                    }
                }
                Deed::Close(number) => if let Some((cookie, _)) = own.remove(&number) {
                    release(&maps, cookie);
                },
            }
            for (cookie, known) in own.values() {
                let Some((kept, is_connected)) = known else { continue };
                prop_assert_eq!(recvmsg(&maps, *cookie, kept), Some(peer(VIP)));
                if *is_connected {
                    prop_assert_eq!(getpeername(&maps, *cookie, kept), Some(peer(VIP)));
                }
            }
        }
        let all = floods.into_values().flatten().chain(own.into_values().map(|(cookie, _)| cookie));
        all.for_each(|cookie| release(&maps, cookie));
        prop_assert_eq!(maps.overflow_entries(), 0);
        prop_assert_eq!(maps.counted_clients(0), []);
    }
}

/// Maps with services of these ids, each at 10.96.1.ID:53 with affinity and eight backends.
fn with_affinity(ids: core::ops::RangeInclusive<u32>) -> MemoryMaps {
    let maps = MemoryMaps::small();
    let pods: Vec<String> = (1..=8).map(|n| format!("10.244.0.{n}:53")).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    for id in ids {
        let line = maps.service_of(id, Protocol::Udp, &format!("10.96.1.{id}:53"), &pods);
        maps.line(line).unwrap().set_affinity_seconds(10_800);
    }
    maps
}

/// Returns the peer that a new connection is given.
fn dial(maps: &MemoryMaps, namespace: u64, id: u32) -> Peer {
    let given = given(connect(maps, &client(namespace, 1), &peer(&format!("10.96.1.{id}:53"))));
    release(maps, 1);
    given
}

#[test]
fn one_clients_pairs_never_take_another_clients_affinity() {
    const ROOM: u32 = 90;
    let maps = with_affinity(1..=40);
    maps.limit(|limits| (limits.affinity_rows, limits.affinity_capacity) = (ROOM as usize, ROOM));
    let modest: Vec<Peer> = (1..=3).map(|id| dial(&maps, 20, id)).collect();
    for _ in 0..3 {
        (1..=40).for_each(|id| _ = dial(&maps, 10, id));
    }
    let of = |namespace| ClientKey::of_namespace(NetnsCookie(namespace));
    let mut counted = maps.counted_clients(1);
    counted.sort_unstable();
    assert_eq!(counted, [(ClientKey::ALL, 12), (of(10), 9), (of(20), 3)]);
    assert!(maps.counted(Counter::AffinityUnrecorded) > 60);
    // Clients that had a backend keep it, and new ones are given one that they keep.
    assert_eq!((1..=3).map(|id| dial(&maps, 20, id)).collect::<Vec<_>>(), modest);
    for id in 1..=3 {
        let first = dial(&maps, 30, id);
        (0..20).for_each(|_| assert_eq!(dial(&maps, 30, id), first));
    }
}

#[test]
fn a_pair_that_is_renewed_or_replaced_is_counted_once() {
    let maps = with_affinity(1..=1);
    dial(&maps, 10, 1);
    let once = maps.counted_clients(1);
    assert_eq!(once.len(), 2);
    // Its backend goes, or its time is over.
    let line = (0..super::maps::LINES).find(|line| maps.line(*line).unwrap().key_word() != 0);
    maps.flip(line.unwrap(), &["10.244.9.9:53", "10.244.0.1:53"]);
    dial(&maps, 10, 1);
    maps.clock.set(maps.clock.get() + 20_000 * 1_000_000_000);
    dial(&maps, 10, 1);
    assert_eq!((maps.counted_clients(1), maps.affinities().len()), (once, 1));
    // A rival's row was first: the claim is taken back.
    let rival = maps.affinities()[0];
    let maps = with_affinity(1..=1);
    maps.rival.set(Some(rival));
    dial(&maps, 10, 1);
    assert_eq!(maps.counted_clients(1), []);
}
